"""What a run of STG can show: what its frozen model pays along an episode.

Shapes: T decisions, d embedding width, H = W image size.
"""

from __future__ import annotations

import numpy as np
import torch

from pvdr_bench.algorithms.stg.learner import STGLearner
from pvdr_bench.algorithms.stg.reward import StateToGoReward
from pvdr_bench.rl.views import Curves, Exhibits, Line, Played, View, Views

PIECE = 128  # frames at a time


@torch.no_grad()
def rewards(played: Played) -> Exhibits:
    """The task's reward, the critic's opinion of each transition and the progress that it sees, each as PPO is paid."""
    assert isinstance(played.learner, STGLearner)
    paid = played.learner.reward
    assert isinstance(paid, StateToGoReward)
    config, count = paid.config, len(played.actions)
    images = torch.split(torch.from_numpy(played.images), PIECE)
    embedding = torch.cat([paid.model.encoder(part.to(paid.device)) for part in images])
    ended = torch.zeros(count, 1, dtype=torch.bool, device=paid.device)
    ended[-1] = True
    number = torch.arange(count, device=paid.device)[:, None]
    guess = paid.predicted(embedding[:-1, None], number, ended)[:, 0]
    opinion, progress = paid.model.reward_terms(embedding[:-1], embedding[1:], guess)
    told, seen = ((factor * x).cpu().double().numpy() for factor, x in (
        (config.beta, paid.told(opinion)), (config.nu, progress)))
    decision = np.arange(count, dtype=np.float64)
    task = config.task_weight * played.rewards.astype(np.float64)
    first = np.flatnonzero(played.success)
    numbers = {"decisions": count, "task_mean": float(task.mean()), "opinion_mean": float(told.mean()),
               "progress_mean": float(seen.mean()), "opinion_std": float(told.std()),
               "first_success": int(first[0]) if len(first) else None}
    about = ("What PPO is paid for each decision of an evaluation episode: the task's own reward, and of the frozen "
             "state-to-go model the critic's part (is it a transition of the videos) and the progress it sees.")
    yield "rewards", Curves("Rewards along an episode", about, numbers, "decision", (
        Line("task", "task", decision, task), Line("critic", "critic's part", decision, told),
        Line("progress", "progress", decision, seen)),
        ((float(first[0]), "first success"),) if len(first) else ())


RUN: Views = {"rewards": View(rewards, ())}
