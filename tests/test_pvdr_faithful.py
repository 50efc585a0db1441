"""What PVDR trains on, recomputed by hand: Eq. 6's rewards, Eq. 5's gradient, the frames of a context, exact resume.

The learner is led through a made-up course of events (:class:`Story`), in which each frame, reward and episode end is
known, so that all that it should have learned from can be looked up there.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.alignment import Alignment, Labels
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.model import DynamicsModel
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.registry import algorithms, load_object
from pvdr_bench.rl.contract import Learner, LearnerContext, Transition
from pvdr_bench.rl.ppo import Auxiliary
from pvdr_bench.rl.rollout import Batch
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.training.execute import execute
from pvdr_bench.training.online import Pieces
from tests import dummies
from tests.dummies import EPISODE, SYNC, make_envs, make_spec
from tests.test_ppo_learner import GRID, IdentityTokenizer, context
from tests.test_ppo_loop import TOKENIZER, tokenizer_artefact

MODEL = {"context_frames": 2, "future_frames": 2, "frame_stride": 2, "d_model": 8, "ff": 8, "heads": 2, "token_dim": 4,
         "encoder_depth": 1, "prior_depth": 1, "decoder_depth": 1, "window": 2, "z_grid": 2, "z_dim": 2}
PI = {"pi_depth": 1, "pi_d_model": 8, "pi_heads": 2, "pi_ff": 8, "minibatch": 1000, "epochs": 1, "max_grad_norm": 1e6}
ENVS, E1, E2 = 3, 8, 12  # decisions in time of both buffers
SCALE, LAMBDA3, WEIGHT, ENTROPY = 1.5, 0.7, 0.3, 0.05
START_TO_GOAL = 2 / GRID**2  # two of all cells differ: where the dot is, and where it should be
CUT, OVER = [(3, 0), (11, 0), (16, 2), (19, 1)], [(6, 1), (13, 1), (19, 0)]  # episode ends: by time, by success


def config(online: dict[str, Any] | None = None, pretrain: dict[str, Any] | None = None, replan: int = 1,
           **model: Any) -> PVDRConfig:
    base = {"e1_decisions": ENVS * E1, "e2_decisions": ENVS * E2, "normalise_distance": True, "distance_scale": SCALE,
            "lambda3": LAMBDA3, "lact_weight": WEIGHT, "entropy_coef": ENTROPY, "finetune_lr": 1e-3}
    return PVDRConfig.model_validate({"model": MODEL | model, "planner": {"candidates": 4, "replan_every": replan},
                                      "pretrain": pretrain or {}, "online": PI | base | (online or {})})


def weights(cfg: PVDRConfig, codes: int) -> dict[str, Tensor]:
    """A model whose plans differ: random weights, larger than initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return {name: x + 0.4 * torch.randn(x.shape) if x.is_floating_point() else x
                for name, x in DynamicsModel(cfg.model, codes, GRID).state_dict().items()}


def build(cfg: PVDRConfig, n: int = ENVS) -> PVDRLearner:
    """A learner with plain gradient steps of rate 1 for the actor: they show its gradient."""
    given = dataclasses.replace(context(cfg, n), artefacts={"pretrain": weights(cfg, IdentityTokenizer.codebook_size)})
    learner = PVDRLearner(given, IdentityTokenizer())  # type: ignore[arg-type]
    learner.ppo.actor_optimizer = torch.optim.SGD(learner.ppo.actor.parameters(), lr=1.0)  # type: ignore[assignment]
    with torch.no_grad():  # initial mean actions are all near zero
        for p in learner.ppo.actor.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    return learner


@dataclass
class Story:
    """What happens to N environments; codes are those of the images."""

    codes: Tensor  # int64 [T, N, h, w], what is acted on
    final: Tensor  # [T, N, h, w], the frame after a decision
    reward: Tensor  # [T, N]
    terminated: Tensor  # bool [T, N]
    truncated: Tensor  # bool [T, N]

    @property
    def ended(self) -> Tensor:
        return self.terminated | self.truncated

    def seen(self, t: int, n: int) -> list[Tensor]:
        """The frames of an episode up to decision t."""
        first = max((k + 1 for k in range(t) if self.ended[k, n]), default=0)
        return [self.codes[k, n] for k in range(first, t + 1)]

    def made(self, t: int, n: int, every: int) -> int:
        """The decision at which the plan of decision t was made: plans are made where an episode or a buffer begins and
        ``every`` decisions after one was."""
        first = max([0, E1 * (t >= E1), *(k + 1 for k in range(t) if self.ended[k, n])])
        return t - (t - first) % every

    def follows(self, t: int, n: int, stop: int) -> list[Tensor]:
        """The frames of an episode from decision t on, as far as a buffer that ends before ``stop`` shows them."""
        frames = []
        for k in range(t, stop):
            frames.append(self.codes[k, n])
            if self.ended[k, n]:
                break
        return [*frames, self.final[k, n]]


