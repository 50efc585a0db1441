"""``pvdr-bench videos fetch`` and ``import``: real videos, from where they are kept into the clip store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pvdr_bench.cli.videos_progress import counting, stopping

if TYPE_CHECKING:
    from pvdr_bench.suites.corpora import CorpusSource
    from pvdr_bench.videos.store import ClipStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
COMPARED = ("image size", "frames of a clip in both splits", "whether something moves")  # by check --method
NAME = "Corpus: bair, jaco-play, cable-routing, or a name of your own"


def fetch(
    name: Annotated[str, typer.Argument(help="Corpus, see: pvdr-bench videos list")],
    mirror: Annotated[str, typer.Option("--from", metavar="URL", help="Another place that keeps the same files.")] = "",
    json_: Json = False,
) -> None:
    """Download a corpus from where its authors keep it; the same command goes on. Size and checksum are compared."""
    from pvdr_bench.runs.paths import data_root
    from pvdr_bench.videos.fetching import fetch as get
    from pvdr_bench.videos.sources import source

    corpus = source(name)
    if not json_:
        _terms(corpus.license, corpus.citation)
    with counting(f"fetch {name}", json_, "bytes") as report, stopping(report) as told:
        folder = get(corpus, data_root(), told, mirror)
    if json_:
        typer.echo(json.dumps({"corpus": name, "path": str(folder), "license": corpus.license,
                               "citation": corpus.citation}))
    else:
        typer.echo(f"{folder}\nnext: pvdr-bench videos import {name}")


def import_(
    name: Annotated[str, typer.Argument(help=NAME)],
    folder: Annotated[Path | None, typer.Argument(metavar="[SOURCE]", help="File or folder of videos; default: what "
                                                  "fetch downloaded.")] = None,
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
    camera: Annotated[str, typer.Option(help="Which of several cameras; a wrong one lists them.")] = "",
    fps: Annotated[float, typer.Option(help="Frames a second that are kept, of video files only; 0: all.")] = 0.0,
    fit: Annotated[str, typer.Option(help="Frames that are not square: crop the middle, squash, or pad.")] = "crop",
    cut: Annotated[int | None, typer.Option(help="Longest episode in frames, longer ones are cut; 0: none is. Default: "
                                            "300 for folders of videos, else 0.")] = None,
    format_: Annotated[str, typer.Option("--format", help="bair, tfds, lerobot or folder; default: recognised.")] = "",
    license_: Annotated[str, typer.Option("--license", help="Terms of your own videos, kept with them.")] = "",
    citation: Annotated[str, typer.Option(help="What to cite for them, kept with them.")] = "",
    jobs: Annotated[int, typer.Option(help="Worker processes; the result does not depend on it.")] = 1,
    json_: Json = False,
) -> None:
    """Turn videos into a corpus that --videos takes; the same command goes on where it was interrupted."""
    from pvdr_bench.runs.paths import data_root
    from pvdr_bench.suites.resize import Fit
    from pvdr_bench.videos.fetching import downloads_path
    from pvdr_bench.videos.importing import ImportOptions, default_cut, import_videos
    from pvdr_bench.videos.readers.base import ReadOptions
    from pvdr_bench.videos.readers.detect import FORMATS

    corpus = _known(name)
    root = folder or downloads_path(name, data_root())
    if folder is None:
        _check_downloaded(name, corpus is not None)
    if not format_ and corpus is not None and corpus.maker not in FORMATS.values():
        format_ = corpus.maker  # a reader of a package's own
    camera = camera or (corpus.camera if corpus else "")
    if cut is None:
        cut = default_cut(root, ReadOptions(camera, fps), format_)
    options = ImportOptions(format_, camera, fps, corpus.fps if corpus else 0.0, cast(Fit, fit), cut,
                            _about(corpus, license_, citation))
    with counting(f"import {name}", json_, "bytes") as report, stopping(report) as told:
        store = import_videos(name, root, image_size, data_root(), options, jobs, told)
    _tell(name, store, json_)


def _known(name: str) -> CorpusSource | None:
    """The corpus of files that is known by this name; None for a name of the user's own.

    Raises:
        UsageError: it belongs to a corpus that is generated, or is no name.
    """
    from pvdr_bench.catalog.specs import NAME as PLAIN
    from pvdr_bench.errors import UsageError
    from pvdr_bench.videos.sources import sources

    found = {source.name: source for source in sources()}.get(name)
    if found is not None and found.kind == "generated":
        raise UsageError(f"{name} is made by videos generate, and not imported", hint="choose a name of your own")
    if not PLAIN.match(name) or name in ("none", "all"):
        raise UsageError(f"{name!r} cannot be a corpus' name", hint="letters, digits, '.', '_' and '-'")
    return found


def _check_downloaded(name: str, known: bool) -> None:
    """Whether fetch got all files of a corpus.

    Raises:
        UsageError: it got none, or stopped on the way.
    """
    from pvdr_bench.errors import UsageError
    from pvdr_bench.runs.paths import data_root
    from pvdr_bench.videos.fetching import downloaded

    there = downloaded(name, data_root())
    if there.unfinished:
        file, size = next(iter(there.unfinished.items()))
        raise UsageError(f"the videos of {name} are not downloaded whole: {file} has {size / 1e6:.1f} MB so far",
                         where="SOURCE", hint=f"pvdr-bench videos fetch {name} goes on")
    if not there.whole:
        raise UsageError(f"where are the videos of {name}?", where="SOURCE",
                         hint=f"pvdr-bench videos fetch {name}, or name a file or folder" if known
                         else f"pvdr-bench videos import {name} FOLDER")


def _about(corpus: CorpusSource | None, license_: str, citation: str) -> dict[str, str]:
    """Source, licence and citation: what was said, else what is known of the corpus."""
    about = {"source": corpus.origin if corpus else "", "license": license_ or (corpus.license if corpus else ""),
             "citation": citation or (corpus.citation if corpus else "")}
    return {key: text for key, text in about.items() if text}


def _tell(name: str, store: ClipStore, json_: bool) -> None:
    entry: dict[str, Any] = {
        "corpus": name, "path": str(store.path), "image_size": store.image_size, "episodes": len(store.episodes),
        "frames": store.num_frames, "hash": store.hash, **store.about}
    if json_:
        typer.echo(json.dumps(entry))
        return
    typer.echo(f"{name}: {store.num_frames} frames in {len(store.episodes)} episodes, hash {store.hash}")
    typer.echo(str(store.path))
    _terms(store.about.get("license", ""), store.about.get("citation", ""))
    typer.echo(f"next: pvdr-bench videos check {name} --image-size {store.image_size}")


def _terms(license_: str, citation: str) -> None:
    for word, text in (("licence", license_), ("cite", citation)):
        if text:
            typer.echo(f"{word}: {text}")


def check(
    name: Annotated[str, typer.Argument(help=NAME)],
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="Also whether these could learn from it.")]
    = None,
    scale: Annotated[str, typer.Option(help="Scale of those methods.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Do not compare the checksum of every frame.")] = False,
    json_: Json = False,
) -> None:
    """Read a corpus through: whether it is whole, what it holds, and whether methods could learn from it."""
    from pvdr_bench.videos.statistics import statistics

    store = _store(name, image_size)
    if not quick:
        store.verify()
    fits = {each: _fits(name, store, each, scale) for each in method or []}
    found = {"corpus": name, "path": str(store.path), "hash": store.hash, "whole": None if quick else True,
             **store.about, **statistics(store), "fits": fits, "compared": list(COMPARED) if fits else []}
    if json_:
        typer.echo(json.dumps(found))
    else:
        _echo(found, "")
        for each, problem in fits.items():
            typer.echo(f"{each}: {problem or f'can learn from it at scale {scale}'}")
        if fits:
            typer.echo(f"compared: {', '.join(COMPARED)}; not how much is learned from them")
        _terms(store.about.get("license", ""), store.about.get("citation", ""))
    if not all(text is None for text in fits.values()):
        raise typer.Exit(2)


def _echo(found: dict[str, Any], indent: str) -> None:
    for key, value in found.items():
        if key in ("license", "citation", "fits", "compared"):
            continue
        if isinstance(value, dict):
            typer.echo(f"{indent}{key}:")
            _echo(value, indent + "  ")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else "unknown" if value is None else value
            typer.echo(f"{indent}{key}: {shown}")


def _fits(name: str, store: ClipStore, method: str, scale: str) -> str | None:
    """Why a method could not learn from a corpus; None if it could.

    Raises:
        CatalogError: no such method or scale.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.catalog.stage_graph import stage_graph
    from pvdr_bench.errors import UsageError
    from pvdr_bench.videos.requirements import check_size, check_videos

    catalog = load_catalog()
    spec = catalog.resolve(method, catalog.tasks()[0], 0, scale, videos=name)
    nodes = [node for node in stage_graph(spec, catalog) if name in node.corpora]
    if not nodes:
        return "learns from no videos"
    try:
        for node in nodes:
            check_size(store, node.image_size, name, f"{node.label}, under the protocol {spec.protocol.name},")
            check_videos(store, node.config.schedule(node.stage.name), name, node.label)
    except UsageError as error:
        return str(error)
    return None


