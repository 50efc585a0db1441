"""An experiment as ``experiments/NAME.yaml`` has it: a named grid of runs, and what is drawn from it.

One that names other ``experiments`` in place of a grid is all of them, with the runs that they share made once.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

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


class Figure(PlainSpec):
    """The picture that `reproduce` draws of an experiment: a panel a task in the grid's order, one legend, bands."""

    kind: Literal["curves", "sweep"] = Field(
        "curves", description="curves: success against env_steps; sweep: the same with a line for each value of key, "
                              "and beside it the final success against the value")
    key: str | None = Field(None, description="of a sweep, and of it alone: the method's key that the rows differ in")
    levels: tuple[str, ...] = Field(
        (), description="methods that are drawn as a dashed level, the mean of their final evaluations, and not as a "
                        "curve")

    @model_validator(mode="after")
    def _key(self) -> Figure:
        if (self.kind == "sweep") != (self.key is not None):
            raise ValueError("kind sweep needs the key that is varied, and no other kind has one")
        return self


class PaperTable(PlainSpec):
    """The table that `reproduce` writes of an experiment: tasks are its rows, the published numbers stand beside."""

    published: str = Field(description="the published table, as results/paper/pvdr_*.csv call it: Table 4",
                           min_length=1)
    columns: Literal["methods", "corpora"] = Field(
        "methods", description="methods: a column each, a row for each task (and corpus, where there are several); "
                               "corpora: a column each, a row for each task and method")
    stand_ins: dict[str, str] = Field(
        {}, description="published corpus -> the grid's that stands in for it: {bair: fetch-push}")


class Experiment(NamedSpec):
    """A named grid of runs, and the figure and table that are made from it."""

    title: str = Field("", description="name for people")
    description: str = Field("", description="what it shows")
    source: str = Field("", description="figure or table of the paper that it follows; after ...: its rows are ours, "
                                        "and none of them is printed there")
    protocol: str | None = Field(None, description="protocol of all runs; null: that of each task's suite")
    scale: Scale | None = Field(None, description="scale where --scale is not given; null: what fits the device")
    seeds: str = Field("5", description="seeds of all runs, as --seeds has them")
    grid: tuple[GridPart, ...] = Field(
        (), description="the runs; one that appears twice is one run, as the last part has it")
    experiments: tuple[str, ...] = Field((), description="in place of a grid: the experiments that this one is made of")
    figure: Figure | None = Field(None, description="what `reproduce` draws; null: nothing, or bars beside a table")
    table: PaperTable | None = Field(None, description="what `reproduce` writes beside a published table; null: none")
    highest: str | None = Field(
        None, description="the method that the publication has above all others of this figure (of a source after ...: "
                          "ours that stands for it); `reproduce` says whether it is here")

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        return seeds_text(value)

    @field_validator("grid", "experiments")
    @classmethod
    def _some(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("is empty, so there is nothing to run")
        return value

    @model_validator(mode="after")
    def _runs_of_one_kind(self) -> Experiment:
        if bool(self.grid) == bool(self.experiments):
            raise ValueError("either grid or experiments says which runs there are")
        if self.experiments and (self.figure or self.table or self.highest):
            raise ValueError("figure, table and highest belong to the experiments that are named here")
        named = {method for part in self.grid for method in part.methods}
        levels = self.figure.levels if self.figure else ()
        if strange := [name for name in (*levels, *filter(None, (self.highest,))) if name not in named]:
            raise ValueError(f"{strange[0]} is not among the grid's methods: {', '.join(sorted(named))}")
        return self