def story(time: int = E1 + E2, cut: list[tuple[int, int]] = CUT, over: list[tuple[int, int]] = OVER) -> Story:
    """Random frames, rewards and final frames, and episode ends at ``cut`` and ``over``."""
    draw = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 2, (time, ENVS, GRID, GRID), generator=draw)
    final = torch.randint(0, 2, (time, ENVS, GRID, GRID), generator=draw)
    terminated, truncated = (torch.zeros((time, ENVS), dtype=torch.bool) for _ in range(2))
    for marks, places in ((truncated, cut), (terminated, over)):
        for place in places:
            marks[place] = True
    goes_on = ~(terminated | truncated)[:-1]
    final[:-1][goes_on] = codes[1:][goes_on]
    return Story(codes, final, torch.randn((time, ENVS), generator=draw), terminated, truncated)


def every_other(frames: list[Tensor], count: int = 2, stride: int = 2) -> Tensor:
    """x_t by hand: ``count`` frames, ``stride`` apart, up to the last of ``frames``; the first stands in for those
    before it."""
    last = len(frames) - 1
    return torch.stack([frames[max(0, last - stride * back)] for back in range(count - 1, -1, -1)])


def picture(codes: Tensor) -> Tensor:
    return codes[..., None].expand(*codes.shape, 3).to(torch.uint8)


@torch.no_grad()
def value_of_plan(learner: PVDRLearner, x: Tensor, generator: torch.Generator) -> Tensor:
    """V(x, z*) by hand: z* of the candidates' plans the one with fewest tokens unlike the goal's."""
    noise = torch.randn((4, len(x), 2, 2, 2), generator=generator)
    prior = learner.model.prior(x)
    goal, best = learner.goal_pixels[..., 0].long(), []
    for b in range(len(x)):
        z = prior.mean[b] + torch.exp(prior.logvar[b] / 2) * noise[:, b]
        wrong = [int((learner.model.decoder.rollout(x[b:b + 1], one[None])[0] != goal).sum()) for one in z]
        best.append(z[wrong.index(min(wrong))])
    out: Tensor = learner.ppo.critic({"tokens": x, "extra": torch.stack(best)})
    return out


@dataclass
class Played:
    """What the learner said and did on its way through a story."""

    actions: list[Tensor] = field(default_factory=list)
    extras: list[dict[str, Tensor]] = field(default_factory=list)
    values: dict[tuple[int, int], float] = field(default_factory=dict)  # by hand, of true next frames
    kept: int = 0  # of these, those under a plan that still stood
    batch: Batch | None = None  # what PPO was given
    auxiliary: Auxiliary | None = None
    policy_weight: float = float("nan")
    noise: Tensor | None = None  # states of the generators of z and of the minibatches' order before the update
    order: Tensor | None = None
    actor: Any = None  # as it was then


