"""Videos, plan strips and inspections of runs, embedded as far as a cap allows; what is left out is said."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError
from pvdr_bench.runs.inspected import FOLDER, INSPECTED, InspectedFile
from pvdr_bench.runs.schema import read_if_any

TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".png": "image/png", ".jpg": "image/jpeg",
         ".jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Medium:
    """A file of a run's ``videos/`` or ``inspect/``: embedded, or left out for a reason.

    Attributes:
        run: run directory below the results folder.
        data: base64, or None where it was left out.
        why: the reason, empty where it is embedded.
        path: of the file below the results folder; ``name`` leaves the run and ``videos/`` out.
        caption: what it shows, where ``inspect.json`` says so.
    """

    run: str
    name: str
    type: str
    size: int
    data: str | None
    why: str
    path: str
    caption: str = ""


def files_of(folder: Path) -> list[Path]:
    """Videos and pictures below a folder, by name; hidden files and links are not looked at."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in TYPES and path.is_file()
                  and not path.is_symlink() and not path.name.startswith("."))


def embed(runs: Mapping[str, Path], *, total: int, each: int) -> list[Medium]:
    """Embed the first file of every run, then the second, and so on, while they fit.

    Args:
        runs: name and folder of each run, in the order of the report.
        total: bytes of all embedded files together, before base64 makes them a third larger.
        each: bytes of one file.

    Returns:
        All files, by run in the given order, then by name.
    """
    listed = {run: [*files_of(folder / "videos"), *files_of(folder / FOLDER)] for run, folder in runs.items()}
    captions = {run: captions_of(folder) for run, folder in runs.items()}
    found: dict[tuple[str, Path], Medium] = {}
    left = total
    for turn in zip_longest(*([(run, path) for path in paths] for run, paths in listed.items())):
        for run, path in filter(None, turn):
            size = path.stat().st_size
            why = refusal(size, left, total, each)
            data = None if why else base64.b64encode(path.read_bytes()).decode("ascii")
            left -= 0 if why else size
            place = path.relative_to(runs[run]).as_posix()
            name = place.removeprefix("videos/")
            found[run, path] = Medium(run, name, TYPES[path.suffix.lower()], size, data, why,
                                      f"{run}/{place}", captions[run].get(name, ""))
    return [found[run, path] for run, paths in listed.items() for path in paths]


def captions_of(run: Path) -> dict[str, str]:
    """What ``inspect.json`` says of its files, by their names below the run; nothing where it cannot be read."""
    found: dict[str, str] = {}
    for entry in inspected(run)[0].values():
        found |= {f"{FOLDER}/{name}": f"{entry['title']}. {entry['about']}" for name in entry["files"]}
    return found


def inspected(run: Path) -> tuple[dict[str, Any], str]:
    """The pictures of a run's ``inspect.json``, and why there are none where it cannot be read."""
    try:
        found = read_if_any(InspectedFile, run / FOLDER / INSPECTED)
    except DataError as error:
        return {}, f"{FOLDER}/{INSPECTED} cannot be read: {str(error).splitlines()[0]}"
    return (dict(found["pictures"]), "") if found is not None else ({}, "")


def refusal(size: int, left: int, total: int, each: int) -> str:
    """Why a file of ``size`` bytes is not embedded; empty: it is."""
    if size == 0:
        return "the file is empty"
    if size > each:
        return f"{megabytes(size)}, and one file may have {megabytes(each)}"
    if size > left:
        return f"{megabytes(size)}, and all files together may have {megabytes(total)}"
    return ""


def megabytes(size: int) -> str:
    """A size for readers: ``1.3 MB``."""
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"
