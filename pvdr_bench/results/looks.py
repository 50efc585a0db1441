"""How a row looks: colour, dash and mark follow from what it is, not from what stands beside it.

Shipped methods and corpora have the looks of ``looks.toml``. Every other row's look follows from its name: a variant
keeps its method's hue and takes a shade and a style of its own, a new method takes a hue too. Where two names of one
results folder meet on one look, the later in name order moves on; so a folder's looks do not depend on which of its
rows are shown, nor on their order.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvdr_bench.results.series import Row

Name = tuple[str, str]  # variant, corpus: what has a look

# On and off, in line widths.
DASHES: dict[str, tuple[float, ...]] = {
    "solid": (), "dashed": (3.4, 1.5), "dotted": (1.0, 1.3), "dash-dot": (4.2, 1.4, 1.0, 1.4),
    "long": (7.0, 1.6)}
MARKS = ("circle", "square", "diamond", "up", "down", "left", "right", "plus", "cross", "star")
SHADES = {"base": 0.0, "dark": -0.42, "light": 0.34, "deep": -0.22}  # towards black or white


@dataclass(frozen=True)
class Look:
    """Colour (``#rrggbb``), dash (a key of :data:`DASHES`), mark (of :data:`MARKS`), and whether the mark is filled."""

    color: str
    dash: str
    mark: str
    filled: bool = True

    @property
    def style(self) -> tuple[str, str, bool]:
        """What tells it from others without colour."""
        return self.dash, self.mark, self.filled

    @property
    def surface(self) -> tuple[str, str]:
        """What tells a bar, which has no mark, from others."""
        return self.color, self.dash


def looks_of(rows: Sequence[Row], known: Iterable[Name] = ()) -> dict[Row, Look]:
    """The look of every learned row.

    Args:
        known: all names of the results folder, of which ``rows`` may be a few.

    Returns:
        Looks that differ from each other; a variant and corpus under several protocols has its own look in the first,
        and others in the same hue.
    """
    learned = [row for row in rows if not row.reference]
    looks = assign(sorted({*known, *((row.variant, row.corpus) for row in learned)}))
    out: dict[Row, Look] = {}
    for row in sorted(learned, key=lambda row: (row.variant, row.corpus, row.scale, row.protocol_hash)):
        look = looks[row.variant, row.corpus]
        if look in out.values():
            taken = _Taken([*looks.values(), *out.values()])
            look = taken.first(_derived(_hue_at(look.color), f"{row.variant} {row.corpus} {row.scale} "
                                                            f"{row.protocol_hash}"))
        out[row] = look
    return {row: out[row] for row in learned}


def reference_dash(variant: str) -> str:
    """The dash of a policy that does not learn, a key of :data:`DASHES`."""
    return str(_table()["references"].get(variant, "dotted"))


def assign(names: Iterable[Name]) -> dict[Name, Look]:
    """Looks of all these names; those of ``looks.toml`` have theirs whatever stands beside them."""
    names = sorted(set(names))
    hues = _hues_of(sorted({_method(variant) for variant, _ in names}))
    out: dict[Name, Look] = {}
    for name in names:
        look = _fixed(name)
        if look is not None and look not in out.values():  # a method with a corpus and without: one keeps the look
            out[name] = look
    taken = _Taken([*_reserved(), *out.values()])
    left = [name for name in names if name not in out]
    for variant, corpus in sorted(left, key=_is_variant):  # whole methods choose before their variants
        hue, key = hues[_method(variant)], f"{variant} {corpus}"
        out[variant, corpus] = taken.first((_derived if _is_variant((variant, corpus)) else _plain)(hue, key))
    return out


def _is_variant(name: Name) -> bool:
    """Whether a row has changes of ``-o``, a corpus that is not the methods' own, or a method that has a look."""
    variant, corpus = name
    return "@" in variant or variant in _table()["methods"] or _table()["corpora"].get(corpus) != {}


class _Taken:
    """Looks that are given away."""

    def __init__(self, looks: Iterable[Look]) -> None:
        self._looks: set[Look] = set()
        self._styles: set[Any] = set()
        self._surfaces: set[Any] = set()
        for look in looks:
            self._take(look)

    def _take(self, look: Look) -> Look:
        self._looks.add(look)
        self._styles.add(look.style)
        self._surfaces.add(look.surface)
        return look

    def first(self, candidates: Iterator[Look]) -> Look:
        """The first that differs from all others in style and, as a bar, in surface; else in one of them; else at all.

        With more than 400 rows of one hue they repeat.
        """
        found = list(candidates)
        tests = (lambda look: look.style not in self._styles and look.surface not in self._surfaces,
                 lambda look: look.style not in self._styles, lambda look: look not in self._looks)
        for test in tests:
            if (look := next(filter(test, found), None)) is not None:
                return self._take(look)
        return found[0]


def _plain(hue: str, key: str) -> Iterator[Look]:
    """Looks for a method: its pure hue, solid lines and filled marks first."""
    start = _number(key) % len(MARKS)
    marks = MARKS[start:] + MARKS[:start]
    for filled, dash, mark in product((True, False), DASHES, marks):
        yield Look(hue, dash, mark, filled)
    yield from _derived(hue, key)


def _derived(hue: str, key: str) -> Iterator[Look]:
    """Looks for a variant: another shade, no solid line and open marks first, in an order of the name's own."""
    shades, dashes = list(SHADES.values()), list(DASHES)
    first = list(product(shades[1:], dashes[1:], MARKS, (False,)))
    rest = [each for each in product(shades, dashes, MARKS, (False, True)) if each not in set(first)]
    for group in (first, rest):
        for shade, dash, mark, filled in sorted(group, key=lambda each: _number(f"{key} {each}")):
            yield Look(_mix(hue, shade), dash, mark, filled)


def _fixed(name: Name) -> Look | None:
    """The look of ``looks.toml``, None where it says nothing."""
    variant, corpus = name
    method, style = _table()["methods"].get(variant), _table()["corpora"].get(corpus)
    if method is None or style is None:
        return None
    hue = _table()["hues"][method["hue"]]
    if not style:
        return Look(hue, method["dash"], method["mark"])
    return Look(_mix(hue, SHADES[style["shade"]]), style["dash"], method["mark"], filled=False)


@cache
def _reserved() -> tuple[Look, ...]:
    """The shipped methods' own looks, which no other row gets, also in a folder without these methods."""
    return tuple(look for method in _table()["methods"] if (look := _fixed((method, "none"))) is not None)


def _hues_of(methods: Sequence[str]) -> dict[str, str]:
    """The pure colour of each method: of ``looks.toml``, else by its name, one that no other has while there are any.

    Those of shipped methods that are no ablations come last, so that the folder may gain such a method.
    """
    table = _table()
    palette = list(table["hues"].values())
    main = {table["hues"][method["hue"]] for method in table["methods"].values() if method["dash"] == "solid"}
    out = {name: table["hues"][table["methods"][name]["hue"]] for name in methods if name in table["methods"]}
    for name in methods:
        if name not in out:
            start = _number(name) % len(palette)
            order = sorted(palette[start:] + palette[:start], key=main.__contains__)
            out[name] = next((hue for hue in order if hue not in out.values()), order[0])
    return out


def _hue_at(color: str) -> str:
    """The pure colour that a shade was mixed from."""
    hues: list[str] = list(_table()["hues"].values())
    return next(hue for hue in hues if color in {_mix(hue, by) for by in SHADES.values()})


def _mix(color: str, by: float) -> str:
    """The colour moved towards white (``by`` above 0) or black (below)."""
    parts = [int(color[k:k + 2], 16) for k in (1, 3, 5)]
    mixed = [part + by * (255 - part) if by > 0 else part * (1 + by) for part in parts]
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def _method(variant: str) -> str:
    return variant.partition("@")[0]


def _number(key: str) -> int:
    """A number of the name's own, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(files("pvdr_bench.results").joinpath("looks.toml").read_text("utf-8"))
    return found
