"""``bench dreamer``: what an update of a Dreamer costs, and what compiling its scans over time gives.

Replay holds random pictures; its own costs are those of ``bench replay``. Pre-trained methods start from random
weights here: an update costs the same.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.steps import ALL
from pvdr_bench.bench.memory import device_peak_bytes, reset_peaks, resident_bytes
from pvdr_bench.catalog import load_catalog
from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.errors import UsageError
from pvdr_bench.nets.rssm import RSSM, State
from pvdr_bench.progress import tell, told
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.rl.facts import TaskFacts
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.suites.registry import DEFAULT_SUITE, suite
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from pvdr_bench.training.reward import reward_facts

ACTIONS = suite(DEFAULT_SUITE).action_space.dim
TOLERANCE = 1e-4  # largest difference of states and logits that float32's order of summation may cause
ScanOutput = tuple[State, Tensor]


def measure(method: str = "dreamerv2", scales: tuple[str, ...] = ("cpu", "paper"), seconds: float = 5.0,
            compiled: tuple[str, ...] = ("step",), device: str = "cpu", threads: int = 1,
            seed: int = 0) -> dict[str, Any]:
    """Time updates, and the scan over time with its gradient.

    Args:
        method: ``dreamerv2``, ``dreamerv3``, ``apv``, ``contextwm``, ``prelar`` or an ablation;
            ``dreamerv2@train.dtype=bfloat16`` changes a key.
        scales: ``paper`` takes minutes on a CPU.
        seconds: least time per measurement. The first call is a warm-up, unless it alone takes as long.
        compiled: what to compile in the scan: ``step`` (one step, called T times) or ``scan`` (all steps unrolled,
            which takes minutes to compile for long sequences). Empty: nothing.

    Returns:
        per scale: update: see :func:`measure_update`; scan: see :func:`measure_scan`; compiled_update: see
        :func:`measure_compiled_update`, where ``compiled`` has the step.

    Raises:
        UsageError: the method has no RSSM, or ``compiled`` names something else.
    """
    place, before = torch.device(device), torch.get_num_threads()
    if unknown := set(compiled) - {"step", "scan"}:
        raise UsageError(f"nothing called {', '.join(sorted(unknown))} can be compiled; there are step and scan",
                         where="-o compiled")
    torch.set_num_threads(threads)
    try:
        return {"method": method, "device": device, "threads": threads,
                **{scale: _measure_scale(method, scale, seconds, compiled, place, seed)
                   for scale in told(scales, "scales")}}
    finally:
        torch.set_num_threads(before)


def _measure_scale(method: str, scale: str, seconds: float, compiled: Sequence[str], device: torch.device,
                   seed: int) -> dict[str, Any]:
    config, protocol = recipe(method, scale)
    with tempfile.TemporaryDirectory(prefix="pvdr-bench-") as name:
        replay = EpisodeReplay(Path(name), protocol.num_envs, protocol.image_size, ACTIONS)
        try:
            fill(replay, 2 * protocol.num_envs * config.train.length, seed)
            learner = make_learner(config, protocol, replay, device, seed)
            found = {"update": measure_update(learner, seconds), "scan": measure_scan(learner, seconds, compiled, seed)}
            if "step" in compiled and found["scan"]["compiler"] == "works":
                found["compiled_update"] = measure_compiled_update(learner, seconds, found["update"]["seconds"])
            return found
        finally:
            replay.close()


# A learner with random replay -------------------------------------------------------------------------------------


def recipe(method: str, scale: str) -> tuple[Any, Protocol]:
    """Config of a Dreamer at a scale, from random weights, and the default protocol.

    Raises:
        UsageError: the method is of another algorithm.
    """
    catalog = load_catalog()
    found = catalog.config(method, scale)
    if not isinstance(found.value, DreamerConfig):
        raise UsageError(f"{method} is of the algorithm {found.method.algorithm}, not a Dreamer", where="-o method",
                         hint="try dreamerv2, dreamerv3, apv, contextwm or prelar")
    return found.value.model_copy(update={"pretrained": False}), catalog.protocol(scale=scale)


def make_learner(config: Any, protocol: Protocol, replay: EpisodeReplay, device: torch.device,
                 seed: int) -> DreamerLearner:
    """A learner with the heads that the protocol asks for."""
    task = TaskFacts(
        ImageSpace(replay.image_size, replay.image_size), BoxSpace(replay.action_dim), num_envs=len(replay.streams),
        budget_decisions=len(replay), reward=reward_facts(protocol))
    return DreamerLearner(LearnerContext(config=config, task=task, seed=seed, device=device, replay=replay))


def fill(replay: EpisodeReplay, decisions: int, seed: int, episode: int = 50) -> float:
    """Append at least ``decisions`` random ones in episodes of ``episode``; seconds that the appending took."""
    n, size, spent = len(replay.streams), replay.image_size, 0.0
    generator = torch.Generator().manual_seed(seed)
    never = torch.zeros(n, dtype=torch.bool)
    for step in range(math.ceil(decisions / n)):
        image = torch.randint(256, (n, size, size, 3), dtype=torch.uint8, generator=generator)
        action = 2 * torch.rand(n, replay.action_dim, generator=generator) - 1
        reward = torch.randn(n, generator=generator)
        ends = torch.full((n,), step % episode == episode - 1)
        started = time.perf_counter()
        replay.add(Transition(image, torch.full((n,), step % episode == 0), action, reward, never, ends, image, {}))
        spent += time.perf_counter() - started
    return spent


# Updates ----------------------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds by name of wrapped calls, each without what wrapped calls inside it took."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self._inner = [0.0]

    def now(self) -> float:
        """A time at which the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """From now on calls of ``owner.method`` count for ``name``."""
        call = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = self.now()
            out = call(*args, **kwargs)
            whole = self.now() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + whole - self._inner.pop()
            self._inner[-1] += whole
            return out

        setattr(owner, method, timed)


