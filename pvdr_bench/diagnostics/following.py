"""``bench following``: does the action module of a PVDR run follow its plans?

In states that its policy visits, plans are made from 1, 4, 16 and 64 candidates. Where the module follows plans, its
action turns to the goal as planning gets better; where it ignores z, the number of candidates changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.planner import Planner
from pvdr_bench.algorithms.pvdr.probes import bootstrap_interval
from pvdr_bench.api import Session, load_run
from pvdr_bench.diagnostics.positions import AXES, positions
from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told


def measure(run: str = "", candidates: tuple[int, ...] = (1, 4, 16, 64), episodes: int = 10, every: int = 2,
            seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Play a run's policy and look at every ``every``-th decision, from the second on, of ``episodes`` episodes.

    Args:
        run: its directory.
        candidates: numbers of candidates; differences are to the first one.

    Returns:
        cosine_N: mean cosine over states between the motion (x, y, z) of the mean action that follows from the best
        of N candidates and the direction from the hand to the goal; cosine_N_minus_C: its paired difference to C
        candidates, the first of ``candidates``, with its 95 % bootstrap interval over states (neighbours in an
        episode are not independent, so it is too narrow rather than too wide). spread: root mean square over axes of
        the mean action's standard deviation over the prior's z; policy_std: the same of the policy's own noise.

    Raises:
        UsageError: no run, one of another method, or a task that does not tell where hand and goal are.
    """
    if not run:
        raise UsageError("bench following looks at a run of PVDR", hint="-o run=RUN, a folder that `list runs` shows")
    if len(candidates) < 2 or min(candidates) < 1 or episodes < 1 or every < 1:
        raise UsageError("bench following needs two or more numbers of candidates, and all numbers at least 1")
    torch.set_num_threads(1)
    with load_run(run).open(device) as session:
        if not isinstance(session.learner, PVDRLearner):
            raise UsageError(f"the method {session.spec.method} makes no plans", where=run)
        generator = torch.Generator().manual_seed(seed)
        found = [look(session.learner, context, direction, candidates, generator)
                 for context, direction in visited(session, episodes, every, generator)]
    cosine = torch.stack([cosines for cosines, _ in found]).double().numpy()
    spread = torch.stack([variance for _, variance in found]).mean().sqrt()
    std = session.learner.ppo.actor.get_parameter("log_std").detach()[:len(AXES)].exp().square().mean().sqrt()
    of = {"run": session.spec.variant, "seed": session.spec.seed, "env_steps": session.env_steps, "states": len(found)}
    return {**of, **dict(summary(cosine, candidates)), "spread": float(spread), "policy_std": float(std)}


def visited(session: Session, episodes: int, every: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Contexts [1, m, h, w] that the policy meets, each with the direction [3] from the hand to the goal."""
    for episode in told(range(episodes), "episodes"):
        direction: Tensor | None = None  # the simulator tells it of the frame after a decision
        for number, made in enumerate(session.decisions(episode, generator)):
            if direction is not None and (number - 1) % every == 0:
                yield made.extras["tokens"].long(), direction
            direction = to_goal(made.step.truth, session.spec.task.name)


def to_goal(truth: dict[str, Any], task: str) -> Tensor:
    """Direction [3] in metres from the hand to the goal.

    Raises:
        UsageError: the simulator does not tell.
    """
    hand, goal = positions(truth, task)
    return torch.from_numpy(goal - hand).float()


@torch.no_grad()
def look(learner: PVDRLearner, context: Tensor, direction: Tensor, candidates: tuple[int, ...],
         generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """In one state: cosines [len(candidates)], and the mean action's variance over the prior's z, mean over axes."""
    largest = learner.planner.config.model_copy(update={"candidates": max(candidates), "selection": "best"})
    planner = Planner(learner.model, largest, learner.distance)
    z = planner.candidates(context, generator)[0]
    tokens = context.expand(len(z), *context.shape[1:])
    plans = learner.model.decoder.rollout(tokens, z, shown=learner.model.shown_to_plan(context, generator))[0]
    distance = learner.distance.plan(plans[None])[0]
    motion = learner.policy(tokens, planner.star(tokens, z, plans), plans).mean[:, :len(AXES)].cpu()
    best = torch.stack([distance[:count].argmin() for count in candidates]).cpu()
    cosine = F.cosine_similarity(motion[best], direction.expand(len(best), -1))
    return cosine, motion.var(0, correction=0).mean()


def summary(cosine: np.ndarray, candidates: tuple[int, ...]) -> Iterator[tuple[str, float]]:
    """Means of cosines [B, N's] and paired differences to the first N."""
    for column, count in enumerate(candidates):
        yield f"cosine_{count}", float(cosine[:, column].mean())
        if column:
            difference = cosine[:, column] - cosine[:, 0]
            low, high = bootstrap_interval(difference)
            name = f"cosine_{count}_minus_{candidates[0]}"
            yield from ((name, float(difference.mean())), (f"{name}_low", low), (f"{name}_high", high))
