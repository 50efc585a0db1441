"""Where things stand: axes of a fixed size in inches; titles, labels and legend are measured and add to the figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure

Width = Literal["auto", "single", "double"]
WIDTHS = {"single": 3.25, "double": 6.75}  # inches, a column and a page of a two-column paper
_LEFT, _LEFT_FREE, _RIGHT = 0.56, 0.74, 0.13  # inches: of rates, of free scales, and beside the last panel
_GAP, _GAP_FREE, _GAP_LINES = 0.2, 0.5, 0.12
_EDGE = 0.04  # around everything
_FREE = {1: (3.0, 1.95), 2: (2.1, 1.6)}  # inches of the axes by columns, where the width is free
_MANY, _CROWDED = (1.62, 1.3), (1.3, 1.05)
_HEIGHTS = {("single", 1): 1.75, ("single", 2): 1.05, ("double", 1): 2.4, ("double", 2): 1.9, ("double", 3): 1.5,
            ("double", 4): 1.2, ("double", 5): 1.0, ("single", 3): 0.72}
_MAX_COLUMNS = {"auto": 4, "single": 2, "double": 4}
_CROWD = 12  # more panels than these stand in one more column
_POINTS = 7.5  # of names in legends and beside lines
_FARTHEST = 2.2  # lines of text that a name may stand from its line's end
_LEGEND_COLUMNS, _NARROW_LABEL = 6, 1.35  # columns at most; inches under which no label is wrapped for another column
_LEGEND: dict[str, Any] = {"frameon": False, "handlelength": 2.9, "handletextpad": 0.6, "columnspacing": 1.4,
                           "labelspacing": 0.35, "borderpad": 0.0, "borderaxespad": 0.0}


@dataclass(frozen=True)
class Size:
    """Of one axes, in inches."""

    width: float
    height: float


def axes_size(width: Width, columns: int, *, free: bool = False) -> Size:
    """The size of every axes of a grid; neither rows, legend nor titles change it.

    Args:
        free: each panel has a vertical scale of its own, and needs room for it.
    """
    if width == "auto":
        return Size(*_FREE.get(columns, _MANY if columns < 5 else _CROWDED))
    gaps = (columns - 1) * (_GAP_FREE if free else _GAP)
    room = WIDTHS[width] - (_LEFT_FREE if free else _LEFT) - _RIGHT - gaps
    return Size(room / columns, _HEIGHTS[width, columns])


class Sheet:
    """A figure with a grid of titled axes, all of one size.

    Draw into :attr:`panels`, then call :meth:`finish`.

    Attributes:
        size: of each axes.
    """

    def __init__(self, titles: Sequence[str], width: Width, *, free: bool = False, columns: int | None = None,
                 size: Size | None = None, share: bool = True) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        most = _MAX_COLUMNS[width] + (len(titles) > _CROWD)
        self.columns = columns or even_columns(len(titles), most)
        self.size = size or axes_size(width, self.columns, free=free)
        self._width, self._gap = width, _GAP_FREE if free else _GAP
        self.lines = -(-len(titles) // self.columns)
        self.figure: Figure = Figure(figsize=(2.0 + 1.2 * self.columns * self.size.width,
                                              1.0 + 1.5 * self.lines * self.size.height))
        self._canvas = FigureCanvasAgg(self.figure)
        self.panels: list[Axes] = []
        for title in titles:
            place = self._fractions(0.0, 0.0)
            shared = self.panels[0] if self.panels and share and not free else None
            ax = self.figure.add_axes(place, sharey=shared, label=str(len(self.panels)))
            points = 8.5 if self.size.width > 1.5 else 7.5 if self.size.width > 1.0 else 6.5
            ax.set_title(self.wrapped(title, self.size.width + 0.05, points), fontsize=points)
            if shared is not None and len(self.panels) % self.columns:
                ax.tick_params(labelleft=False)
            self.panels.append(ax)

    @property
    def renderer(self) -> RendererAgg:
        """What measures texts."""
        return self._canvas.get_renderer()

    def outer(self, index: int) -> tuple[bool, bool]:
        """Whether a panel is the first of its line, and the last of its column."""
        return index % self.columns == 0, index + self.columns >= len(self.panels)

    def name_axes(self, index: int, x: str, y: str) -> None:
        """Label a panel's axes where it is the last of its column, the first of its line; wrapped into its size."""
        first, last = self.outer(index)
        if first:
            self.panels[index].set_ylabel(self.wrapped(y, self.size.height + 0.08, 8.0))
        if last:
            self.panels[index].set_xlabel(self.wrapped(x, self.size.width + 0.08, 8.0))

    def text_width(self, text: str, points: float) -> float:
        """Inches of a line of text."""
        from matplotlib.font_manager import FontProperties

        return float(self.renderer.get_text_width_height_descent(text, FontProperties(size=points), False)[0]
                     / self.figure.dpi)

    def wrapped(self, text: str, inches: float, points: float) -> str:
        """The text on as many lines as it needs: broken at spaces, inside a word only where that alone is too long."""
        lines, line = [], ""
        for word in _pieces(text, lambda piece: self.text_width(piece, points) <= inches):
            if line and self.text_width((line + word).rstrip(), points) > inches:
                lines.append(line.rstrip())
                line = ""
            line += word
        return "\n".join([*lines, line.rstrip()])

    def finish(self, entries: dict[str, Any] | None = None) -> None:
        """Measure what stands around the axes, give the figure its size, and put everything in its place.

        Args:
            entries: label -> handle of the legend; default: those of all panels, each label once.
        """
        legend = self._legend(self._entries() if entries is None else entries)
        around = [self._around(ax) for ax in self.panels]
        left, right, gaps = self._horizontal(around)
        lines = [around[k:k + self.columns] for k in range(0, len(around), self.columns)]
        below = [max(side[1] for side in line) for line in lines]
        above = [max(side[3] for side in line) for line in lines]
        foot = 0.0 if legend is None else self._inches(legend.get_window_extent(self.renderer).height) + 0.1
        width = left + self.columns * self.size.width + sum(gaps) + right
        height = (2 * _EDGE + sum(above) + sum(below) + self.lines * self.size.height
                  + (self.lines - 1) * _GAP_LINES + foot)
        if legend is not None:
            more = 2 * _EDGE + self._inches(legend.get_window_extent(self.renderer).width) - width
            if more > 0.0:
                width, left = width + more, left + more / 2
        if self._width != "auto":
            width = WIDTHS[self._width]  # as it is but for rounding
        self.figure.set_size_inches(width, height)
        top = height - _EDGE
        for index, ax in enumerate(self.panels):
            line, column = divmod(index, self.columns)
            if column == 0:
                top -= above[line] + self.size.height + (below[line - 1] + _GAP_LINES if line else 0.0)
            ax.set_position(self._fractions(left + column * self.size.width + sum(gaps[:column]), top))
        if legend is not None:
            legend.set_bbox_to_anchor((0.5, _EDGE / height), transform=self.figure.transFigure)

    def label_ends(self, ends: Sequence[tuple[float, str, str]], *, most: float = 2.0) -> bool:
        """Name the lines of a single panel at their right ends in place of a legend, where that fits.

        Args:
            ends: height in [0, 1] of the axes, name and colour of each line.
            most: inches that a name may be long.

        Returns:
            Whether it was done: names are not too long, and each has a line of text for itself near its line's end.
        """
        apart = 1.3 * _POINTS / 72.0 / self.size.height
        too_long = any(self.text_width(name, _POINTS) > most for _, name, _ in ends)
        if not ends or too_long or len(ends) * apart > 1.0 + apart:
            return False
        ordered = sorted(ends, key=lambda end: end[0])
        places = spread([end[0] for end in ordered], apart)
        if any(abs(place - end[0]) > _FARTHEST * apart for place, end in zip(places, ordered, strict=True)):
            return False
        for (height, name, color), place in zip(ordered, places, strict=True):
            moved = abs(place - height) > 0.25 * apart
            line = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0.5, "shrinkB": 0.5,
                    "relpos": (0.0, 0.5)}
            self.panels[0].annotate(name, (1.0, height), xycoords="axes fraction", xytext=(1.035, place), color=color,
                                    fontsize=_POINTS, va="center", arrowprops=line if moved else None,
                                    annotation_clip=False)
        return True

    def _horizontal(self, around: list[tuple[float, float, float, float]]) -> tuple[float, float, list[float]]:
        """Margins at both sides and gaps between columns, inches. With a paper's width they fill what axes leave."""
        by_column = [around[column::self.columns] for column in range(self.columns)]
        left = max(side[0] for side in by_column[0])
        right = max(side[2] for side in by_column[-1])
        needed = [max(side[2] for side in by_column[c]) + max(side[0] for side in by_column[c + 1]) + 0.06
                  for c in range(self.columns - 1)]
        gaps = [max(gap, self._gap if self._width == "auto" else 0.0) for gap in needed]
        if self._width == "auto":
            return left + _EDGE, right + 2 * _EDGE, gaps
        over = WIDTHS[self._width] - self.columns * self.size.width - left - right - sum(gaps)
        if self.columns == 1:
            return left + over - min(over / 2, 0.1), right + min(over / 2, 0.1), gaps
        beside = 0.15 * max(over, 0.0)
        return left + beside, right + beside, [gap + (over - 2 * beside) / len(gaps) for gap in gaps]

    def _around(self, ax: Axes) -> tuple[float, float, float, float]:
        """How far an axes' labels and title reach out of it: left, below, right, above, inches."""
        box, tight = ax.bbox, ax.get_tightbbox(self.renderer)
        assert tight is not None  # of a visible axes
        reach = (box.x0 - tight.x0, box.y0 - tight.y0, tight.x1 - box.x1, tight.y1 - box.y1)
        left, below, right, above = (max(0.0, self._inches(value)) for value in reach)
        return left, below, right, above

    def _inches(self, pixels: float) -> float:
        return float(pixels) / self.figure.dpi

    def _fractions(self, left: float, bottom: float) -> tuple[float, float, float, float]:
        """An axes with this corner (inches) as matplotlib wants it."""
        width, height = self.figure.get_size_inches()
        return left / width, bottom / height, self.size.width / width, self.size.height / height

    def _entries(self) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for ax in self.panels:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        return entries

    def _legend(self, entries: dict[str, Any]) -> Any:
        """One legend for all panels, in as many columns as fit the width, its longest labels wrapped."""
        if not entries:
            return None
        room = WIDTHS[self._width] if self._width != "auto" else max(
            3.6, self.columns * (self.size.width + self._gap) + 0.6)
        labels, columns = self._legend_columns(list(entries), room - 2 * _EDGE)
        legend = self.figure.legend(list(entries.values()), labels, loc="lower center", ncols=columns, **_LEGEND)
        columns_box: Any = legend.get_children()[0].get_children()[1]
        columns_box.align = "top"  # matplotlib has no option for it
        return legend

    def _legend_columns(self, labels: list[str], room: float) -> tuple[list[str], int]:
        """Labels wrapped for the number of columns that makes the legend lowest; of equals the fewest."""
        handle, apart = _POINTS / 72.0 * (_LEGEND["handlelength"] + _LEGEND["handletextpad"]), _POINTS / 72.0 * 1.4
        best: tuple[int, list[str], int] | None = None
        for columns in range(1, min(len(labels), _LEGEND_COLUMNS) + 1):
            each = (room - (columns - 1) * apart) / columns - handle - 0.04
            if columns > 1 and each < _NARROW_LABEL and max(self.text_width(label, _POINTS) for label in labels) > each:
                break
            wrapped = [self.wrapped(label, each, _POINTS) for label in labels]
            tall = [label.count("\n") + 1 for label in wrapped]
            lines = max(int(part.sum()) for part in np.array_split(np.array(tall), columns))
            if best is None or lines < best[0]:
                best = lines, wrapped, columns
        assert best is not None  # there is always one column
        return best[1], best[2]


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Places in [0, 1], sorted, moved as little as needed so that neighbours are ``apart``.

    Where they are too many for that they go on above 1.
    """
    groups: list[list[float]] = []  # of each: the sum of what its members want for its first place, and their number
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1 and _first(groups[-2], apart) + groups[-2][1] * apart > _first(groups[-1], apart):
            total, n = groups.pop()
            groups[-1] = [groups[-1][0] + total - n * groups[-1][1] * apart, groups[-1][1] + n]
    return [_first(group, apart) + k * apart for group in groups for k in range(int(group[1]))]


def _first(group: list[float], apart: float) -> float:
    """Where the first of a group stands: the mean of what its members want, inside of [0, 1]."""
    return max(0.0, min(group[0] / group[1], 1.0 - (group[1] - 1) * apart))


def even_columns(count: int, most: int) -> int:
    """As few columns as need no more lines: five panels stand three and two, not four and one."""
    return -(-count // -(-count // min(count, most)))


def _pieces(text: str, fits: Any) -> list[str]:
    """Words with the space behind them; one that does not fit alone in parts that do, after signs where there are."""
    pieces: list[str] = []
    for word in re.findall(r"\S+(?: = \S+)*\s*", text):
        if fits(word.rstrip()):
            pieces.append(word)
            continue
        for part in re.split(r"(?<=[,@+/=_;])|(?<=[a-z]-)(?=[a-z])", word):
            pieces += [part] if fits(part.rstrip()) else list(part)
    return pieces
