"""``bench goals``: does a policy go to its episode's goal, or where goals are on average?

Where every episode has a goal of its own (protocol ``apv``) and success counts at any step, a hand that sweeps through
the middle of all goals succeeds often. So each episode's path is also held against the goals of the other episodes: a
policy that sees its goal reaches it more often than those.

Shapes: E episodes, T decisions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pvdr_bench.algorithms.pvdr.probes import bootstrap_interval
from pvdr_bench.api import Session, load_run
from pvdr_bench.diagnostics.positions import AXES, positions
from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told

Floats = NDArray[np.float64]
STILL = 1e-6  # metres


def measure(run: str = "", episodes: int = 100, radius: float = 0.05, device: str = "cpu") -> dict[str, Any]:
    """Play evaluation episodes with a run's newest checkpoint, in a task whose goal is a place for the hand (reach).

    In other tasks the target is one of a handle or an object, and to have the hand near it is not success.

    Args:
        run: its directory.
        radius: distance from hand to goal in metres that counts as reached (reach: 0.05).

    Returns:
        success: share of episodes that the simulator called a success at any step; see :func:`summary` for the others.

    Raises:
        UsageError: no run, fewer than two episodes, all with one goal, or a task that does not tell where hand and goal
            are.
    """
    if not run:
        raise UsageError("bench goals looks at a run", hint="-o run=RUN, a folder that `list runs` shows")
    if episodes < 2 or radius <= 0:
        raise UsageError("bench goals needs two or more episodes and a radius above zero")
    torch.set_num_threads(1)
    loaded = load_run(run)
    if loaded.spec.protocol.frozen_instance:
        raise UsageError(f"protocol {loaded.spec.protocol.name} has one goal in all episodes", where=run)
    with loaded.open(device) as session:
        played = [play(session, episode) for episode in told(range(episodes), "episodes")]
    success, hands, goals = (np.stack(parts) for parts in zip(*played, strict=True))
    if np.ptp(goals, 0).max() < STILL:
        raise UsageError(f"task {session.spec.task.name} had one goal in all episodes", where=run)
    of = {"run": session.spec.variant, "task": session.spec.task.name, "seed": session.spec.seed,
          "env_steps": session.env_steps, "episodes": episodes, "success": float(success.mean())}
    return {**of, **summary(hands, goals, radius)}


def play(session: Session, episode: int) -> tuple[bool, Floats, Floats]:
    """Success at any step, the hand's path [T, 3] and the goal [3] of one evaluation episode."""
    success, hands, goal = False, [], np.zeros(3)
    for made in session.decisions(episode, torch.Generator().manual_seed(episode)):
        hand, goal = positions(made.step.truth, session.spec.task.name)
        hands.append(hand)
        success |= bool(made.step.success[0])
    return success, np.stack(hands), goal


def summary(hands: Floats, goals: Floats, radius: float) -> dict[str, float | None]:
    """What paths [E, T, 3] have to do with goals [E, 3].

    Returns:
        reached_own: share of episodes in which the hand came within ``radius`` of the goal. reached_other: the same
        with the goals of all other episodes. own_minus_other: their difference with its 95 % bootstrap interval over
        episodes; a path's reach and a goal's ease, which say nothing of sight, are taken out of the noise.
        correlation_x/y/z: of the hand in the last tenth of an episode with the goal, None on an axis where one of them
        stands still. hand_std, goal_std: root mean square over axes of their standard deviations over episodes, in
        metres.
    """
    count = len(goals)
    near = [(np.linalg.norm(hands - goal, axis=-1).min(1) <= radius).astype(float) for goal in goals]
    reached = np.stack(near, 1)  # [E, E]: path, goal
    own = np.diagonal(reached)
    other = (reached.sum(1) - own) / (count - 1)
    ease = (reached.sum(0) - own) / (count - 1)  # how often a goal is met by the paths of other episodes
    low, high = bootstrap_interval(own - other - ease + ease.mean())
    last = hands[:, -max(1, hands.shape[1] // 10):].mean(1)
    means = {"reached_own": own.mean(), "reached_other": other.mean(), "own_minus_other": (own - other).mean(),
             "own_minus_other_low": low, "own_minus_other_high": high,
             "hand_std": np.sqrt(last.var(0).mean()), "goal_std": np.sqrt(goals.var(0).mean())}
    return {name: float(value) for name, value in means.items()} | {
        f"correlation_{axis}": correlation(last[:, k], goals[:, k]) for k, axis in enumerate(AXES)}


def correlation(x: Floats, y: Floats) -> float | None:
    """Pearson's [E], [E]; None where one of them does not vary (some tasks' goals lie in a plane)."""
    return None if min(np.ptp(x), np.ptp(y)) < STILL else float(np.corrcoef(x, y)[0, 1])
