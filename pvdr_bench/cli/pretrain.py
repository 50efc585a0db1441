"""``pvdr-bench pretrain``, and the making of artefacts that other commands begin with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from pvdr_bench.cli.options import (
    Device,
    Experiment,
    Fresh,
    Json,
    Methods,
    Overrides,
    ProtocolOption,
    ScaleOption,
    Tasks,
    Videos,
    choose_device,
    choose_scale,
)
from pvdr_bench.cli.output import console as make_console

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from pvdr_bench.runs.artefacts import Artefact
    from pvdr_bench.training.stages import Stages


@dataclass(frozen=True)
class Unmade:
    """An artefact that could not be made; ``label``: for people, ``exit_code``: of its error."""

    label: str
    exit_code: int


@dataclass(frozen=True)
class Prepared:
    """What :func:`prepare` found or made; ``lost``: the runs, by path, that stand on what could not be made."""

    made: list[Artefact]
    lost: dict[str, Unmade]


def pretrain(
    methods: Methods = None,
    tasks: Tasks = None,
    experiment: Experiment = None,
    scale: ScaleOption = None,
    videos: Videos = None,
    protocol: ProtocolOption = None,
    override: Overrides = None,
    device: Device = "auto",
    fresh: Fresh = False,
    json_: Json = False,
) -> None:
    """Find or make the artefacts that runs start from: tokenizer and pre-trained models; the same command continues.

    Most tasks share them: without --task they are those of the first task that pvdr-bench list tasks shows.

    Started by torchrun or srun, its processes train together: torchrun --nproc-per-node 8 -m pvdr_bench pretrain ...
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.launch.plan import asked_runs
    from pvdr_bench.launch.worker import StopFlag
    from pvdr_bench.rl.distributed import process_group
    from pvdr_bench.training.checks import check_runs

    catalog, chosen = load_catalog(), choose_device(device)
    size = choose_scale(scale, chosen.value)
    default_task = None if tasks or experiment else catalog.tasks()[0]
    if default_task is not None:
        tasks = [default_task]
    specs = asked_runs(catalog, experiment=experiment, methods=methods, tasks=tasks, seeds=None, scale=scale,
                       default_scale=size.value, protocol=protocol, videos=videos, overrides=override or [])
    check_runs(specs, catalog)
    stop = StopFlag().install()
    with process_group(chosen.value) as group:
        console = make_console(stderr=json_, quiet=not group.leads)
        together = f", {group.size} processes" if group.size > 1 else ""
        console.print(f"device {chosen.value} ({chosen.reason}){together}, scale {specs[0].scale}",
                      highlight=False, soft_wrap=True)
        if default_task is not None:
            console.print(f"no --task: what runs on {default_task} start from", highlight=False, soft_wrap=True)
        made = prepare(console, specs, str(group.device), fresh, stop).made
    if json_ and group.leads:
        typer.echo(json.dumps([{**artefact.reference, "path": str(artefact.path)} for artefact in made]))


def prepare(console: Console, specs: Sequence[Any], device: str, fresh: bool, stop: Callable[[], bool],
            results: Path | None = None, go_on: bool = False) -> Prepared:
    """Find or make the artefacts of all runs, before the runs share them; each once, its path is printed.

    On one torch thread, as the runs: weights depend on the number of threads, and threads that wait for a core which
    another process has made a step ten times slower. Corpora are made on all cores, by processes of their own.

    Args:
        results: folder of the runs that will stand on them; None where they are made for later.
        go_on: what cannot be made is told, and the other runs' artefacts are made all the same; else the first error
            ends it.

    Raises:
        Interrupted: a signal came.
    """
    import torch

    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.launch.progress import StageProgress
    from pvdr_bench.runs.provenance import cores
    from pvdr_bench.runs.users import User
    from pvdr_bench.training.checks import check_corpora
    from pvdr_bench.training.stages import Stages

    check_corpora(specs, load_catalog())
    torch.set_num_threads(1)
    made: dict[str, Artefact] = {}
    unmade, lost = dict[str, Unmade](), dict[str, Unmade]()
    with StageProgress(console) as progress:
        for spec in specs:
            stages = Stages(spec, device, stop, fresh=fresh, workers=cores(), made=made, report=progress.report,
                            say=console.print, user=User.run(results, spec) if results else User())
            if not go_on:
                stages.build()
            elif (missing := _build_or_tell(stages, unmade, console)) is not None:
                lost[str(spec.path(""))] = missing
    for artefact in made.values():
        console.print(f"{artefact.stage}: {artefact.path}", highlight=False, soft_wrap=True)
    return Prepared(list(made.values()), lost)


def _build_or_tell(stages: Stages, unmade: dict[str, Unmade], console: Console) -> Unmade | None:
    """Make a run's artefacts, or return the one that cannot be made.

    Args:
        unmade: those of earlier runs by key, which are told already and not tried again; gains this one.

    Raises:
        Interrupted: a signal came.
    """
    import traceback

    from pvdr_bench.errors import BenchError, Interrupted

    if known := next((unmade[node.key] for node in stages.graph if node.key in unmade), None):
        return known
    for node in stages.graph:
        try:
            stages.artefact(node.stage.name)
        except Interrupted:
            raise
        except Exception as error:  # as a run that fails, it must not take with it those that do not need it
            expected = isinstance(error, BenchError)
            if not expected:
                traceback.print_exc()
            words = str(error) if expected else f"{type(error).__name__}: {error}"
            console.print(f"not made: {node.label}: {words}", highlight=False, soft_wrap=True, markup=False)
            unmade[node.key] = Unmade(node.label, error.exit_code if isinstance(error, BenchError) else 1)
            return unmade[node.key]
    return None
