"""Who stands on an artefact, written down before it is opened: ``ROOT/.users/STAGE/HASH/USER.json``.

An entry says which runs of which results folder, since when, and the process that wrote it. It counts while

- one of these runs is there and names the artefact in its ``artefacts.json``, or has not written that file yet;
- or the process that wrote it may be alive: what it makes now, its runs will open next.

Entries are written, and artefacts taken away, within one short flock, so that an artefact either has its new user when
``clean`` looks, or is gone when the user does, who then makes it anew. Where that flock does not exist (some network
file systems), ``clean`` looks again after it moved an artefact, and puts it back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import content_hash, make_folder, read_json, write_json
from pvdr_bench.runs.guard import guarded
from pvdr_bench.runs.holders import certainly_gone, identity

if TYPE_CHECKING:
    from pvdr_bench.catalog.specs import RunSpec

FOLDER = ".users"
ARTEFACTS = "artefacts.json"  # in a run's folder: references of the artefacts it stands on
UNKNOWN_SECONDS = 86400.0  # that a process of another host is taken to live after it wrote an entry


@dataclass(frozen=True)
class User:
    """Runs of a results folder that will stand on an artefact; none: a command that only makes it.

    Args:
        results: the results folder.
        runs: their folders below it.
    """

    results: Path | None = None
    runs: tuple[str, ...] = ()

    @classmethod
    def run(cls, results: Path, spec: RunSpec) -> User:
        """One run."""
        return cls(results, (str(spec.path("")),))

    @property
    def key(self) -> str:
        """Name of the entry: the same for the same runs, however often they start."""
        return content_hash([str(self.results), *self.runs]) if self.runs else f"{content_hash(identity())}"


@dataclass(frozen=True)
class Entry:
    """A user as it was written down."""

    path: Path
    results: str | None
    runs: tuple[str, ...]
    time: float  # seconds since 1970
    process: Mapping[str, Any]

    def reason(self, digest: str) -> str | None:
        """Why the artefact with this hash is still used; None where nobody is left."""
        me = identity()
        if self.runs and self.process.get("host") != me["host"] and not Path(self.results or "").is_dir():
            return f"{self.results} of host {self.process.get('host')} cannot be seen from here"
        for run in self.runs:
            folder = Path(self.results or "") / run
            if run_names(folder, digest):
                return f"{folder} stands on it"
        gone = certainly_gone(self.process, me)
        if gone is False or (gone is None and time.time() - self.time < UNKNOWN_SECONDS):
            return f"process {self.process.get('pid')} on {self.process.get('host')} is about to use it"
        return None


def run_names(folder: Path, digest: str) -> bool:
    """Whether a run's folder is there and names an artefact, or may still come to name it."""
    try:
        references = read_json(folder / ARTEFACTS)
    except FileNotFoundError:
        return (folder / "run.yaml").exists() and not (folder / "done.json").exists()
    except (OSError, DataError):
        return True  # what cannot be read is not taken for an answer
    return any(isinstance(found, dict) and found.get("hash") == digest for found in references.values())


def digest_of(artefact: Path) -> str:
    """The hash of the recipe of ``ROOT/STAGE/NAME-HASH``; the name says only at which scale it was first made."""
    return artefact.name.rpartition("-")[2]


def users_folder(artefact: Path) -> Path:
    """Where the users of ``ROOT/STAGE/NAME-HASH`` are, whatever its name."""
    return artefact.parent.parent / FOLDER / artefact.parent.name / digest_of(artefact)


@contextmanager
def registry(root: Path) -> Iterator[None]:
    """Nobody else registers, or takes an artefact away, within this block.

    Raises:
        StorageError: ``root`` cannot be written.
    """
    make_folder(root / FOLDER)
    with guarded(root / FOLDER / ".guard", "the list of users"):
        yield


def register(artefact: Path, user: User) -> None:
    """Write down a user of an artefact, before it is looked for.

    Raises:
        StorageError: the data folder cannot be written.
    """
    with registry(artefact.parent.parent):
        write_json(users_folder(artefact) / f"{user.key}.json", {
            "results": str(user.results) if user.results is not None else None, "runs": list(user.runs),
            "time": time.time(), "process": identity()})


def entries(artefact: Path) -> list[Entry]:
    """The users of an artefact.

    Raises:
        DataError: an entry is damaged.
    """
    found = []
    for path in sorted(users_folder(artefact).glob("*.json")):
        value = read_json(path)
        try:
            found.append(Entry(path, value["results"], tuple(value["runs"]), float(value["time"]),
                               dict(value["process"]) | {"pid": int(value["process"]["pid"])}))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a user's entry: {error}", where=str(path), hint="remove it if its run is gone"
                            ) from error
    return found
