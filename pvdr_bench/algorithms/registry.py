"""The facts of every algorithm, readable without importing torch.

Packages add their own through the entry point group ``pvdr_bench.algorithms``, and users by a file
``algorithms/NAME.py`` in a folder of ``PVDR_BENCH_PATH``: each names an :class:`AlgorithmInfo`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from pvdr_bench.errors import CatalogError, SetupError
from pvdr_bench.plugins import load_plugins, path_text

ONLINE = "online"  # the last stage of whatever acts in a task


@dataclass(frozen=True)
class Stage:
    """A stage before the online one: it learns from videos and leaves an artefact.

    Attributes:
        name: of the stage and its artefact, such as ``pretrain``.
        learner: ``module:Class`` of an :class:`~pvdr_bench.rl.contract.OfflineLearner`.
        sections: parts of the config that the artefact depends on; (): all of it.
        needs: names of stages whose artefacts it is made from, of this algorithm or of one that the method names
            (``tokenizer``).
        batches: which of them turns frames into what this stage learns from; None: it learns from frames.
        load: ``module:function`` that makes of (weights, config, device) what later stages work with, such as a frozen
            tokenizer; None: the weights themselves.
        makes: what the artefact is; its place in the recipes of stages that need it.
        own_videos: the corpora are those that the method's file names (``videos``), and not the run's ``--videos``:
            an artefact that all runs of a scale share.
        views: what ``inspect`` shows of the artefact, ``module:NAME`` of :data:`~pvdr_bench.rl.views.Views`.
    """

    name: str
    learner: str
    sections: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    batches: str | None = None
    load: str | None = None
    makes: str = "model"
    own_videos: bool = False
    views: str | None = None


@dataclass(frozen=True)
class AlgorithmInfo:
    """What an algorithm is, so that a pair that cannot work is refused before anything starts.

    Attributes:
        config: ``module:Class`` of its :class:`~pvdr_bench.rl.config.AlgorithmConfig`; that module imports no torch.
        learner: ``module:Class`` of its online learner; None for a tokenizer.
        offline: its stages before the online one, each after those it needs.
        version: raised when the algorithm's results change.
        needs: names of stages, its own apart, that the online stage stands on: those of the method's ``tokenizer``.
        views: what ``inspect`` shows of a run, ``module:NAME`` of :data:`~pvdr_bench.rl.views.Views`, beside the
            episode that it shows of every run.
        by_budget: its schedules end with the budget (it reads ``context.task.budget_decisions``), so the first half of
            a run is no run of half the budget: none goes on to another budget, and tables say where one is cut.
    """

    name: str
    config: str
    learner: str | None
    offline: tuple[Stage, ...] = ()
    version: int = 1
    needs: tuple[str, ...] = ()
    needs_goal_image: bool = False  # refused in a protocol without one, where each episode has a goal of its own
    needs_expert: bool = False  # the loop puts the scripted expert's actions [N, A] into carry["expert"]
    on_policy: bool = True
    views: str | None = None
    by_budget: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages it declares itself, in order."""
        return tuple(stage.name for stage in self.offline) + ((ONLINE,) if self.learner else ())

    def stage(self, name: str) -> Stage:
        """One of its stages before the online one.

        Raises:
            CatalogError: it has none of that name.
        """
        for stage in self.offline:
            if stage.name == name:
                return stage
        raise CatalogError(f"algorithm {self.name} has no stage {name}",
                           hint=f"its stages: {', '.join(self.stages) or 'none'}")


