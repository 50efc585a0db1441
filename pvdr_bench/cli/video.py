"""``video``: a film of a run's policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pvdr_bench.cli.options import Device, Json, Run
from pvdr_bench.cli.options import Results as Folder


def video(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help=".mp4 or .gif; default: RUN/videos/episode-N.mp4.")] = None,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Number of the evaluation episode.")] = 0,
    fps: Annotated[float, typer.Option("--fps", min=0.1, help="Decisions a second.")] = 10.0,
    device: Device = "cpu",
    results: Folder = None,
    json_: Json = False,
) -> None:
    """Play one evaluation episode of a run: the observation beside the plan it followed, and the goal.

    It starts as in the evaluation; the noise of the policy's actions is drawn anew, so that it may end otherwise.
    """
    from dataclasses import asdict

    from pvdr_bench.cli.options import choose_device
    from pvdr_bench.playing.film import render_video
    from pvdr_bench.runs.names import find_run

    folder = find_run(run, results)
    made = render_video(folder, out or folder / "videos" / f"episode-{episode}.mp4", episode=episode, fps=fps,
                        device=choose_device(device).value)
    if json_:
        typer.echo(json.dumps({**asdict(made), "path": str(made.path)}))
        return
    outcome = "success" if made.success else "no success"
    typer.echo(f"evaluation episode {episode} (seed {made.eval_seed}) after {made.env_steps} env_steps: {outcome} in "
               f"{made.decisions} decisions" + ("" if made.with_plan else "; this method makes no plans"))
    typer.echo(str(made.path))
