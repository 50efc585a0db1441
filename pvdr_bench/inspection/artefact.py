"""An artefact that is looked at: found by its folder or name, its model put together from its recipe alone.

Shapes: B clips, T frames, H = W image size, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pvdr_bench.algorithms.registry import AlgorithmInfo, Stage, algorithms, load_object
from pvdr_bench.errors import DataError, SetupError, UsageError
from pvdr_bench.rl.views import Amounts, Clips, Exhibit, Exhibits, NothingToShow, Played, Trained, Views
from pvdr_bench.runs.artefacts import MANIFEST, RECIPE, Artefact, ArtefactStore, read_artefact
from pvdr_bench.runs.paths import data_root
from pvdr_bench.videos.layout import HELDOUT
from pvdr_bench.videos.requirements import find_store
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.windows import episodes_of, sample_indices

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Settings:
    """How much is asked for, which evaluation episode, on which device, and videos in place of an artefact's own."""

    amounts: Amounts = Amounts()
    episode: int = 0
    device: str = "cpu"
    videos: tuple[str, ...] = ()


def find_artefact(name: str | Path) -> Artefact | None:
    """An artefact by its folder, ``NAME-HASH`` or ``STAGE/NAME-HASH``; None where there is none.

    Raises:
        DataError: it is there and damaged.
    """
    text = str(name).strip("/")
    given = [Path(str(name)).expanduser()]
    below = [path for root in _roots() for path in (root / text, *sorted(root.glob(f"*/{text}")))
             ] if text and ".." not in text else []
    for path in (*given, *below):
        if (path / MANIFEST).is_file() and (path / RECIPE).is_file():
            return read_artefact(path)
    return None


def artefact_names() -> list[str]:
    """``NAME-HASH`` of all that are shipped or made here."""
    return [path.parent.name for root in _roots() for path in sorted(root.glob(f"*/*/{MANIFEST}"))]


def _roots() -> tuple[Path, ...]:
    store = ArtefactStore()
    return (*store.shipped, store.root)


@dataclass(frozen=True)
class Nothing(Exhibit):
    """In place of an exhibit, why there is none."""

    reason: NothingToShow


def shown(view: Callable[[Any], Exhibits], of: Trained | Played) -> Exhibits:
    """What a view shows, and at its end why not more, where that is no fault of the target."""
    try:
        yield from view(of)
    except NothingToShow as reason:
        yield "", Nothing("", reason.message, {}, reason)


@dataclass(frozen=True)
class ArtefactTarget:
    """An artefact and what it can show."""

    artefact: Artefact

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.artefact.stage} artefact {self.artefact.path.name}"

    @cached_property
    def info(self) -> AlgorithmInfo:
        """The algorithm that made it."""
        name, known = str(self.artefact.recipe.get("algorithm")), algorithms()
        if name not in known:
            raise UsageError(f"this artefact is of algorithm {name}, which is not here", where=str(self.artefact.path),
                             hint=f"there is: {', '.join(known)}")
        return known[name]

    @cached_property
    def stage(self) -> Stage:
        """The stage that made it."""
        return self.info.stage(self.artefact.stage)

    @cached_property
    def views(self) -> Views:
        """What it can show, by the user's word."""
        return {} if self.stage.views is None else dict(load_object(self.stage.views))

    def reads(self, word: str) -> tuple[str, ...]:
        """Names of the settings that change what a word shows."""
        return ("videos", *self.views[word].reads)

    def facts(self, settings: Settings) -> dict[str, Any]:
        """What was looked at, for whoever finds the pictures."""
        return {"kind": "artefact", **self.artefact.reference, "algorithm": self.info.name,
                "corpora": {store.path.parent.name: store.hash for store in self._stores(settings)}}

    def exhibits(self, names: Sequence[str], settings: Settings) -> Iterator[tuple[str, str, Exhibit]]:
        """The word, the file's name without ending, and what is in it."""
        trained = self.opened(settings)
        for name in names:
            for stem, exhibit in shown(self.views[name], trained):
                yield name, stem, exhibit

    def opened(self, settings: Settings) -> Trained:
        """What its views are given.

        Raises:
            DataError: its recipe is of another version of the algorithm, or an artefact is not here.
            SetupError: a corpus is not here.
        """
        import torch

        device = torch.device(settings.device)
        inputs = {need: self._input(need, device) for need in self.stage.needs}
        stores = self._stores(settings)

        def clips(count: int, frames: int, stride: int) -> Clips:
            return held_out(stores, count, frames, stride, settings.amounts.seed)

        return Trained(self.config, self.artefact.weights(), device, int(self.artefact.recipe["image_size"]), inputs,
                       clips, settings.amounts)

    @cached_property
    def config(self) -> Any:
        """The algorithm's config, as far as the recipe tells it."""
        from pydantic import ValidationError

        known = load_object(self.info.config)
        try:
            told = self.artefact.recipe["config"]
            return known.of_sections(told) if self.stage.sections else known.model_validate(told)
        except (ValidationError, KeyError) as error:
            raise DataError("its recipe has keys that this version of the algorithm does not know",
                            where=str(self.artefact.path / RECIPE),
                            hint="make it again: pvdr-bench pretrain --fresh") from error

    def _input(self, need: str, device: torch.device) -> Any:
        """What a needed stage made, found by the checksum of its weights."""
        wanted = {value for value in self.artefact.recipe.values() if isinstance(value, str)}
        beside = self.artefact.path.parent.parent
        for root in dict.fromkeys((beside, *_roots())):
            for path in sorted((root / need).glob(f"*/{MANIFEST}")):
                found = read_artefact(path.parent)
                if found.weights_sha256 in wanted:
                    target = ArtefactTarget(found)
                    return found.weights() if target.stage.load is None else load_object(target.stage.load)(
                        found.weights(), target.config, device)
        raise DataError(f"the {need} artefact that it was made with is not here", where=str(self.artefact.path),
                        hint="set PVDR_BENCH_DATA to the folder that has it")

    def _stores(self, settings: Settings) -> list[ClipStore]:
        recipe = self.artefact.recipe
        names = settings.videos or corpora_of(recipe)
        return stores_of(names, int(recipe["image_size"]), bool(settings.videos))


