"""Eqs. 3 and 4 recomputed by hand, and the frames of a context."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from pvdr_bench.rl.contract import Transition
from tests.pvdr_story import (
    E1,
    ENVS,
    SCALE,
    START_TO_GOAL,
    build,
    config,
    every_other,
    future,
    picture,
    story,
)


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
