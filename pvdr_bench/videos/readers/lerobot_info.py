"""What LeRobot's ``meta/info.json`` states, checked: templates of paths, sizes of pictures, whole numbers."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import Any

from pvdr_bench.errors import DataError
from pvdr_bench.videos.readers.base import Frames


def declared_size(facts: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Height and width of a camera, by ``names`` in whatever order; None where it does not tell.

    Raises:
        DataError: a shape that is none.
    """
    shape, names = facts.get("shape"), facts.get("names")
    if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(isinstance(n, int) for n in shape):
        raise DataError(f"the camera's shape is {shape!r}", where=where)
    if isinstance(names, list | tuple) and len(names) == 3:
        by_name = {str(name).lower().rstrip("s"): int(side) for name, side in zip(names, shape, strict=True)}
        if {"height", "width"} <= set(by_name):
            return by_name["height"], by_name["width"]
    if 3 in (shape[0], shape[2]):
        return (shape[1], shape[2]) if shape[0] == 3 and shape[2] != 3 else (shape[0], shape[1])
    return None


def check_declared(frame: Frames, size: tuple[int, int] | None, where: str) -> None:
    """A frame [H, W, 3] has the size that the data set states.

    Raises:
        DataError: it has another.
    """
    if size is not None and frame.shape[:2] != size:
        raise DataError(f"a frame of {frame.shape[1]} x {frame.shape[0]} pixels where {size[1]} x {size[0]} are "
                        "declared", where=where)


def filled(template: str, fields: Mapping[str, Any], where: str) -> str:
    """A template of ``info.json`` with its fields put in; nothing of Python's format language beside ``:03d``.

    Raises:
        DataError: a field or a format that LeRobot does not have.
    """
    out = []
    try:
        for text, name, spec, conversion in string.Formatter().parse(template):
            out.append(text)
            if name is None:
                continue
            if name not in fields or conversion or (spec and not _plain(spec)):
                raise ValueError(f"the field {name!r} with the format {spec!r}")
            out.append(format(fields[name], spec or ""))
    except ValueError as error:
        raise DataError(f"a template that is not followed: {template[:80]!r} ({error})", where=where,
                        hint=f"known fields: {', '.join(fields)}") from error
    return "".join(out)


def _plain(spec: str) -> bool:
    digits = spec.removesuffix("d").removeprefix("0")
    return digits == "" or (digits.isdigit() and len(digits) == 1)


def whole(value: Any) -> int:
    """A count or an index.

    Raises:
        ValueError: negative, or no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise ValueError(f"{value!r} is no whole number")
    if not 0 <= value < 1e12:
        raise ValueError(f"{value!r} is out of range")
    return int(value)
