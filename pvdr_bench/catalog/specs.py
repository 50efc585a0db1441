"""The typed, frozen specs that YAML becomes. None of them imports an algorithm, a simulator or torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.catalog.scales import EXTENDS, Scale
from pvdr_bench.catalog.seeds import LARGEST
from pvdr_bench.errors import CatalogError, DataError
from pvdr_bench.strict import StrictModel

if TYPE_CHECKING:
    from pvdr_bench.rl.config import AlgorithmConfig
    from pvdr_bench.suites.base import EnvConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*$")


class PlainSpec(StrictModel):
    """Frozen, without unknown keys."""


class NamedSpec(PlainSpec):
    """Something with a file or an entry of its own name."""

    name: str = Field(description="name, the same as the file's")

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("names hold letters, digits, '.', '_' and '-' only")
        return value


class ScaleSection(PlainSpec):
    """What a method changes at one scale, beside its config keys."""

    extends: Scale | None = Field(default=None, description="scale whose settings are the starting point (one level)")
    protocol: dict[str, Any] = Field(default={}, description="the protocol's env_steps, num_envs, sync_every")
    sets: dict[str, dict[str, Any]] = Field(default={}, description="config by hyperparameter set of the task")
    config: dict[str, Any] = Field(default={}, description="config keys at this scale")


class MethodSpec(NamedSpec):
    """A method as its file has it, before ``extends`` and scales are applied.

    In the file, the config keys of a scale stand directly in its section, beside ``extends``, ``protocol`` and
    ``sets``.
    """

    algorithm: str | None = Field(default=None, description="the learner's code; inherited with extends")
    extends: str | None = Field(default=None, description="method whose settings are the starting point")
    title: str = Field(default="", description="name in figures and tables")
    description: str = Field(default="", description="what the method is")
    paper: str = Field(default="", description="publication it follows")
    tuning: str = Field(default="", description="the tuning this method got: tasks, seeds, settings tried")
    tokenizer: str | None = Field(None, description="method that trains the frame tokenizer; null: the task's suite's, "
                                                    "or the one named tokenizer")
    videos: tuple[str, ...] = Field(
        default=(), description="corpora of stages whose artefact all runs share, such as the tokenizer's")
    pretrain_seeds: int = Field(default=1, description="pre-training seeds that the runs are spread over", ge=1)
    config: dict[str, Any] = Field(default={}, description="keys of the algorithm's config")
    scales: dict[Scale, ScaleSection] = Field(default={}, description="changes per scale")

    @field_validator("scales", mode="before")
    @classmethod
    def _sections(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {scale: _section(section) for scale, section in value.items()}


def _section(section: Any) -> Any:
    if section is None:
        return {}
    if not isinstance(section, dict):
        return section
    reserved = {key: value for key, value in section.items() if key in (EXTENDS, "protocol", "sets")}
    return {**reserved, "config": {key: value for key, value in section.items() if key not in reserved}}


class TaskSpec(NamedSpec):
    """One visual robot task."""

    title: str = Field(default="", description="name in figures and tables")
    description: str = Field(default="", description="what has to be done")
    extends: str | None = Field(default=None, description="task whose keys this one has, but for those it gives itself")
    suite: str = Field(description="the code behind the task, see: pvdr-bench list suites")
    env_id: str = Field(description="the environment's name in its suite")
    set: str | None = Field(
        default=None, description="published hyperparameter set (paper Table 3): set1, set2, set3, rlbench")
    camera: str | None = Field(default=None, description="camera for this task, in place of the protocol's")
    options: dict[str, Any] = Field(default={}, description="settings of the suite's own, see: describe SUITE")
    tuned_on: bool = Field(default=False, description="whether any method was tuned on this task")
    source: str = Field(default="", description="where the task comes from")
    note: str = Field(default="", description="what every caption of its results says, after its suite's own note")

    def identity(self) -> dict[str, Any]:
        """What determines results; titles and texts do not."""
        own = {"options": self.options} if self.options else {}
        return {"name": self.name, "suite": self.suite, "env_id": self.env_id, "camera": self.camera, **own}


class CorpusSpec(NamedSpec):
    """A set of action-free videos."""

    title: str = Field(default="", description="name in figures and tables")
    description: str = Field(default="", description="what the videos show")
    kind: Literal["generated", "files", "user"] = Field(
        description="made by `videos generate`, known by name and imported from files, or the user's own store")
    source: str = Field(default="", description="where the videos come from")
    license: str = Field(default="", description="terms of the data")
    citation: str = Field(default="", description="what to cite for it")


class RunSpec(PlainSpec):
    """Everything about one run: method x task x corpus x scale x seed, fully resolved."""

    method: str = Field(description="name of the method's file")
    variant: str = Field(description="method plus what -o changed, e.g. pvdr@lambda1=1e-2")
    title: str = Field(default="", description="name in figures and tables")
    tuning: str = Field(default="", description="the tuning this method got")
    algorithm: str = Field(description="the learner's code")
    algorithm_version: int = Field(description="raised when the algorithm's results change")
    config: dict[str, Any] = Field(description="the algorithm's resolved config")
    tokenizer: str | None = Field(description="method of the frame tokenizer, None if none is needed")
    tokenizer_corpora: tuple[str, ...] = Field(
        default=(), description="what the tokenizer learns from beside the corpora that its method's file names: those "
        "of the run, where it reads tokens")
    task: TaskSpec = Field(description="the task")
    corpus: str | None = Field(description="videos of pre-training, None if none are needed; a mixture by its name")
    pretrain_seed: int = Field(default=0, description="seed of the pre-training this run starts from")
    scale: Scale = Field(description="the scale")
    scale_label: str = Field(description="the scale in paths: with the protocol's name and changes, if any")
    protocol: Protocol = Field(description="the protocol at this scale")
    seed: int = Field(description="seed of the run", ge=0, le=LARGEST)

    def recipe(self) -> dict[str, Any]:
        """All that determines results, as plain JSON data; the budget ``env_steps`` does not belong to it."""
        protocol = self.protocol.model_dump(mode="json")
        del protocol["env_steps"]
        return {
            "method": self.variant, "algorithm": self.algorithm, "algorithm_version": self.algorithm_version,
            "config": self.config, "tokenizer": self.tokenizer, "task": self.task.identity(), "corpus": self.corpus,
            "pretrain_seed": self.pretrain_seed, "scale": self.scale, "protocol": protocol, "seed": self.seed,
            **({"tokenizer_corpora": list(self.tokenizer_corpora)} if self.tokenizer_corpora else {}),
        }

    def config_object(self) -> AlgorithmConfig:
        """The algorithm's frozen pydantic config (imports the algorithm's config module, not torch)."""
        kind: type[AlgorithmConfig] = registry.load_object(self.info.config)
        try:
            return kind.model_validate(self.config)
        except ValidationError as error:
            raise DataError(f"the config of this run does not fit this version of {self.algorithm}: {error}",
                            hint="use the version that made it, or give its command again elsewhere") from error

    @property
    def info(self) -> registry.AlgorithmInfo:
        """The facts of the run's algorithm.

        Raises:
            CatalogError: the algorithm is not installed here.
        """
        found = registry.algorithms().get(self.algorithm)
        if found is None:
            raise CatalogError(f"the algorithm {self.algorithm!r} of this run is not installed here")
        return found

    def env_config(self) -> EnvConfig:
        """All a worker needs to build the environment.

        Raises:
            CatalogError: the suite or its camera is not known here.
        """
        from pvdr_bench.catalog.suites import camera_of, suite_of
        from pvdr_bench.suites.base import EnvConfig

        protocol, task = self.protocol, self.task
        return EnvConfig(
            suite=task.suite, env_id=task.env_id,
            camera=camera_of(suite_of(task.suite), task.camera or protocol.camera), options=task.options,
            image_size=protocol.image_size, renderer=protocol.renderer, action_repeat=protocol.action_repeat,
            episode_steps=protocol.episode_steps, frozen_instance=protocol.frozen_instance,
            instance_seed=protocol.instance_seed or 0, terminate_on_success=protocol.terminate_on_success,
            goal_settle_steps=protocol.goal_settle_steps or 0,  # without a goal image nobody asks for one
        )

    def path(self, results: str | Path) -> Path:
        """``RESULTS/variant/task/corpus/scale/seed-N``."""
        corpus = self.corpus or "none"
        return Path(results) / self.variant / self.task.name / corpus / self.scale_label / f"seed-{self.seed}"


def written_spec(value: Any, where: str) -> RunSpec:
    """A run's specification as a file has it.

    Raises:
        DataError: it is of a schema that this version cannot read, or was damaged.
    """
    try:
        return RunSpec.model_validate(value)
    except (ValidationError, RecursionError) as error:
        raise DataError(f"the run's specification does not fit this version: {error}", where=where) from error
