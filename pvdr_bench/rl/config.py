"""How an algorithm documents its hyperparameters, and what its config tells the house. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from pydantic import BaseModel, Field, create_model

from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.strict import StrictModel

MEAN_POLICY, EVAL_STD = "mean_policy_in_eval", "eval_std"  # keys of what evaluation plays where it is no sampled action


def key(default: Any, description: str, source: str, added: bool = False, **limits: Any) -> Any:
    """A config key with its meaning, its source (paper, reading, departure, hardware) and its limits.

    ``added``: it came when runs had been published, and its default is what they did: a recipe has it only where it has
    another value, so that theirs keep their hashes.
    """
    extra: dict[str, Any] = {"source": source, **({"added": True} if added else {})}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Section(StrictModel):
    """A frozen group of keys that refuses unknown ones."""


@dataclass(frozen=True)
class Schedule:
    """How a stage is run, and so what it needs of videos: clips of so many frames, so far apart.

    Attributes:
        steps: of the optimiser. batch: clips in one.
        frames: of a clip, those of the first stack included. stride: decisions between neighbouring frames of a clip.
        stack: frames that make one picture of the learner's.
        length_key: the key whose value and ``beside`` more are ``frames``; empty: no single key says so.
    """

    steps: int
    batch: int
    frames: int
    stride: int
    validate_every: int
    validation_clips: int
    stack: int = 1
    length_key: str = ""
    beside: int = 0

    @property
    def span(self) -> int:
        """Frames of video from a clip's first to its last."""
        return (self.frames - 1) * self.stride + 1

    def value_for(self, length: int) -> int:
        """The largest value of ``length_key`` whose clips fit into an episode of ``length`` frames."""
        return (length - 1) // self.stride + 1 - self.beside


class EpisodeRules(Protocol):
    """What a config may ask of a protocol; :class:`pvdr_bench.catalog.protocol.Protocol` has it."""

    @property
    def name(self) -> str:
        """Of the protocol."""
        ...

    @property
    def reward(self) -> str:
        """``goal_distance``, or ``dense``: the suite's own."""
        ...

    @property
    def success_bonus(self) -> float | None:
        """Reward at the first success of an episode."""
        ...

    @property
    def terminate_on_success(self) -> bool:
        """Whether success ends training episodes."""
        ...


class AlgorithmConfig(Section):
    """Base of every algorithm's config: its hooks, which the house asks before anything starts.

    A hook that a config does not have says that there is nothing to refuse. A config with a key ``pretrained`` uses its
    offline stages where that is true.
    """

    @classmethod
    def of_sections(cls, told: Mapping[str, Any]) -> Self:
        """A config of which only these sections are known, as an artefact's recipe tells them.

        Each is checked; whether it agrees with the rest, which has its defaults here, is not asked.

        Raises:
            pydantic.ValidationError: a section that there is none of, or a key that one refuses.
        """
        fields: dict[str, Any] = {name: (field.annotation, field) for name, field in cls.model_fields.items()
                                  if name in told}
        part = create_model(cls.__name__, __base__=Section, **fields).model_validate(told)
        return cls.model_construct(**dict(part))

    def recipe(self) -> dict[str, Any]:
        """As recipes have it, whose hashes name runs and artefacts: plain JSON data; see ``added`` of :func:`key`."""
        return _in_recipe(self)

    def stages_used(self, declared: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the algorithm's own ``declared`` offline stages that runs of this config start from."""
        return declared if getattr(self, "pretrained", True) else ()

    def schedule(self, stage: str) -> Schedule:
        """How a declared offline stage is run.

        Raises:
            CatalogError: the algorithm has no such stage.
        """
        raise CatalogError(f"{type(self).__name__} has no schedule of a stage {stage}")

    def check_image(self, size: int) -> None:
        """Refuse square pictures of ``size`` pixels.

        Raises:
            CatalogError: with the sizes that would do.
        """

    def check_grid(self, grid: int) -> None:
        """Refuse a token grid of ``grid`` x ``grid`` cells.

        Raises:
            CatalogError: with the sizes that would do.
        """

    def warning(self, protocol: EpisodeRules) -> str | None:
        """A sentence about settings that work against the protocol's; runs are made all the same."""
        return None


def _in_recipe(section: BaseModel) -> dict[str, Any]:
    """Its keys, but those ``added`` that have their default."""
    data = section.model_dump(mode="json")
    for name, info in type(section).model_fields.items():
        value, extra = getattr(section, name), info.json_schema_extra
        if isinstance(value, BaseModel):
            data[name] = _in_recipe(value)
        elif isinstance(extra, dict) and extra.get("added") and value == info.default:
            del data[name]
    return data


class TokenizerConfig(AlgorithmConfig):
    """Base of the config of whatever trains a frame tokenizer, in a stage that makes ``tokenizer``."""

    @property
    def factor(self) -> int:
        """Pixels along one side of a token's cell."""
        raise NotImplementedError

    def grid(self, image_size: int) -> int:
        """Side of the token grid.

        Raises:
            ValueError: the image size is not a multiple of the cell.
        """
        if image_size % self.factor:
            raise ValueError(f"image size {image_size} is not a multiple of the token's cell of {self.factor} pixels")
        return image_size // self.factor


C = TypeVar("C", bound=AlgorithmConfig)


def config_as(kind: type[C], config: AlgorithmConfig) -> C:
    """A config whose class is known, for tools that look into one algorithm.

    Raises:
        UsageError: it is another algorithm's.
    """
    if not isinstance(config, kind):
        raise UsageError(f"this works on a {kind.__name__}, and the method has a {type(config).__name__}",
                         where="--method")
    return config


def schedule_from(section: Any, frames: int, stride: int = 1, stack: int = 1, length_key: str = "",
                  beside: int = 0) -> Schedule:
    """A schedule whose steps, batch and validations stand in a section of the config."""
    return Schedule(steps=section.steps, batch=section.batch, frames=frames, stride=stride,
                    validate_every=section.validate_every, validation_clips=section.validation_clips, stack=stack,
                    length_key=length_key, beside=beside)


def check_divides(key: str, value: int, grid: int) -> None:
    """Refuse a side that does not divide the side of the token grid.

    Raises:
        CatalogError: with the divisors.
    """
    if value < 1 or grid % value:
        divisors = ", ".join(str(side) for side in range(1, grid + 1) if grid % side == 0)
        raise CatalogError(f"{value} does not divide the side of the token grid, {grid}", where=key,
                           hint=f"use one of {divisors}")


def check_pictures(size: int, input_size: int) -> None:
    """Refuse pictures of a side that the networks' input would have to be blown up from.

    Raises:
        CatalogError: with both sizes and what to change.
    """
    if size < input_size:
        raise CatalogError(f"pictures of {size} pixels are smaller than model.input_size {input_size}",
                           where="protocol.image_size", hint=f"at least {input_size}, or a smaller model.input_size")
