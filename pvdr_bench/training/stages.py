"""The stages before a run: which artefacts it stands on, found by recipe or built (tokenizer -> tokens -> pretrain).

An artefact's recipe holds the algorithm's name and version, the resolved config of that stage alone, the recipes of
the corpora, and the checksum of the tokenizer's weights. Corpora stand in it by recipe and not by content: a shipped
artefact is found on a machine that has made no videos.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.catalog import Catalog, load_catalog, wants_videos
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import DataError, Interrupted, LockedError
from pvdr_bench.rl.process_group import current_group, wait_for
from pvdr_bench.runs.artefacts import Artefact, ArtefactStore, read_artefact
from pvdr_bench.runs.files import content_hash
from pvdr_bench.runs.paths import data_root
from pvdr_bench.runs.users import User
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.vector import VectorEnv
from pvdr_bench.tokenizer.frozen import Tokenizer, load_tokenizer
from pvdr_bench.training.offline import ClipSource, MixedClips, run_offline, schedule_of
from pvdr_bench.training.online import Pieces, Stop
from pvdr_bench.videos.generate import corpus_path, generate, recipe_of
from pvdr_bench.videos.sources import BUILTIN, source
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.tokens import TokenStore

CORPUS_EPISODES = {"smoke": 6}  # per scale, where it is not the corpus' own number; the 4th and 5th are held out
TOKENIZER_CORPORA = BUILTIN
WAIT_SECONDS = 2.0
_log = logging.getLogger(__name__)
Report = Callable[[str, int, int], None]  # what is being made, done, in all


def no_report(what: str, done: int, total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class StagePlan:
    """One artefact that a run needs."""

    stage: str
    name: str
    recipe: dict[str, Any]


class Stages:
    """The artefacts of one run.

    Args:
        device: where stages are trained and the run takes place, such as ``cpu`` or ``cuda:0``.
        fresh: make the artefacts anew, even shipped ones.
        workers: processes that make videos. env_workers: processes that the environments are spread over.
        made: by stage and recipe, what was found or made in this process; share it between runs, so that ``fresh``
            makes an artefact once. report: told of progress. say: told what is waited for.
        user: who will stand on the artefacts; written down before each is looked for, so that `clean` leaves it alone.

    Within a :func:`pvdr_bench.rl.distributed.process_group` all ranks make the same calls: rank 0 searches,
    locks, makes videos and tokens and publishes, and the others take part in training and read what it published.
    """

    def __init__(self, spec: RunSpec, device: str = "cpu", stop: Stop = lambda: False, *, fresh: bool = False,
                 workers: int = 1, env_workers: int = 1, catalog: Catalog | None = None,
                 made: dict[str, Artefact] | None = None, report: Report = no_report,
                 say: Callable[[str], None] | None = None, user: User | None = None) -> None:
        self.spec, self.device, self.stop, self.fresh = spec, torch.device(device), stop, fresh
        self.workers, self.env_workers = workers, env_workers
        self.catalog, self.report, self.say = catalog or load_catalog(), report, say
        self.store, self.image_size = ArtefactStore(), spec.protocol.image_size
        self.config, self.user = spec.config_object(), user
        self._made = {} if made is None else made
        self.group = current_group()

    # Recipes ------------------------------------------------------------------------------------------------------

    @cached_property
    def tokenizer_config(self) -> Any:
        """The tokenizer's resolved config at the run's scale."""
        assert self.spec.tokenizer is not None
        return self.catalog.config(self.spec.tokenizer, self.spec.scale)

    @property
    def needs_pretrain(self) -> bool:
        """Whether the run starts from a pre-trained model."""
        return "pretrain" in self.spec.info.stages and wants_videos(self.spec.info, self.config)

    def tokenize_plan(self) -> StagePlan:
        """What the frame tokenizer is made of."""
        config = self.tokenizer_config
        info = registry.algorithms()[config.method.algorithm]
        return StagePlan("tokenize", f"{self.spec.tokenizer}-{self.spec.scale}", {
            "stage": "tokenize", "algorithm": info.name, "version": info.version, "image_size": self.image_size,
            "config": config.value.model_dump(mode="json"), "seed": 0,
            "corpora": {name: self._corpus_recipe(name) for name in TOKENIZER_CORPORA}})

    def pretrain_plan(self, tokenizer: Artefact | None) -> StagePlan:
        """What the pre-trained model is made of; ``tokenizer`` where it learns from tokens."""
        spec, config = self.spec, self.spec.config
        assert spec.corpus is not None
        tokens = {"tokenizer": tokenizer.weights_sha256} if tokenizer is not None else {}
        return StagePlan("pretrain", f"{spec.algorithm}-{spec.corpus}-{spec.scale}", {
            "stage": "pretrain", "algorithm": spec.algorithm, "version": spec.algorithm_version,
            "config": {name: config[name] for name in ("model", "pretrain") if name in config},
            "image_size": self.image_size, "corpus": self._corpus_recipe(spec.corpus), **tokens,
            "seed": spec.pretrain_seed})

    def missing(self) -> list[str]:
        """Names of the stages that would have to be built now, for a cost preview."""
        found, missing = None, []
        if self.spec.tokenizer is not None:
            found = self._find(self.tokenize_plan())
            missing = ["tokenize"] if found is None else []
        if self.needs_pretrain:
            waits = self.spec.info.needs_tokenizer and found is None
            if waits or self._find(self.pretrain_plan(found if self.spec.info.needs_tokenizer else None)) is None:
                missing.append("pretrain")
        return missing

    def _find(self, plan: StagePlan) -> Artefact | None:
        return None if self.fresh else self.store.find(plan.stage, plan.name, plan.recipe)

    # Corpora ------------------------------------------------------------------------------------------------------

    def _corpus_recipe(self, name: str) -> Mapping[str, Any]:
        path = corpus_path(name, self.image_size, data_root())
        if path.exists():
            store = ClipStore(path)
            return store.recipe if name in BUILTIN else {"corpus": name, "hash": store.hash}
        if name not in BUILTIN:
            raise DataError(f"corpus {name} has no videos of {self.image_size} pixels", where=str(path),
                            hint="import it at this size: pvdr-bench videos --help")
        entry = source(name)
        return recipe_of(entry, self.image_size, CORPUS_EPISODES.get(self.spec.scale, entry.episodes), 0)

    def clips(self, name: str) -> ClipStore:
        """A corpus, made first if it is not there; waits where another process makes it."""
        return self.group.shared(lambda: self._make_clips(name), ClipStore)

    def _make_clips(self, name: str) -> ClipStore:
        path = corpus_path(name, self.image_size, data_root())
        while True:
            if path.exists():
                return ClipStore(path)
            try:
                return generate(name, self.image_size, data_root(), CORPUS_EPISODES.get(self.spec.scale),
                                self.workers, 0, lambda done, total: self._progress(f"videos {name}", done, total))
            except LockedError as error:
                if self.say is not None:
                    self.say(f"waiting: {error.message}")
                time.sleep(WAIT_SECONDS)
                self._check_stop()

    # Building -----------------------------------------------------------------------------------------------------

    def tokenizer(self) -> Artefact:
        """The frame tokenizer's artefact."""
        return self._get(self.tokenize_plan(), self._make_tokenizer)

    def pretrained(self) -> Artefact:
        """The pre-trained model's artefact."""
        tokenizer = self.tokenizer() if self.spec.info.needs_tokenizer else None
        return self._get(self.pretrain_plan(tokenizer), self._make_pretrained)

    def build(self) -> dict[str, Artefact]:
        """All artefacts of the run by stage; what is missing is made.

        Raises:
            Interrupted: a signal came; the same command continues.
        """
        artefacts = {"tokenize": self.tokenizer()} if self.spec.tokenizer is not None else {}
        if self.needs_pretrain:
            artefacts["pretrain"] = self.pretrained()
        return artefacts

    def _get(self, plan: StagePlan, make: Callable[[Path], dict[str, Any]]) -> Artefact:
        key = self.group.broadcast(f"{plan.stage}/{plan.name}-{content_hash(plan.recipe)}")
        if self.group.leads:
            self._claim(plan)
        if key not in self._made:
            self._made[key] = self._lead(plan, make) if self.group.leads else self._follow(make)
        return self._made[key]

    def claim(self) -> None:
        """Write down the user of those artefacts whose recipes are known now, without looking into them."""
        found = None
        if self.spec.tokenizer is not None:
            self._claim(plan := self.tokenize_plan())
            found = self._find(plan)
        if self.needs_pretrain and (found is not None or not self.spec.info.needs_tokenizer):
            self._claim(self.pretrain_plan(found if self.spec.info.needs_tokenizer else None))

    def _claim(self, plan: StagePlan) -> None:
        if self.user is not None:
            word = self.store.claim(plan.stage, plan.name, plan.recipe, self.user, fresh=self.fresh)
            if word:
                (self.say or _log.warning)(word)

    def _lead(self, plan: StagePlan, make: Callable[[Path], dict[str, Any]]) -> Artefact:
        """Find or build as the one that writes; the other ranks are told when their part begins and where it ends."""
        def together(folder: Path) -> dict[str, Any]:
            self.group.broadcast({"make": str(folder)})
            return make(folder) | ({"processes": self.group.size} if self.group.size > 1 else {})

        artefact = self.store.build(plan.stage, plan.name, plan.recipe, together, fresh=self.fresh, on_wait=self.say)
        self.group.broadcast({"done": str(artefact.path)})
        return artefact

    def _follow(self, make: Callable[[Path], dict[str, Any]]) -> Artefact:
        """Take part where rank 0 says so, and read what it published."""
        while "done" not in (message := self.group.broadcast()):
            make(Path(message["make"]))
        return read_artefact(wait_for(Path(message["done"])))

    def _make_tokenizer(self, folder: Path) -> dict[str, Any]:
        config = self.tokenizer_config
        stores = [self.clips(name) for name in TOKENIZER_CORPORA]
        learner = _offline_class(config.method.algorithm, "tokenize")(
            config.value, seed=0, device=self.device, image_size=self.image_size)
        metrics = run_offline(learner, MixedClips(stores), schedule_of(config.value, "tokenize"), folder, 0, self.stop,
                              lambda step, steps, _: self.report("tokenize", step, steps))
        return {**metrics, "corpora": {store.path.parent.name: store.hash for store in stores}}

    def _make_pretrained(self, folder: Path) -> dict[str, Any]:
        spec = self.spec
        assert spec.corpus is not None
        clips, sizes = self.clips(spec.corpus), {}
        data: ClipSource = clips
        if spec.info.needs_tokenizer:
            artefact = self.tokenizer()
            tokenizer = self.load_tokenizer(artefact)
            data = self.group.shared(
                lambda: TokenStore.build(clips, tokenizer, artefact.weights_sha256[:12],
                                         progress=lambda done, total: self._progress("tokens", done, total)),
                lambda path: TokenStore(path, clips))
            sizes = {"codebook_size": tokenizer.codebook_size, "grid": tokenizer.grid}
        learner = _offline_class(spec.algorithm, "pretrain")(self.config, seed=spec.pretrain_seed, device=self.device,
                                                             **sizes)
        metrics = run_offline(learner, data, schedule_of(self.config, "pretrain"), folder, spec.pretrain_seed,
                              self.stop, lambda step, steps, _: self.report("pretrain", step, steps))
        return {**metrics, "corpora": {spec.corpus: clips.hash}}

    def load_tokenizer(self, artefact: Artefact) -> Tokenizer:
        """The frozen tokenizer on the run's device."""
        return load_tokenizer(artefact.weights(), self.tokenizer_config.value, self.device)

    def _progress(self, what: str, done: int, total: int) -> None:
        self.report(what, done, total)
        self._check_stop()

    def _check_stop(self) -> None:
        if self.stop():
            raise Interrupted("stopped while making an artefact", hint="the same command continues")

    # The online stage ---------------------------------------------------------------------------------------------

    def pieces(self) -> tuple[Pieces, dict[str, dict[str, str]]]:
        """What the online loop needs, and the references of the artefacts in it."""
        artefacts, info = self.build(), self.spec.info
        assert info.learner is not None
        needs_tokens = "tokenize" in artefacts
        pieces = Pieces(
            make_envs=self._make_envs, make_learner=registry.load_object(info.learner), config=self.config,
            device=self.device, tokenizer=self.load_tokenizer(artefacts["tokenize"]) if needs_tokens else None,
            artefacts={stage: artefact.weights() for stage, artefact in artefacts.items()},
            artefact_config={"tokenize": self.tokenizer_config.value} if needs_tokens else {},
            needs_expert=info.needs_expert, on_policy=info.on_policy)
        return pieces, {stage: artefact.reference for stage, artefact in artefacts.items()}

    def _make_envs(self, config: EnvConfig, n: int) -> VectorEnv:
        return VectorEnv(config, n, min(n, self.env_workers))


def _offline_class(algorithm: str, stage: str) -> Callable[..., Any]:
    """The class that trains a stage."""
    path = dict(registry.algorithms()[algorithm].offline)[stage]
    loaded: Callable[..., Any] = registry.load_object(path)
    return loaded
