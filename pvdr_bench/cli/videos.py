"""``pvdr-bench videos``: make and list the corpora that learning from videos starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.output import console as make_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

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

    with _progress(f"videos {name}", quiet=json_) as report:
        store = make(name, image_size, data_root(), episodes, jobs, seed, report)
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
    from pvdr_bench.videos.sources import sources

    rows: list[dict[str, Any]] = [
        {"name": s.name, "kind": s.kind, "description": s.description, "made": _made(data_root() / "videos" / s.name)}
        for s in sources()
    ]
    if json_:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['name']}  {row['description']}")
        for made in row["made"]:
            state = f"{made['frames']} frames, hash {made['hash']}" if "hash" in made else made["problem"]
            typer.echo(f"    {made['path']}: {state}")
        if not row["made"] and row["kind"] == "generated":
            typer.echo(f"    not made yet: pvdr-bench videos generate {row['name']}")
        elif not row["made"]:
            typer.echo(f"    no store here yet; it belongs into {data_root() / 'videos' / row['name']}/IMAGE_SIZE")


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


def _progress(title: str, quiet: bool) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A bar on a terminal, a plain line now and then elsewhere, nothing for --json."""
    import contextlib
    import time

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = make_console(stderr=True)

    @contextlib.contextmanager
    def bar() -> Iterator[Callable[[int, int], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    @contextlib.contextmanager
    def lines() -> Iterator[Callable[[int, int], None]]:
        start, last = time.monotonic(), [float("-inf")]

        def report(done: int, total: int) -> None:
            now = time.monotonic()
            if now - last[0] < 15.0 and done < total:
                return
            last[0] = now
            typer.echo(f"{title}: {done}/{total} episodes, {now - start:.0f} s", err=True)

        yield report

    if quiet:
        return contextlib.nullcontext(None)
    return bar() if console.is_terminal else lines()
