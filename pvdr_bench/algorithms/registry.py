"""The facts of every algorithm, readable without importing torch.

Packages add their own through the entry point group ``pvdr_bench.algorithms``: each entry is an
:class:`AlgorithmInfo`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any


@dataclass(frozen=True)
class AlgorithmInfo:
    """What an algorithm is, so that a pair that cannot work is refused before anything starts.

    Attributes:
        config: ``module:Class`` of its pydantic config; that module imports no torch.
        learner: ``module:Class`` of its online learner, or None for a tokenizer.
        offline: stage -> ``module:Class`` of its offline learner.
        version: raised when the algorithm's results change.
    """

    name: str
    config: str
    learner: str | None
    offline: tuple[tuple[str, str], ...] = ()
    version: int = 1
    needs_tokenizer: bool = False
    needs_videos: bool = False
    needs_goal_image: bool = False  # refused in a protocol without one, where each episode has a goal of its own
    needs_expert: bool = False  # the loop puts the scripted expert's actions [N, A] into carry["expert"]
    on_policy: bool = True
    actions: str = "continuous"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages it declares itself, in order."""
        return tuple(stage for stage, _ in self.offline) + (("online",) if self.learner else ())


def load_object(path: str) -> Any:
    """Import ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


_BUILTIN = (
    AlgorithmInfo("vqgan", "pvdr_bench.tokenizer.config:VQGANConfig", None,
                  offline=(("tokenize", "pvdr_bench.tokenizer.learner:VQGANLearner"),), needs_videos=True),
    AlgorithmInfo("pvdr", "pvdr_bench.algorithms.pvdr.config:PVDRConfig",
                  "pvdr_bench.algorithms.pvdr.online:PVDRLearner",
                  offline=(("pretrain", "pvdr_bench.algorithms.pvdr.pretrain:PVDRPretrainer"),),
                  needs_tokenizer=True, needs_videos=True, needs_goal_image=True),
    AlgorithmInfo("ppo", "pvdr_bench.algorithms.ppo.config:PPOConfig", "pvdr_bench.algorithms.ppo.learner:PPOLearner",
                  needs_tokenizer=True),
    AlgorithmInfo("dreamer", "pvdr_bench.algorithms.dreamer.config:DreamerConfig",
                  "pvdr_bench.algorithms.dreamer.learner:DreamerLearner",
                  offline=(("pretrain", "pvdr_bench.algorithms.dreamer.pretrain:VideoPretrainer"),),
                  needs_videos=True, on_policy=False),
    AlgorithmInfo("random", "pvdr_bench.algorithms.floor:RandomConfig",
                  "pvdr_bench.algorithms.random_policy:RandomLearner"),
    AlgorithmInfo("scripted", "pvdr_bench.algorithms.floor:ScriptedConfig",
                  "pvdr_bench.algorithms.scripted:ScriptedLearner",
                  needs_expert=True),
)


@cache
def algorithms() -> dict[str, AlgorithmInfo]:
    """All algorithms by name, the built-in ones first."""
    found = {info.name: info for info in _BUILTIN}
    for entry in entry_points(group="pvdr_bench.algorithms"):
        info = entry.load()
        found.setdefault(info.name, info)
    return found
