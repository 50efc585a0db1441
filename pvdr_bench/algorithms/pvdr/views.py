"""What PVDR can show (paper Figs. 6, 15 to 18), and its plans before and after online learning.

Shapes: m context and l future frames, h x w token grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pvdr_bench.algorithms.pvdr.following import plan_metrics
from pvdr_bench.algorithms.pvdr.futures import (
    MEASURED,
    PIECE,
    artefact_futures,
    futures_of,
    learner_of,
    pictures,
    run_futures,
    steps_of,
    windows,
)
from pvdr_bench.algorithms.pvdr.latents import artefact_latents, latents
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.rl.views import Curves, Exhibits, Line, NothingToShow, Played, Row, Strips, View, Views, spread_out


def adaptation(played: Played) -> Exhibits:
    """Plans of the model before and after online learning, chosen in the same moments (Fig. 18 a), and the reward of
    alignment (Fig. 18 b)."""
    yield "adaptation", plans_before_and_after(played)
    yield "alignment-reward", alignment_reward(played)


def plans_before_and_after(played: Played) -> Strips:
    """Selected plans of the learner as it is and as it started, from the same noise.

    Numbers: mean distance to the goal of the selected plans under the planner's metric, and the PSNR of futures from
    the prior in the episode, each before and after.
    """
    learner, start = learner_of(played), played.start()
    assert isinstance(start, PVDRLearner)
    now, clips = windows(played, learner.model)
    measured = spread_out(len(played.extras), MEASURED)
    shown = spread_out(len(measured), played.amounts.cases)
    contexts = torch.cat([played.extras[t]["tokens"].long() for t in measured])
    plans, numbers = {}, dict[str, Any](contexts=len(measured))
    for name, one in (("before", start), ("after", learner)):
        found = [one.planner.plan(part, torch.Generator().manual_seed(played.amounts.seed))
                 for part in torch.split(contexts, PIECE)]
        plans[name] = pictures(learner.tokenizer, torch.cat([plan.codes for plan in found])[shown])
        distance = torch.cat([plan_metrics(plan)["plan_distance"] for plan in found])
        numbers[f"plan_distance_{name}"] = float(distance.mean())
        chosen = clips[spread_out(len(now), MEASURED)]
        numbers[f"psnr_prior_{name}"] = futures_of(one.model, learner.tokenizer, chosen, 0, played.amounts.seed,
                                                   "").numbers["psnr_prior"]
    rows = []
    for case, place in enumerate(shown):
        seen = played.images[measured[place]]
        rows.append(Row("before", (seen, *plans["before"][case], played.goal), apart=case > 0))
        rows.append(Row("after", (None, *plans["after"][case], None)))
    about = (f"Plans selected in the same moments of an evaluation episode, before and after {played.env_steps:,} "
             "env_steps of online learning, from the same random numbers. Columns are decisions from the observation.")
    steps = steps_of(learner.model)[learner.model.config.context_frames:]
    return Strips("Plans before and after online learning", about, numbers, ("observation", *steps, "goal"),
                  tuple(rows))


def alignment_reward(played: Played) -> Curves:
    """The mean of Eq. 6 in each buffer E2 and its two parts, from the run's training log.

    Raises:
        NothingToShow: there is no such buffer in it yet.
    """
    weight = learner_of(played).config.online.lambda3
    rows = [row for row in played.train if "plan_error" in row and "reward_mean" in row]
    if not rows:
        raise NothingToShow("the policy has had no update yet, so there is no reward of alignment to draw",
                            hint="give the run more env_steps")
    steps, reward, error = (np.array([float(row[name]) for row in rows])
                            for name in ("env_steps", "reward_mean", "plan_error"))
    total = reward - weight * error
    about = (f"Mean reward of a decision by which the action module learns (Eq. 6, lambda3 = {weight:g}), in each "
             "buffer E2, and the mean distance of what came true to the plan.")
    tenth = max(1, len(rows) // 10)
    numbers = {"buffers": len(rows), "reward_first_tenth": float(total[:tenth].mean()),
               "reward_last_tenth": float(total[-tenth:].mean()), "error_first_tenth": float(error[:tenth].mean()),
               "error_last_tenth": float(error[-tenth:].mean())}
    return Curves("Reward of action alignment", about, numbers, "env_steps",
                  (Line("reward of Eq. 6", "reward per decision", steps, total),
                   Line("plan error", "distance to the plan", steps, error)))


ARTEFACT: Views = {"futures": View(artefact_futures, ("cases", "seed")),
                   "latents": View(artefact_latents, ("samples", "seed"))}
RUN: Views = {"futures": View(run_futures, ("cases", "seed")), "adaptation": View(adaptation, ("cases", "seed")),
              "latents": View(latents, ("samples", "seed"))}
