"""Whether runs are as they were when they were done: what was changed since, and where.

Nothing is taken from a cache: every file is read, hashed and parsed again, and the artefacts that runs stand on are
checked against their manifests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pvdr_bench.errors import DataError
from pvdr_bench.results.reading import read_content
from pvdr_bench.runs.artefacts import ArtefactStore, read_artefact
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.folders import run_folders
from pvdr_bench.runs.schema import ReferenceFile
from pvdr_bench.runs.seal import Change
from pvdr_bench.runs.standing import Standing, judge

Verdict = Literal["sealed", "unsealed", "unfinished", "broken"]
VERDICTS: dict[Verdict, str] = {
    "sealed": "done, and every file is as it was then",
    "unsealed": "done before there were seals; nothing contradicts itself",
    "unfinished": "not done: there is no seal yet, and its files can be read",
    "broken": "changed since it was done, or a file cannot be read",
}


@dataclass(frozen=True)
class Verified:
    """One run, and what is wrong with it.

    Attributes:
        run: its path below the results folder.
        notes: what could not be checked.
    """

    run: str
    verdict: Verdict
    state: str
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


class Verifier:
    """Checks runs; an artefact that many stand on is read once."""

    def __init__(self, store: ArtefactStore | None = None) -> None:
        self.store = store or ArtefactStore()
        self._artefacts: dict[str, Change | str | None] = {}

    def folder(self, root: Path) -> list[Verified]:
        """All runs of a results folder, or the one that ``root`` is; folders that cannot be looked into are broken."""
        dark: list[Verified] = []

        def refused(name: str, reason: str) -> None:
            dark.append(Verified(name, "broken", "broken", (Change("the folder", f"cannot be read: {reason}"),)))

        return [self.run(root.name if name == "." else name, path) for name, path in run_folders(root, refused)] + dark

    def run(self, name: str, folder: Path) -> Verified:
        """One run."""
        standing = judge(folder)
        if standing.state == "running":  # its files change under our eyes
            return Verified(name, "unfinished", standing.state, notes=("a process writes it now",))
        changes, notes = list(standing.changes), list[str]()
        told = {change.file for change in changes}
        changes += [change for change in _unreadable(folder) if change.file not in told]
        for found in self._stands_on(folder):
            if isinstance(found, Change):
                changes.append(found)
            else:
                notes.append(found)
        return Verified(name, "broken" if changes else _verdict(standing), standing.state, tuple(changes), tuple(notes))

    def _stands_on(self, folder: Path) -> list[Change | str]:
        """What is wrong with the artefacts of a run, or cannot be known here."""
        try:
            references = RunDir(folder).read_artefacts() or {}
        except DataError:
            return []  # told already
        found = []
        for reference in references.values():
            key = f"{reference['stage']}/{reference['name']}-{reference['hash']} {reference['weights_sha256']}"
            if key not in self._artefacts:
                self._artefacts[key] = self._artefact(reference)
            if (what := self._artefacts[key]) is not None:
                found.append(what)
        return found

    def _artefact(self, reference: ReferenceFile) -> Change | str | None:
        name = f"artefact {reference['stage']}/{reference['name']}-{reference['hash']}"
        places = self.store.places(reference["stage"], reference["name"], reference["hash"])
        if not places:
            return f"{name} is not on this machine"
        try:
            weights = [read_artefact(place).weights_sha256 for place in places]
        except DataError as error:
            return Change(name, f"is broken: {error.where}: {error.message}")
        if reference["weights_sha256"] in weights:
            return None
        return f"{name} was made anew since: its weights are {weights[0][:12]}, and were " \
               f"{reference['weights_sha256'][:12]}"


def _verdict(standing: Standing) -> Verdict:
    if standing.state != "done":
        return "unfinished"
    return "sealed" if standing.sealed else "unsealed"


def _unreadable(folder: Path) -> list[Change]:
    """Files of a run that cannot be read as what they should be."""
    run, found = RunDir(folder), list[Change]()
    readers: dict[str, Callable[[], object]] = {
        "run.yaml, episodes.jsonl or timing.jsonl": lambda: read_content(folder), "train.jsonl": run.read_train,
        "provenance.json": run.read_provenance, "artefacts.json": run.read_artefacts,
        "failed.json": run.failed, "heartbeat.json": run.read_heartbeat}
    for name, read in readers.items():
        try:
            read()
        except DataError as error:
            where = (error.where or "").removeprefix(f"{folder}/")
            file, _, place = where.partition(": ")
            found.append(Change(file or name, f"cannot be read: {f'{place}: ' if place else ''}{error.message}"))
    if not (folder / "run.yaml").exists() and not found:
        found.append(Change("run.yaml", "is missing"))
    return found
