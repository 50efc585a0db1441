"""``pvdr-bench bench NAME``: measure on this machine what the project promises."""

from __future__ import annotations

import inspect
import json
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer

from pvdr_bench.cli.options import OVERRIDE, Json, choose_device


class Name(StrEnum):
    """What can be measured."""

    render = "render"
    plan = "plan"
    search = "search"
    env = "env"
    step = "step"
    onestep = "onestep"
    dynamics = "dynamics"
    following = "following"
    closed_loop = "closed-loop"
    goals = "goals"
    landscape = "landscape"
    stg = "stg"
    coverage = "coverage"
    seeds = "seeds"
    aggregate = "aggregate"
    replay = "replay"
    dreamer = "dreamer"
    videos = "videos"
    gpu_check = "gpu-check"
    rivals = "rivals"
    agreement = "agreement"


HELP = {
    Name.render: "lean against stock renderer: ratio of frame rates, likeness of pictures over the twelve tasks",
    Name.plan: "planning with and without the key and value caches: ratio, and whether the plans are equal; and its "
               "cost over candidates and lengths (-o 'grid_n=[1,16]' -o 'grid_l=[2,6]')",
    Name.search: "the batched tree search against a plain tree per root: searches per second, their ratio",
    Name.env: "env_steps per second by number of worker processes",
    Name.step: "training steps per second, FLOP/s and share of the matrix-product peak, by stage",
    Name.onestep: "one whole optimiser step of each of PVDR's stages at the published sizes, and the memory it took",
    Name.dynamics: "the pre-trained model on held-out videos: roll-outs, inverse dynamics of z, does planning help",
    Name.following: "whether a PVDR run's action module follows its plans (-o run=RUN)",
    Name.closed_loop: "where the hand goes if plans are followed by L_act alone, without reinforcement learning",
    Name.goals: "whether a run's policy in reach goes to its episode's goal or to the middle of all (-o run=RUN)",
    Name.landscape: "what the distance to the goal image says of places: is one far from the goal liked as well",
    Name.stg: "whether STG's frozen model ranks true transitions of held-out videos above false ones, and tells the "
              "direction of time",
    Name.coverage: "how often the intervals over seeds hold the truth, simulated",
    Name.seeds: "what the results of a measurement say together over seeds, -o files=[SEED-0.json,SEED-1.json], and "
                "beside another's, -o beside=[...]",
    Name.aggregate: "collecting, figures and tables of 900 synthetic runs, first and after one new run",
    Name.replay: "experience on disk: appending, sampling, and its share of an update",
    Name.dreamer: "an update of a Dreamer (-o method=dreamerv3): seconds by part, memory, and the compiled scan "
                  "against the plain one",
    Name.videos: "importing BAIR's shards, drawing clips, and memory while a corpus grows tenfold",
    Name.gpu_check: "in under nine minutes what only a GPU shows: the device's tests, steps, plans and updates at the "
                    "published sizes, and the pace of runs; exit code 1 if a part failed",
    Name.rivals: "our PPO beside stable-baselines3's with the same networks, our environments beside gymnasium's over "
                 "the stock suite (extra rivals)",
    Name.agreement: "losses and gradients of a world model beside a public implementation, read from its checkout "
                    "(-o method=contextwm -o checkout=PATH); exit code 1 if they differ",
}

# About a trained model, a run or the statistics; the others measure speed and memory.
DIAGNOSTICS = (Name.dynamics, Name.following, Name.closed_loop, Name.goals, Name.landscape, Name.stg,
               Name.coverage, Name.seeds)


def bench(
    name: Annotated[Name, typer.Argument(help="; ".join(f"{key}: {text}" for key, text in HELP.items()))],
    override: Annotated[list[str] | None, typer.Option(
        *OVERRIDE, metavar="KEY=VALUE", help="An argument of the measurement, such as repeats=3.")] = None,
    json_: Json = False,
) -> None:
    """Measure this machine."""
    from pvdr_bench.cli.output import console
    from pvdr_bench.launch.progress import StageProgress
    from pvdr_bench.progress import listening

    room = "diagnostics" if name in DIAGNOSTICS else "bench"
    measure = import_module(f"pvdr_bench.{room}.{name.value.replace('-', '_')}").measure
    arguments = arguments_of(measure, override or [])
    if "device" in arguments:
        arguments["device"] = choose_device(arguments["device"], "-o device").value
    with StageProgress(console(stderr=True), f"bench {name.value}") as bars, listening(bars.report):
        result = _measured(measure, arguments)
    if json_:
        typer.echo(json.dumps(result, default=float))
    else:
        typer.echo(f"bench {name.value}: {HELP[name]}")
        echo_result(result, "  ")
    if name in (Name.gpu_check, Name.agreement) and result["failed"]:
        raise typer.Exit(1)


def _measured(measure: Any, arguments: dict[str, Any]) -> Any:
    """What the measurement returns.

    Raises:
        UsageError: one of the given arguments makes a configuration that its schema refuses.
    """
    from pydantic import ValidationError

    from pvdr_bench.errors import UsageError

    try:
        return measure(**arguments)
    except ValidationError as error:
        if not arguments:  # nobody's words: the measurement itself is wrong
            raise
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}"
                             for item in error.errors(include_url=False))
        raise UsageError(f"refused by {error.title}: {problems}",
                         where=" ".join(f"-o {key}" for key in arguments)) from error


def arguments_of(measure: Any, overrides: list[str]) -> dict[str, Any]:
    """Keyword arguments from ``key=value`` texts, checked against the function's own parameters.

    Raises:
        CatalogError: no such argument. UsageError: not of the form key=value, or of another type than the default.
    """
    from pvdr_bench.catalog.problems import unknown
    from pvdr_bench.catalog.resolve import split_override
    from pvdr_bench.errors import UsageError
    from pvdr_bench.strict import as_written
    from pvdr_bench.yaml_documents import parse_value

    known = inspect.signature(measure).parameters
    found: dict[str, Any] = {}
    for text in overrides:
        key, raw = split_override(text)
        if key not in known:
            raise unknown("argument", key, known, f"-o {key}")
        default = known[key].default
        as_text = isinstance(default, str) and not raw.startswith(("'", '"'))
        value = raw if as_text else as_written(parse_value(raw), type(default))  # 1e3 is a whole number too
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if default is not None and default is not inspect.Parameter.empty and type(value) is not type(default):
            if isinstance(default, tuple) and isinstance(value, list):
                value = tuple(value)
            else:
                raise UsageError(f"{key} = {raw!r} is not of the kind of its default {default!r}", where=f"-o {key}")
        found[key] = value
    return found


def echo_result(result: Any, indent: str) -> None:
    """Print nested mappings, one value a line."""
    for key, value in result.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{key}:")
            echo_result(value, indent + "  ")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            typer.echo(f"{indent}{key}: {shown}")
