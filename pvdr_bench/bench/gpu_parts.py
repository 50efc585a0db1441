"""The parts of ``bench gpu-check``, each in a process of its own: ``python -m pvdr_bench.bench.gpu_parts``.

The first line of standard input is the :class:`~pvdr_bench.bench.gpu_check.Order`; when standard input ends, nobody
waits any more and the process ends itself. Standard output has JSON lines alone: what was found, then the state.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvdr_bench.bench.gpu_check import Order
from pvdr_bench.bench.outcomes import Outcomes
from pvdr_bench.errors import BenchError, SetupError, TrainingError
from pvdr_bench.launch.worker import read_order

if TYPE_CHECKING:
    from pvdr_bench.catalog.specs import RunSpec
    from pvdr_bench.training.online import Pieces

Found = Iterator[dict[str, Any]]
TESTS = Path(__file__).parents[2] / "tests" / "test_device.py"
CANDIDATES = 16  # N of the paper
COMPILED = ("dreamerv2", "apv")  # whose updates are measured compiled, too; the others' scans are the same
UPDATE_SECONDS = 2.0  # at least, of measuring updates and scans, six times in a part whose compiling takes most of it
RUN_SHARE = 0.6  # of a run's time that is measured; the rest is its start and an update that lasts
FRAMES = 32  # decisions whose pictures the untrained tokenizer's codes are drawn from


class Skip(Exception):
    """A part cannot be done here, which is no failure; says why."""


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


# The device -------------------------------------------------------------------------------------------------------


def machine(order: Order) -> Found:
    """What the device is, and how fast it multiplies."""
    import torch

    from pvdr_bench.bench.step import matmul_peak
    from pvdr_bench.runs.provenance import cores

    yield {"torch": torch.__version__, "python": platform.python_version(), "cores": cores(),
           "cuda": torch.version.cuda, "processor": platform.machine()}
    device = torch.device(order.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise SetupError("torch can use no CUDA device", hint="pvdr-bench doctor tells driver and torch's version")
        facts = torch.cuda.get_device_properties(device)
        yield {"name": facts.name, "memory_gib": facts.total_memory / 2**30,
               "multiprocessors": facts.multi_processor_count, "capability": f"{facts.major}.{facts.minor}",
               "bfloat16": torch.cuda.is_bf16_supported()}
    names = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)
    yield {"matmul_peak": {name: matmul_peak(device, name) for name in names}}
    yield {"launch_seconds": _launch_seconds(device)}


def _launch_seconds(device: Any) -> float:
    """Seconds that a tiny operation takes among many: what a loop over time waits for."""
    import torch

    x, count = torch.zeros(1, device=device), 2000
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        for _ in range(count):
            x.add_(1)
        _wait(str(device))
        spent = time.perf_counter() - started
    return spent / count


def tests(order: Order) -> Found:
    """The suite's tests marked ``gpu``, on the device; a skipped one counts as failed, since all of them can run."""
    import pytest

    if not TESTS.exists():
        raise SetupError("the tests are not here", where=str(TESTS), hint="call it from a checkout of the repository")
    outcomes = Outcomes(order.device)
    code = pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts=", "--rootdir",
                        str(TESTS.parents[1]), str(TESTS)], plugins=[outcomes])
    counts = {kind: sum(row["outcome"] == kind for row in outcomes.rows.values())
              for kind in ("passed", "failed", "skipped")}
    yield {"counts": counts, "tests": outcomes.rows}
    if code or not counts["passed"] or counts["skipped"]:
        raise TrainingError(f"{counts['failed']} of the device's tests failed, {counts['skipped']} were skipped, "
                            f"{counts['passed']} passed", where=str(TESTS))


# Steps at the published sizes -------------------------------------------------------------------------------------


def step(order: Order) -> Found:
    """A whole optimiser step of a stage, with its operations."""
    from pvdr_bench.bench.onestep import measure

    yield measure(order.scale, order.device, stages=(order.part,), seed=order.seed, counted=True)


def plan(order: Order) -> Found:
    """Plans of 16 candidates, with and without the caches."""
    from pvdr_bench.bench.plan import measure

    yield measure(candidates=CANDIDATES, repeats=3, device=order.device, scale=order.scale, seed=order.seed)


def update(order: Order) -> Found:
    """An update of a world model: eager, then compiled."""
    from pvdr_bench.bench.dreamer import measure

    found = measure(order.part, (order.scale,), UPDATE_SECONDS, (), order.device, seed=order.seed)[order.scale]
    yield {"update": found["update"], "scan_seconds": found["scan"]["plain_seconds"]}
    if order.compiled and order.part in COMPILED:
        yield {"compiled": measure(order.part, (order.scale,), UPDATE_SECONDS, order.compiled, order.device,
                                   seed=order.seed)[order.scale]}


def searching(order: Order) -> Found:
    """Updates of EfficientZero with their searches."""
    from pvdr_bench.bench.replayed import measure

    return measure(order.part, order.scale, order.device, order.seed)


def clips(order: Order) -> Found:
    """Steps of a pre-training that learns from frames."""
    from pvdr_bench.bench.clips import measure

    return measure(order.part, order.scale, order.device, order.seed)


# The beginning of a run -------------------------------------------------------------------------------------------


