"""What PVDR's PPO learns from, recomputed by hand: Eq. 6's rewards, values of what time cut off, plans that stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pvdr_story import (
    E1,
    E2,
    ENVS,
    LAMBDA3,
    SCALE,
    START_TO_GOAL,
    build,
    config,
    every_other,
    future,
    picture,
    played,
    story,
)


@pytest.mark.parametrize("every", [1, 3])
def test_ppo_learns_from_the_reward_of_equation_6_with_the_critics_value_of_what_time_cut_off(every: int) -> None:
    """With plans that stand for 3 decisions, each bears its plan's error against the future from where it was made,
    and what time cut off is valued under the plan that would stand there."""
    cfg, tale = config(replan=every), story()
    learner = build(cfg)
    went = played(learner, tale)
    assert went.batch is not None and len(went.values) == 4  # two cuts on the way; at the end, a cut and a going on
    assert went.kept == (every == 3)  # of the cut at 11, where a plan was made; that of the cut at 16 is two old
    assert max(abs(value) for value in went.values.values()) > 0.05
    gamma, lam = cfg.online.gamma, cfg.online.gae_lambda
    delta, errors = {}, []
    for t in range(E1, E1 + E2):
        for n in range(ENVS):
            true = future(tale, tale.made(t, n, every), n)[0]
            errors.append(float((went.extras[t]["plan"][n].long() != true).float().mean()))
            reward = float(tale.reward[t, n]) - LAMBDA3 * (SCALE / START_TO_GOAL) * errors[-1]
            if tale.terminated[t, n]:
                following = 0.0
            elif (t, n) in went.values:
                following = went.values[t, n]
            else:
                following = float(went.extras[t + 1]["value"][n])
            delta[t, n] = reward + gamma * following - float(went.extras[t]["value"][n])
    assert max(errors) - min(errors) > 0.2
    for t in range(E1, E1 + E2):
        for n in range(ENVS):
            until = next((k for k in range(t, E1 + E2) if tale.ended[k, n]), E1 + E2 - 1)
            advantage = sum((gamma * lam)**(k - t) * delta[k, n] for k in range(t, until + 1))
            at, value = (t - E1) * ENVS + n, float(went.extras[t]["value"][n])
            assert float(went.batch.advantage[at]) == pytest.approx(advantage, rel=1e-4, abs=1e-4), (t, n)
            assert float(went.batch.returns[at]) == pytest.approx(advantage + value, rel=1e-4, abs=1e-4), (t, n)


def test_ppos_state_is_the_context_and_the_chosen_latent_with_the_action_as_it_was_drawn() -> None:
    tale = story()
    learner = build(config())
    went = played(learner, tale)
    assert went.batch is not None and went.policy_weight == 1.0
    steps = range(E1, E1 + E2)
    want = torch.stack([every_other(tale.seen(t, n)) for t in steps for n in range(ENVS)])
    assert torch.equal(went.batch.state["tokens"].long(), want)
    assert torch.equal(went.batch.state["extra"], torch.cat([went.extras[t]["z"] for t in steps]))
    assert torch.equal(went.batch.action, torch.cat([went.actions[t] for t in steps]))
    assert float(went.batch.action.abs().max()) > 1  # unclipped
    state = {"tokens": want, "extra": went.batch.state["extra"]}
    with torch.no_grad():
        policy = went.actor(state)
        spread = torch.distributions.Normal(policy.mean, went.actor.log_std.exp())
        torch.testing.assert_close(went.batch.log_prob, spread.log_prob(went.batch.action).sum(-1))


def test_plans_stand_for_three_decisions_of_an_episode_in_a_buffer_and_only_those_due_are_made() -> None:
    tale, every = story(), 3
    learner = build(config(replan=every))
    plan, sizes = learner.planner.plan, []

    def counted(context: Tensor, generator: torch.Generator) -> Any:
        sizes.append((len(context), generator is learner.generator))
        return plan(context, generator)

    learner.planner.plan = counted  # type: ignore[method-assign]
    went = played(learner, tale)
    due = [sum(tale.made(t, n, every) == t for n in range(ENVS)) for t in range(E1 + E2)]
    assert sorted(set(due)) == [0, 1, 2, 3]
    assert [size for size, bootstrap in sizes if not bootstrap] == [count for count in due if count]
    assert [size for size, bootstrap in sizes if bootstrap] == [1, 2]  # the cut at 16; the end: one has succeeded
    for t in range(E1 + E2):
        for n in range(ENVS):
            at = tale.made(t, n, every)
            assert int(went.extras[t]["plan_age"][n]) == t - at
            for name in ("z", "plan", "plan_distance", "plan_gain", "plan_diversity"):
                assert torch.equal(went.extras[t][name][n], went.extras[at][name][n]), (name, t, n)
            if at == t and t:
                assert not torch.equal(went.extras[t]["z"][n], went.extras[t - 1]["z"][n])
    assert went.batch is not None  # PPO's state is what was acted with
    assert torch.equal(went.batch.state["extra"], torch.cat([went.extras[t]["z"] for t in range(E1, E1 + E2)]))


@pytest.mark.parametrize(("dtype", "star"), [("float32", "drawn"), ("bfloat16", "drawn"), ("bfloat16", "read_back")])
def test_all_plans_are_made_in_the_precision_that_is_asked_for(dtype: str, star: str) -> None:
    """Those that are acted on, and those that value what time cut off; what is read of them is float32 in any."""
    cfg = config({"dtype": dtype})
    learner = build(cfg.model_copy(update={"planner": cfg.planner.model_copy(update={"z_star": star})}))
    plan, within, seen = learner.planner.plan, list[str](), dict[str, set[torch.dtype]]()
    for module in learner.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda _, inputs, output: seen.setdefault(within[-1], set()).add(output.dtype) if within else None)

    def heard(context: Tensor, generator: torch.Generator) -> Any:
        within.append("bootstrap" if generator is learner.generator else "acting")
        found = plan(context, generator)
        within.clear()
        return found

    learner.planner.plan = heard  # type: ignore[method-assign]
    went = played(learner, story())
    assert seen == {"acting": {getattr(torch, dtype)}, "bootstrap": {getattr(torch, dtype)}}
    assert went.batch is not None and went.batch.state["extra"].dtype == torch.float32


def test_plans_stand_in_evaluation_too_whatever_buffer_is_being_filled() -> None:
    tale = story(9, [(4, 0)], [])
    learner = build(config(replan=3))
    carry, first, ages = learner.initial(ENVS), torch.ones(ENVS, dtype=torch.bool), []
    for t in range(9):
        _, carry, extras = learner.act(picture(tale.codes[t]), first, carry, "eval", torch.Generator().manual_seed(t))
        ages.append(extras["plan_age"].tolist())
        first = tale.ended[t]
    assert len(learner.buffer) == 0
    assert list(zip(*ages, strict=True)) == [(0, 1, 2, 0, 1, 0, 1, 2, 0), *[(0, 1, 2) * 3] * 2]


def test_metrics_of_plans_are_means_over_plans_not_over_the_decisions_that_follow_them() -> None:
    tale = story()
    learner = build(config(replan=3))
    learn, told = learner.learn, list[dict[str, float]]()

    def heard() -> dict[str, float]:
        told.append(learn())
        return told[-1]

    learner.learn = heard  # type: ignore[method-assign]
    went = played(learner, tale)
    places = [(t, n) for t in range(E1, E1 + E2) for n in range(ENVS)]
    of_plans = [float(went.extras[t]["plan_gain"][n]) for t, n in places if tale.made(t, n, 3) == t]
    of_all = [float(went.extras[t]["plan_gain"][n]) for t, n in places]
    assert told[-1]["plan_gain"] == pytest.approx(sum(of_plans) / len(of_plans), rel=1e-5)
    assert abs(sum(of_all) / len(of_all) - told[-1]["plan_gain"]) > 1e-3 * abs(told[-1]["plan_gain"])