def played(learner: PVDRLearner, tale: Story) -> Played:
    """Lead the learner through E1 and E2."""
    out, update = Played(), learner.ppo.update
    carry, first = learner.initial(ENVS), torch.ones(ENVS, dtype=torch.bool)
    draw = torch.Generator().manual_seed(1)

    def spy(batch: Batch, auxiliary: Auxiliary | None = None, policy_weight: float = 1.0) -> dict[str, float]:
        out.batch, out.auxiliary, out.policy_weight = batch, auxiliary, policy_weight
        out.noise, out.order = learner.generator.get_state(), learner.ppo.generator.get_state()
        out.actor = copy.deepcopy(learner.ppo.actor)
        for p in learner.model.parameters():
            p.grad = None
        return update(batch, auxiliary, policy_weight=policy_weight)

    learner.ppo.update = spy  # type: ignore[method-assign]
    for t in range(len(tale.codes)):
        action, carry, extras = learner.act(picture(tale.codes[t]), first, carry, "train", draw)
        out.actions.append(action)
        out.extras.append(extras)
        last = t == len(tale.codes) - 1
        rows = [n for n in range(ENVS) if not tale.terminated[t, n] and (tale.truncated[t, n] or last)]
        if rows and learner.phase == "e2":
            frames = torch.stack([every_other([*tale.seen(t, n), tale.final[t, n]]) for n in rows])
            same = torch.Generator()
            same.set_state(learner.generator.get_state())
            every = learner.config.planner.replan_every
            stands = [not last and t + 1 - tale.made(t, n, every) < every for n in rows]
            kept = [n for n, still in zip(rows, stands, strict=True) if still]
            new = [n for n in rows if n not in kept]
            if kept:
                state = {"tokens": frames[torch.tensor(stands)], "extra": extras["z"][kept]}
                with torch.no_grad():
                    values = learner.ppo.critic(state)
                out.values |= {(t, n): float(value) for n, value in zip(kept, values, strict=True)}
                out.kept += len(kept)
            if new:
                values = value_of_plan(learner, frames[~torch.tensor(stands)], same)
                out.values |= {(t, n): float(value) for n, value in zip(new, values, strict=True)}
        learner.observe(Transition(picture(tale.codes[t]), first, action, tale.reward[t], tale.terminated[t],
                                   tale.truncated[t], picture(tale.final[t]), extras))
        learner.learn()
        first = tale.ended[t]
    assert learner.rounds == 1 and out.batch is not None
    return out


def future(tale: Story, t: int, n: int) -> tuple[Tensor, bool]:
    """y_t of a decision, 2 and 4 decisions ahead, and whether all of it was seen in its buffer."""
    frames = tale.follows(t, n, E1 if t < E1 else E1 + E2)
    return torch.stack([frames[min(ahead, len(frames) - 1)] for ahead in (2, 4)]), len(frames) > 4


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


SPANS = {"action": 1, "stride_mean": 2, "plan_mean": 4}  # decisions: frames are 2 apart, and a plan has 2


def aligned(learner: PVDRLearner, tale: Story, went: Played, target: str) -> tuple[Tensor, ...]:
    """By hand for all decisions of E2: contexts, mean and spread of z ~ E(x, y), the action to align, valid."""
    x, clips, actions, valid = [], [], [], []
    for t in range(E1, E1 + E2):
        for n in range(ENVS):
            y, whole = future(tale, t, n)
            x.append(every_other(tale.seen(t, n)))
            clips.append(torch.cat([x[-1], y]))
            ahead = [went.actions[k][n].clamp(-1, 1) for k in range(t, min(t + SPANS[target], E1 + E2))]
            actions.append(torch.stack(ahead).mean(0))
            valid.append(whole)
    with torch.no_grad():
        posterior = learner.model.encoder(torch.stack(clips))
    spread = torch.exp(posterior.logvar / 2)
    return torch.stack(x), posterior.mean, spread, torch.stack(actions), torch.tensor(valid)


@pytest.mark.parametrize(("form", "target", "rl_weight", "micro_batch"),
                         [("mse", "action", 0.0, 0), ("l2", "stride_mean", 1.0, 5), ("mse", "plan_mean", 1.0, 0)])
def test_the_action_module_takes_the_step_of_equation_5_beside_ppos(form: str, target: str, rl_weight: float,
                                                                    micro_batch: int) -> None:
    """One minibatch and a plain gradient step; with ``rl_weight`` 0 the step is that of L_act alone."""
    tale = story()
    learner = build(config({"lact_form": form, "lact_target": target, "rl_weight": rl_weight},
                           {"micro_batch": micro_batch}))
    went = played(learner, tale)
    assert went.batch is not None and went.order is not None and went.noise is not None
    x, mean, spread, action, valid = aligned(learner, tale, went, target)
    draw, shuffle = torch.Generator(), torch.Generator()
    draw.set_state(went.noise)
    shuffle.set_state(went.order)
    order = torch.randperm(ENVS * E2, generator=shuffle)
    rows = order[valid[order]]
    assert 0 < len(rows) < ENVS * E2
    z = mean[rows] + spread[rows] * torch.randn((len(rows), 2, 2, 2), generator=draw)
    off = went.actor({"tokens": x[rows], "extra": z}).mean - action[rows]
    loss = (off**2).sum(-1).sqrt().mean() if form == "l2" else (off**2).mean()
    assert float(loss.detach()) > 0.05
    policy = went.actor({"tokens": x, "extra": went.batch.state["extra"]})
    ratio = (policy.log_prob(went.batch.action) - went.batch.log_prob).exp()  # 1 before the first step
    advantage = (went.batch.advantage - went.batch.advantage.mean()) / went.batch.advantage.std(correction=0)
    ppo = -(ratio * advantage).mean() - ENTROPY * policy.entropy().mean()
    before = dict(went.actor.named_parameters())
    grads = torch.autograd.grad(WEIGHT * loss + rl_weight * ppo, list(before.values()), allow_unused=True)
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0.1
    for (name, old), grad, new in zip(before.items(), grads, learner.ppo.actor.parameters(), strict=True):
        step = torch.zeros_like(old) if grad is None else grad
        torch.testing.assert_close(old.detach() - new.detach(), step, rtol=1e-3, atol=2e-6, msg=name)


