"""What PVDR's planning did in a round, and how well its metric ranks frames."""

from __future__ import annotations

from pvdr_bench.rl.ranks import spearman
from pvdr_bench.rl.rollout import Rollout


def planning_metrics(rollout: Rollout) -> dict[str, float]:
    """Rank correlations of the planning metric, and what planning did: means over plans, not over decisions."""
    state = rollout.state
    made = state["plan_age"] == 0
    out = {name: float(state[name][made].mean()) for name in ("plan_distance", "plan_gain", "plan_diversity")}
    metric, pixels = (state[f"{name}_distance"].cpu().numpy() for name in ("metric", "pixel"))
    pairs = {"pixel_distance": (metric.flatten(), pixels.flatten())}
    if (truth := rollout.diagnostics.metric("goal_distance")) is not None:
        # it is of the frame after a decision: the next decision's, unless an episode ended
        follows = ~(rollout.terminated | rollout.truncated)[:-1].cpu().numpy()
        pairs["true_distance"] = (metric[1:][follows], truth[:-1][follows])
    for name, (ours, other) in pairs.items():
        if (rho := spearman(ours, other)) is not None:
            out[f"rank_metric_{name}"] = rho
    return out