def watch(learner: DreamerLearner) -> Stopwatch:
    """Time the parts of a learner's updates; the learner stays wrapped."""
    stopwatch = Stopwatch(learner.device)
    stopwatch.wrap(learner.replay, "sample", "sample")
    stopwatch.wrap(learner, "scan_loss", "model_forward")
    stopwatch.wrap(learner.behaviour, "imagine", "behaviour_forward")
    stopwatch.wrap(learner.behaviour, "losses", "behaviour_forward")
    for name, step in learner.steps.items():  # gradient, clip and decay; the optimiser's own step is taken out
        stopwatch.wrap(step, "update", {"model": "model_backward", ALL: "backward"}.get(name, "behaviour_backward"))
        stopwatch.wrap(step.inner, "step", "optimisers")
    return stopwatch


def repeat(step: Callable[[], Any], seconds: float, stopwatch: Stopwatch) -> list[dict[str, float]]:
    """Call ``step`` for at least ``seconds``; per call its ``seconds`` and those of the stopwatch's parts.

    The first call is a warm-up and left out, unless it takes as long as all of them should.
    """
    rows: list[dict[str, float]] = []
    while True:
        stopwatch.seconds.clear()
        started = stopwatch.now()
        step()
        row = {"seconds": stopwatch.now() - started, **stopwatch.seconds}
        rows.append(row)
        measured = rows if rows[0]["seconds"] >= seconds else rows[1:]
        tell("seconds of measuring", min(int(sum(row["seconds"] for row in measured)), int(seconds)), int(seconds))
        if measured and sum(row["seconds"] for row in measured) >= seconds:
            return measured


def measure_update(learner: DreamerLearner, seconds: float) -> dict[str, Any]:
    """Medians over updates; the learner stays wrapped.

    Returns:
        seconds: of an update. parts: its seconds of sample, model_forward, model_backward, behaviour_forward
        (imagination, actor, critic), behaviour_backward, optimisers (their steps) and other; a joint update has one
        backward in place of two. measured_updates.
        parameters: of world_model, actor and critic. peak_resident_bytes of the process and what it held before the
        first update; null where there is no /proc. peak_device_bytes: null on a CPU. batch, length.
    """
    stopwatch, train = watch(learner), learner.config.train
    reset_peaks(learner.device)
    before = resident_bytes()
    rows = repeat(learner.update, seconds, stopwatch)
    total = float(np.median([row["seconds"] for row in rows]))
    parts = {name: float(np.median([row[name] for row in rows])) for name in rows[0] if name != "seconds"}
    parts["other"] = float(np.median([row["seconds"] - sum(row[name] for name in parts) for row in rows]))
    return {"seconds": total, "parts": parts, "measured_updates": len(rows),
            "parameters": {"world_model": _parameters(learner.model), "actor": _parameters(learner.behaviour.actor),
                           "critic": _parameters(learner.behaviour.critic)},
            "peak_resident_bytes": resident_bytes(peak=True), "resident_before_bytes": before,
            "peak_device_bytes": device_peak_bytes(learner.device), "batch": train.batch, "length": train.length}


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# The scan over time -----------------------------------------------------------------------------------------------


