"""How an algorithm documents its hyperparameters. Imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pvdr_bench.errors import CatalogError
from pvdr_bench.strict import StrictModel


def key(default: Any, description: str, source: str, **limits: Any) -> Any:
    """A config key with its meaning, its source (paper, reading, departure, hardware) and its limits."""
    return Field(default, description=description, json_schema_extra={"source": source}, **limits)


class Section(StrictModel):
    """A frozen group of keys that refuses unknown ones."""


def check_divides(key: str, value: int, grid: int) -> None:
    """Refuse a side that does not divide the side of the token grid.

    Raises:
        CatalogError: with the divisors.
    """
    if value < 1 or grid % value:
        divisors = ", ".join(str(side) for side in range(1, grid + 1) if grid % side == 0)
        raise CatalogError(f"{value} does not divide the side of the token grid, {grid}", where=key,
                           hint=f"use one of {divisors}")