def test_the_alignment_loss_of_a_minibatch_is_equation_5_over_whole_futures_and_the_encoder_has_no_part_in_it() -> None:
    tale = story()
    learner = build(config())
    frozen = {name: p.clone() for name, p in learner.model.encoder.named_parameters() if "head" not in name}
    went = played(learner, tale)
    assert went.batch is not None and went.auxiliary is not None and went.noise is not None
    assert all(p.grad is None for p in learner.model.parameters())  # E2 trains no part of the dynamics model
    x, mean, spread, action, valid = aligned(learner, tale, went, "action")
    rows = torch.randperm(ENVS * E2, generator=torch.Generator().manual_seed(4))[:20]
    some = rows[valid[rows]]
    learner.generator.set_state(went.noise)
    part = went.auxiliary(went.batch.select(rows))
    draw = torch.Generator()
    draw.set_state(went.noise)
    z = mean[some] + spread[some] * torch.randn((len(some), 2, 2, 2), generator=draw)
    with torch.no_grad():
        want = WEIGHT * ((learner.ppo.actor({"tokens": x[some], "extra": z}).mean - action[some])**2).mean()
    loss = part(torch.arange(20))
    torch.testing.assert_close(loss.detach(), want)
    assert float(want) > 0.01
    torch.testing.assert_close((part(torch.arange(7)) + part(torch.arange(7, 20))).detach(), want)
    torch.autograd.backward(loss)
    assert all(p.grad is None for p in learner.model.parameters())
    assert all(torch.equal(p, frozen[name]) for name, p in learner.model.encoder.named_parameters() if name in frozen)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_l_act_is_told_beside_that_of_a_constant_and_that_of_another_decisions_plan(micro_batch: int) -> None:
    class OfZ(torch.nn.Module):
        """Says what z says, in ``reads`` of all its action dimensions."""

        reads = 1.0

        def forward(self, state: dict[str, Tensor]) -> torch.distributions.Normal:
            return torch.distributions.Normal(self.reads * state["extra"].flatten(1)[:, :2], 1.0)

    actor = OfZ()  # the plan of the decision two places further is another's
    action = torch.tensor([[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6], [0.7, 0.8]])
    frames = torch.zeros(4, 1, 2, 2, dtype=torch.int16)
    labels = Labels(frames, frames, action.view(4, 1, 1, 2), torch.full((4, 1, 1, 2), -80.0), action)  # z: the action
    alignment = Alignment(lambda state: actor(state).mean, labels, True, "mse", torch.Generator().manual_seed(0),
                          micro_batch)
    mine = action.tolist()
    other = sum((a - b) ** 2 for i in range(4) for a, b in zip(mine[i], mine[(i + 2) % 4], strict=True)) / 8
    mean = [sum(a[k] for a in mine) / 4 for k in range(2)]
    constant = sum((a[k] - mean[k]) ** 2 for a in mine for k in range(2)) / 8
    assert alignment.metrics() == pytest.approx(
        {"l_act": 0, "l_act_other_z": other, "l_act_constant": constant}, abs=1e-6)
    actor.reads = 0.0  # a module that ignores the plan is as good with any
    deaf = alignment.metrics()
    assert deaf["l_act"] == deaf["l_act_other_z"] > deaf["l_act_constant"]


