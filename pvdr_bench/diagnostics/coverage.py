"""``bench coverage``: how often the intervals of this project hold the truth, by simulation.

A seed's true success rate is drawn from a known distribution, its evaluation episodes are binomial, and an interval is
computed from few seeds by the functions that tables and figures use. An honest 95 % interval holds the distribution's
mean in 95 of 100 simulations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pvdr_bench.progress import told
from pvdr_bench.results.stats import CONFIDENCE, Values, bootstrap_curve, t_bounds

Draw = Callable[[np.random.Generator, tuple[int, int]], Values]


def _beta(a: float, b: float) -> tuple[Draw, float]:
    return lambda rng, shape: rng.beta(a, b, size=shape), a / (a + b)


def _mixture(share: float, low: tuple[float, float], high: tuple[float, float]) -> tuple[Draw, float]:
    """A seed is of the ``high`` Beta with probability ``share``, else of the ``low`` one."""
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
        return np.where(rng.random(shape) < share, rng.beta(*high, size=shape), rng.beta(*low, size=shape))

    return draw, share * high[0] / sum(high) + (1.0 - share) * low[0] / sum(low)


# name -> (how it is drawn, its mean, what it stands for)
DISTRIBUTIONS: dict[str, tuple[Draw, float, str]] = {
    "beta_2_2": (*_beta(2.0, 2.0), "Beta(2, 2): seeds spread around one half"),
    "skewed": (*_beta(8.0, 0.8), "Beta(8, 0.8): most seeds near 1, a few far below"),
    "skewed_strongly": (*_beta(0.2, 2.0), "Beta(0.2, 2): most seeds near 0, a few far above"),
    "bimodal_even": (*_mixture(0.5, (2.0, 38.0), (38.0, 2.0)), "half of the seeds learn (0.95), half do not (0.05)"),
    "bimodal_uneven": (*_mixture(0.8, (2.0, 38.0), (38.0, 2.0)), "8 of 10 seeds learn (0.95), 2 do not (0.05)"),
}


def measure(seeds: tuple[int, ...] = (3, 5, 10), episodes: int = 100, simulations: int = 20_000,
            bootstrap_simulations: int = 4_000, repetitions: int = 1_000, confidence: float = CONFIDENCE,
            seed: int = 0) -> dict[str, Any]:
    """Simulate, for every distribution and number of seeds.

    Args:
        episodes: of a final evaluation, as in the protocol.
        simulations: per cell, of the t interval; the standard error of a coverage of 0.95 is 0.0015.
        bootstrap_simulations, repetitions: of the bootstrap, and resamples in each.

    Returns:
        coverage_N_seeds: of the t interval, Beta(2, 2). cells: distribution -> seeds -> coverage of the clipped t
        interval and of the percentile bootstrap, median widths, and the share of samples in which all seeds are equal
        (zero width). standard_error: of the coverages, at the nominal level. Besides that the settings,
        and seconds of one core and by the clock.
    """
    started, begun = time.perf_counter(), time.process_time()
    rng = np.random.default_rng(seed)
    cells: dict[str, dict[str, Any]] = {}
    for name, (draw, truth, meaning) in told(DISTRIBUTIONS.items(), "distributions"):
        cells[name] = {"meaning": meaning, "mean": truth}
        for n in seeds:
            values = rng.binomial(episodes, draw(rng, (simulations, n))) / episodes
            cells[name][f"{n}_seeds"] = _cell(values, truth, confidence, bootstrap_simulations, repetitions)
    level = confidence * (1.0 - confidence)
    return {
        **{f"coverage_{n}_seeds": cells["beta_2_2"][f"{n}_seeds"]["t"] for n in seeds}, "cells": cells,
        "standard_error": {"t": float(np.sqrt(level / simulations)),
                           "bootstrap": float(np.sqrt(level / min(bootstrap_simulations, simulations)))},
        "confidence": confidence, "episodes": episodes, "simulations": simulations,
        "bootstrap_simulations": bootstrap_simulations, "repetitions": repetitions, "seed": seed,
        "cpu_s": time.process_time() - begun, "wall_s": time.perf_counter() - started,
    }


def _cell(values: Values, truth: float, confidence: float, simulations: int, repetitions: int) -> dict[str, float]:
    """Coverage and median width of both intervals of samples [simulations, seeds]."""
    _, low, high = t_bounds(values, confidence=confidence)
    # Simulations stand in the place of a curve's points: all are resampled alike, each rightly on its own.
    _, below, above = bootstrap_curve([values[:simulations].T], confidence=confidence, repetitions=repetitions)
    return {"t": _covered(low, high, truth), "bootstrap": _covered(below, above, truth),
            "t_width": float(np.median(high - low)), "bootstrap_width": float(np.median(above - below)),
            "zero_width": float((np.ptp(values, axis=1) == 0.0).mean())}


def _covered(low: Values, high: Values, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())
