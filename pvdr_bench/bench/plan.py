"""``bench plan``: the decoding of plans (Eq. 2) as the planner does it, with key/value caching alone, and without;
in float32. And what a decision's plan costs over the number of candidates N and the plan's length l."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch

from pvdr_bench.algorithms.pvdr.config import ModelConfig, PlannerConfig, PVDRConfig
from pvdr_bench.algorithms.pvdr.model import DynamicsModel
from pvdr_bench.algorithms.pvdr.planner import GoalDistance, Planner
from pvdr_bench.bench.plan_levers import check_levers, measure_levers
from pvdr_bench.catalog import load_catalog
from pvdr_bench.progress import told
from pvdr_bench.rl.config import config_as
from pvdr_bench.rl.flop import FlopCounter
from pvdr_bench.tokenizer.config import VQGANConfig

LOGIT_TOLERANCE = 1e-3  # largest difference of logits that float32's order of summation may cause


def measure(candidates: int = 16, future_frames: int = 6, grid: int = 8, codebook: int = 128, repeats: int = 5,
            device: str = "cpu", threads: int = 1, seed: int = 0, scale: str = "", grid_n: tuple[int, ...] = (),
            grid_l: tuple[int, ...] = (), levers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Time plans of ``future_frames`` frames in all three ways and compare what they give.

    Args:
        scale: whose model, grid and codebook, in place of small ones and of ``future_frames``, ``grid``, ``codebook``.
        grid_n, grid_l: numbers of candidates and lengths in frames; the plan of one decision is timed for each pair of
            them (see :func:`over_candidates_and_lengths`). Nothing of the sort where both are empty.
        levers: what else might make a plan cheaper (see :func:`~pvdr_bench.bench.plan_levers.measure_levers`).

    Codes have to be equal wherever the top two logits are further apart than the tolerance, up to the first frame
    in which a code differs for a smaller gap: after it the two roll-outs rightly go different ways.

    Returns:
        ratio: uncached seconds / cached seconds, medians of runs in turn. equal: whether logits and codes agree.
        plan_ratio, plan_equal: the same of the planner's own way (no logits to keep) against caching alone, by codes.
        max_logit_difference, tolerance, ambiguous_tokens, plan_ms, cached_ms, uncached_ms, and the sizes.
        cost: a row for each pair of the grid. levers: those asked for.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    if scale:
        config, grid, codebook = sizes_of(scale)
        future_frames = config.future_frames
    else:
        config = ModelConfig(context_frames=2, future_frames=future_frames, d_model=64, ff=128, heads=4, token_dim=32,
                             encoder_depth=1, prior_depth=1, decoder_depth=2, window=4, z_grid=grid, z_dim=8)
    check_levers(levers, config.future_frames, torch.device(device))
    model = DynamicsModel(config, codebook, grid).to(device).eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=0.3)  # spread the logits, as training does
    context = torch.randint(codebook, (candidates, config.context_frames, grid, grid), device=device)
    z = torch.randn(candidates, *model.z_shape, device=device)
    ways: dict[str, Callable[[], Any]] = {
        "plan": lambda: model.decoder.plan(context, z), "cached": lambda: model.decoder.rollout(context, z, True),
        "uncached": lambda: model.decoder.rollout(context, z, False)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    outputs: dict[str, Any] = {}
    with torch.no_grad():
        for attempt in told(range(repeats + 1), "repeats"):
            for name, decode in ways.items():
                started = time.perf_counter()
                outputs[name] = decode()
                if device.startswith("cuda"):
                    torch.cuda.synchronize()
                if attempt:  # the first is a warm-up
                    seconds[name].append(time.perf_counter() - started)
    plan, fast, slow = (float(np.median(seconds[name])) for name in ways)
    codes, logits = outputs["cached"]
    pairs = [(n, length) for length in grid_l or (future_frames,) for n in grid_n or (candidates,)] \
        if grid_n or grid_l else []
    cost = over_candidates_and_lengths(config, pairs, codebook, grid, repeats, torch.device(device))
    return {"ratio": slow / fast, **compare(codes, logits, *outputs["uncached"]), "tolerance": LOGIT_TOLERANCE,
            "plan_ratio": fast / plan, "plan_equal": compare(codes, logits, outputs["plan"], logits)["equal"],
            "plan_ms": 1e3 * plan, "cached_ms": 1e3 * fast, "uncached_ms": 1e3 * slow, "candidates": candidates,
            "future_frames": future_frames, "grid": grid, "codebook": codebook, "d_model": config.d_model,
            "threads": threads, "device": device, **({"cost": cost} if cost else {}),
            **({"levers": measure_levers(model, context, z, levers, repeats)} if levers else {})}


def over_candidates_and_lengths(config: ModelConfig, pairs: Sequence[tuple[int, int]], codebook: int, grid: int,
                                repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """What it takes to choose one environment's plan: candidates from the prior, their roll-outs, their distances.

    Args:
        pairs: N and l of each.

    Returns:
        A row per pair, pairs in turn within a repeat: candidates, future_frames, ms (the least of the repeats; on a CPU
        of processor time, of which other work takes the least), plans_per_second, gflop.
    """
    planners = {}
    for n, length in pairs:
        model = DynamicsModel(config.model_copy(update={"future_frames": length}), codebook, grid).to(device).eval()
        tokenizer = _Codes(torch.randn(codebook, 8, device=device))
        own = PlannerConfig(candidates=n, metric="code_l1_blur")
        goal = GoalDistance(own, cast(Any, tokenizer), torch.randint(codebook, (grid, grid), device=device))
        planners[n, length] = Planner(model, own, goal)
    context = torch.randint(codebook, (1, config.context_frames, grid, grid), device=device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best, flop = dict.fromkeys(planners, math.inf), dict.fromkeys(planners, 0)
    for attempt in told(range(repeats + 1), "repeats of the grid"):
        for pair, planner in planners.items():
            counting = FlopCounter() if not attempt else nullcontext()
            started = clock()
            with counting as counter:
                planner.plan(context, torch.Generator().manual_seed(attempt))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if counter is not None:  # which is the warm-up
                flop[pair] = counter.flop
            else:
                best[pair] = min(best[pair], clock() - started)
    return [{"candidates": n, "future_frames": length, "ms": 1e3 * seconds, "plans_per_second": 1 / seconds,
             "gflop": flop[n, length] / 1e9} for (n, length), seconds in best.items()]


class _Codes:
    """A tokenizer as far as distances between codes need one."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """Code vectors [..., q]."""
        return self.table[codes]


def sizes_of(scale: str) -> tuple[ModelConfig, int, int]:
    """PVDR's model at a scale, and its tokenizer's grid and codebook size."""
    catalog = load_catalog()
    vqgan = config_as(VQGANConfig, catalog.config("tokenizer", scale).value)
    model = config_as(PVDRConfig, catalog.config("pvdr", scale).value).model
    return model, vqgan.grid(catalog.protocol(scale=scale).image_size), vqgan.codebook.size


def compare(codes: torch.Tensor, logits: torch.Tensor, other_codes: torch.Tensor,
            other_logits: torch.Tensor) -> dict[str, Any]:
    """Whether two roll-outs [B, l, h, w] with logits [B, l, h, w, K] agree within the tolerance."""
    differs = (codes != other_codes).flatten(2).any(2)  # [B, l]
    before = torch.cat([torch.zeros_like(differs[:, :1]), differs[:, :-1]], 1).cumsum(1) == 0  # same inputs so far
    top = logits.topk(2).values
    clear = (top[..., 0] - top[..., 1]) > LOGIT_TOLERANCE
    gap = float((logits - other_logits).abs()[before].max())
    equal_codes = bool(((codes == other_codes) | ~clear)[before].all())
    return {"equal": equal_codes and gap <= LOGIT_TOLERANCE, "max_logit_difference": gap,
            "ambiguous_tokens": int((~clear)[before].sum()), "compared_frames": int(before.sum())}