@pytest.mark.parametrize(("count", "stride"), [(2, 1), (2, 2), (3, 2)])
def test_a_context_is_frames_a_stride_apart_and_after_a_reset_the_first_one_again(count: int, stride: int) -> None:
    tale = story(9, [(1, 1), (4, 0), (5, 0)], [(3, 2)])
    learner = build(config(context_frames=count, frame_stride=stride))
    carry, first = learner.initial(ENVS), torch.ones(ENVS, dtype=torch.bool)
    draw = torch.Generator().manual_seed(1)
    for t in range(9):
        _, carry, extras = learner.act(picture(tale.codes[t]), first, carry, "train", draw)
        want = torch.stack([every_other(tale.seen(t, n), count, stride) for n in range(ENVS)])
        assert torch.equal(extras["tokens"].long(), want), t
        with torch.no_grad():  # what Pi and the critic read, too
            value = learner.ppo.critic({"tokens": want, "extra": extras["z"]})
            plan = torch.stack([learner.model.decoder.rollout(want[n:n + 1], extras["z"][n:n + 1])[0][0]
                                for n in range(ENVS)])
        torch.testing.assert_close(extras["value"], value)
        assert torch.equal(extras["plan"].long(), plan)
        first = tale.ended[t]


def test_fine_tuning_on_e1_takes_the_steps_of_equations_3_and_4_then_aligns_with_the_new_encoder() -> None:
    """A batch of all clips and plain gradient steps, the prior's by the decoder that its own step has left."""
    tale, rate, lambda2 = story(), 0.003, 50.0
    learner = build(config({"lambda2": lambda2, "lact_e1_epochs": 1, "finetune_batch": 1000}))
    model, hand, actor = learner.model, copy.deepcopy(learner.model), copy.deepcopy(learner.ppo.actor)
    trained = [*hand.encoder.head.parameters(), *hand.decoder.parameters()]
    learner.finetuner.dynamics_optimizer = torch.optim.SGD(  # type: ignore[assignment]
        [*model.encoder.head.parameters(), *model.decoder.parameters()], lr=rate)
    learner.finetuner.prior_optimizer = torch.optim.SGD(model.prior.parameters(), lr=rate)  # type: ignore[assignment]
    carry, first, draw = learner.initial(ENVS), torch.ones(ENVS, dtype=torch.bool), torch.Generator().manual_seed(1)
    same, metrics, actions = torch.Generator(), {}, []
    for t in range(E1):
        action, carry, extras = learner.act(picture(tale.codes[t]), first, carry, "train", draw)
        learner.observe(Transition(picture(tale.codes[t]), first, action, tale.reward[t], tale.terminated[t],
                                   tale.truncated[t], picture(tale.final[t]), extras))
        same.set_state(learner.generator.get_state())
        metrics = learner.learn()
        actions.append(action.clamp(-1, 1))
        first = tale.ended[t]
    whole = [(t, n) for t in range(E1) for n in range(ENVS) if future(tale, t, n)[1]]
    assert metrics["e1_clips"] == len(whole) > 4 and learner.phase == "e2"

    clips = torch.stack([torch.cat([every_other(tale.seen(t, n)), future(tale, t, n)[0]]) for t, n in whole])
    clips = clips[torch.randperm(len(whole), generator=same)]
    noise = torch.randn((2, len(whole), 2, 2, 2), generator=same)
    posterior = hand.encoder(clips)
    z = posterior.mean + torch.exp(posterior.logvar / 2) * noise[0]
    told = hand.decoder(clips[:, :2], clips[:, 2:], z).log_softmax(-1)
    rec = -told.gather(-1, clips[:, 2:, ..., None]).sum() / len(whole)
    take_step(rec, trained, rate)
    prior = hand.prior(clips[:, :2])
    with torch.no_grad():
        posterior = hand.encoder(clips)
    pair = [torch.distributions.Normal(g.mean, torch.exp(g.logvar / 2)) for g in (prior, posterior)]
    kl = torch.distributions.kl_divergence(pair[0], pair[1]).sum() / len(whole)
    _, logits = hand.decoder.rollout(clips[:, :2], prior.mean + torch.exp(prior.logvar / 2) * noise[1])
    wanted = learner.goal_pixels[..., 0].long()
    goal = (logits.softmax(-1) - torch.nn.functional.one_hot(wanted, 2)).abs().mean()
    take_step(kl + lambda2 * (SCALE / START_TO_GOAL) * goal, list(hand.prior.parameters()), rate)
    for (name, have), want in zip(model.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-5, msg=name)

    order = torch.randperm(len(whole), generator=same).tolist()
    x, y = (torch.stack([one(*whole[i]) for i in order]) for one in (
        lambda t, n: every_other(tale.seen(t, n)), lambda t, n: future(tale, t, n)[0]))
    with torch.no_grad():
        posterior = hand.encoder(torch.cat([x, y], 1))
    z = posterior.mean + torch.exp(posterior.logvar / 2) * torch.randn((len(whole), 2, 2, 2), generator=same)
    action = torch.stack([actions[whole[i][0]][whole[i][1]] for i in order])
    moving = [p for name, p in actor.named_parameters() if name != "log_std"]  # a mean knows nothing of the spread
    take_step(((actor({"tokens": x, "extra": z}).mean - action)**2).mean(), moving, 1.0)
    for (name, have), want in zip(learner.ppo.actor.named_parameters(), actor.parameters(), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4, msg=name)


