"""Settings that are what they look like: a boolean is no number, a number is no boolean, and text is neither.

Two things are taken for another, since that is how people write them: a whole number where a fraction may stand
(``lr: 1``), and a number without a fraction where a whole one must (``steps: 1e4``, also ``10000.0``). A list is a
tuple. NaN and infinity are no settings.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class StrictModel(BaseModel):
    """A frozen group of keys that refuses unknown ones and converts nothing but the above."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        return as_written(value, cls.model_fields[info.field_name or ""].annotation)


def unwrap(annotation: Any) -> Any:
    """``X`` of ``X | None`` and ``Optional[X]``."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        arguments = [a for a in typing.get_args(annotation) if a is not type(None)]
        return arguments[0] if len(arguments) == 1 else annotation
    return annotation


def as_written(value: Any, annotation: Any) -> Any:
    """The value as its annotation has it, where the two say the same; any other is left for the schema to refuse.

    Raises:
        ValueError: a boolean where the schema lists numbers (for Python True is 1).
    """
    annotation = unwrap(annotation)
    if annotation is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if typing.get_origin(annotation) is tuple and isinstance(value, list | tuple):
        item = typing.get_args(annotation)[0]
        return tuple(as_written(one, item) for one in value)
    if typing.get_origin(annotation) is typing.Literal and isinstance(value, bool):
        allowed = typing.get_args(annotation)
        if not any(one is value for one in allowed):
            raise ValueError(f"allowed: {', '.join(map(str, allowed))}")
    return value
