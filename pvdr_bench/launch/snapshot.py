"""The code that queued jobs will run: a copy made before they are submitted, so that an edit changes none of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvdr_bench.plugins import PATH_VARIABLE
from pvdr_bench.runs import provenance
from pvdr_bench.runs.files import sha256, sha256_file, storage_errors, write_json

PACKAGE = Path(__file__).resolve().parent.parent
BESIDE = ("methods", "tasks", "slurm", "experiments", "artefacts")  # what an editable install has beside the package
SKIPPED = ("__pycache__", ".mypy_cache")


def take_snapshot(folder: Path) -> Path:
    """Copy package, YAML and shipped artefacts to ``FOLDER/HASH``; the same content is copied once.

    Folders of ``PVDR_BENCH_PATH`` are copied too, as ``yaml-0``, ``yaml-1`` and so on.

    Raises:
        StorageError: the disk is full.
    """
    sources = dict(_sources())
    files = {f"{name}/{path.relative_to(root).as_posix()}": path
             for name, root in sources.items() for path in _files(root)}
    digest = sha256("\n".join(f"{name} {sha256_file(path)}" for name, path in sorted(files.items())).encode())[:12]
    target = folder / digest
    if (target / provenance.SNAPSHOT).exists():
        return target
    with storage_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{digest}.{os.getpid()}.tmp"
        shutil.rmtree(part, ignore_errors=True)
        for name, path in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
    write_json(part / provenance.SNAPSHOT, {"hash": digest, "git": provenance.code()})
    with storage_errors(target):
        shutil.rmtree(target, ignore_errors=True)  # one without its mark was never finished
        part.replace(target)
    return target


def environment(snapshot: Path) -> dict[str, str]:
    """What lets a process run from the snapshot."""
    extra = sorted((path for path in snapshot.glob("yaml-*")), key=lambda path: int(path.name.removeprefix("yaml-")))
    # `python -m` would put the folder that jobs start in first, and that may be the very source that was copied.
    found = {"PYTHONPATH": str(snapshot), "PYTHONSAFEPATH": "1"}
    if extra:
        found[PATH_VARIABLE] = os.pathsep.join(map(str, extra))
    return found


def _sources() -> Iterator[tuple[str, Path]]:
    yield PACKAGE.name, PACKAGE
    if not (PACKAGE / "_data").is_dir():
        yield from ((name, PACKAGE.parent / name) for name in BESIDE if (PACKAGE.parent / name).is_dir())
    places = filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep))
    yield from ((f"yaml-{i}", Path(place).expanduser().resolve()) for i, place in enumerate(places))


def _files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*"))
            if path.is_file() and not any(part in SKIPPED for part in path.relative_to(root).parts)]


def describe(snapshot: Path) -> dict[str, Any]:
    """Hash and git state of a snapshot."""
    from pvdr_bench.runs.files import read_json

    return read_json(snapshot / provenance.SNAPSHOT)