def corpora_of(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the corpora that an artefact of this recipe was trained on."""
    if "corpora" in recipe:
        return tuple(recipe["corpora"])
    return (str(recipe["corpus"]["corpus"]),)


def stores_of(names: Sequence[str], image_size: int, all_of_them: bool) -> list[ClipStore]:
    """The corpora that are on this machine.

    Args:
        all_of_them: whether each has to be; else one is enough.

    Raises:
        SetupError: they are not. DataError: one that has to be is broken.
    """
    found, lacking = [], []
    for name in names:
        try:
            store = find_store(name, image_size, data_root())
        except (SetupError, DataError):
            if all_of_them:
                raise
            store = None
        found += [] if store is None else [store]
        lacking += [name] if store is None else []
    if lacking and (all_of_them or not found):
        raise SetupError(f"held-out clips are needed, and the corpus {lacking[0]} is not here in {image_size} pixels",
                         hint=f"pvdr-bench videos generate {lacking[0]} --image-size {image_size}, or name another "
                         "that is: --videos NAME")
    return found


def held_out(stores: Sequence[ClipStore], count: int, frames: int, stride: int, seed: int) -> Clips:
    """Held-out clips, as many of each corpus, drawn by the seed; in turn, so that the first few are of all of them."""
    rng, parts = np.random.default_rng(seed), []
    for number, store in enumerate(stores):
        share = count // len(stores) + (number < count % len(stores))
        if share:
            index = sample_indices(rng, store.windows(HELDOUT, frames, stride), share, frames, stride)
            before = sum(len(earlier.episodes) for earlier in stores[:number])
            parts.append((store.take(index), actions_between(store, index[:, :-1], stride),
                          before + episodes_of(store.episodes, index[:, 0])))
    pictures, told, episodes = zip(*parts, strict=True)
    order = np.argsort(np.concatenate([(np.arange(len(each)) + 0.5) / len(each) for each in pictures]), kind="stable")
    actions = [action for action in told if action is not None]
    known = len(actions) == len(parts) and len({action.shape[-1] for action in actions}) == 1
    return Clips(np.concatenate(pictures)[order], np.concatenate(actions)[order] if known else None,
                 np.concatenate(episodes)[order])


def actions_between(store: ClipStore, index: Any, stride: int) -> Any:
    """Mean actions [B, T, A] of the ``stride`` decisions from frames [B, T] of a store on; None where it has none."""
    truth = store.truth
    if truth is None or "action" not in truth:
        return None
    return np.mean([truth["action"][index + step] for step in range(stride)], 0)
