"""``bench step``: how fast the stages train on this machine, and how near that is to what its cores can do.

Data is random, of the sizes of the scale. Operations are those of matrix products, convolutions and attention, counted
by ``torch.utils.flop_counter`` in one step of its own; a multiplication and an addition are two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer
from pvdr_bench.catalog import load_catalog
from pvdr_bench.progress import told
from pvdr_bench.rl.config import config_as
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.rl.facts import GoalFacts, TaskFacts
from pvdr_bench.suites.registry import DEFAULT_SUITE, suite
from pvdr_bench.suites.spaces import ImageSpace
from pvdr_bench.tokenizer.config import VQGANConfig
from pvdr_bench.tokenizer.frozen import load_tokenizer
from pvdr_bench.tokenizer.learner import VQGANLearner

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(scale: str = "cpu", device: str = "cpu", threads: int = 1, seconds: float = 3.0, seed: int = 0,
            method: str = "pvdr") -> dict[str, Any]:
    """Time the optimiser steps of ``tokenizer`` and ``pretrain``, and rounds of PVDR's ``online`` stage.

    Args:
        scale: whose networks and batch sizes. seconds: least time per stage, after a warm-up.
        method: pvdr, or one of its forms, such as pvdr-context.

    Returns:
        matmul_peak: dtype -> FLOP/s of this machine's best square matrix product; and per stage steps_per_second,
        flops_per_step, flops_per_second, share_of_peak, ms_per_step, step (what a step is), dtype, and for the offline
        stages batch and measured_batch: where micro-batches are used one of them is timed and steps_per_second derived.
        The online stage has decisions_per_second too; simulation and rendering are not in it (see ``bench env``). Its
        whole rounds take a minute or two at scale ``cpu``.
    """
    place, before = torch.device(device), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measure(method, scale, place, threads, seconds, seed)
    finally:
        torch.set_num_threads(before)


def _measure(method: str, scale: str, device: torch.device, threads: int, seconds: float,
             seed: int) -> dict[str, Any]:
    catalog = load_catalog()
    protocol = catalog.protocol(scale=scale)
    vqgan = config_as(VQGANConfig, catalog.config("tokenizer", scale).value)
    pvdr = config_as(PVDRConfig, catalog.config(method, scale).value)
    peaks = {name: matmul_peak(device, name)
             for name in sorted({vqgan.train.dtype, pvdr.pretrain.dtype, pvdr.online.dtype})}
    tokenizer = VQGANLearner(vqgan, seed, device, protocol.image_size)
    codes = load_tokenizer(tokenizer.export(), vqgan)
    pretrainer = PVDRPretrainer(pvdr, seed, device, codes.codebook_size, codes.grid, codes)
    context = random_context(pvdr, protocol.image_size, protocol.num_envs, seed, device)
    context.artefacts.update(tokenize=tokenizer.export(), pretrain=pretrainer.export())
    context.artefact_config["tokenize"] = vqgan
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "tokenizer": lambda: _tokenizer(tokenizer, protocol.image_size, seconds, seed),
        "pretrain": lambda: _pretrain(pretrainer, pvdr, codes.codebook_size, codes.grid, seconds, seed),
        "online": lambda: _online(context, seconds, seed),
    }
    stages = {name: make() for name, make in told(makers.items(), "stages")}
    peaks = {name: max(peak, matmul_peak(device, name)) for name, peak in peaks.items()}  # others may use this machine
    for stage in stages.values():
        stage["share_of_peak"] = stage["flops_per_second"] / peaks[stage["dtype"]]
    return {"method": method, "scale": scale, "device": str(device), "threads": threads, "matmul_peak": peaks, **stages}


def matmul_peak(device: torch.device, dtype: str = "float32", size: int | None = None, repeats: int = 4) -> float:
    """FLOP/s of the fastest of ``repeats`` products of two ``size`` x ``size`` matrices, after a warm-up."""
    size = size or (8192 if device.type == "cuda" else 1536)
    a, b = (torch.randn(size, size, device=device).to(_DTYPES[dtype]) for _ in range(2))
    best = math.inf
    for attempt in range(repeats + 1):
        started = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        if attempt:
            best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def count_flops(step: Callable[[], Any]) -> int:
    """Operations of one call. Attention is counted by its products: fused CPU kernels are unknown to the counter."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        step()
    return int(counter.get_total_flops())