def measure_scan(learner: DreamerLearner, seconds: float, compiled: Sequence[str], seed: int) -> dict[str, Any]:
    """The scan of the RSSM with actions, at the learner's batch and length, in float32.

    Returns:
        plain_seconds: forward and backward. compiler: whether torch.compile works here, else why not; and per form in
        ``compiled``, if it does: seconds, compile_seconds (of the first call), compiled_over_plain (its seconds over
        the plain ones), and :func:`compare`'s.
    """
    rssm, train, device = learner.model.rssm, learner.config.train, learner.device
    generator = torch.Generator(device).manual_seed(seed)
    rows = (train.batch, train.length)
    embed_dim = cast(nn.Linear, rssm.obs_out[0]).in_features - rssm.deter
    embed = torch.randn(*rows, embed_dim, generator=generator, device=device)
    action = 2 * torch.rand(*rows, ACTIONS, generator=generator, device=device) - 1
    first = torch.zeros(*rows, dtype=torch.bool, device=device)
    first[:, 0] = True
    uniform = torch.rand(*rows, rssm.stoch, generator=generator, device=device)
    stopwatch = Stopwatch(device)

    def run() -> ScanOutput:
        post, prior = rssm.scan(embed, action, first, uniform)
        loss = torch.stack([x.square().mean() for x in (*post.values(), prior)]).sum()
        torch.autograd.grad(loss, list(rssm.parameters()))
        return {name: x.detach() for name, x in post.items()}, prior.detach()

    found: dict[str, Any] = {"plain_seconds": _middle(run, seconds, stopwatch), "tolerance": TOLERANCE}
    reason = why_not_compiled(device) if compiled else "not asked for"
    found["compiler"] = reason or "works"
    if reason:
        return found
    plain = run()
    for form in compiled:
        method = {"step": "observe", "scan": "scan"}[form]
        setattr(rssm, method, torch.compile(getattr(rssm, method), dynamic=False))
        try:
            started = stopwatch.now()
            output = run()
            compile_seconds = stopwatch.now() - started
            spent = _middle(run, seconds, stopwatch)
        finally:
            delattr(rssm, method)  # the class's own again
        found[form] = {"seconds": spent, "compile_seconds": compile_seconds,
                       "compiled_over_plain": spent / found["plain_seconds"], **compare(plain, output, uniform)}
    return found


def measure_compiled_update(learner: DreamerLearner, seconds: float, plain: float) -> dict[str, Any]:
    """Whole updates with one step of every RSSM compiled, with an observation and in imagination.

    Args:
        plain: seconds of an update without.

    Returns:
        seconds: the median update. compile_seconds: of the first one. compiled_over_plain. measured_updates.
    """
    parts = [(module, name) for module in learner.model.modules() if isinstance(module, RSSM)
             for name in ("observe", "imagine")]
    stopwatch = Stopwatch(learner.device)
    for module, name in parts:
        setattr(module, name, torch.compile(getattr(module, name), dynamic=False))
    try:
        started = stopwatch.now()
        learner.update()
        compile_seconds = stopwatch.now() - started
        rows = repeat(learner.update, seconds, stopwatch)
    finally:
        for module, name in parts:
            delattr(module, name)  # the class's own again
    spent = float(np.median([row["seconds"] for row in rows]))
    return {"seconds": spent, "compile_seconds": compile_seconds, "compiled_over_plain": spent / plain,
            "measured_updates": len(rows)}


def _middle(run: Callable[[], Any], seconds: float, stopwatch: Stopwatch) -> float:
    return float(np.median([row["seconds"] for row in repeat(run, seconds, stopwatch)]))


def why_not_compiled(device: torch.device) -> str:
    """Why torch.compile cannot work on the device (no compiler, no Triton); empty where a tiny function compiles."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.zeros(2, device=device))
    except Exception as error:  # whatever the back end raises is the answer
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


def compare(plain: ScanOutput, other: ScanOutput, uniform: Tensor) -> dict[str, Any]:
    """Whether two scans agree within the tolerance.

    A sample may differ where its uniform number is as near to a class's boundary; from the step after it on the two
    sequences rightly go different ways and are not compared.

    Returns:
        equal; max_difference of deterministic states and logits; differing_samples; compared_steps.
    """
    (post, prior), (other_post, other_prior) = plain, other
    differs = post["stoch"].argmax(-1) != other_post["stoch"].argmax(-1)  # [B, T, S]
    parted = differs.any(-1).int()
    same = parted.cumsum(1) - parted == 0  # [B, T], same inputs so far
    pairs = ((post["deter"], other_post["deter"]), (post["logits"], other_post["logits"]), (prior, other_prior))
    gap = max(float((a - b).abs()[same].max()) for a, b in pairs)
    near = (post["logits"].softmax(-1).cumsum(-1) - uniform[..., None]).abs().amin(-1) <= TOLERANCE
    return {"equal": gap <= TOLERANCE and bool((~differs | near)[same].all()), "max_difference": gap,
            "differing_samples": int(differs[same].sum()), "compared_steps": int(same.sum())}
