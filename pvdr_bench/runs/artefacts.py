"""Artefacts: what a stage made, found by the hash of its recipe, made once and shared.

``ROOT/STAGE/NAME-HASH/`` holds ``model.safetensors``, ``recipe.json``, ``metrics.json``, ``provenance.json``,
``train.jsonl``, ``timing.jsonl`` and ``manifest.json`` (sha256 of each). ROOT is a folder shipped with the code,
searched first, or ``DATA/artefacts``. One process builds while the others wait; a killed build goes on where it was.
NAME is for people: what has the same recipe is the same artefact, whatever scale it was first made at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvdr_bench.errors import DataError, StorageError
from pvdr_bench.runs import provenance
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import (
    content_hash,
    make_folder,
    plain,
    read_json,
    sha256_file,
    storage_errors,
    sync_folder,
    write_json,
)
from pvdr_bench.runs.locks import STALE_MINUTES, FileLock
from pvdr_bench.runs.logs import read_jsonl
from pvdr_bench.runs.paths import data_root, shipped_artefacts
from pvdr_bench.runs.schema import ManifestFile, ReferenceFile, StageRow, checked, read, read_if_any
from pvdr_bench.runs.users import User, digest_of, register

if TYPE_CHECKING:
    from torch import Tensor

MODEL, RECIPE, METRICS, PROVENANCE, MANIFEST, TIMING = (
    "model.safetensors", "recipe.json", "metrics.json", "provenance.json", "manifest.json", "timing.jsonl")
_FILES = (MODEL, RECIPE, METRICS, PROVENANCE, TIMING, "train.jsonl")
_BUILDING = ".building"
# What makes an artefact, see `ArtefactStore.build`: of its work folder and a check of the lock, its metrics.
Make = Callable[[Path, Callable[[], None]], Mapping[str, Any]]


def artefact_dir(stage: str, name: str, digest: str, root: Path | None = None) -> Path:
    """Folder of an artefact below ``root`` (default: the user's own, ``DATA/artefacts``)."""
    return (root or data_root() / "artefacts") / stage / f"{name}-{digest}"


@dataclass(frozen=True)
class Artefact:
    """A finished artefact whose checksums were right when it was found."""

    path: Path
    stage: str
    name: str
    hash: str  # of the recipe
    recipe: dict[str, Any]
    weights_sha256: str

    @property
    def model(self) -> Path:
        """The safetensors file."""
        return self.path / MODEL

    def weights(self) -> dict[str, Tensor]:
        """The weights, on the CPU."""
        import safetensors.torch
        return dict(safetensors.torch.load(self.model.read_bytes()))

    def metrics(self) -> dict[str, Any]:
        """What its training reported at the end."""
        return read_json(self.path / METRICS)

    def provenance(self) -> dict[str, Any]:
        """What it was made with."""
        return read_json(self.path / PROVENANCE)

    @property
    def reference(self) -> ReferenceFile:
        """What names an artefact and its weights."""
        return {"stage": self.stage, "name": self.name, "hash": self.hash, "weights_sha256": self.weights_sha256}

    def with_cost(self) -> ReferenceFile:
        """What a run records of the artefacts it stands on: the reference, and what its training took.

        Raises:
            DataError: its ``timing.jsonl`` is broken.
        """
        rows = read_stage_rows(self.path / TIMING)  # those of before have none
        if not rows:
            return self.reference
        cost: ReferenceFile = {**self.reference, "wall_seconds": rows[-1]["wall_seconds"], "device": rows[-1]["device"]}
        if "flop" in rows[-1]:
            cost["flop"] = rows[-1]["flop"]
        return cost


class ArtefactStore:
    """Artefacts of all stages.

    Args:
        root: the user's own folder; default ``DATA/artefacts``.
        shipped: read-only folders searched first; default those that come with the code.
    """

    def __init__(self, root: Path | str | None = None, shipped: Iterable[Path | str] | None = None) -> None:
        self.root = Path(root) if root is not None else data_root() / "artefacts"
        self.shipped = [Path(folder) for folder in (shipped_artefacts() if shipped is None else shipped)]

    def path(self, stage: str, name: str, recipe: Mapping[str, Any]) -> Path:
        """Where the user's own artefact of this recipe is, made or not."""
        return artefact_dir(stage, name, content_hash(recipe), self.root)

    def find(self, stage: str, name: str, recipe: Mapping[str, Any]) -> Artefact | None:
        """The artefact of a recipe, or None. Shipped ones first, except where ``--fresh`` made it anew.

        It may have another name, that of the scale it was first made at.

        Raises:
            DataError: it is there and broken; says which file.
        """
        digest = content_hash(recipe)
        own = _places(self.root, stage, name, digest)
        shipped = [path for folder in self.shipped for path in _places(folder, stage, name, digest)]
        for path in (*filter(_made_fresh, own), *shipped, *own):
            return read_artefact(path)
        return None

    def places(self, stage: str, name: str, digest: str) -> list[Path]:
        """Where an artefact is: shipped folders first, then the user's own."""
        return [path for root in (*self.shipped, self.root) for path in _places(root, stage, name, digest)]

    def claim(self, stage: str, name: str, recipe: Mapping[str, Any], user: User, *, fresh: bool = False) -> str:
        """Write down that ``user`` will stand on an artefact, before :meth:`find` or :meth:`build`.

        Shipped artefacts are not written to, and nobody removes them. In a data folder that cannot be written, an
        artefact that is there is used without an entry; returns a word about that, else an empty text.

        Raises:
            StorageError: it is not there, and cannot be made.
        """
        digest = content_hash(recipe)
        own = _places(self.root, stage, name, digest)
        if not own and not fresh and any(_places(folder, stage, name, digest) for folder in self.shipped):
            return ""
        try:
            register(self.path(stage, name, recipe), user)
        except StorageError as error:
            if not own or fresh:
                raise
            return f"{own[0]} does not know that it is used ({error.message}): whoever cleans there cannot see this run"
        return ""

    def build(self, stage: str, name: str, recipe: Mapping[str, Any], make: Make, *, fresh: bool = False,
              stop: Callable[[], bool] = lambda: False, on_wait: Callable[[str], None] | None = None,
              poll_seconds: float = 2.0, stale_minutes: float = STALE_MINUTES) -> Artefact:
        """Find an artefact, or make it; wait while another process makes it.

        Args:
            make: called with a work folder that survives crashes and interruptions (keep checkpoints in it, in a
                folder ``checkpoints``), and with what to call before anything is written there, which raises
                LockedError where another process has taken over; leaves ``model.safetensors`` there, may leave
                ``train.jsonl``, and returns the metrics.
            fresh: make it anew even if it exists or is shipped; it then goes before the shipped one.
            stop: asked while another process makes it.
            on_wait: told once who is waited for.

        Raises:
            DataError: an existing one is broken, or ``make`` left no model.
            StorageError: the disk is full; the work folder keeps what was saved.
            Interrupted: ``stop`` said so.
        """
        if not fresh and (found := self.find(stage, name, recipe)):
            return found
        final = next(iter(_places(self.root, stage, name, content_hash(recipe))), self.path(stage, name, recipe))
        work = final.parent / _BUILDING / digest_of(final)  # the same under every name, and so is the lock
        make_folder(work)
        before = _manifest_time(final)
        lock = self.building_lock(final, stale_minutes)
        lock.wait(stop, poll_seconds, on_wait)
        try:
            # Another process may have made it between our search and our lock.
            if (not fresh or before != _manifest_time(final)) and (found := self.find(stage, name, recipe)):
                return found
            make_folder(work)
            _publish(work, final, dict(recipe), make(work, lock.check), stage, name, fresh, lock)
        finally:
            lock.release()
        return read_artefact(final)

    def all(self) -> list[Artefact]:
        """All whole artefacts, shipped and own.

        Raises:
            DataError: one is broken.
        """
        found = []
        for root in (*self.shipped, self.root):
            found += [read_artefact(path.parent) for path in sorted(root.glob(f"*/*/{MANIFEST}"))]
        return found

    @staticmethod
    def building_lock(artefact: Path, stale_minutes: float = STALE_MINUTES) -> FileLock:
        """The lock of whoever makes, or removes, the artefact with this folder's recipe, under whichever name."""
        return FileLock(artefact.parent / _BUILDING / f"{digest_of(artefact)}.lock",
                        f"{artefact.parent.name} artefact {artefact.name}", stale_minutes=stale_minutes)


def _places(root: Path, stage: str, name: str, digest: str) -> list[Path]:
    """Folders below ``root`` that hold a recipe's artefact, the one of this name first."""
    return sorted((path for path in (root / stage).glob(f"*-{digest}") if path.is_dir()),
                  key=lambda path: (path.name != f"{name}-{digest}", path.name))


def read_artefact(path: Path) -> Artefact:
    """Check an artefact folder against its manifest.

    Raises:
        DataError: a file is missing or its checksum is wrong.
    """
    hint = "remove the folder (or restore it, if it came with the code), then give the command again"
    try:
        manifest = read(ManifestFile, path / MANIFEST)
    except FileNotFoundError as error:
        raise DataError("the artefact has no manifest", where=str(path), hint=hint) from error
    files = manifest["files"]
    if MODEL not in files:
        raise DataError("the manifest lists no model", where=str(path / MANIFEST), hint=hint)
    for name, digest in files.items():
        if Path(name).name != name or not (path / name).is_file():
            raise DataError("the file is missing", where=str(path / name), hint=hint)
        if _digest_of(path / name) != digest:
            raise DataError("its checksum is wrong", where=str(path / name), hint=hint)
    recipe = _recipe_of(path, hint)
    if content_hash(recipe) != manifest.get("hash"):
        raise DataError("the recipe does not have the manifest's hash", where=str(path / RECIPE), hint=hint)
    return Artefact(path, manifest["stage"], manifest["name"], manifest["hash"], recipe, files[MODEL])


def read_stage_rows(path: Path) -> list[StageRow]:
    """The rows of an artefact's ``timing.jsonl``, made or in the making; [] where there is none.

    Raises:
        DataError: it is broken.
    """
    return [checked(StageRow, row, str(path)) for row in read_jsonl(path)]


def _made_fresh(path: Path) -> bool:
    """Whether an artefact was made with ``--fresh``, and so goes before those that are shipped."""
    manifest = read_if_any(ManifestFile, path / MANIFEST)
    return manifest is not None and manifest.get("fresh") is True


def _digest_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _recipe_of(path: Path, hint: str) -> dict[str, Any]:
    try:
        return read_json(path / RECIPE)
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=str(path / RECIPE), hint=hint) from error


