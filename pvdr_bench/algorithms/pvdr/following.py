"""The plan that an environment follows: how long it stands, and when another is made.

Shapes: N environments, m context and l future frames, h x w token grid, s x s x c the shape of z.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.guide import Guide
from pvdr_bench.algorithms.pvdr.planner import Planner, Plans
from pvdr_bench.rl.stopwatch import Stopwatch

SMALL = torch.int16  # codes are stored small; codebooks have fewer than 2 ** 15 entries
Followed = dict[str, Tensor]  # z*, plan, plan_age, the plan's metrics, and what the guide said of it, each [N, ...]


def followed(planner: Planner, guide: Guide | None, config: PVDRConfig, context: Tensor, is_first: Tensor,
             before: Followed, generator: torch.Generator, stopwatch: Stopwatch) -> Followed:
    """The plan that each environment follows now, and what it was chosen from, each [N, ...].

    It is the one of the decision ``before`` (empty: all are new) while it stands (``planner.replan_every``), within an
    episode. All others are made together.
    """

    def new(rows: Tensor) -> Followed:
        return new_plans(planner, guide, config, rows, generator, stopwatch)

    if not before:
        return new(context)
    age = before["plan_age"] + 1
    due = is_first | (age >= config.planner.replan_every)
    if due.all():
        return new(context)
    plan = {**before, "plan_age": age}
    if due.any():
        for name, value in new(context[due]).items():
            plan[name] = plan[name].clone()  # the last decision's are in the buffer
            plan[name][due] = value
    return plan


def new_plans(planner: Planner, guide: Guide | None, config: PVDRConfig, context: Tensor, generator: torch.Generator,
              stopwatch: Stopwatch) -> Followed:
    """Plans made in contexts [N, m, h, w]."""
    plans = plan_in(planner, config, context, generator, stopwatch)
    age = torch.zeros(len(context), dtype=torch.long, device=context.device)
    plan = {"z": plans.z, "plan": plans.codes.to(SMALL), "plan_age": age, **plan_metrics(plans)}
    if guide is not None:
        state = {"tokens": context, "extra": plans.z, "plan": plans.codes, "ends": plans.ends,
                 "distances": plans.distance}
        plan["guide"] = guide.action(state)
        plan |= {name: state[name].to(kind) for name, kind in guide.kept.items()}
    return plan


def plan_in(planner: Planner, config: PVDRConfig, context: Tensor, generator: torch.Generator,
            stopwatch: Stopwatch) -> Plans:
    """Eq. 2 in contexts [N, m, h, w] in the precision that planning has (``online.dtype``); z* is float32 in any."""
    autocast = torch.autocast(context.device.type, torch.bfloat16, enabled=config.online.dtype == "bfloat16")
    with stopwatch("plan", len(context)), autocast:
        plans = planner.plan(context, generator)
    return replace(plans, z=plans.z.float())


def plan_metrics(plans: Plans) -> Followed:
    """Distance to the goal of the chosen plan, what choosing gained, and the candidates' diversity, each [N]."""
    chosen = plans.distance.gather(1, plans.chosen[:, None])[:, 0]
    return {"plan_distance": chosen, "plan_gain": plans.distance.mean(1) - chosen, "plan_diversity": plans.diversity}


def read_of(plan: Followed) -> Followed:
    """What actor and critic read of a plan: z*, and the guide's action where there is one."""
    return {"extra": plan["z"]} | ({"guide": plan["guide"]} if "guide" in plan else {})
