"""An experiment as ``experiments/NAME.yaml`` has it: a named grid of runs, and what is drawn from it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from pvdr_bench.catalog.scales import Scale
from pvdr_bench.catalog.seeds import parse_seeds
from pvdr_bench.catalog.specs import NamedSpec, PlainSpec
from pvdr_bench.errors import UsageError


def seeds_text(value: Any) -> Any:
    """Seeds as --seeds has them; ``seeds: 5`` is what one types in YAML.

    Raises:
        ValueError: they name no seeds.
    """
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str):
        try:
            parse_seeds(text)
        except UsageError as error:
            raise ValueError(f"{error.message}; {error.hint}") from error
    return text


class GridPart(PlainSpec):
    """Methods x tasks x corpora x seeds, as one ``run`` command has them."""

    methods: tuple[str, ...] = Field(description="methods, variants too: pvdr@lambda1=1e-2", min_length=1)
    tasks: tuple[str, ...] = Field(description="tasks", min_length=1)
    videos: tuple[str, ...] = Field((), description="corpora of pre-training; empty: the default one")
    seeds: str | None = Field(None, description="in place of the experiment's seeds")
    overrides: tuple[str, ...] = Field((), description="as -o has them: key=value, protocol.key=value")

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        return seeds_text(value)


class Experiment(NamedSpec):
    """A named grid of runs."""

    title: str = Field("", description="name for people")
    description: str = Field("", description="what it shows")
    source: str = Field("", description="figure or table of the paper that it follows")
    protocol: str | None = Field(None, description="protocol of all runs; null: that of each task's suite")
    scale: Scale | None = Field(None, description="scale where --scale is not given; null: what fits the device")
    seeds: str = Field("5", description="seeds of all runs, as --seeds has them")
    grid: tuple[GridPart, ...] = Field(
        description="the runs; one that appears twice is one run, as the last part has it", min_length=1)

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        return seeds_text(value)
