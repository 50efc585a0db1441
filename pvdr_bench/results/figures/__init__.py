"""Figures for papers: learning curves, bars, profiles, aggregates and sweeps, as PDF, SVG and PNG with captions."""

from pvdr_bench.results.figures.bars import plot_bars
from pvdr_bench.results.figures.curves import AXES, plot_curves
from pvdr_bench.results.figures.layout import WIDTHS
from pvdr_bench.results.figures.overall import plot_aggregates, plot_profile
from pvdr_bench.results.figures.style import FEW_SEEDS, Plot, save
from pvdr_bench.results.figures.sweep import plot_sweep

__all__ = ["AXES", "FEW_SEEDS", "WIDTHS", "Plot", "plot_aggregates", "plot_bars", "plot_curves", "plot_profile",
           "plot_sweep", "save"]
