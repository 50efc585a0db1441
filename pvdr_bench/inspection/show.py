"""``pvdr-bench inspect``: what a run or an artefact can show, drawn, with its numbers in ``inspect.json`` beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pvdr_bench.api import load_run
from pvdr_bench.errors import UsageError
from pvdr_bench.inspection import numbers
from pvdr_bench.inspection.artefact import ArtefactTarget, Nothing, Settings, artefact_names, find_artefact
from pvdr_bench.inspection.plots import draw_cloud, draw_curves
from pvdr_bench.inspection.run import RunTarget
from pvdr_bench.inspection.strips import compose
from pvdr_bench.playing.film import write_picture, write_video
from pvdr_bench.rl.views import Cloud, Curves, Exhibit, Film, Picture, Strips
from pvdr_bench.runs.files import atomic_write, check_folder, plain, write_json
from pvdr_bench.runs.inspected import FOLDER, INSPECTED, InspectedFile, PictureEntry
from pvdr_bench.runs.paths import results_root
from pvdr_bench.runs.schema import read_if_any
from pvdr_bench.words import did_you_mean, nearest

Target = RunTarget | ArtefactTarget


@dataclass(frozen=True)
class Inspection:
    """What was written: the folder, and the entries of ``inspect.json`` made now, by file stem.

    Attributes:
        nothing: by word that was not asked for by name, why it has nothing to show, or no more.
    """

    folder: Path
    target: dict[str, Any]
    pictures: dict[str, PictureEntry]
    nothing: dict[str, str]


def find_target(name: str | Path, results: str | Path | None = None) -> Target:
    """A run or an artefact by its folder or name.

    Raises:
        UsageError: it is neither. DataError: it is broken.
    """
    artefact = find_artefact(name)
    if artefact is not None:
        return ArtefactTarget(artefact)
    try:
        return RunTarget(load_run(name, results))
    except UsageError as error:
        meant = did_you_mean(nearest(Path(name).name, artefact_names()))
        raise UsageError(f"this is neither a run nor an artefact: {error.message}", where=error.where,
                         hint=f"{meant}{error.hint or ''}; an artefact is NAME-HASH, or its folder") from error


def choices(target: Target) -> tuple[str, ...]:
    """All words that a target takes."""
    return (*target.own, *target.artefacts) if isinstance(target, RunTarget) else tuple(target.views)


def chosen(target: Target, what: Sequence[str]) -> list[str]:
    """The words asked for; by default all that the target shows by itself.

    Raises:
        UsageError: it cannot show one of them, or nothing at all.
    """
    allowed = choices(target)
    if not allowed:
        raise UsageError(f"the {target.name} has nothing to show: its algorithm declares no views")
    for word in what:
        if word not in allowed:
            raise UsageError(f"{target.name} cannot show {word!r}", where="WHAT",
                             hint=f"{did_you_mean(nearest(word, allowed))}it can: {', '.join(allowed)}")
    return list(dict.fromkeys(what)) or list(target.own if isinstance(target, RunTarget) else allowed)


def default_folder(target: Target, results: str | Path | None = None) -> Path:
    """Where pictures go: into the run, where the report finds them; an artefact's below the results folder."""
    if isinstance(target, RunTarget):
        return target.run.path / FOLDER
    return results_root(results) / FOLDER / target.artefact.path.name


def inspect(target: Target, what: Sequence[str], folder: Path, settings: Settings,
            told: Callable[[str], None] = lambda word: None) -> Inspection:
    """Make what is asked for; what the folder holds of the same target stays, and is replaced where it is made again.

    Args:
        told: called with a line on each picture that is made.

    Raises:
        UsageError, DataError, SetupError: it cannot be shown; what was made before stands.
        StorageError: nothing can be written to the folder.
    """
    names = chosen(target, what)
    check_folder(folder)
    facts = target.facts(settings)
    before = read_if_any(InspectedFile, folder / INSPECTED)
    kept = dict(before["pictures"]) if before is not None and before["target"] == plain(facts) else {}
    made: dict[str, PictureEntry] = {}
    nothing: dict[str, str] = {}
    for word, stem, exhibit in target.exhibits(names, settings):
        if isinstance(exhibit, Nothing):
            if word in what:
                raise exhibit.reason
            nothing[word] = exhibit.about
            continue
        files, found = _write(exhibit, folder / stem, settings.amounts.seed)
        earlier = made.get(stem)  # the same as a picture, of what is now a film
        told_before = [earlier["about"]] if earlier is not None else []
        made[stem] = {"what": word, "title": exhibit.title, "about": " ".join([*told_before, exhibit.about]),
                      "files": [*(earlier["files"] if earlier is not None else []), *files],
                      "drawn": {**asdict(settings.amounts), "episode": settings.episode},
                      "numbers": plain({**exhibit.numbers, **found})}
        told(f"made {stem}")
        write_json(folder / INSPECTED, {"format": 1, "target": plain(facts), "pictures": kept | made})
    return Inspection(folder, facts, made, nothing)


def _write(exhibit: Exhibit, stem: Path, seed: int) -> tuple[list[str], Mapping[str, Any]]:
    """Draw it; the names of its files, and what was measured while drawing."""
    path = stem.with_name(f"{stem.name}.png")
    if isinstance(exhibit, Strips):
        return [write_picture(compose(exhibit), path).name], {}
    if isinstance(exhibit, Picture):
        return [write_picture(exhibit.picture, path).name], {}
    if isinstance(exhibit, Film):
        return [write_video(exhibit.pictures, stem.with_name(f"{stem.name}.mp4"), fps=exhibit.fps).name], {}
    if isinstance(exhibit, Curves):
        return [_save(draw_curves(exhibit), path)], {}
    assert isinstance(exhibit, Cloud)
    return _cloud(exhibit, stem, seed)


def _cloud(cloud: Cloud, stem: Path, seed: int) -> tuple[list[str], dict[str, Any]]:
    """A picture for each way of reading actions, all of one t-SNE; numbers of each panel and way."""
    for panel in cloud.panels:
        if len(panel.z) < numbers.FEWEST:
            raise UsageError(f"{len(panel.z)} samples are too few for t-SNE and a probe", where="--samples",
                             hint=f"at least {numbers.FEWEST}; the paper has 2000")
    ways = list(cloud.panels[0].actions)
    measured = {way: [numbers.measured(panel.z, panel.actions[way], seed, panel.group) for panel in cloud.panels]
                for way in ways}
    plane = [numbers.in_the_plane(panel.z, seed) for panel in cloud.panels]
    files = [_save(draw_cloud(cloud, way, plane, measured[way]),
                   stem.with_name(f"{stem.name}.png" if way == ways[0] else f"{stem.name}-{way}.png")) for way in ways]
    panels = {panel.label: {way: measured[way][place] for way in ways} for place, panel in enumerate(cloud.panels)}
    return files, {"panels": panels}


def _save(data: bytes, path: Path) -> str:
    atomic_write(path, data)
    return path.name
