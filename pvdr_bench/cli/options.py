"""The grammar of the command line, the same in every command; singular and plural are spelled alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

# Lists: with commas, or the option again, or both.
Names = list[str] | None
METHODS, TASKS = ("--methods", "--method", "-m"), ("--tasks", "--task", "-t")
SEEDS, VIDEOS, OVERRIDE = ("--seeds", "--seed", "-s"), ("--videos",), ("-o", "--override")

Methods = Annotated[Names, typer.Option(*METHODS, metavar="A,B", help="Methods, see: list methods.")]
Tasks = Annotated[Names, typer.Option(*TASKS, metavar="X,Y", help="Tasks, see: list tasks.")]
Experiment = Annotated[str | None, typer.Option("--experiment", "-e", metavar="E",
                                                help="A named grid in place of methods and tasks, see: list "
                                                     "experiments.")]
Seeds = Annotated[Names, typer.Option(*SEEDS, metavar="SEEDS",
                                      help="5 means 0..4; 5, means seed 5; 3,7 those two; default: 1, or the "
                                           "experiment's.")]
ScaleOption = Annotated[str | None, typer.Option("--scale", metavar="SCALE",
                                                 help="paper, gpu, cpu, quick or smoke; default: what fits the "
                                                      "device.")]
Videos = Annotated[Names, typer.Option(*VIDEOS, metavar="C,D", help="Corpora of pre-training, see: list corpora.")]
ProtocolOption = Annotated[str | None, typer.Option("--protocol", metavar="P",
                                                    help="Protocol, see: list protocols; default: pvdr, or the "
                                                         "experiment's.")]
Overrides = Annotated[list[str] | None, typer.Option(
    *OVERRIDE, metavar="KEY=VALUE",
    help="Change a key of the method (a variant with its own name), or of the protocol: protocol.env_steps=16000. "
         "May be repeated.")]
Results = Annotated[Path | None, typer.Option("--results", metavar="DIR",
                                              help="Folder of runs; else PVDR_BENCH_RESULTS, else ./results.")]
RUN_HELP = "A run as any command prints it: method/task/corpus/scale/seed-N below the results folder, or a path."
Run = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]
Runs = Annotated[list[str] | None, typer.Argument(metavar="RUN", help=RUN_HELP)]
Device = Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda or cuda:N.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Make the artefacts anew, also the shipped ones.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Choice:
    """A default that was chosen for the user, and the reason to print."""

    value: str
    reason: str


def choose_device(device: str = "auto", where: str = "--device") -> Choice:
    """``cpu`` or ``cuda[:N]``, with the reason; imports torch only where an NVIDIA driver is loaded.

    Args:
        where: the option that names it, for errors.

    Raises:
        UsageError: no such kind of device.
        SetupError: CUDA was asked for and torch cannot use it.
    """
    from pvdr_bench.errors import SetupError, UsageError

    if device == "cpu":
        return Choice("cpu", "asked for")
    if device != "auto" and device != "cuda" and not (device.startswith("cuda:") and device[5:].isdigit()):
        raise UsageError(f"unknown device {device!r}", where=where, hint="auto, cpu, cuda or cuda:N")
    usable = _cuda_devices()
    if device == "auto":
        return Choice("cuda", "a CUDA device is usable") if usable else Choice("cpu", "no usable CUDA device")
    index = int(device[5:]) if ":" in device else 0
    if index >= usable:
        raise SetupError(f"torch can use {usable} CUDA devices, so not {device}", where=where,
                         hint="pvdr-bench doctor tells driver and torch's CUDA version")
    return Choice(device, "asked for")


def refuse_idle(context: typer.Context, names: Collection[str], beside: str, hint: str = "") -> None:
    """Refuse what was given on the command line and would change nothing.

    Args:
        names: of the command's parameters.
        beside: what leaves them without effect, as ``--kind bars``.
        hint: what else than leaving them out the user may want.

    Raises:
        UsageError: one of them was given.
    """
    from pvdr_bench.errors import UsageError

    given = [option.opts[0] if option.opts[0].startswith("-") else option.opts[0].upper()
             for option in context.command.params if option.name in names and _was_given(context, option.name)]
    if given:
        leave = f"leave {'it' if len(given) == 1 else 'them'} out"
        raise UsageError(f"{', '.join(given)} {'says' if len(given) == 1 else 'say'} nothing about {beside}",
                         where=context.info_name, hint=f"{leave}, or {hint}" if hint else leave)


def refuse_idle_statistic(context: typer.Context, tasks: Collection[str]) -> None:
    """Refuse ``--statistic`` where there is one task, as it is of the column over several.

    Raises:
        UsageError: it was given, and there is.
    """
    if len(tasks) < 2:
        refuse_idle(context, ("statistic",), f"one task ({', '.join(tasks)})",
                    "choose several with --tasks: it is of the column over all")


def _was_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given on the command line, be it with its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _cuda_devices() -> int:
    """Number of CUDA devices that torch can use."""
    if not any(Path(place).exists() for place in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_scale(scale: str | None, device: str = "cpu") -> Choice:
    """The scale asked for, else the one that fits the (chosen) device.

    Raises:
        CatalogError: no such scale.
    """
    if scale is None:
        kind = "gpu" if device.startswith("cuda") else "cpu"
        return Choice(kind, f"fits the device {device}; --scale chooses another")
    from pvdr_bench.catalog.problems import unknown
    from pvdr_bench.catalog.scales import SCALES

    if scale not in SCALES:
        raise unknown("scale", scale, SCALES, "--scale")
    return Choice(scale, "asked for")