def _store(name: str, image_size: int) -> ClipStore:
    """A corpus that is here.

    Raises:
        SetupError: it is not.
        DataError: it is broken.
    """
    from pvdr_bench.errors import SetupError
    from pvdr_bench.runs.paths import data_root
    from pvdr_bench.videos.requirements import find_store

    store = find_store(name, image_size, data_root())
    if store is None:
        raise SetupError(f"{name} has not been made yet at {image_size} pixels",
                         hint=f"pvdr-bench videos generate {name} --image-size {image_size}")
    return store


def preview(
    name: Annotated[str, typer.Argument(help=NAME)],
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
    out: Annotated[Path | None, typer.Option("--out", help="A .png file; default: NAME.png here.")] = None,
    episodes: Annotated[int, typer.Option(min=1, max=100, help="Rows.")] = 8,
    frames: Annotated[int, typer.Option(min=1, max=100, help="Columns.")] = 8,
) -> None:
    """Draw a contact sheet: episodes from top to bottom, time from left to right."""
    from pvdr_bench.errors import UsageError
    from pvdr_bench.runs.files import atomic_write
    from pvdr_bench.videos.statistics import sheet_png

    target = out or Path(f"{name}.png")
    if target.suffix.lower() != ".png":
        raise UsageError(f"a contact sheet ends in .png, not {target.suffix!r}", where="--out")
    atomic_write(target, sheet_png(_store(name, image_size), episodes, frames))
    typer.echo(str(target))
