"""What a number means: the schema of a protocol, each key tagged ``meaning`` or ``means``.

The meaning keys are hashed; rows of different hashes never mix. The means (how one gets there) are shown only.
A goal image exists with a frozen instance only. Keys that would say nothing in a protocol must be null in it
(:data:`GOAL_KEYS`), so that no YAML shows a number that nothing reads.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from pvdr_bench.strict import StrictModel

DEFAULT_PROTOCOL = "pvdr"


def _meaning(description: str, default: Any = ..., source: str = "benchmark", **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"kind": "meaning", "source": source}, **limits)


def _means(description: str, default: Any = ..., source: str = "benchmark", **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"kind": "means", "source": source}, **limits)


# The keys that something reads only where their condition holds; elsewhere they must be null.
GOAL_KEYS: dict[str, tuple[str, ...]] = {
    "reward goal_distance": ("goal_metric", "goal_blur", "normalise_distance", "success_bonus"),
    "frozen_instance true": ("instance_seed", "goal_settle_steps"),
}


class Protocol(StrictModel):
    """One protocol at one scale. Steps are env_steps (simulator steps) wherever they are counted."""

    name: str = _meaning("name of the protocol")
    scale: str = _meaning("name of the scale")
    suite_version: str = _meaning("version of the task's suite, as installed")
    image_size: int = _meaning("side of the square RGB observation in pixels", source="PVDR 5.1: 128; APV: 64", ge=8,
                               le=1024)
    renderer: Literal["stock", "lean"] = _meaning(
        "stock: gymnasium's; lean: no shadows, reflections or multisampling, decimated visual meshes")
    camera: str = _meaning("name of a camera of the task's suite; a task may name another",
                           source="PVDR: an unpublished camera1; APV: corner")
    action_repeat: int = _meaning("simulator steps per decision", source="PVDR 5.1: 2; APV: 1", ge=1)
    episode_steps: int = _meaning("simulator steps until an episode is truncated", source="PVDR 5.1 and APV: 500", ge=1)
    frozen_instance: bool = _meaning(
        "one task instance with one goal image; or, without a goal image, a new instance per episode, drawn by its "
        "seed", source="PVDR silent (reading 33): one; APV: new ones")
    instance_seed: int | None = _meaning("seed that draws the frozen instance; null without one", ge=0)
    goal_settle_steps: int | None = _meaning(
        "simulator steps after the expert's first success before the goal image; where the hand is what has to be at "
        "the target, as many again to centre the fingertips on it; null without a frozen instance", ge=0)
    reward: Literal["goal_distance", "dense"] = _meaning(
        "goal_distance: minus the distance to the goal image; dense: the suite's own, summed over the repeated steps, "
        "which needs no goal image", source="PVDR 5.1: goal_distance; APV: dense")
    goal_metric: Literal["pixel_l1", "pixel_l1_blur", "code_l1", "code_l1_blur", "code_l1_pyramid"] | None = _meaning(
        "distance between an observation and the goal image: pixels or code embeddings, plain or box-blurred, or the "
        "mean over a pyramid of boxes of 1, 3, ... goal_blur cells; null "
        "with reward dense, as the three keys below", source="PVDR 5.1: pixel_l1")
    goal_blur: int | None = _meaning("window of the blurred metrics, odd: pixels, or cells of the token grid; of "
                                         "code_l1_pyramid the largest", ge=1)
    normalise_distance: bool | None = _meaning("divide the distance by the one between start and goal image",
                                               source="PVDR silent (reading 10)")
    success_bonus: float | None = _meaning("sparse reward at the first success of an episode",
                                           source="PVDR A.3: 60 in Meta-World", ge=0)
    terminate_on_success: bool = _meaning("end training episodes at success; evaluation plays to the full length",
                                          source="PVDR silent (reading 31): no; APV: never")
    success_rule: Literal["any", "end"] = _meaning(
        "which success tables and curves show: at any step of the episode, or at its end; both are recorded")
    eval_every: int = _meaning("env_steps between two evaluations", source="APV: 10,000; else benchmark", ge=1)
    eval_episodes: int = _meaning("episodes of an evaluation on the way", source="APV: 10; else benchmark", ge=1)
    eval_final_episodes: int = _meaning("episodes of the evaluation at the end of the budget", ge=1)
    eval_seed_base: int = _meaning("first seed of evaluation episodes, disjoint from training's", ge=0)
    train_seed_base: int = _meaning("first seed of training episodes", ge=0)
    env_steps: int = _means("budget of one run; a larger one extends the run", source="APV: 256,000; else benchmark",
                            ge=1, le=2**53)
    num_envs: int = _means("environments stepped together", ge=1)
    sync_every: int = _means("env_steps between sync points, where a checkpoint is published", ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Protocol:
        self._nothing_idle()
        if self.goal_blur is not None and self.goal_blur % 2 == 0:
            raise ValueError(f"goal_blur must be odd, not {self.goal_blur}")
        if self.goal_metric == "code_l1_pyramid" and self.goal_blur == 1:
            raise ValueError("goal_metric code_l1_pyramid with goal_blur 1 is code_l1; 3 or more")
        if self.episode_steps % self.action_repeat:
            raise ValueError(f"episode_steps {self.episode_steps} is not a multiple of "
                             f"action_repeat {self.action_repeat}")
        block = self.num_envs * self.episode_steps
        if self.sync_every % block:
            raise ValueError(f"sync_every {self.sync_every} is not a multiple of num_envs * episode_steps = {block}")
        if self.eval_every % self.sync_every:
            raise ValueError(f"eval_every {self.eval_every} is not a multiple of sync_every {self.sync_every}: "
                             "evaluations stand at sync points")
        if self.eval_seed_base < self.train_seed_base + 2**20 and self.train_seed_base < self.eval_seed_base + 2**20:
            raise ValueError("eval_seed_base and train_seed_base must be at least 2**20 apart to stay disjoint")
        return self

    def _nothing_idle(self) -> None:
        """Keys that say nothing here are null, and all others are set."""
        holds = {"reward goal_distance": self.reward == "goal_distance", "frozen_instance true": self.frozen_instance}
        for when, keys in GOAL_KEYS.items():
            used = holds[when]
            wrong = [key for key in keys if (getattr(self, key) is None) == used]
            if wrong and used:
                raise ValueError(f"{', '.join(wrong)} must be set with {when}")
            if wrong:
                raise ValueError(f"{', '.join(wrong)} must be null: nothing reads it without {when} ("
                                 + " ".join(f"-o protocol.{key}=null" for key in wrong) + ")")

    @property
    def has_goal_image(self) -> bool:
        """Whether there is one goal image for all episodes, that methods may be shown."""
        return self.frozen_instance

    @classmethod
    def keys(cls, kind: str) -> tuple[str, ...]:
        """The keys of a kind, ``meaning`` or ``means``."""
        extras = {name: info.json_schema_extra for name, info in cls.model_fields.items()}
        return tuple(name for name, extra in extras.items() if isinstance(extra, dict) and extra["kind"] == kind)

    def meaning(self) -> dict[str, Any]:
        """Everything that changes what a number means."""
        return self.model_dump(mode="json", include=set(self.keys("meaning")))

    def means(self) -> dict[str, Any]:
        """What only changes how one gets there."""
        return self.model_dump(mode="json", include=set(self.keys("means")))

    def hash(self) -> str:
        """12 hexadecimal digits of the sha256 of the meaning keys' canonical JSON."""
        return digest(self.meaning())


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """12 hexadecimal digits of the sha256 of :func:`canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]
