"""The stages before a run: which artefacts it stands on, found by recipe or built, those first that others need.

Which stages there are is read from the graph that algorithms declare (:mod:`pvdr_bench.catalog.stage_graph`). An
artefact's recipe holds the algorithm's name and version, the part of the config that the stage depends on, the recipes
of its corpora, and the checksums of the weights that it is made from. Generated corpora stand in it by recipe and not
by content: a shipped artefact is found on a machine that has made no videos.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.catalog.keys import leaves
from pvdr_bench.catalog.mixture import Share
from pvdr_bench.catalog.resolve import value_at
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.catalog.stage_graph import StageNode, stage_graph
from pvdr_bench.errors import Interrupted, LockedError, SetupError, UsageError
from pvdr_bench.progress import Report, tell
from pvdr_bench.rl.config import AlgorithmConfig
from pvdr_bench.rl.contract import StageContext
from pvdr_bench.rl.process_group import current_group, wait_for
from pvdr_bench.runs.artefacts import Artefact, ArtefactStore, Make, read_artefact
from pvdr_bench.runs.files import content_hash
from pvdr_bench.runs.paths import data_root
from pvdr_bench.runs.schema import ReferenceFile
from pvdr_bench.runs.users import User
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.vector import VectorEnv
from pvdr_bench.tokenizer.interface import FrameTokenizer
from pvdr_bench.training.offline import ClipSource, MixedClips, run_offline
from pvdr_bench.training.online import Pieces, Stop
from pvdr_bench.videos.generate import corpus_path, generate, recipe_of
from pvdr_bench.videos.requirements import check_videos, find_store, wanted_frames
from pvdr_bench.videos.sources import sources
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.tokens import TokenStore
from pvdr_bench.videos.windows import train_frames

CORPUS_EPISODES = {"smoke": 6}  # per scale, where it is not the corpus' own number; the 4th and 5th are held out
WAIT_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Stages:
    """The artefacts of one run.

    Args:
        device: where stages are trained and the run takes place, such as ``cpu`` or ``cuda:0``.
        fresh: make the artefacts anew, even shipped ones.
        workers: processes that make videos. env_workers: processes that the environments are spread over.
        made: by stage and recipe, what was found or made in this process; share it between runs, so that ``fresh``
            makes an artefact once. report: told of progress; else
            whoever listens, see :mod:`pvdr_bench.progress`. say: told what is waited for.
        user: who will stand on the artefacts; written down before each is looked for, so that `clean` leaves it alone.

    Within a :func:`pvdr_bench.rl.distributed.process_group` all ranks make the same calls: rank 0 searches,
    locks, makes videos and tokens and publishes, and the others take part in training and read what it published.
    """

    def __init__(self, spec: RunSpec, device: str = "cpu", stop: Stop = lambda: False, *, fresh: bool = False,
                 workers: int = 1, env_workers: int = 1, catalog: Catalog | None = None,
                 made: dict[str, Artefact] | None = None, report: Report = tell,
                 say: Callable[[str], None] | None = None, user: User | None = None) -> None:
        self.spec, self.device, self.stop, self.fresh = spec, torch.device(device), stop, fresh
        self.workers, self.env_workers = workers, env_workers
        self.catalog, self.report, self.say = catalog or load_catalog(), report, say
        self.store, self.image_size = ArtefactStore(), spec.protocol.image_size
        self.config, self.user = spec.config_object(), user
        self._made = {} if made is None else made
        self.group = current_group()

    @cached_property
    def graph(self) -> tuple[StageNode, ...]:
        """The stages that the run stands on, each after those it needs."""
        return stage_graph(self.spec, self.catalog)

    def node(self, stage: str) -> StageNode:
        """A stage of the graph by its name.

        Raises:
            UsageError: the run does not stand on such a stage.
        """
        for node in self.graph:
            if node.stage.name == stage:
                return node
        raise UsageError(f"{self.spec.variant} stands on no stage {stage}",
                         hint=f"its stages: {', '.join(node.stage.name for node in self.graph) or 'none'}")

    def recipe(self, node: StageNode, needed: Mapping[str, Artefact]) -> dict[str, Any]:
        """What an artefact is made of; ``needed`` has those of ``node.needs`` by stage."""
        weights = {need.stage.name: needed[need.stage.name].weights_sha256 for need in node.needs}
        return node.recipe(self._corpus_recipe, weights, self._size_of)

    def missing(self) -> list[str]:
        """Names of the stages that would have to be built now, for a cost preview."""
        there = [node.stage.name for node, artefact in self._known() if artefact is not None]
        return [node.stage.name for node in self.graph if node.stage.name not in there]

    def _known(self, claim: bool = False) -> Iterator[tuple[StageNode, Artefact | None]]:
        """Stages whose recipes are known now, since what they are made from is there; with their artefacts, if made.

        Args:
            claim: write down the user of each before it is looked for.
        """
        found: dict[str, Artefact] = {}
        for node in self.graph:
            if all(need.stage.name in found for need in node.needs):
                recipe = self.recipe(node, found)
                if claim:
                    self._claim(node, recipe)
                artefact = None if self.fresh else self.store.find(node.stage.name, node.name, recipe)
                if artefact is not None:
                    found[node.stage.name] = artefact
                yield node, artefact

    # Corpora ------------------------------------------------------------------------------------------------------

    def _corpus_recipe(self, name: str) -> Mapping[str, Any]:
        store, known = find_store(name, self.image_size, data_root()), {entry.name: entry for entry in sources()}
        generated = name in known and known[name].kind == "generated"
        if store is not None:
            return store.recipe if generated else {"corpus": name, "hash": store.hash}
        entry = known[name]
        return recipe_of(entry, self.image_size, CORPUS_EPISODES.get(self.spec.scale, entry.episodes), 0)

    def _size_of(self, share: Share) -> int:
        """Training frames that a share is matched to: a number, or those of a corpus, as published or as it is here."""
        wanted = wanted_frames(share.size, self.image_size, data_root())
        if wanted is None:
            raise SetupError(f"how many frames {share.size} has is not known before it is made", where=share.name,
                             hint=f"pvdr-bench videos generate {share.size} --image-size {self.image_size}, or give a "
                                  "number")
        return wanted

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

    def artefact(self, stage: str) -> Artefact:
        """A stage's artefact; it and what it needs are made where they are missing.

        Raises:
            Interrupted: a signal came; the same command continues.
        """
        return self._artefact(self.node(stage))

    def build(self) -> dict[str, Artefact]:
        """All artefacts of the run by stage; what is missing is made.

        Raises:
            Interrupted: a signal came; the same command continues.
        """
        return {node.stage.name: self._artefact(node) for node in self.graph}

    def _artefact(self, node: StageNode) -> Artefact:
        needed = {need.stage.name: self._artefact(need) for need in node.needs}
        recipe = self.recipe(node, needed)
        key = self.group.broadcast(f"{node.stage.name}/{node.name}-{content_hash(recipe)}")
        if self.group.leads:
            self._claim(node, recipe)
        if key not in self._made:
            make = partial(self._make, node, needed)
            self._made[key] = self._lead(node, recipe, make) if self.group.leads else self._follow(make)
        return self._made[key]

    def claim(self) -> None:
        """Write down the user of those artefacts whose recipes are known now, without looking into them."""
        for _ in self._known(claim=True):
            pass

    def _claim(self, node: StageNode, recipe: dict[str, Any]) -> None:
        if self.user is not None:
            word = self.store.claim(node.stage.name, node.name, recipe, self.user, fresh=self.fresh)
            if word:
                (self.say or _log.warning)(word)

    def _lead(self, node: StageNode, recipe: dict[str, Any], make: Make) -> Artefact:
        """Find or build as the one that writes; the other ranks are told when their part begins and where it ends."""
        def together(folder: Path, check: Callable[[], None]) -> dict[str, Any]:
            self.group.broadcast({"make": str(folder)})
            return {**make(folder, check), **({"processes": self.group.size} if self.group.size > 1 else {})}

        artefact = self.store.build(node.stage.name, node.name, recipe, together, fresh=self.fresh, stop=self.stop,
                                    on_wait=self.say)
        self.group.broadcast({"done": str(artefact.path)})
        return artefact

    def _follow(self, make: Make) -> Artefact:
        """Take part where rank 0 says so, and read what it published."""
        while "done" not in (message := self.group.broadcast()):
            make(Path(message["make"]), lambda: None)  # rank 0 alone writes, and looks after its lock
        return read_artefact(wait_for(Path(message["done"])))

    def _make(self, node: StageNode, needed: Mapping[str, Artefact], folder: Path, check: Callable[[], None]
              ) -> dict[str, Any]:
        """Train a stage in a work folder; returns its metrics."""
        stage = node.stage
        stores = {share.corpus: self._share(share, node) for share in node.shares}
        inputs = {need.stage.name: self.load(need, needed[need.stage.name]) for need in node.needs}
        clips: list[ClipSource] = list(stores.values())
        if stage.batches is not None:
            clips = [self._tokens(store, inputs[stage.batches], needed[stage.batches]) for store in stores.values()]
        learner = registry.load_object(stage.learner).for_stage(
            StageContext(node.config, node.seed, self.device, self.image_size, inputs))
        weights = [share.weight or 1.0 for share in node.shares] if node.shares[0].weight is not None else None
        data = clips[0] if len(clips) == 1 and not stage.own_videos else MixedClips(clips, weights)
        metrics = run_offline(learner, data, node.config.schedule(stage.name), folder, node.seed, self.stop,
                              lambda step, steps, _: self.report(stage.name, step, steps), device=self.device.type,
                              count_flop=not _compiles(node.config), check=check)
        return {**metrics, "corpora": {name: store.hash for name, store in stores.items()}, **self._sizes(node, stores)}

    def _share(self, share: Share, node: StageNode) -> ClipStore:
        """The corpus of a share, of the share's size; it fits what the stage needs.

        Raises:
            UsageError: it is too short or too still.
        """
        store = self.clips(share.corpus)
        wanted = self._size_of(share) if share.size else 0
        limited = store.of_size(wanted) if share.size else store
        check_videos(limited, node.config.schedule(node.stage.name), share.name, node.label)
        if not share.size:
            return store
        if self.say is not None and self.group.leads:
            have, used = train_frames(store.episodes), train_frames(limited.episodes)
            often = f", each drawn {wanted / used:.2g} times as often to make up for it" if used < wanted else ""
            self.say(f"{share.name}: {used} of {have} training frames, to match {wanted}{often}")
        return limited

    def _sizes(self, node: StageNode, stores: Mapping[str, ClipStore]) -> dict[str, Any]:
        """Of corpora that are matched in size: the frames that are trained on, and the number that was wanted."""
        found = {share.corpus: {"train_frames": train_frames(stores[share.corpus].episodes),
                                "wanted": self._size_of(share)} for share in node.shares if share.size}
        return {"sizes": found} if found else {}

    def _tokens(self, clips: ClipStore, encoder: FrameTokenizer, artefact: Artefact) -> TokenStore:
        """A corpus as the tokens of a needed stage's artefact; encoded once."""
        return self.group.shared(
            lambda: TokenStore.build(clips, encoder, artefact.weights_sha256[:12],
                                     progress=lambda done, total: self._progress("tokens", done, total),
                                     stop=self.stop, on_wait=self.say),
            lambda path: TokenStore(path, clips))

    def load(self, node: StageNode, artefact: Artefact) -> Any:
        """What later stages and the run work with, on the run's device: the stage's ``load``, else its weights."""
        weights = artefact.weights()
        return weights if node.stage.load is None else registry.load_object(node.stage.load)(
            weights, node.config, self.device)

    def _progress(self, what: str, done: int, total: int) -> None:
        self.report(what, done, total)
        self._check_stop()

    def _check_stop(self) -> None:
        if self.stop():
            raise Interrupted("stopped while making an artefact", hint="the same command continues")

    # The online stage ---------------------------------------------------------------------------------------------

    def pieces(self) -> tuple[Pieces, dict[str, ReferenceFile]]:
        """What the online loop needs, and the references of the artefacts in it."""
        artefacts, info = self.build(), self.spec.info
        assert info.learner is not None
        tokenizer = next((self.load(node, artefacts[node.stage.name]) for node in self.graph
                          if node.stage.makes == "tokenizer"), None)
        pieces = Pieces(
            make_envs=self._make_envs, make_learner=registry.load_object(info.learner), config=self.config,
            device=self.device, tokenizer=tokenizer,
            artefacts={stage: artefact.weights() for stage, artefact in artefacts.items()},
            artefact_config={node.stage.name: node.config for node in self.graph},
            needs_expert=info.needs_expert, on_policy=info.on_policy)
        return pieces, {stage: artefact.with_cost() for stage, artefact in artefacts.items()}

    def _make_envs(self, config: EnvConfig, n: int) -> VectorEnv:
        return VectorEnv(config, n, min(n, self.env_workers))


def _compiles(config: AlgorithmConfig) -> bool:
    """Whether a stage of this config has its networks compiled."""
    values = config.model_dump()
    return any(path[-1] == "compile" and value_at(values, path) for path, _ in leaves(type(config)))
