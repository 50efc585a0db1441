"""What might make a plan's decoding cheaper, each measured against it: ``bench plan -o levers=[...]``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.model import DynamicsModel
from pvdr_bench.bench.dreamer import why_not_compiled
from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.nets.st_transformer import Decoding
from pvdr_bench.progress import told

LEVERS = ("inference", "bfloat16", "compiled")
FORMS = 8  # torch's own limit of recompilations


def check_levers(names: Sequence[str], future_frames: int, device: torch.device) -> None:
    """Refuse what could not be measured, before anything is.

    Raises:
        UsageError: a lever that there is none of; ``compiled`` with plans of more frames than are compiled for.
        SetupError: ``compiled``, and ``torch.compile`` does not work here.
    """
    if unknown := set(names) - set(LEVERS):
        raise UsageError(f"no lever called {', '.join(sorted(unknown))}", where="-o levers",
                         hint=f"there are {', '.join(LEVERS)}")
    if "compiled" in names and future_frames > FORMS:
        raise UsageError(f"torch compiles the decoder's step for {FORMS} numbers of slots at most, and a plan of "
                         f"{future_frames} frames has more", where="-o levers")
    if "compiled" in names and (reason := why_not_compiled(device)):
        raise SetupError(f"torch.compile does not work here: {reason}", where="-o levers")


def measure_levers(model: DynamicsModel, context: Tensor, z: Tensor, names: Sequence[str],
                   repeats: int) -> dict[str, Any]:
    """Plans of contexts int64 [B, m, h, w] and z [B, s, s, c], as they are decoded and with each lever, in turn.

    Args:
        names: ``inference``: under ``torch.inference_mode``; ``bfloat16``: autocast, as ``online.dtype`` has it;
            ``compiled``: one step of the decoder by ``torch.compile``, once per number of slots.

    Returns:
        plain_ms, and per lever: ms (the least of the repeats; on a CPU of processor time, of which other work takes the
        least), gain (plain over it), differ (share of codes that are not those of the plain way), first_call_seconds.
    """
    device = context.device
    ways = {"plain": nullcontext, **{name: _way(name, device) for name in names}}
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best, first, codes = dict.fromkeys(ways, math.inf), dict[str, float](), dict[str, Tensor]()
    for attempt in told(range(repeats + 1), "repeats of the levers"):
        for name, way in ways.items():
            with way(), torch.no_grad():
                wall, started = time.perf_counter(), clock()
                codes[name] = model.decoder.plan(context, z)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            if attempt:
                best[name] = min(best[name], clock() - started)
            else:
                first[name] = time.perf_counter() - wall
    return {"plain_ms": 1e3 * best["plain"],
            **{name: {"ms": 1e3 * best[name], "gain": best["plain"] / best[name],
                      "differ": float((codes[name] != codes["plain"]).float().mean()),
                      "first_call_seconds": first[name]} for name in names}}


def _way(lever: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """What a lever is in force in."""
    if lever == "inference":
        return torch.inference_mode
    if lever == "bfloat16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    # anew for each number of slots of a plan, which are few; fullgraph: it fails where it would run a part as it is
    compiled = torch.compile(Decoding.newest, dynamic=False, fullgraph=True)

    @contextmanager
    def way() -> Iterator[None]:
        plain = Decoding.newest
        Decoding.newest = compiled  # type: ignore[method-assign]
        try:
            yield
        finally:
            Decoding.newest = plain  # type: ignore[method-assign]

    return way
