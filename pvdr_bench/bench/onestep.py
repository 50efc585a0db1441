"""``bench onestep``: one whole optimiser step of each of PVDR's stages, and the memory it took.

Every micro-batch of the step is computed, at the published sizes unless told otherwise, from random weights on random
data. That a scale fits into a machine is seen here, before days are spent on it; `bench step` says how fast stages are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer
from pvdr_bench.bench.memory import device_peak_bytes, reset_peaks, resident_bytes
from pvdr_bench.bench.step import count_flops, matmul_peak, random_context, with_discriminator
from pvdr_bench.catalog import load_catalog
from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told
from pvdr_bench.rl.config import config_as
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.tokenizer.config import VQGANConfig
from pvdr_bench.tokenizer.frozen import Tokenizer, load_tokenizer
from pvdr_bench.tokenizer.learner import VQGANLearner

STAGES = ("tokenizer", "pretrain", "online")
DTYPES = ("float32", "bfloat16")
GIB = 2**30


@dataclass(frozen=True)
class Subject:
    """What makes the steps, and where."""

    vqgan: VQGANConfig
    pvdr: PVDRConfig
    protocol: Protocol
    device: torch.device
    seed: int
    counted: bool  # whether operations are counted, in a step of its own before the timed one

    @classmethod
    def of(cls, scale: str, batch: int, micro_batch: int, dtype: str, device: torch.device, seed: int,
           counted: bool, method: str) -> Subject:
        """The method's at a scale, with another batch (0: its own), micro-batch (0) or precision ("")."""
        catalog = load_catalog()
        vqgan = config_as(VQGANConfig, catalog.config("tokenizer", scale).value)
        pvdr = config_as(PVDRConfig, catalog.config(method, scale).value)
        step: dict[str, int | str] = {"batch": batch, "micro_batch": micro_batch, "dtype": dtype}
        step = {name: value for name, value in step.items() if value}
        decisions: dict[str, int | str] = {"finetune_batch": batch, "minibatch": batch} if batch else {}
        if dtype:
            decisions["dtype"] = dtype
        return cls(vqgan.model_copy(update={"train": vqgan.train.model_copy(update=step)}),
                   pvdr.model_copy(update={"pretrain": pvdr.pretrain.model_copy(update=step),
                                           "online": pvdr.online.model_copy(update=decisions)}),
                   catalog.protocol(scale=scale), device, seed, counted)

    def tokenizer(self) -> VQGANLearner:
        """A new one, of random weights."""
        return VQGANLearner(self.vqgan, self.seed, self.device, self.protocol.image_size)

    def dynamics(self, codes: Tokenizer) -> PVDRPretrainer:
        """A new model over the tokenizer's codes."""
        return PVDRPretrainer(self.pvdr, self.seed, self.device, codes.codebook_size, codes.grid, codes)


def measure(scale: str = "paper", device: str = "cpu", threads: int = 1, stages: tuple[str, ...] = STAGES,
            batch: int = 0, micro_batch: int = 0, dtype: str = "", seed: int = 0,
            counted: bool = False, method: str = "pvdr") -> dict[str, Any]:
    """Make one step of each of ``stages``.

    Args:
        batch: frames, clips or decisions in a step; 0: as the scale has it. Memory goes with the micro-batch and time
            with the batch, so that a smaller one shows whether a scale fits where a whole step takes hours.
        micro_batch: frames, clips or decisions at a time in memory; 0: as the scale has it.
        dtype: autocast precision, float32 or bfloat16; "": as the scale has it.
        counted: count the operations of each step too (see :mod:`pvdr_bench.bench.step`), in a step of its own before
            the timed one, which it warms up. Twice the time, and attention by its products needs more memory in it.
        method: pvdr, or one of its forms, such as pvdr-context.

    Returns:
        Per stage: parameters, batch, micro_batch (0: none), dtype, seconds of the step, its metrics, and the peaks of
        memory while it was made: resident_gib of this process, device_gib on a GPU (None elsewhere). The online stage
        has a decision of all environments (with all candidates), a fine-tuning step on E1 and a policy step on E2.
        If counted, also matmul_peak: dtype -> FLOP/s of the device's best square matrix product, measured before and
        after the steps (a CPU's in float32 alone: one without bfloat16 takes minutes); and per step flops,
        flops_per_second and share_of_peak, of the highest of these peaks: what the device could do, so on a GPU in
        bfloat16, whatever the step's own dtype.

    Raises:
        UsageError: no such stage or dtype.
    """
    if unknown := set(stages) - set(STAGES):
        raise UsageError(f"there is no stage {', '.join(sorted(unknown))}", hint=f"there is: {', '.join(STAGES)}")
    if dtype and dtype not in DTYPES:
        raise UsageError(f"there is no dtype {dtype}", hint=f"there is: {', '.join(DTYPES)}")
    place, before = torch.device(device), torch.get_num_threads()
    torch.set_num_threads(threads)
    makers = {"tokenizer": _tokenizer, "pretrain": _pretrain, "online": _online}
    subject = Subject.of(scale, batch, micro_batch, dtype, place, seed, counted, method)
    try:
        peaks = _peaks(place) if counted else {}
        chosen = [stage for stage in STAGES if stage in stages]
        made = {stage: makers[stage](subject) for stage in told(chosen, "stages")}
        if counted:
            peaks = {name: max(peak, peaks[name]) for name, peak in _peaks(place).items()}  # others may use the device
            _add_shares(made, max(peaks.values()))
    finally:
        torch.set_num_threads(before)
    return {"method": method, "scale": scale, "device": str(place), "threads": threads,
            **({"matmul_peak": peaks} if counted else {}), **made}


