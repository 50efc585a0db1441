"""ContextWM's and PreLAR's learners solve the grid of pixels that DreamerV2's solves, with batch normalisation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from tests import test_dreamer_context, test_dreamer_prelar
from tests import test_dreamer_learner as grid
from tests.learning import above, below, learns


def solve(cfg: DreamerConfig, seed: int, decisions: int = 50) -> dict[str, float]:
    """Share of successes of random actions, and of the last forty episodes; without the bonus, which pays for going on
    where success ends an episode."""
    whole = cfg.model_copy(update={"train": grid.config().train, "bonus": cfg.bonus.model_copy(update={"weight": 0.0})})
    with tempfile.TemporaryDirectory() as folder:
        player = grid.Player(DreamerLearner(grid.context(whole, Path(folder), seed=seed)), seed=seed)
        while player.learner.decisions < whole.train.prefill:
            player.decide()
        early = np.mean(player.successes)
        for _ in range(decisions):
            player.decide()
    return {"early": float(early), "late": float(np.mean(player.successes[-40:])),
            "reward_error": player.metrics[-1]["plain_reward_error"]}


@learns(early=below(0.3), late=above(0.6), reward_error=below(0.25))
def test_contextwm_solves_a_grid_of_pixels(seed: int) -> dict[str, float]:
    return solve(test_dreamer_context.residual(), seed)


@learns(early=below(0.3), late=above(0.7), reward_error=below(0.25))
def test_prelar_solves_a_grid_of_pixels(seed: int) -> dict[str, float]:
    return solve(test_dreamer_prelar.residual(), seed)
