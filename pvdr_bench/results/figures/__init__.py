"""Figures for papers: learning curves, bars, profiles, aggregates and sweeps, as PDF, SVG and PNG with captions."""

from pvdr_bench.results.figures.bars import plot_bars
from pvdr_bench.results.figures.curves import AXES, Curve, all_tasks_curve, plot_curves, task_curve
from pvdr_bench.results.figures.overall import plot_aggregates, plot_profile
from pvdr_bench.results.figures.style import ALL, FEW_SEEDS, WIDTHS, Plot, save
from pvdr_bench.results.figures.sweep import plot_sweep

__all__ = ["ALL", "AXES", "FEW_SEEDS", "WIDTHS", "Curve", "Plot", "all_tasks_curve", "plot_aggregates", "plot_bars",
           "plot_curves", "plot_profile", "plot_sweep", "save", "task_curve"]