def take_step(loss: Tensor, parameters: list[torch.nn.Parameter], rate: float) -> None:
    """Plain gradient descent."""
    grads = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, grad in zip(parameters, grads, strict=True):
            p -= rate * grad


LOOP = {"model": MODEL | {"future_frames": 1},
        "online": PI | {"e1_decisions": dummies.ENVS * 4, "e2_decisions": dummies.ENVS * 5, "minibatch": 5, "epochs": 2,
                        "lact_e1_epochs": 1, "e1_correlation": 0.5, "finetune_batch": 2, "finetune_lr": 1e-3}}


class Interruption:
    """Counts a learner's decisions in time, and says stop after ``after`` of them; 0: never."""

    def __init__(self, after: int = 0) -> None:
        self.after, self.count, self.phases = after, 0, ""

    def learner(self, make: Any, given: LearnerContext) -> Learner:
        out: PVDRLearner = make(given)
        observe = out.observe

        def counted(transition: Transition) -> None:
            self.count, self.phases = self.count + 1, self.phases + out.phase[1]
            observe(transition)

        out.observe = counted  # type: ignore[method-assign]
        return out

    def __call__(self) -> bool:
        return 0 < self.after <= self.count


def run(results: Path, stop: Interruption, replan: int) -> tuple[bool, RunDir]:
    """PVDR in the loop, on the dummy suite, on a tokenizer and a dynamics model of random weights."""
    info = algorithms()["pvdr"]
    assert info.learner is not None
    settings = LOOP | {"planner": {"candidates": 2, "replan_every": replan}}
    spec = make_spec("pvdr", env_steps=3 * SYNC, config=settings, episode_steps=2 * EPISODE, terminate_on_success=False,
                     eval_episodes=2, eval_final_episodes=2)
    cfg = load_object(info.config).model_validate(settings)
    pieces = Pieces(make_envs=make_envs, make_learner=partial(stop.learner, load_object(info.learner)), config=cfg,
                    device=torch.device("cpu"), artefact_config={"tokenize": TOKENIZER}, on_policy=info.on_policy,
                    artefacts={"tokenize": tokenizer_artefact(), "pretrain": weights(cfg, TOKENIZER.codebook.size)})
    done = execute(spec, results, lambda: (pieces, {}), stop)
    return done, RunDir(spec.path(results))


@pytest.mark.parametrize("replan", [1, 3])
def test_an_interrupted_run_goes_on_from_its_checkpoint_to_the_bytes_of_one_that_was_not(
        tmp_path: Path, replan: int) -> None:
    """Sync points are 8 decisions in time apart. The checkpoint of the second one follows two rounds of fine-tuning and
    one of PPO, and holds 3 of E2's 5. The run is stopped within the next E1, which is lost and done again with the end
    of that E2; then fine-tuning follows, too."""
    through, first, second = Interruption(), Interruption(21), Interruption()
    done, whole = run(tmp_path / "whole", through, replan)
    assert done and through.phases == "111122222" * 2 + "111122"
    done, parts = run(tmp_path / "parts", first, replan)
    assert not done and parts.checkpoints.steps()[-1] == 2 * SYNC and first.phases == through.phases[:21]
    done, parts = run(tmp_path / "parts", second, replan)
    assert done and second.phases == through.phases[16:]
    for name in ("train", "episodes"):
        text = getattr(parts, name).path.read_bytes()
        assert text and text == getattr(whole, name).path.read_bytes(), name
    states = [folder.checkpoints.path(3 * SYNC) / "state.safetensors" for folder in (whole, parts)]
    assert states[0].read_bytes() == states[1].read_bytes()
    learned = [row for row in whole.read_train() if "plan_distance" in row]
    assert [row.get("e1_clips", 0) > 0 for row in learned] == [True, False, True, False, True]
    for row in learned:
        told = {"finetune_rec", "finetune_goal", "e1_l_act"} if "e1_clips" in row else {"policy_loss", "l_act"}
        assert told <= row.keys()
