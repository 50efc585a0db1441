"""Eq. 5 recomputed by hand: its step beside PPO's, its minibatches, what is told of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr import alignment
from pvdr_bench.algorithms.pvdr.alignment import Aligner, Alignment, Labels
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from tests.pvdr_story import (
    E1,
    E2,
    ENTROPY,
    ENVS,
    WEIGHT,
    Played,
    Story,
    build,
    config,
    every_other,
    future,
    played,
    story,
)

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


def test_labels_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(config())
    encoder, read, checked = learner.model.encoder, [], []
    forward, make = encoder.forward, Aligner.labels
    monkeypatch.setattr(encoder, "forward", lambda clips: read.append(len(clips)) or forward(clips))
    monkeypatch.setattr(alignment, "READ_AT_ONCE", 3)

    def watched(self: Aligner, *told: Any) -> Labels:
        read.clear()
        labels = make(self, *told)
        assert sum(read) == len(labels) > 3 >= max(read)
        with torch.no_grad():
            whole = forward(torch.cat([labels.tokens.long(), labels.future.long()], 1))
        torch.testing.assert_close((labels.mean, labels.logvar), (whole.mean, whole.logvar))
        checked.append(len(labels))
        return labels

    monkeypatch.setattr(Aligner, "labels", watched)
    played(learner, story())
    assert checked


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