def _manifest_time(path: Path) -> float | None:
    manifest = path / MANIFEST
    return manifest.stat().st_mtime if manifest.exists() else None


def _publish(work: Path, final: Path, recipe: dict[str, Any], metrics: Mapping[str, Any], stage: str, name: str,
             fresh: bool, lock: FileLock) -> None:
    """Describe the finished work folder and rename it to its place."""
    if not (work / MODEL).is_file():
        raise DataError(f"the stage left no {MODEL}", where=str(work))
    lock.check()
    write_json(work / RECIPE, plain(recipe))
    write_json(work / METRICS, metrics)
    write_json(work / PROVENANCE, provenance.shareable(provenance.collect()))
    ready = final.parent / _BUILDING / f"{final.name}.ready"
    shutil.rmtree(ready, ignore_errors=True)
    with storage_errors(ready):
        ready.mkdir()
        present = [item for item in _FILES if (work / item).is_file()]
        for item in present:
            shutil.copyfile(work / item, ready / item)
            with (ready / item).open("rb") as file:
                os.fsync(file.fileno())
    write_json(ready / MANIFEST, {"format": 1, "stage": stage, "name": name, "hash": content_hash(recipe),
                                  "fresh": fresh, "files": {item: sha256_file(ready / item) for item in present}})
    crash_point("artefact/ready")
    with storage_errors(final):
        if final.exists():
            old = final.parent / _BUILDING / f"{final.name}.old"
            shutil.rmtree(old, ignore_errors=True)
            final.replace(old)
        ready.replace(final)
    crash_point("artefact/published")
    sync_folder(final.parent)
    shutil.rmtree(work, ignore_errors=True)