def _timed(step: Callable[[], Any], seconds: float, device: torch.device) -> dict[str, float]:
    """Count one step, which also warms up, then time steps for at least ``seconds``; the median decides."""
    flops = count_flops(step)
    _wait(device)
    times: list[float] = []
    while sum(times) < seconds:
        started = time.perf_counter()
        step()
        _wait(device)
        times.append(time.perf_counter() - started)
    middle = float(np.median(times))
    return {"flops_per_step": flops, "ms_per_step": 1e3 * middle, "steps_per_second": 1 / middle,
            "flops_per_second": flops / middle, "measured_steps": len(times)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _whole_batch(timing: dict[str, float], batch: int, measured: int) -> dict[str, Any]:
    """Figures of a step on ``batch`` from a timing on ``measured`` of it."""
    factor = batch / measured
    return {**timing, "flops_per_step": timing["flops_per_step"] * factor,
            "ms_per_step": timing["ms_per_step"] * factor,
            "steps_per_second": timing["steps_per_second"] / factor, "batch": batch, "measured_batch": measured}


def with_discriminator(learner: VQGANLearner) -> None:
    """Move a tokenizer's learner to the step from which its discriminator is used, if it ever is."""
    train, loss = learner.config.train, learner.config.loss
    learner.step = max(1, loss.disc_start if learner.disc is not None and loss.disc_start < train.steps else 1)


def _tokenizer(learner: VQGANLearner, image_size: int, seconds: float, seed: int) -> dict[str, Any]:
    """With the discriminator, if the configuration ever uses it."""
    train = learner.config.train
    with_discriminator(learner)
    measured = min(train.batch, train.micro_batch or train.batch)
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (measured, 1, image_size, image_size, 3), dtype=torch.uint8, generator=generator)
    timing = _timed(lambda: learner.update(frames), seconds, learner.device)
    return {**_whole_batch(timing, train.batch, measured), "step": "optimiser step on a batch of frames",
            "dtype": train.dtype}


def _pretrain(learner: PVDRPretrainer, config: PVDRConfig, codebook: int, grid: int, seconds: float,
              seed: int) -> dict[str, Any]:
    pretrain, frames = config.pretrain, config.model.context_frames + config.model.future_frames
    measured = min(pretrain.batch, pretrain.micro_batch or pretrain.batch)
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randint(codebook, (measured, frames, grid, grid), generator=generator)
    timing = _timed(lambda: learner.update(clips), seconds, learner.device)
    return {**_whole_batch(timing, pretrain.batch, measured), "step": "optimiser step on a batch of clips",
            "dtype": pretrain.dtype}


def random_context(config: PVDRConfig, image_size: int, num_envs: int, seed: int, device: torch.device
                   ) -> LearnerContext:
    """A learner's context with random images."""
    images = np.random.default_rng(seed).integers(0, 256, (2, image_size, image_size, 3), dtype=np.uint8)
    pretrained = config.model_copy(update={"pretrained": True})
    task = TaskFacts(ImageSpace(image_size, image_size), suite(DEFAULT_SUITE).action_space, num_envs,
                     budget_decisions=40_000, goal=GoalFacts(image=images[0], start=images[1]))
    return LearnerContext(config=pretrained, task=task, seed=seed, device=device)


def _online(context: LearnerContext, seconds: float, seed: int) -> dict[str, Any]:
    """Whole rounds of Algorithm 1: plan and act, observe, fine-tune on E1, learn on E2."""
    learner, online, envs = PVDRLearner(context), context.config.online, context.task.num_envs
    per_buffer = [math.ceil(n / envs) for n in (online.e1_decisions, online.e2_decisions)]
    decisions = envs * sum(per_buffer)
    feed = _Feed(learner, context, seed)
    timing = _timed(lambda: feed.decide(sum(per_buffer)), seconds, context.device)
    return {**timing, "step": f"round of {decisions} decisions in {envs} environments",
            "decisions_per_second": decisions * timing["steps_per_second"], "dtype": online.dtype}


class _Feed:
    """Random environments: new images and rewards at every decision, no episode ends."""

    def __init__(self, learner: PVDRLearner, context: LearnerContext, seed: int) -> None:
        self.learner, self.n, self.size = learner, context.task.num_envs, context.task.observation.height
        self.generator = torch.Generator().manual_seed(seed)
        self.carry, self.image = learner.initial(self.n), self._draw()
        self.first = torch.ones(self.n, dtype=torch.bool)

    def _draw(self) -> torch.Tensor:
        return torch.randint(256, (self.n, self.size, self.size, 3), dtype=torch.uint8, generator=self.generator)

    def decide(self, times: int) -> None:
        """Decisions of all environments as the online loop makes them."""
        for _ in range(times):
            self._decide()

    def _decide(self) -> None:
        action, self.carry, extras = self.learner.act(self.image, self.first, self.carry, "train", self.generator)
        never, following = torch.zeros(self.n, dtype=torch.bool), self._draw()
        reward = torch.randn(self.n, generator=self.generator)
        self.learner.observe(Transition(self.image, self.first, action, reward, never, never, following, extras))
        self.learner.learn()
        self.image, self.first = following, never
