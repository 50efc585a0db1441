"""Figures show the numbers that independent computations give, in files that publishers take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from pvdr_bench.errors import StorageError, UsageError
from pvdr_bench.results.collect import Results, collect
from pvdr_bench.results.figures import (
    WIDTHS,
    plot_aggregates,
    plot_bars,
    plot_curves,
    plot_profile,
    plot_sweep,
    save,
)
from pvdr_bench.results.figures.sweep import key_value
from pvdr_bench.results.paper import reported
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import make_grid, make_run, resealed

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("figures")
    make_grid(root, seeds=4, tasks=("reach", "window-open"))
    return collect(root)


def finals(results: Results, variant: str, corpus: str, task: str) -> np.ndarray:
    points = results.points
    keep = (points["variant"].eq(variant) & points["corpus"].eq(corpus) & points["task"].eq(task)
            & points["point"].eq("final"))
    return points[keep].sort_values("seed")["success"].to_numpy(float)


def test_every_file_is_written_and_fonts_are_embedded(grid: Results, tmp_path: Path) -> None:
    files = save(plot_curves(grid, repetitions=50), tmp_path / "f")
    assert set(files) == {"pdf", "svg", "png", "txt"}
    pdf = files["pdf"].read_bytes()
    assert b"FontFile2" in pdf and b"/Type3" not in pdf  # whole TrueType fonts
    svg = files["svg"].read_text()
    assert "<svg" in svg and "window-open" in svg and "<dc:date>" not in svg  # text stays text
    with pytest.raises(StorageError, match="a folder stands where a file is needed"):
        save(plot_curves(grid, repetitions=50), tmp_path)
    again = save(plot_curves(grid, repetitions=50), tmp_path / "g")
    assert all(again[kind].read_bytes() == files[kind].read_bytes() for kind in files)


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("draw", [plot_curves, plot_bars, plot_profile, plot_aggregates])
def test_a_column_and_a_page_have_their_width(grid: Results, draw: Any, width: str) -> None:
    assert draw(grid, width=width, repetitions=50).figure.get_figwidth() == WIDTHS[width]


def published(patch: Any) -> bool:
    """Published bars are white; ours have colours."""
    return to_hex(patch.get_facecolor()) == "#ffffff"


def test_bars_stand_at_the_means_and_dots_at_the_seeds(grid: Results) -> None:
    numbers = reported(["reach", "window-open"], ["pvdr"], ROOT / "results" / "paper")
    ax = plot_bars(grid, repetitions=50, reported=numbers).figure.axes[0]
    bars = [patch.get_height() for patch in ax.patches if isinstance(patch, Rectangle) and not published(patch)]
    want = [finals(grid, "ppo", "none", task).mean() for task in ("reach", "window-open")]
    assert bars[:2] == pytest.approx(want) and bars[2] == pytest.approx(np.mean(want))
    dots = np.concatenate([np.asarray(c.get_offsets())[:, 1] for c in ax.collections if len(c.get_offsets()) == 4])
    assert set(np.round(finals(grid, "pvdr", "metaworld", "reach"), 9)) <= set(np.round(dots, 9))
    hatched = sorted(patch.get_height() for patch in ax.patches if published(patch))
    assert hatched == pytest.approx(sorted(numbers["success"] / 100))


def test_a_profile_is_the_share_of_runs_above(grid: Results) -> None:
    line = next(line for line in plot_profile(grid, repetitions=50).figure.axes[0].lines if "PPO" in line.get_label())
    scores = np.concatenate([finals(grid, "ppo", "none", task) for task in ("reach", "window-open")])
    want = [(scores > tau).mean() for tau in np.linspace(0, 1, 101)]
    assert np.allclose(line.get_ydata(), want)
    with pytest.raises(UsageError, match="not normalised"):
        plot_profile(grid, "return")


def test_aggregates_stand_at_their_values(grid: Results) -> None:
    plot = plot_aggregates(grid, repetitions=50)
    mean, gap = plot.figure.axes[0], plot.figure.axes[2]
    rows = [label.get_text() for label in mean.get_yticklabels()]
    place = rows.index("PPO, n = 4")
    ticks = {ax: [c.get_segments()[0] for c in ax.collections][place][0][0] for ax in (mean, gap)}
    want = np.mean([finals(grid, "ppo", "none", task).mean() for task in ("reach", "window-open")])
    assert ticks[mean] == pytest.approx(want) and ticks[gap] == pytest.approx(1 - want)


def test_a_row_without_every_task_is_named_not_drawn(tmp_path: Path) -> None:
    make_grid(tmp_path, seeds=2, tasks=("reach", "window-open"))
    make_run(tmp_path, [0.5], final=0.5, variant="ppo@clip=0.3", task="reach", algorithm="ppo")
    plot = plot_profile(collect(tmp_path), repetitions=50)
    assert "Not drawn" in plot.caption and "ppo@clip=0.3" in plot.caption
    assert all("clip" not in line.get_label() for line in plot.figure.axes[0].lines)


def test_captions_say_where_rows_were_evaluated_and_grey_only_where_there_is_some(tmp_path: Path) -> None:
    """A bar after 8,000 env_steps beside one after 16,000 looks like any other."""
    for seed in range(3):
        make_run(tmp_path, [0.5], variant="ppo", seed=seed, config={"ppo": {"lr": 1e-3}})
        make_run(tmp_path, [0.2, 0.6], variant="ppo@lr=0.1", seed=seed, algorithm="ppo", config={"ppo": {"lr": 0.1}})
        make_run(tmp_path, [0.0], variant="random", seed=seed)
    results = collect(tmp_path)
    drawn = [plot_bars(results), plot_profile(results, repetitions=50), plot_aggregates(results, repetitions=50),
             plot_sweep(results, "lr")]
    for plot in drawn:
        assert "Evaluated after 8000 to 16000 env_steps; the budgets differ, compare with care." in plot.caption
    assert ["Grey: policies" in plot.caption for plot in drawn] == [True, False, False, False]
    cut = plot_bars(results.cut_at(8000)).caption
    assert cut.startswith("Success rate after 8000 env_steps. Bars") and "Evaluated after 8000 env_steps." in cut
    assert "last policy" not in cut and "budgets differ" not in cut


def test_aggregates_of_one_task_say_that_their_bands_are_too_short(tmp_path: Path, grid: Results) -> None:
    for seed in range(3):
        make_run(tmp_path, [0.5, 0.4 + 0.1 * seed], seed=seed)
    for draw in (plot_profile, plot_aggregates):
        assert "too short" in draw(collect(tmp_path), repetitions=50).caption
        assert "too short" not in draw(grid, repetitions=50).caption
    plot = plot_aggregates(collect(tmp_path), repetitions=50)
    assert "over 1 task (reach)" in plot.caption
    ax = plot.figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0%", "100%"]  # as in all other figures
    assert not ax.collections[0].get_clip_on()  # half of a mark at 0 or 100 % would be lost


def test_an_interval_is_seen_on_a_dark_bar(grid: Results) -> None:
    ax = plot_bars(grid, repetitions=50).figure.axes[0]
    lines = [c for c in ax.collections if hasattr(c, "get_segments")]
    light = {tuple(c.get_segments()[0].ravel()) for c in lines if to_hex(c.get_color()[0]) == "#ffffff"}
    dark = {tuple(c.get_segments()[0].ravel()) for c in lines if to_hex(c.get_color()[0]) != "#ffffff"}
    assert dark and light == dark


def test_a_line_of_one_seed_is_said_to_have_no_band(tmp_path: Path, grid: Results) -> None:
    make_run(tmp_path, [0.5, 0.6])
    assert "A line of one seed has no band" in plot_curves(collect(tmp_path)).caption
    assert "one seed" not in plot_curves(grid, repetitions=50).caption


def sweep_folder(root: Path) -> Results:
    for value in (1e-4, 1e-3, 1e-1):
        variant = "ppo" if value == 1e-3 else f"ppo@lr={value:g}"
        for seed in range(3):
            make_run(root, [0.1], final=round(0.2 + 4 * value + 0.01 * seed, 4), variant=variant, seed=seed,
                     algorithm="ppo", config={"ppo": {"lr": value, "clip": 0.2}})
    make_run(root, [0.1], final=0.9, variant="ppo@clip=0.3", algorithm="ppo", config={"ppo": {"lr": 1e-3, "clip": 0.3}})
    return collect(root)


def test_a_sweep_has_the_method_among_its_variants_in_order(tmp_path: Path) -> None:
    results = sweep_folder(tmp_path)
    plot = plot_sweep(results, "lr")
    ax = plot.figure.axes[0]
    assert list(ax.lines[0].get_xdata()) == [1e-4, 1e-3, 1e-1] and ax.get_xscale() == "log"
    assert np.allclose(ax.lines[0].get_ydata(), [0.2104, 0.214, 0.61], atol=0.006)
    assert "ppo: 0.0001, 0.001, 0.1" in plot.caption
    both = plot_sweep(results, "clip").figure.axes[0].lines[0]
    assert list(both.get_xdata()) == [0.2, 0.3]  # and none of the variants that changed lr
    with pytest.raises(UsageError, match="two values of epochs"):
        plot_sweep(results, "epochs")
    with pytest.raises(UsageError, match="no keys"):
        key_value({"a": {"b": 1}}, "c")
    with pytest.raises(UsageError, match=r"2 keys.*called b"):
        key_value({"a": {"b": 1}, "c": {"b": 2}}, "b")


def test_two_seeds_are_drawn_themselves_and_three_have_a_band(tmp_path: Path) -> None:
    for seed, values in enumerate(([0.1, 0.5], [0.3, 0.9], [0.2, 0.7])):
        make_run(tmp_path, values, final=0.6, variant="ppo", seed=seed)
        if seed != 2:
            make_run(tmp_path, values, final=0.6, variant="pvdr", corpus="metaworld", seed=seed)
    plot = plot_curves(collect(tmp_path))
    (ax,) = plot.figure.axes
    bands = [band for band in ax.collections if band.get_paths() and len(band.get_paths()[0].vertices)]
    thin = [line.get_ydata().tolist() for line in ax.lines if line.get_linewidth() == 0.5]
    assert len(bands) == 1 and thin == [[0.1, 0.6], [0.3, 0.6]]  # the last points are the finals
    assert "Two seeds make no band" in plot.caption
    for seed in range(2):
        make_run(tmp_path / "more", [0.1, 0.5], final=0.6, variant="ppo", seed=seed)
    individual = plot_curves(collect(tmp_path / "more"), individual=True)
    assert "Thin lines: single seeds." in individual.caption and "no band" not in individual.caption


def timed(root: Path, seeds: int = 2, device: str = "cpu") -> None:
    """Runs whose seed k trains for (k + 1) hours per 8000 env_steps, and evaluates for ten hours between."""
    for seed in range(seeds):
        path = make_run(root, [0.1, 0.5], final=0.6, variant="ppo", seed=seed)
        run = RunDir(path)
        with run.lock():
            for index, point in ((1, "grid"), (2, "grid"), (2, "final")):
                evaluation = 36000.0 * (index - 1)
                run.timing.append({"env_steps": 8000 * index, "point": point, "evaluation_seconds": evaluation,
                                   "wall_seconds": 3600.0 * (seed + 1) * index + evaluation, "device": device})
        resealed(path)


def test_curves_against_time_leave_evaluations_out(tmp_path: Path) -> None:
    timed(tmp_path / "cpu")
    results = collect(tmp_path / "cpu")
    plot = plot_curves(results, axis="time")
    assert list(plot.figure.axes[0].lines[0].get_xdata()) == pytest.approx([1.5, 3.0])  # means over the two seeds
    assert plot.figure.axes[0].get_xlabel() == "hours of training" and "evaluations left out" in plot.caption
    with pytest.raises(UsageError, match="GPU-hours"):
        plot_curves(results, axis="gpu")
    timed(tmp_path / "cuda", device="cuda")
    gpu = plot_curves(collect(tmp_path / "cuda"), axis="gpu")
    assert list(gpu.figure.axes[0].lines[0].get_xdata()) == pytest.approx([1.5, 3.0])


def test_rows_without_times_are_named(tmp_path: Path) -> None:
    timed(tmp_path)
    make_run(tmp_path, [0.2, 0.3], final=0.3, variant="pvdr", corpus="metaworld")
    caption = plot_curves(collect(tmp_path), axis="time").caption
    assert re.search(r"Not drawn, since no such times were recorded: [^.]*pvdr", caption, re.IGNORECASE)
