"""``bench onestep``: one whole optimiser step of each of PVDR's stages, and the memory it took.

Every micro-batch of the step is computed, at the published sizes unless told otherwise, from random weights on random
data. That a scale fits into a machine is seen here, before days are spent on it; `bench step` says how fast stages are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from pvdr_bench.algorithms.base import LearnerContext, Transition
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer
from pvdr_bench.algorithms.vqgan.config import VQGANConfig
from pvdr_bench.algorithms.vqgan.learner import VQGANLearner
from pvdr_bench.bench.memory import device_peak_bytes, reset_peaks, resident_bytes
from pvdr_bench.bench.step import random_context, with_discriminator
from pvdr_bench.catalog import load_catalog
from pvdr_bench.errors import UsageError
from pvdr_bench.nets.vqgan import load_tokenizer

STAGES = ("tokenizer", "pretrain", "online")
GIB = 2**30


def measure(scale: str = "paper", device: str = "cpu", threads: int = 1, stages: tuple[str, ...] = STAGES,
            micro_batch: int = 0, seed: int = 0) -> dict[str, Any]:
    """Make one step of each of ``stages``.

    Args:
        micro_batch: frames, clips or decisions at a time in memory; 0: as the scale has it.

    Returns:
        Per stage: parameters, batch, micro_batch (0: none), seconds of the step, its metrics, and the peaks of memory
        while it was made: resident_gib of this process, device_gib on a GPU (None elsewhere). The online stage has a
        decision of all environments (with all candidates), a fine-tuning step on E1 and a policy step on E2.

    Raises:
        UsageError: no such stage.
    """
    if unknown := set(stages) - set(STAGES):
        raise UsageError(f"there is no stage {', '.join(sorted(unknown))}", hint=f"there is: {', '.join(STAGES)}")
    place, before = torch.device(device), torch.get_num_threads()
    torch.set_num_threads(threads)
    makers = {"tokenizer": _tokenizer, "pretrain": _pretrain, "online": _online}
    catalog = load_catalog()
    vqgan, pvdr = catalog.config("tokenizer", scale).value, catalog.config("pvdr", scale).value
    if micro_batch:
        vqgan = vqgan.model_copy(update={"train": vqgan.train.model_copy(update={"micro_batch": micro_batch})})
        pvdr = pvdr.model_copy(update={"pretrain": pvdr.pretrain.model_copy(update={"micro_batch": micro_batch})})
    protocol = catalog.protocol(scale=scale)
    try:
        made = {stage: makers[stage](vqgan, pvdr, protocol, place, seed) for stage in STAGES if stage in stages}
    finally:
        torch.set_num_threads(before)
    return {"scale": scale, "device": str(place), "threads": threads, **made}


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


def _tokenizer(config: VQGANConfig, pvdr: PVDRConfig, protocol: Any, device: torch.device, seed: int
               ) -> dict[str, Any]:
    """With the discriminator, if the configuration ever uses it."""
    learner, train = VQGANLearner(config, seed, device, protocol.image_size), config.train
    with_discriminator(learner)
    generator = torch.Generator().manual_seed(seed)
    shape = (train.batch, 1, protocol.image_size, protocol.image_size, 3)
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    metrics, cost = _timed(lambda: learner.update(frames), device)
    nets = [learner.net] + ([learner.disc] if learner.disc is not None else [])
    return {"parameters": _parameters(*nets), "batch": train.batch, "micro_batch": train.micro_batch, **cost,
            "metrics": metrics}


def _pretrain(vqgan: VQGANConfig, config: PVDRConfig, protocol: Any, device: torch.device, seed: int
              ) -> dict[str, Any]:
    codes = load_tokenizer(VQGANLearner(vqgan, seed, device, protocol.image_size).export(), vqgan)
    learner, pretrain = PVDRPretrainer(config, seed, device, codes.codebook_size, codes.grid), config.pretrain
    shape = (pretrain.batch, config.model.context_frames + config.model.future_frames, codes.grid, codes.grid)
    clips = torch.randint(codes.codebook_size, shape, generator=torch.Generator().manual_seed(seed))
    metrics, cost = _timed(lambda: learner.update(clips), device)
    return {"parameters": _parameters(learner.model), "batch": pretrain.batch, "micro_batch": pretrain.micro_batch,
            **cost, "metrics": metrics}


def _online(vqgan: VQGANConfig, config: PVDRConfig, protocol: Any, device: torch.device, seed: int) -> dict[str, Any]:
    """Buffers that hold just one batch each, filled with one decision again and again: planning them all is no part
    of a step."""
    envs, online, model = protocol.num_envs, config.online, config.model
    clips = -(-online.finetune_batch // envs) + model.frame_stride * model.future_frames - 1  # the last futures are cut
    small = config.model_copy(update={"online": online.model_copy(update={
        "e1_decisions": envs * clips, "e1_first": 0, "e2_decisions": online.minibatch, "epochs": 1,
        "finetune_epochs": 1})})
    context = random_context(small, protocol.image_size, envs, seed, device)
    tokenizer = VQGANLearner(vqgan, seed, device, protocol.image_size)
    codes = load_tokenizer(tokenizer.export(), vqgan)
    dynamics = PVDRPretrainer(config, seed, device, codes.codebook_size, codes.grid)
    context.artefacts.update(tokenize=tokenizer.export(), pretrain=dynamics.export())
    context.artefact_config["tokenize"] = vqgan
    del tokenizer, codes, dynamics
    learner = PVDRLearner(context)
    transition, decision = _timed(lambda: _decision(learner, context, seed), device)
    steps = {}
    for name in ("finetune", "policy"):
        for _ in range(learner.phase_length()):
            learner.observe(transition)
        metrics, cost = _timed(learner.learn, device)
        steps[name] = {**cost, "metrics": metrics}
    return {"parameters": _parameters(learner.model, learner.ppo.actor, learner.ppo.critic), "environments": envs,
            "candidates": config.planner.candidates, "finetune_batch": online.finetune_batch,
            "minibatch": online.minibatch, "micro_batch": config.pretrain.micro_batch, "decision": decision, **steps}


def _decision(learner: PVDRLearner, context: LearnerContext, seed: int) -> Transition:
    """One decision of all environments on random images."""
    generator, n, size = torch.Generator().manual_seed(seed), context.num_envs, context.image_size
    images = torch.randint(256, (2, n, size, size, 3), dtype=torch.uint8, generator=generator)
    first, never = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    action, _, extras = learner.act(images[0], first, learner.initial(n), "train", generator)
    reward = torch.randn(n, generator=generator)
    return Transition(images[0], first, action, reward, never, never, images[1], extras)