def run(order: Order) -> Found:
    """The first decisions and updates of a run, and how long all of it would take at that rate."""
    import torch

    from pvdr_bench.bench.pace import measure
    from pvdr_bench.catalog import load_catalog
    from pvdr_bench.launch.estimate import expected
    from pvdr_bench.launch.plan import RunPlan
    from pvdr_bench.training.execute import make_deterministic
    from pvdr_bench.training.stages import Stages

    catalog = load_catalog()
    spec = catalog.resolve(order.part, order.task, order.seed, order.run_scale)
    device, missing = torch.device(order.device), Stages(spec, order.device).missing()
    frames = _frames(spec)
    if missing:
        spec = catalog.resolve({"pvdr": "pvdr-scratch"}.get(order.part, order.part), order.task, order.seed,
                               order.run_scale)
    yield {"variant": spec.variant, "budget_env_steps": spec.protocol.env_steps, "environments": spec.protocol.num_envs,
           "weights": f"untrained, for want of {', '.join(missing)}" if missing else "artefacts"}
    make_deterministic(device)  # as runs are
    problems: list[str] = []
    rates = measure([spec], lambda spec: _untrained(spec, device, frames) if missing else
                    Stages(spec, order.device, env_workers=_workers(spec)).pieces()[0],
                    RUN_SHARE * order.seconds, lambda: False, problems.append)
    if not rates:
        raise TrainingError("; ".join(problems))
    rate, whole = next(iter(rates.values())), RunPlan(spec, Path(), "new", 0)
    seconds = expected(whole, rate)
    yield {"train_env_steps_per_second": 1 / rate.train, "evaluate_env_steps_per_second": 1 / rate.evaluate,
           "start_seconds": rate.start, "updates_in_it": rate.whole, "evaluation_env_steps": whole.evaluation_steps,
           "whole_run_hours": seconds / 3600, "evaluation_share": whole.evaluation_steps * rate.evaluate / seconds}


def _workers(spec: RunSpec) -> int:
    from pvdr_bench.runs.provenance import cores

    return min(spec.protocol.num_envs, cores())


def _frames(spec: RunSpec) -> Any:
    """Pictures uint8 [B, 1, H, W, 3] of the task: a few random decisions, and its goal.

    Raises:
        Skip: the environment cannot be built or drawn here.
    """
    import numpy as np
    import torch

    from pvdr_bench.suites.vector import VectorEnv

    rng = np.random.default_rng(spec.seed)
    try:
        with VectorEnv(spec.env_config(), 1) as envs:
            pictures = [envs.reset([0])[0]]
            for _ in range(FRAMES):
                pictures.append(envs.step(rng.uniform(-1, 1, (1, envs.action_dim)).astype(np.float32)).image[0])
            pictures.append(envs.goal_image())
    except SetupError as error:
        raise Skip(str(error)) from error
    return torch.from_numpy(np.stack(pictures))[:, None]


def _untrained(spec: RunSpec, device: Any, frames: Any) -> Pieces:
    """What a run without pre-training needs, with a tokenizer that made one step: its codes are drawn from pictures of
    the task, so that start and goal differ."""
    import torch

    from pvdr_bench.algorithms import registry
    from pvdr_bench.catalog import load_catalog
    from pvdr_bench.rl.config import config_as
    from pvdr_bench.suites.vector import VectorEnv
    from pvdr_bench.tokenizer.config import VQGANConfig
    from pvdr_bench.tokenizer.frozen import load_tokenizer
    from pvdr_bench.tokenizer.learner import VQGANLearner
    from pvdr_bench.training.online import Pieces

    vqgan = config_as(VQGANConfig, load_catalog().config("tokenizer", spec.scale).value)
    learner = VQGANLearner(vqgan, spec.seed, torch.device("cpu"), spec.protocol.image_size)
    learner.update(frames)
    weights, info, workers = learner.export(), spec.info, _workers(spec)
    assert info.learner is not None
    return Pieces(
        make_envs=lambda config, n: VectorEnv(config, n, min(n, workers)),
        make_learner=registry.load_object(info.learner), config=spec.config_object(), device=device,
        tokenizer=load_tokenizer(weights, vqgan, device), artefacts={"tokenize": weights},
        artefact_config={"tokenize": vqgan}, needs_expert=info.needs_expert, on_policy=info.on_policy)


# The process ------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Order], Found]] = {
    "machine": machine, "tests": tests, "tokenizer": step, "pretrain": step, "online": step, "plan": plan,
    "dreamerv2": update, "apv": update, "contextwm": update, "prelar": update, "dreamerv3": update,
    "efficientzero": searching, "ficc": clips, "stg": clips, "ppo": run, "pvdr": run}


def _watch() -> None:
    """End this process when its standard input does."""
    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(75)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Do the part that is ordered."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no finding
    given = read_order()
    order = Order(**{**given, "compiled": tuple(given["compiled"])})
    _watch()

    def say(**told: Any) -> None:
        lines.write(json.dumps(told, default=float) + "\n")
        lines.flush()

    try:
        for found in PARTS[order.part](order):
            say(found=found)
    except Skip as reason:
        say(state="skipped", reason=str(reason))
    except BenchError as error:
        say(state="failed", error=str(error))
    except Exception as error:
        traceback.print_exc()
        say(state="failed", error=f"{type(error).__name__}: {error}")
    else:
        say(state="passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
