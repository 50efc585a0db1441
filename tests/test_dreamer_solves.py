"""ContextWM's and PreLAR's learners solve the grid of pixels that DreamerV2's solves, with batch normalisation."""

from __future__ import annotations

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from tests import test_dreamer_context, test_dreamer_prelar
from tests import test_dreamer_learner as grid
from tests.learning import above, below, learns


def solve(cfg: DreamerConfig, seed: int, decisions: int = 50) -> dict[str, float]:
    """Share of successes of random actions, and of the last forty episodes; without the bonus, which pays for going on
    where success ends an episode."""
    whole = cfg.model_copy(update={"train": grid.config().train, "bonus": cfg.bonus.model_copy(update={"weight": 0.0})})
    shares, last = grid.play_grid(whole, seed, decisions)
    return {**shares, "reward_error": last["plain_reward_error"]}


@learns(early=below(0.3), late=above(0.6), reward_error=below(0.25))
def test_contextwm_solves_a_grid_of_pixels(seed: int) -> dict[str, float]:
    return solve(test_dreamer_context.residual(), seed)


@learns(early=below(0.3), late=above(0.7), reward_error=below(0.25))
def test_prelar_solves_a_grid_of_pixels(seed: int) -> dict[str, float]:
    return solve(test_dreamer_prelar.residual(), seed)