def load_object(path: str) -> Any:
    """Import ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


_TOKENIZE = Stage("tokenize", "pvdr_bench.tokenizer.learner:VQGANLearner", makes="tokenizer", own_videos=True,
                  load="pvdr_bench.tokenizer.frozen:load_tokenizer", views="pvdr_bench.tokenizer.views:ARTEFACT")
_BUILTIN = (
    AlgorithmInfo("vqgan", "pvdr_bench.tokenizer.config:VQGANConfig", None, offline=(_TOKENIZE,)),
    AlgorithmInfo("pvdr", "pvdr_bench.algorithms.pvdr.config:PVDRConfig",
                  "pvdr_bench.algorithms.pvdr.online:PVDRLearner",
                  offline=(Stage("pretrain", "pvdr_bench.algorithms.pvdr.pretrain:PVDRPretrainer",
                                 sections=("model", "pretrain"), needs=("tokenize",), batches="tokenize",
                                 views="pvdr_bench.algorithms.pvdr.views:ARTEFACT"),),
                  needs=("tokenize",), needs_goal_image=True, views="pvdr_bench.algorithms.pvdr.views:RUN"),
    AlgorithmInfo("pvdr-context", "pvdr_bench.algorithms.pvdr.config_context:PVDRContextConfig",
                  "pvdr_bench.algorithms.pvdr.online:PVDRLearner",
                  offline=(Stage("pretrain", "pvdr_bench.algorithms.pvdr.pretrain:PVDRPretrainer",
                                 sections=("model", "pretrain", "context"), needs=("tokenize",), batches="tokenize",
                                 views="pvdr_bench.algorithms.pvdr.views:ARTEFACT"),),
                  needs=("tokenize",), needs_goal_image=True, views="pvdr_bench.algorithms.pvdr.views:RUN"),
    AlgorithmInfo("ppo", "pvdr_bench.algorithms.ppo.config:PPOConfig", "pvdr_bench.algorithms.ppo.learner:PPOLearner",
                  needs=("tokenize",)),
    AlgorithmInfo("stg", "pvdr_bench.algorithms.stg.config:STGConfig", "pvdr_bench.algorithms.stg.learner:STGLearner",
                  offline=(Stage("pretrain", "pvdr_bench.algorithms.stg.pretrain:STGPretrainer",
                                 sections=("model", "pretrain")),),
                  needs=("tokenize",), views="pvdr_bench.algorithms.stg.views:RUN"),
    AlgorithmInfo("dreamer", "pvdr_bench.algorithms.dreamer.config:DreamerConfig",
                  "pvdr_bench.algorithms.dreamer.learner:DreamerLearner",
                  offline=(Stage("pretrain", "pvdr_bench.algorithms.dreamer.pretrain:VideoPretrainer",
                                 sections=("model", "pretrain"),
                                 views="pvdr_bench.algorithms.dreamer.views:ARTEFACT"),),
                  on_policy=False, views="pvdr_bench.algorithms.dreamer.views:RUN"),
    AlgorithmInfo("dreamerv3", "pvdr_bench.algorithms.dreamer.config_v3:DreamerV3Config",
                  "pvdr_bench.algorithms.dreamer.learner:DreamerLearner",
                  offline=(Stage("pretrain", "pvdr_bench.algorithms.dreamer.pretrain:VideoPretrainer",
                                 sections=("model", "pretrain"),
                                 views="pvdr_bench.algorithms.dreamer.views:ARTEFACT"),),
                  on_policy=False, views="pvdr_bench.algorithms.dreamer.views:RUN"),
    AlgorithmInfo("efficientzero", "pvdr_bench.algorithms.efficientzero.config:EfficientZeroConfig",
                  "pvdr_bench.algorithms.efficientzero.learner:EfficientZeroLearner",
                  offline=(Stage("pretrain", "pvdr_bench.algorithms.efficientzero.pretrain:FICCPretrainer",
                                 sections=("model", "pretrain"),
                                 views="pvdr_bench.algorithms.efficientzero.views:ARTEFACT"),),
                  on_policy=False, by_budget=True),
    AlgorithmInfo("random", "pvdr_bench.algorithms.floor:RandomConfig",
                  "pvdr_bench.algorithms.random_policy:RandomLearner"),
    AlgorithmInfo("scripted", "pvdr_bench.algorithms.floor:ScriptedConfig",
                  "pvdr_bench.algorithms.scripted:ScriptedLearner",
                  needs_expert=True),
)


def algorithms() -> dict[str, AlgorithmInfo]:
    """All algorithms by name, the built-in ones first: nothing replaces one of those."""
    return _found(path_text())[0]


def learns_by_budget(name: str) -> bool:
    """Whether the budget is part of what an algorithm learns; of one that is not installed here nothing is known."""
    info = algorithms().get(name)
    return info is not None and info.by_budget


def broken_algorithms() -> dict[str, SetupError]:
    """Algorithms of packages and of the user's folders that cannot be read, and why."""
    return _found(path_text())[1]


@cache
def _found(path: str) -> tuple[dict[str, AlgorithmInfo], dict[str, SetupError]]:
    own = {info.name: info for info in _BUILTIN}
    found, broken = load_plugins("algorithms", AlgorithmInfo)
    return own | {name: info for name, info in found.items() if name not in own}, broken