def _peaks(device: torch.device) -> dict[str, float]:
    return {name: matmul_peak(device, name) for name in (DTYPES if device.type == "cuda" else DTYPES[:1])}


def _add_shares(found: dict[str, Any], peak: float) -> None:
    """The share of ``peak`` FLOP/s of each step, beside its operations."""
    for value in found.values():
        if isinstance(value, dict):
            _add_shares(value, peak)
    if "flops_per_second" in found:
        found["share_of_peak"] = found["flops_per_second"] / peak


def _counted_and_timed(step: Callable[[], Any], subject: Subject) -> tuple[Any, dict[str, float | None]]:
    """:func:`_timed`; where operations are counted, after a call of its own for that."""
    flops = count_flops(step) if subject.counted else None
    result, cost = _timed(step, subject.device)
    return result, {**cost, **_rate(flops, cost)}


def _rate(flops: int | None, cost: dict[str, float | None]) -> dict[str, float | None]:
    """Operations of a step that took ``cost``, if they were counted."""
    return {} if flops is None else {"flops": flops, "flops_per_second": flops / (cost["seconds"] or 1e-9)}


def _timed(step: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, float | None]]:
    """The result of one call; its seconds, and the peaks of memory."""
    reset_peaks(device)
    started = time.perf_counter()
    result = step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    resident, allocated = resident_bytes(peak=True), device_peak_bytes(device)
    return result, {"seconds": seconds, "resident_gib": resident / GIB if resident is not None else None,
                    "device_gib": allocated / GIB if allocated is not None else None}


def _parameters(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _tokenizer(subject: Subject) -> dict[str, Any]:
    """With the discriminator, if the configuration ever uses it."""
    learner, train, size = subject.tokenizer(), subject.vqgan.train, subject.protocol.image_size
    with_discriminator(learner)
    generator = torch.Generator().manual_seed(subject.seed)
    frames = torch.randint(256, (train.batch, 1, size, size, 3), dtype=torch.uint8, generator=generator)
    metrics, cost = _counted_and_timed(lambda: learner.update(frames), subject)
    nets = [learner.net] + ([learner.disc] if learner.disc is not None else [])
    return {"parameters": _parameters(*nets), "batch": train.batch, "micro_batch": train.micro_batch,
            "dtype": train.dtype, **cost, "metrics": metrics}


def _pretrain(subject: Subject) -> dict[str, Any]:
    codes = load_tokenizer(subject.tokenizer().export(), subject.vqgan)
    learner, pretrain, model = subject.dynamics(codes), subject.pvdr.pretrain, subject.pvdr.model
    shape = (pretrain.batch, model.context_frames + model.future_frames, codes.grid, codes.grid)
    clips = torch.randint(codes.codebook_size, shape, generator=torch.Generator().manual_seed(subject.seed))
    metrics, cost = _counted_and_timed(lambda: learner.update(clips), subject)
    return {"parameters": _parameters(learner.model), "batch": pretrain.batch, "micro_batch": pretrain.micro_batch,
            "dtype": pretrain.dtype, **cost, "metrics": metrics}


def _online(subject: Subject) -> dict[str, Any]:
    """Buffers that hold just one batch each, filled with one decision again and again: planning them all is no part
    of a step."""
    config, envs, online = subject.pvdr, subject.protocol.num_envs, subject.pvdr.online
    ahead = config.model.frame_stride * config.model.future_frames
    clips = -(-online.finetune_batch // envs) + ahead - 1  # the last futures are cut
    small = config.model_copy(update={"online": online.model_copy(update={
        "e1_decisions": envs * clips, "e1_first": 0, "e2_decisions": online.minibatch, "epochs": 1,
        "finetune_epochs": 1})})
    context = random_context(small, subject.protocol.image_size, envs, subject.seed, subject.device)
    tokenizer = subject.tokenizer()
    codes = load_tokenizer(tokenizer.export(), subject.vqgan)
    context.artefacts.update(tokenize=tokenizer.export(), pretrain=subject.dynamics(codes).export())
    context.artefact_config["tokenize"] = subject.vqgan
    del tokenizer, codes
    learner = PVDRLearner(context)
    transition, decision = _counted_and_timed(lambda: _decision(learner, context, subject.seed), subject)

    def full() -> Callable[[], Any]:
        for _ in range(learner.phase_length()):
            learner.observe(transition)
        return learner.learn

    names, steps = ("finetune", "policy"), {}  # in turn, as the buffers are
    flops = {name: count_flops(full()) for name in names} if subject.counted else {}
    for name in names:
        metrics, cost = _timed(full(), subject.device)
        steps[name] = {**cost, **_rate(flops.get(name), cost), "metrics": metrics}
    return {"parameters": _parameters(learner.model, learner.ppo.actor, learner.ppo.critic), "environments": envs,
            "candidates": config.planner.candidates, "finetune_batch": online.finetune_batch,
            "minibatch": online.minibatch, "micro_batch": config.pretrain.micro_batch, "dtype": online.dtype,
            "decision": decision, **steps}


def _decision(learner: PVDRLearner, context: LearnerContext, seed: int) -> Transition:
    """One decision of all environments on random images."""
    generator, n, size = torch.Generator().manual_seed(seed), context.task.num_envs, context.task.observation.height
    images = torch.randint(256, (2, n, size, size, 3), dtype=torch.uint8, generator=generator)
    first, never = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    action, _, extras = learner.act(images[0], first, learner.initial(n), "train", generator)
    reward = torch.randn(n, generator=generator)
    return Transition(images[0], first, action, reward, never, never, images[1], extras)
