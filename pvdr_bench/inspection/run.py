"""A run that is looked at: its policy plays one evaluation episode, and its algorithm shows what it thought.

Shapes: T decisions, H = W image size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pvdr_bench.algorithms.registry import load_object
from pvdr_bench.api import Episode, Run, Session
from pvdr_bench.errors import DataError
from pvdr_bench.inspection.artefact import ArtefactTarget, Settings, shown
from pvdr_bench.playing.film import ask_for_plans, episode_pictures, film_strip
from pvdr_bench.rl.views import Exhibit, Film, Picture, Played, Views
from pvdr_bench.runs.artefacts import ArtefactStore, read_artefact

if TYPE_CHECKING:
    from pvdr_bench.runs.schema import ReferenceFile

EPISODE = "episode"  # what every run can show


@dataclass(frozen=True)
class RunTarget:
    """A run and what it can show: its episode, its algorithm's views, and those of the artefacts it stands on."""

    run: Run

    @property
    def name(self) -> str:
        """For people."""
        spec = self.run.spec
        return " · ".join([spec.variant, spec.task.name, *([spec.corpus] if spec.corpus else []), f"seed {spec.seed}"])

    @cached_property
    def own(self) -> tuple[str, ...]:
        """Words for what the run itself shows."""
        return (EPISODE, *self._views)

    @cached_property
    def _views(self) -> Views:
        path = self.run.spec.info.views
        return {} if path is None else dict(load_object(path))

    @cached_property
    def artefacts(self) -> dict[str, tuple[ArtefactTarget, str]]:
        """By word, the artefact that shows it and its own word: the same, or behind its stage where that is taken."""
        found: dict[str, tuple[ArtefactTarget, str]] = {}
        for reference in (self.run.dir.read_artefacts() or {}).values():
            if (target := _artefact(reference)) is not None:
                for word in target.views:
                    taken = word in self.own or word in found
                    found[f"{target.artefact.stage}.{word}" if taken else word] = target, word
        return found

    def reads(self, word: str) -> tuple[str, ...]:
        """Names of the settings that change what a word shows; the seed of what is drawn is none of an episode's."""
        if word not in self.own:
            target, own = self.artefacts[word]
            return target.reads(own)
        return ("episode", *(() if word == EPISODE else self._views[word].reads))

    def facts(self, settings: Settings) -> dict[str, Any]:
        """What was looked at, for whoever finds the pictures."""
        spec, written = self.run.spec, self.run.dir.read_run() or {}
        return {"kind": "run", "method": spec.variant, "algorithm": spec.algorithm, "task": spec.task.name,
                "corpus": spec.corpus, "scale": spec.scale, "seed": spec.seed,
                "recipe_hash": written.get("recipe_hash"), "artefacts": self.run.dir.read_artefacts() or {}}

    def exhibits(self, names: Sequence[str], settings: Settings) -> Iterator[tuple[str, str, Exhibit]]:
        """The word, the file's name without ending, and what is in it.

        Raises:
            UsageError: there is no checkpoint. DataError: run, checkpoint or an artefact are broken.
        """
        own = [name for name in names if name in self.own]
        if own:
            with self.run.open(settings.device) as session:
                yield from self._shown(own, session, settings)
        for name in names:
            if name not in self.own:
                target, word = self.artefacts[name]
                for _, stem, exhibit in target.exhibits([word], settings):
                    yield name, stem if name == word else f"{target.artefact.stage}-{stem}", exhibit

    def _shown(self, names: Sequence[str], session: Session, settings: Settings) -> Iterator[tuple[str, str, Exhibit]]:
        ask_for_plans(session.learner)
        seen = session.play(settings.episode, keep_extras=True)
        for name in names:
            if name == EPISODE:
                for stem, exhibit in episode_exhibits(seen, settings.episode, session.env_steps):
                    yield name, stem, exhibit
            else:
                for stem, exhibit in shown(self._views[name], self._played(session, seen, settings)):
                    yield name, stem, replace(exhibit, numbers={"env_steps": session.env_steps, **exhibit.numbers})

    def _played(self, session: Session, seen: Episode, settings: Settings) -> Played:
        assert session.start is not None
        return Played(session.learner, session.start, seen.images, seen.actions, seen.rewards, seen.success,
                      seen.goal_image, seen.extras, self.run.dir.read_train(), session.env_steps, settings.amounts)


def _artefact(reference: ReferenceFile) -> ArtefactTarget | None:
    """The artefact of a run's record, if it is here."""
    for path in ArtefactStore().places(reference["stage"], reference["name"], reference["hash"]):
        artefact = read_artefact(path)
        if artefact.weights_sha256 != reference["weights_sha256"]:
            raise DataError("this artefact was made anew since the run", where=str(path))
        return ArtefactTarget(artefact)
    return None


def episode_exhibits(seen: Episode, episode: int, env_steps: int) -> Iterator[tuple[str, Exhibit]]:
    """Five moments of an episode below one another, and all of it as a film (Figs. 16 and 17)."""
    pictures, plans = episode_pictures(seen), "" if seen.plans is None else ", the plan that is followed"
    goal = "" if seen.goal_image is None else ", and the goal"
    numbers: dict[str, Any] = {"episode": episode, "eval_seed": seen.seed, "env_steps": env_steps,
                               "decisions": len(seen.actions), "success": bool(seen.success.any()),
                               "return": float(seen.rewards.sum(dtype="float64"))}
    moment = 1 + int(seen.success.argmax()) if seen.success.any() else None  # the first picture of success
    about = (f"The observation{plans}{goal}, at five moments of evaluation episode {episode}"
             f"{', the first success among them' if moment is not None else ''}, from above to below. An observation's "
             "number is that of the decisions before it.")
    stem = f"episode-{episode}"
    yield stem, Picture("An episode", about, numbers, film_strip(pictures, moment=moment))
    yield stem, Film("An episode", f"As a film: all of it, at {Film.fps:g} decisions a second.", numbers, pictures)
