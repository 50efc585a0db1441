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
from pvdr_bench.bench.positions import AXES, positions
from pvdr_bench.errors import UsageError

Floats = NDArray[np.float64]


def measure(run: str = "", episodes: int = 100, radius: float = 0.05, device: str = "cpu") -> dict[str, Any]:
    """Play evaluation episodes with a run's newest checkpoint.

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
    with load_run(run).open(device) as session:
        if session.spec.protocol.frozen_instance:
            raise UsageError(f"protocol {session.spec.protocol.name} has one goal in all episodes", where=run)
        played = [play(session, episode) for episode in range(episodes)]
    success, hands, goals = zip(*played, strict=True)
    of = {"run": session.spec.variant, "task": session.spec.task.name, "seed": session.spec.seed,
          "env_steps": session.env_steps, "episodes": episodes, "success": float(np.mean(success))}
    return {**of, **summary(np.stack(hands), np.stack(goals), radius)}


def play(session: Session, episode: int) -> tuple[bool, Floats, Floats]:
    """Success at any step, the hand's path [T, 3] and the goal [3] of one evaluation episode."""
    success, hands, goal = False, [], np.zeros(3)
    for made in session.decisions(episode, torch.Generator().manual_seed(episode)):
        hand, goal = positions(made.step.truth, session.spec.task.name)
        hands.append(hand)
        success |= bool(made.step.success[0])
    return success, np.stack(hands), goal


def summary(hands: Floats, goals: Floats, radius: float) -> dict[str, float]:
    """What paths [E, T, 3] have to do with goals [E, 3].

    Returns:
        reached_own: share of episodes in which the hand came within ``radius`` of the goal. reached_other: the same
        with the goals of all other episodes. own_minus_other: their difference with its 95 % bootstrap interval over
        episodes. correlation_x/y/z: of the hand in the last tenth of an episode with the goal. hand_std, goal_std:
        root mean square over axes of their standard deviations over episodes, in metres.
    """
    count = len(goals)
    nearest = np.linalg.norm(hands[:, None] - goals[None, :, None], axis=-1).min(-1)  # [E, E]: path, goal
    reached = nearest <= radius
    own = np.diagonal(reached).astype(float)
    other = (reached.sum(1) - own) / (count - 1)
    low, high = bootstrap_interval(own - other)
    last = hands[:, -max(1, hands.shape[1] // 10):].mean(1)
    found = {"reached_own": own.mean(), "reached_other": other.mean(), "own_minus_other": (own - other).mean(),
             "own_minus_other_low": low, "own_minus_other_high": high}
    for k, axis in enumerate(AXES):
        found[f"correlation_{axis}"] = np.corrcoef(last[:, k], goals[:, k])[0, 1]
    found |= {"hand_std": np.sqrt(last.var(0).mean()), "goal_std": np.sqrt(goals.var(0).mean())}
    return {name: float(value) for name, value in found.items()}
