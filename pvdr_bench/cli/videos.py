"""``pvdr-bench videos``: the corpora that learning from videos starts from: list, make, fetch, import, look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli import videos_files
from pvdr_bench.cli.videos_progress import counting, stopping

if TYPE_CHECKING:
    from pvdr_bench.suites.corpora import CorpusSource

app = typer.Typer(no_args_is_help=True, help="Corpora of action-free videos.")


@app.command()
def generate(
    name: Annotated[str, typer.Argument(help="Corpus, see: pvdr-bench videos list")],
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
    episodes: Annotated[int | None, typer.Option(help="How many; default: the corpus' own number.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all that is random.")] = 0,
    jobs: Annotated[int, typer.Option(help="Worker processes; the result does not depend on it.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print the finished corpus as JSON.")] = False,
) -> None:
    """Make a corpus; the same command continues an interrupted one, and a finished one is left as it is."""
    from pvdr_bench.runs.paths import data_root
    from pvdr_bench.videos.generate import generate as make

    with counting(f"videos {name}", quiet=json_) as report, stopping(report) as told:
        store = make(name, image_size, data_root(), episodes, jobs, seed, told)
    entry = {
        "corpus": name, "path": str(store.path), "image_size": store.image_size, "episodes": len(store.episodes),
        "frames": store.num_frames, "hash": store.hash,
    }
    if json_:
        typer.echo(json.dumps(entry))
    else:
        typer.echo(f"{name}: {store.num_frames} frames in {len(store.episodes)} episodes, hash {store.hash}")
        typer.echo(str(store.path))


@app.command("list")
def list_(json_: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """The corpora there are, and which of them have been made."""
    from pvdr_bench.runs.paths import data_root
    from pvdr_bench.videos.fetching import downloaded
    from pvdr_bench.videos.sources import sources

    rows: list[dict[str, Any]] = [
        {"name": s.name, "kind": s.kind, "description": s.description, "license": s.license, "citation": s.citation,
         "downloaded": there.whole if s.downloads else None, "unfinished": there.unfinished,
         "made": _made(data_root() / "videos" / s.name)}
        for s in (*sources(), *_own(sources())) for there in (downloaded(s.name, data_root()),)
    ]
    if json_:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['name']}  {row['description']}")
        for made in row["made"]:
            state = f"{made['frames']} frames, hash {made['hash']}" if "hash" in made else made["problem"]
            typer.echo(f"    {made['path']}: {state}")
        if row["license"]:
            typer.echo(f"    licence: {row['license']}")
        if not row["made"] and row["kind"] == "generated":
            typer.echo(f"    not made yet: pvdr-bench videos generate {row['name']}")
        elif not row["made"]:
            typer.echo(f"    not imported yet: {_next_step(row)}")


def _own(known: list[CorpusSource]) -> list[CorpusSource]:
    """The user's own corpora, as rows beside those that are known by name."""
    from pvdr_bench.catalog.corpora import user_corpora
    from pvdr_bench.suites.corpora import CorpusSource

    names = {source.name for source in known}
    return [CorpusSource(name, spec.description, "files", "", 0, license=spec.license, citation=spec.citation)
            for name, spec in user_corpora().items() if name not in names]


def _next_step(row: dict[str, Any]) -> str:
    if row["unfinished"]:
        there = (row["downloaded"] + sum(row["unfinished"].values())) / 1e9
        return f"{there:.1f} GB are downloaded, and not all: pvdr-bench videos fetch {row['name']} goes on"
    if row["downloaded"] == 0:
        return f"pvdr-bench videos fetch {row['name']}, or import {row['name']} FOLDER"
    source = "" if row["downloaded"] else " FOLDER"
    return f"pvdr-bench videos import {row['name']}{source}"


def _made(folder: Path) -> list[dict[str, Any]]:
    """What is on disk of one corpus, broken stores included."""
    from pvdr_bench.errors import DataError
    from pvdr_bench.videos.layout import MANIFEST
    from pvdr_bench.videos.store import ClipStore

    found: list[dict[str, Any]] = []
    for path in sorted(p.parent for p in folder.glob(f"*/{MANIFEST}") if not p.parent.name.endswith(".partial")):
        try:
            store = ClipStore(path)
            found.append({
                "path": str(path), "image_size": store.image_size, "frames": store.num_frames,
                "episodes": len(store.episodes), "hash": store.hash,
            })
        except DataError as error:
            found.append({"path": str(path), "problem": str(error)})
    return found


app.command("fetch")(videos_files.fetch)
app.command("import")(videos_files.import_)
app.command("check")(videos_files.check)
app.command("preview")(videos_files.preview)
