"""Steps of a pre-training that learns from frames, on random ones: for ``bench gpu-check``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from pvdr_bench.algorithms import registry
from pvdr_bench.bench.memory import device_peak_bytes, reset_peaks
from pvdr_bench.catalog import load_catalog
from pvdr_bench.rl.contract import StageContext

STEPS = 4  # the first warms up


def measure(method: str, scale: str, device: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """After each step: seconds of the first and the fastest of the others, losses, and a GPU's peak memory."""
    catalog, place = load_catalog(), torch.device(device)
    found, size = catalog.config(method, scale), catalog.protocol(scale=scale).image_size
    stage = registry.algorithms()[found.method.algorithm or ""].stage("pretrain")
    schedule = found.value.schedule("pretrain")
    learner = registry.load_object(stage.learner).for_stage(StageContext(found.value, seed, place, size))
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(256, (schedule.batch, schedule.frames, size, size, 3), dtype=torch.uint8, generator=generator)
    reset_peaks(place)
    seconds: list[float] = []
    while len(seconds) < STEPS:
        started = time.perf_counter()
        metrics = learner.update(batch)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds.append(time.perf_counter() - started)
        yield {"first_seconds": seconds[0], "seconds": min(seconds[1:], default=None), "batch": schedule.batch,
               "frames": schedule.frames, "metrics": metrics, "peak_device_bytes": device_peak_bytes(place)}
