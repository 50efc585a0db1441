"""The scales: named sizes of methods and protocols, and how a section of one stands on the section of another.

In a file, ``scales: {quick: {extends: cpu, ...}}`` says that scale quick has all that cpu has, but for what follows.
One level only; a method's or protocol's child has it from its parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, cast

from pvdr_bench.errors import CatalogError

Scale = Literal["paper", "gpu", "cpu", "quick", "smoke"]
SCALES: dict[str, str] = {
    "paper": "the published sizes",
    "gpu": "meant for about an hour a run on one modern GPU; not measured yet",
    "cpu": "under half an hour a seed on one core",
    "quick": "a few minutes, to see learning: the expert at 100 %, random near 0, and a learner that rises; for a "
             "first look, not for results",
    "smoke": "for tests, and nothing else: a whole run in under three minutes that learns nothing, every row at 0 %",
}
NO_RESULTS = {"quick": "", "smoke": "; --scale quick shows learning in minutes"}  # and what else to say of them
EXTENDS = "extends"


def line_of(scale: str, sections: Iterable[tuple[Mapping[str, str | None], str | None]]) -> tuple[Scale, ...]:
    """The scales whose sections are laid over one another to make ``scale``, the one it stands on first.

    Args:
        sections: of a file and the one that it extends, parent first: by scale, the scale that the section there
            extends (None: none); and the place of that word at ``scale``, for errors.

    Raises:
        CatalogError: it extends itself, something that is no scale, or one that extends another.
    """
    base: str | None = None
    place: str | None = None
    merged: dict[str, str] = {}
    for extends, where in sections:
        merged.update({name: value for name, value in extends.items() if value is not None})
        if (found := extends.get(scale)) is not None:
            base, place = found, where
    if base is None:
        return (cast(Scale, scale),)
    if base not in SCALES or base == scale:
        from pvdr_bench.catalog.problems import unknown
        raise unknown(f"scale in {EXTENDS} of {scale}", str(base), [name for name in SCALES if name != scale], place)
    if base in merged:
        raise CatalogError(f"scale {scale} extends {base}, which extends {merged[base]}", where=place,
                           hint=f"one level only: extend {merged[base]}, and repeat what {base} changes")
    return cast(tuple[Scale, Scale], (base, scale))
