"""``export``: results for other people's tools, and finished runs for trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvdr_bench.cli.options import Json, refuse_idle
from pvdr_bench.cli.options import Results as Folder
from pvdr_bench.cli.selection import Methods, Metric, Mixed, Overrides, Protocol, Scale, Seeds, Tasks, Videos, select
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from pvdr_bench.results.problems import Problem


_CHOICE = ("methods", "tasks", "seeds", "scale", "videos", "protocol", "override")  # the part of a results folder
_SCORES = ("metric", "allow_mixed")  # of rliable's scores; the other files hold all metrics and protocols


def export(
    context: typer.Context,
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    format_: Annotated[str | None, typer.Option("--format", help="rliable (.npz or .json), csv or json.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TRACKER", help="tensorboard, wandb or trackio.")] = None,
    out: Annotated[Path | None, typer.Option(
        "--out", help="File of --format; folder of --policy, or of --to, by default RESULTS/trackers/TRACKER.")] = None,
    metric: Metric = "success", allow_mixed: Mixed = False,
    policy: Annotated[str | None, typer.Option(
        "--policy", metavar="RUN", help="Copy this finished run below --out with its newest policy alone, to be played "
                                        "elsewhere.")] = None,
    online: Annotated[bool, typer.Option("--online", help="wandb: send it to the account you are logged in to.")] =
    False,
    json_: Json = False,
) -> None:
    """Write results as rliable's scores, CSV or JSON, replay finished runs into a tracker, or copy a policy."""
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.export import export as write
    from pvdr_bench.results.trackers import replay, tracker

    if sum(option is not None for option in (format_, to, policy)) != 1:
        raise UsageError("give one of --format, --to and --policy",
                         hint="--format rliable --out scores.npz, --to tensorboard, or --policy RUN --out DIR")
    if policy is not None:
        from pvdr_bench.playing.keep import keep_policy

        refuse_idle(context, (*_CHOICE, *_SCORES, "online"), "--policy, which is of one run")
        if out is None:
            raise UsageError("--policy needs a folder", where="--out", hint="--out policies")
        _tell({"files": [str(keep_policy(policy, out, results))], "left_out": []}, json_)
        return
    if format_ is not None and out is None:
        raise UsageError("--format needs a file", where="--out", hint="--out scores.npz")
    if online and to is None:
        raise UsageError("only trackers are online", where="--online", hint="--to wandb --online")
    if format_ != "rliable":
        refuse_idle(context, _SCORES, f"--format {format_}" if format_ is not None else f"--to {to}")
    found = select(results, methods, tasks, seeds, scale, videos, protocol, override)
    if format_ is not None and out is not None:
        files = write(found, format_, out, metric=metric, allow_mixed=allow_mixed)
        lines = [f"{problem.run}: {problem.kind}, {problem.detail}" for problem in found.problems]
        _tell({"files": [str(path) for path in files], "left_out": lines}, json_)
        return
    folder = (out or found.root / "trackers" / str(to)).resolve()
    left_out: list[Problem] = []
    names = replay(found, tracker(str(to), folder, online=online), left_out)
    lines = [f"{problem.run}: {problem.kind}, {problem.detail}" for problem in (*found.problems, *left_out)]
    _tell({"files": [str(folder)], "runs": names, "left_out": lines}, json_)


def _tell(told: dict[str, list[str]], json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(told))
        return
    if "runs" in told:
        typer.echo(f"{counted(len(told['runs']), 'finished run')} exported")
    for path in told["files"]:
        typer.echo(path)
    if told["left_out"]:
        typer.echo("not, or not wholly, included:")
        for line in told["left_out"]:
            typer.echo(f"  {line}")
