"""``demo``: what this project does, in under a minute, with nothing to train."""

from __future__ import annotations

import json
import os
import shlex
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Json, Results
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from pvdr_bench.api import Episode, Run

POLICY = Path("artefacts/policies/pvdr/reach/metaworld/cpu/seed-3")
REPORT = Path("results/reference/reach-cpu/report.html")


def demo(
    results: Results = None,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Number of the evaluation episode.")] = 0,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the report where there is a desktop.")] = True,
    json_: Json = False,
) -> None:
    """Film a shipped, trained policy beside its plans, and open the report of the reference results."""
    from pvdr_bench.api import load_run
    from pvdr_bench.playing.film import episode_pictures, film_strip, played, write_picture, write_video
    from pvdr_bench.runs.paths import results_to_write

    policy, report, out = shipped(POLICY), shipped(REPORT), results_to_write(results) / "demo"
    if not json_:
        typer.echo("playing a shipped policy ...")
    seen, env_steps = played(policy, episode)
    pictures = episode_pictures(seen)
    film = write_video(pictures, out / "policy.mp4")
    strip = write_picture(film_strip(until_success(pictures, seen), 3), out / "policy.png")
    run = load_run(policy)
    told = facts(run, seen, env_steps) | {"film": str(film), "strip": str(strip), "report": str(report),
                                          "link": report.as_uri()}
    if json_:
        typer.echo(json.dumps(told))
        return
    for line in story(told):
        typer.echo(line)
    if open_ and has_desktop() and webbrowser.open(report.as_uri()):
        typer.echo("(opened in your browser)")


def shipped(name: Path) -> Path:
    """A file or folder that comes with the code: beside an editable install, or inside a wheel.

    Raises:
        SetupError: it is not there.
    """
    from pvdr_bench.catalog.folders import builtin_root
    from pvdr_bench.errors import SetupError

    path = builtin_root() / name
    if not path.exists():
        raise SetupError("this comes with the code and is not there", where=str(path),
                         hint="install pvdr-bench again, or get the whole repository")
    return path


def has_desktop() -> bool:
    """Whether a browser would open in a window; a text browser must not take over the terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def until_success(pictures: Any, seen: Episode) -> Any:
    """The pictures up to the first success, or all."""
    reached = seen.success.argmax() + 2 if seen.success.any() else len(pictures)
    return pictures[:reached]


def command_of(provenance: Mapping[str, Any]) -> list[str]:
    """The command that made a run, without what says nothing of it: how it was started, where it was put."""
    words = [str(word) for word in provenance.get("command", [])]
    words = words[words.index("run"):] if "run" in words else []
    for option in ("--results", "--jobs"):
        while option in words:
            del words[(place := words.index(option)):place + 2]
    return ["pvdr-bench", *words]


def facts(run: Run, seen: Episode, env_steps: int) -> dict[str, Any]:
    """What the film shows, and what was measured of its policy, from the run's own files."""
    done: Mapping[str, Any] = run.dir.done() or {}
    made: Mapping[str, Any] = run.dir.read_provenance() or {}
    decisions = int(seen.success.argmax()) + 1 if seen.success.any() else None
    return {"method": run.spec.title, "task": run.spec.task.title, "seed": run.spec.seed, "env_steps": env_steps,
            "success_any": done.get("success_any"), "episodes": done.get("episodes"),
            "command": shlex.join(command_of(made)), "commit": (made.get("git") or {}).get("commit"),
            "decisions": decisions, "action_repeat": run.spec.protocol.action_repeat,
            "plan_frames": None if seen.plans is None else int(seen.plans.shape[1])}


def story(told: dict[str, Any]) -> list[str]:
    """A few sentences, and where the files are."""
    outcome = "the goal was not reached in this episode"
    if told["decisions"] is not None:
        steps = told["decisions"] * told["action_repeat"]
        outcome = f"here it reaches the goal after {counted(told['decisions'], 'decision')} ({steps} simulator steps)"
    return [
        f"{told['method']} on {told['task']}: left, what the policy sees; beside it the plan chosen at that moment, "
        f"{told['plan_frames']} frames drawn by a model that learned from videos without actions; right, the goal.",
        f"After {told['env_steps']:,} simulator steps of practice it succeeds in {100 * told['success_any']:.0f} % of "
        f"{told['episodes']} evaluation episodes (seed {told['seed']}); {outcome}.",
        f"made by: {told['command']}  (commit {str(told['commit'])[:7]})",
        f"film:    {told['film']}",
        f"strip:   {told['strip']}",
        f"report:  {told['link']}",
    ]
