"""How an algorithm documents its hyperparameters. Imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def key(default: Any, description: str, source: str, **limits: Any) -> Any:
    """A config key with its meaning, its source (paper, reading, departure, hardware) and its limits."""
    return Field(default, description=description, json_schema_extra={"source": source}, **limits)


class Section(BaseModel):
    """A frozen group of keys that refuses unknown ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")
