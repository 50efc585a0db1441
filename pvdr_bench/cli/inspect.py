"""``inspect``: pictures and numbers of what the models of a run or an artefact think."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvdr_bench.cli.options import Device, Json, Videos, refuse_idle
from pvdr_bench.cli.options import Results as Folder

if TYPE_CHECKING:
    from pvdr_bench.inspection.show import Target


def inspect(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run as any command prints it, or an artefact: its "
                                                                 "folder, or NAME-HASH.")],
    what: Annotated[list[str] | None, typer.Argument(metavar="WHAT", help="What to show; default: all that an artefact "
                                                                          "can, of a run all but what its artefacts "
                                                                          "show. --list tells.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: RUN/inspect, where the report "
                                             "finds it; of an artefact RESULTS/inspect/NAME-HASH.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only say what the target can show.")] = False,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Number of a run's evaluation episode.")] = 0,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Representations in a t-SNE.")] = 2000,
    cases: Annotated[int, typer.Option("--cases", min=1, max=12, help="Cases in a picture.")] = 3,
    seed: Annotated[int, typer.Option("--draw-seed", min=0, metavar="N", help="Seed of what is drawn at random.")] = 0,
    videos: Videos = None,
    device: Device = "cpu",
    results: Folder = None,
    json_: Json = False,
) -> None:
    """Show what the models of a run or an artefact think: reconstructions, futures, plans, t-SNE, roll-outs."""
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.cli.options import choose_device
    from pvdr_bench.inspection.artefact import ArtefactTarget, Settings
    from pvdr_bench.inspection.show import choices, chosen, default_folder, find_target
    from pvdr_bench.inspection.show import inspect as make
    from pvdr_bench.rl.views import Amounts

    found = find_target(target, results)
    if list_:
        refuse_idle(context, ("what", "out", "episode", "samples", "cases", "seed", "videos", "device"), "--list")
        _list(found.name, choices(found), json_)
        return
    if isinstance(found, ArtefactTarget):
        refuse_idle(context, ("episode",), "an artefact", "give a run")
    _refuse_unread(context, found, chosen(found, what or []))
    settings = Settings(Amounts(cases, samples, seed), episode, choose_device(device).value,
                        tuple(split_names(videos)))
    told = (lambda line: None) if json_ else (lambda line: typer.echo(line, err=True))
    made = make(found, what or [], out or default_folder(found, results), settings, told)
    if json_:
        typer.echo(json.dumps({"folder": str(made.folder), "target": made.target, "pictures": made.pictures,
                               "nothing": made.nothing}))
        return
    for entry in made.pictures.values():
        typer.echo(f"{entry['title']}: {entry['about']}")
        for line in lines(entry["numbers"]):
            typer.echo(f"  {line}")
        for name in entry["files"]:
            typer.echo(f"  {made.folder / name}")
    for word, why in made.nothing.items():
        typer.echo(f"{word}: {why}")


def _refuse_unread(context: typer.Context, target: Target, words: Sequence[str]) -> None:
    """Refuse an option that no picture of these words depends on, and name those that do."""
    from pvdr_bench.inspection.show import choices

    for option in ("episode", "videos", "cases", "samples", "seed"):
        if not any(option in target.reads(word) for word in words):
            others = [word for word in choices(target) if option in target.reads(word)]
            refuse_idle(context, (option,), f"what is shown here ({', '.join(words)})",
                        f"ask for {' or '.join(others)}" if others else "")


def _list(name: str, words: tuple[str, ...], json_: bool) -> None:
    typer.echo(json.dumps({"target": name, "what": list(words)}) if json_ else f"{name} can show: {', '.join(words)}")


def lines(numbers: dict[str, object]) -> list[str]:
    """Numbers for people, a line each; those of a part under its name."""
    found = []
    for key, value in numbers.items():
        if isinstance(value, dict):
            found += [f"{key}:", *(f"  {line}" for line in lines(value))]
        else:
            found.append(f"{key}: {short(value)}")
    return found


def short(value: object) -> str:
    """A number to four digits."""
    if isinstance(value, list):
        return ", ".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
