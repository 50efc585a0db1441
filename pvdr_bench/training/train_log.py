"""What a row of ``train.jsonl`` tells of the interval behind it, apart from the learner's own metrics.

Shapes: N environments.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from pvdr_bench.rl.ranks import spearman
from pvdr_bench.suites.base import VectorStep

RECENT_EPISODES = 20  # training episodes in the running success rate


class TrainLog:
    """What happened in training since the last row: episodes, rewards, distances beside the truth."""

    def __init__(self, n: int) -> None:
        self.recent: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.episodes = 0
        self.begin(n)
        self._clear()

    def begin(self, n: int) -> None:
        """Episodes start in all environments; unfinished ones are not counted."""
        self.success, self.returns = np.zeros(n, np.bool_), np.zeros(n)

    def _clear(self) -> None:
        self.ended: list[float] = []
        self.pairs: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []

    def add(self, step: VectorStep, reward: np.ndarray[Any, Any], distance: np.ndarray[Any, Any] | None) -> None:
        """Count one decision of all environments."""
        self.success |= step.success
        self.returns += reward
        for i in np.flatnonzero(step.terminated | step.truncated):
            self.recent.append(float(self.success[i]))
            self.ended.append(float(self.returns[i]))
            self.episodes += 1
            self.success[i], self.returns[i] = False, 0.0
        if distance is not None:
            truth = step.truth.get("goal_distance")
            self.pairs.append((distance, np.full_like(distance, np.nan) if truth is None else truth))

    def row(self) -> dict[str, Any]:
        """The interval's facts; starts the next interval."""
        facts: dict[str, Any] = {"train_episodes": self.episodes}
        if self.recent:
            facts["train_success"] = float(np.mean(self.recent))
        if self.ended:
            facts["train_return"] = float(np.mean(self.ended))
        if self.pairs:
            distance, truth = (np.concatenate(column) for column in zip(*self.pairs, strict=True))
            facts["goal_distance"] = float(distance.mean())
            if np.isfinite(truth).all():
                facts["goal_distance_truth"] = float(truth.mean())
                if (rho := spearman(distance, truth)) is not None:
                    facts["distance_truth_spearman"] = rho
        self._clear()
        return facts
