"""Figures of 1 to 20 rows, measured: axes keep their size, nothing overlaps or leaves the canvas, looks differ."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures import (
    WIDTHS,
    plot_aggregates,
    plot_bars,
    plot_curves,
    plot_profile,
    plot_sweep,
    sweep,
)
from pvdr_bench.results.figures.layout import axes_size, spread
from pvdr_bench.results.series import Row, rows_of
from tests.figure_frames import make_results

DRAW = {"curves": plot_curves, "bars": plot_bars, "profile": plot_profile, "aggregates": plot_aggregates}
SLACK = 1.5  # pixels of 300 an inch


def draw(kind: str, rows: int, tasks: int, width: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Figure:
    results = make_results(rows, tasks, floors=kind != "sweep")
    if kind != "sweep":
        return DRAW[kind](results, width=width, repetitions=20, **options).figure  # type: ignore[operator]
    results = make_results(rows, tasks, floors=False)
    monkeypatch.setattr(sweep, "swept", lambda found, _: two_values(found))
    return plot_sweep(results, "lambda1", width=width, **options).figure  # type: ignore[arg-type]


def two_values(results: Results) -> dict[Row, Any]:
    """Every row at two values of a key: as if each had been run twice."""
    return {Row(f"{row.variant}@lambda1={value:g}", row.corpus, row.scale, row.protocol_hash, row.label,
                reference=False): value for row in rows_of(doubled(results)) for value in (0.1, 1.0)}


def doubled(results: Results) -> Results:
    """Rows of variants stand at their two values in ``points`` as well."""
    for frame in (results.points, results.runs):
        frame["variant"] = frame["variant"].str.partition("@")[0]
    return results


def boxes(figure: Figure) -> tuple[Any, dict[str, Bbox]]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    return renderer, {ax.get_label(): ax.bbox for ax in figure.axes}


def around(ax: Axes, renderer: Any) -> list[Bbox]:
    """Boxes of all that an axes writes: title, labels of the axis and of its ticks, annotations."""
    texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
    for axis, shown in ((ax.xaxis, ax.xaxis.get_tick_params()["labelbottom"]),
                        (ax.yaxis, ax.yaxis.get_tick_params()["labelleft"])):
        texts += [tick.label1 for tick in axis._update_ticks()] if shown else []  # those that are drawn
    return [Text.get_window_extent(text, renderer) for text in texts  # of an annotation without its line
            if text.get_text() and text.get_visible()]


def overlap(one: Bbox, other: Bbox) -> bool:
    return (min(one.x1, other.x1) - max(one.x0, other.x0) > SLACK
            and min(one.y1, other.y1) - max(one.y0, other.y0) > SLACK)


def check(figure: Figure) -> None:
    """Nothing leaves the canvas; no legend, title or label lies on an axes or on another axes' texts."""
    renderer, axes = boxes(figure)
    figure.draw_without_rendering()
    canvas = figure.bbox
    written = {ax.get_label(): around(ax, renderer) for ax in figure.axes}
    legends = [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in [*legends, *axes.values(), *itertools.chain(*written.values())]:
        assert box.x0 >= -SLACK and box.y0 >= -SLACK and box.x1 <= canvas.x1 + SLACK and box.y1 <= canvas.y1 + SLACK
    for name, place in axes.items():
        assert not any(overlap(place, legend) for legend in legends)
        assert not any(overlap(place, box) for mine in written for box in written[mine] if mine != name), name
        assert not any(overlap(place, box) for box in written[name][:1]), f"{name}: its title lies on it"
        assert not any(overlap(place, other) for label, other in axes.items() if label != name)
    every = [*legends, *itertools.chain(*written.values())]
    for one, other in itertools.combinations(every, 2):
        assert not overlap(one, other)


def looks(figure: Figure) -> list[Any]:
    """What tells the legend's entries, or the panels' own lines, apart."""
    handles = [handle for legend in figure.legends for handle in legend.legend_handles]
    found: list[Any] = []
    for handle in handles:
        if hasattr(handle, "get_marker"):
            found.append((to_hex(handle.get_color()), str(handle._dash_pattern), handle.get_marker(),
                          to_hex(handle.get_markerfacecolor()) if handle.get_marker() not in ("", "None") else ""))
        else:
            found.append((to_hex(handle.get_facecolor()), handle.get_hatch()))
    return found


def own_lines(figure: Figure) -> list[Any]:
    """Of small multiples: the look of each panel's first line."""
    return [(to_hex(line.get_color()), str(line._dash_pattern), line.get_marker(), to_hex(line.get_markerfacecolor()))
            for line in (ax.lines[0] for ax in figure.axes)]


def check_axes(figure: Figure, kind: str, width: str) -> None:
    """All axes have one size, that of their kind, and not under what can be read."""
    _, places = boxes(figure)
    sizes = {(round(box.width / figure.dpi, 3), round(box.height / figure.dpi, 3)) for box in places.values()}
    assert len(sizes) == 1
    ((across, tall),) = sizes
    columns = len({round(box.x0) for box in places.values()})
    if kind in ("curves", "profile", "sweep"):
        want = axes_size(width, columns)  # type: ignore[arg-type]
        assert (across, tall) == pytest.approx((want.width, want.height), abs=0.002)
    assert across >= 0.65 and tall >= (0.2 if kind == "aggregates" else 0.7)
    if width in WIDTHS:
        assert figure.get_figwidth() == pytest.approx(WIDTHS[width])


KINDS, EVERY_WIDTH = ("curves", "bars", "profile", "aggregates", "sweep"), ("auto", "single", "double")
FAST = [("curves", 1, 1, "single"), ("curves", 5, 1, "auto"), ("curves", 8, 3, "double"), ("curves", 9, 1, "single"),
        ("curves", 20, 1, "double"), ("curves", 20, 3, "single"), ("bars", 20, 1, "single"), ("bars", 11, 3, "double"),
        ("bars", 2, 1, "auto"), ("profile", 11, 1, "auto"), ("profile", 5, 3, "single"),
        ("aggregates", 20, 1, "single"), ("aggregates", 3, 1, "double"), ("sweep", 6, 1, "double")]


@pytest.mark.parametrize(("kind", "rows", "tasks", "width"), FAST)
def test_a_figure_can_be_read(kind: str, rows: int, tasks: int, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = draw(kind, rows, tasks, width, monkeypatch)
    check(figure)
    check_axes(figure, kind, width)
    found = looks(figure)
    assert len(set(found)) == len(found)
    if kind in ("curves", "profile") and rows > 8 and tasks == 1:
        mine = own_lines(figure)
        assert len(mine) == rows == len(set(mine))


@pytest.mark.long
@pytest.mark.parametrize("width", EVERY_WIDTH)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("rows", range(1, 21))
def test_every_figure_can_be_read(kind: str, rows: int, tasks: int, width: str,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    test_a_figure_can_be_read(kind, rows, tasks, width, monkeypatch)


@pytest.mark.parametrize("width", EVERY_WIDTH)
def test_the_legend_adds_to_the_figure(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (draw("curves", rows, 3, width, monkeypatch) for rows in (2, 8))
    assert few.axes[0].bbox.height == pytest.approx(many.axes[0].bbox.height, abs=1)
    assert many.get_figheight() > few.get_figheight()


def test_free_scales_have_room_for_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in EVERY_WIDTH:
        figure = draw("curves", 4, 3, width, monkeypatch, metric="return")
        check(figure)


def test_many_rows_stand_one_by_one_or_before_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    results = make_results(12, 3)
    plot = plot_curves(results, repetitions=20)
    grey = [line for line in plot.figure.axes[0].lines if line.get_label() == "other rows"]
    coloured = [line for line in plot.figure.axes[0].lines if line.get_marker() not in ("", "None")]
    assert (len(coloured), len(grey)) == (8, 4) and "In colour: 8 of 12 rows, those with the highest" in plot.caption
    finals = {row: np.mean([row.of(results.points, task).query("point == 'final'")["success"].mean()
                            for task in ("reach", "button-press-topdown", "window-open")])
              for row in rows_of(results) if not row.reference}
    last = sorted(finals, key=lambda row: finals[row])[:4]
    assert all(row.label in plot.caption.partition("thin grey lines")[2].partition(").")[0] for row in last)

    named = plot_curves(make_results(12), highlight=["PPO", "PVDR (fetch-push)"])
    (ax,) = named.figure.axes
    assert [line.get_label() for line in ax.lines if line.get_marker() not in ("", "None")] == [
        "PPO, n = 3", "pvdr (fetch-push), n = 3"]  # its title is also a variant's
    assert "2 of 12 rows, chosen by name" in named.caption


def test_names_stand_at_the_ends_of_lines_where_they_fit() -> None:
    figure = plot_curves(make_results(5)).figure
    (ax,) = figure.axes
    assert not figure.legends and {text.get_text() for text in ax.texts} >= {"PPO, n = 3", "Random"}
    colors = {text.get_text(): to_hex(text.get_color()) for text in ax.texts}
    assert colors["PPO, n = 3"] == "#d55e00"
    late = make_results(5)
    late.points = late.points[late.points["variant"].ne("ppo") | late.points["env_steps"].le(16000)]
    assert plot_curves(late).figure.legends  # a line that ends before the others is named in the legend


@pytest.mark.parametrize("places", [[], [0.5], [0.1, 0.11, 0.12], [0.0, 0.0, 1.0, 1.0], [0.99, 0.995, 1.0]])
def test_names_are_spread_as_little_as_needed(places: list[float]) -> None:
    found = spread(places, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(found)) and len(found) == len(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in found)
    if len(places) == 1:
        assert found == places
