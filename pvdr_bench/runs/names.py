"""The names of runs: what one command prints, every other takes.

``ppo/reach/none/cpu/seed-0`` below the results folder (``list runs``, ``status``), a path from here or from the root,
with or without a slash at its end, the words of ``run``'s progress (``ppo · reach · seed 0``), and a part of the path
that only one run lies below (``ppo/reach``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.runs.archive import open_archive
from pvdr_bench.runs.folders import loose_runs, run_folders
from pvdr_bench.runs.paths import ARCHIVE, results_root
from pvdr_bench.words import did_you_mean, nearest

_SHOWN = 8  # names in an error


def find_run(name: str | Path, results: str | Path | None = None, *, packed: bool = False) -> Path:
    """A run's folder by its name.

    Args:
        results: the results folder, as ``--results`` has it.
        packed: also of a run in the results folder's archive, for commands that need no checkpoint.

    Raises:
        UsageError: no run, or several, or one that is published without its checkpoints; with the nearest match, or
            the runs that it may be.
        DataError: the folder, or an archive, cannot be looked into.
    """
    given, root = Path(str(name).strip()).expanduser(), results_root(results)
    for path in (given, root / given):
        if _says_what_it_is(path):
            return path
    runs = named_runs(root, packed=packed)
    text = given.as_posix().removeprefix(f"{root.as_posix()}/")
    found = _meant(text, runs)
    if len(found) == 1:
        return runs[found[0]]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UsageError(f"this may be any of {len(found)} runs", where=str(name),
                         hint=f"name one: {', '.join(found[:_SHOWN])}{more}")
    published = _published(given, root)
    for archive, inner, names in published:
        if _meant(inner, names):
            raise UsageError(f"this run is published in {archive}, without checkpoints", where=str(name),
                             hint="make it anew in another folder: pvdr-bench run --results DIR; to read its files: "
                                  f"pvdr-bench unpack {archive.parent} DIR")
    close = nearest(text, runs) or next(filter(None, (nearest(inner, names) for _, inner, names in published)), None)
    raise UsageError("this folder holds no run (there is no run.yaml)" if given.is_dir() else
                     "there is no such folder, so it holds no run", where=str(name),
                     hint=f"{did_you_mean(close)}a run is RESULTS/method/task/corpus/scale/seed-N; see: "
                          "pvdr-bench list runs --results RESULTS")


def named_runs(root: Path, *, packed: bool = False) -> dict[str, Path]:
    """Name, as ``list runs`` has it, and folder of all runs of a results folder that say what they are."""
    found = (run_folders(root) if packed else loose_runs(root)) if root.is_dir() else ()
    return {name: path for name, path in found if os.path.lexists(path / "run.yaml")}


def _says_what_it_is(run: Path) -> bool:
    try:
        return (run / "run.yaml").exists()
    except OSError as error:  # no permission to look, or a name that no file can have
        raise DataError(f"cannot be looked into: {error.strerror}", where=str(run)) from error


def _published(given: Path, root: Path) -> list[tuple[Path, str, list[str]]]:
    """The archives that a path may lead into, each with what it says below its folder and the runs that are there."""
    found = {}
    for path in (given.absolute(), (root / given).absolute()):
        folder = next((folder for folder in path.parents if (folder / ARCHIVE).is_file()), None)
        if folder is not None:
            archive = folder / ARCHIVE
            found[folder] = (archive, path.relative_to(folder).as_posix(), open_archive(archive).runs())
    return list(found.values())


def _meant(text: str, names: Iterable[str]) -> list[str]:
    """The runs that a name may stand for; see the module's description."""
    names = list(names)
    return [text] if text in names else [each for each in names if each.startswith(f"{text}/")] or _spoken(text, names)


def _spoken(text: str, names: Iterable[str]) -> list[str]:
    """The runs that ``variant · task · corpus · seed N`` may be, the corpus left out where there is none."""
    words = [word.strip() for word in text.split("·")]
    if len(words) not in (3, 4) or not words[-1].startswith("seed "):
        return []
    seed = words[-1].replace(" ", "-")
    wanted = (*words[:2], words[2] if len(words) == 4 else "none", seed)
    return [each for each in names if (parts := each.split("/")) and (*parts[:3], parts[-1]) == wanted]
