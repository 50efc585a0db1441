"""Algorithm 1's arithmetic: futures across episode ends, Eqs. 3 to 6, and a learner that resumes exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.alignment import action_error
from pvdr_bench.algorithms.pvdr.config import ModelConfig, PlannerConfig, PretrainConfig
from pvdr_bench.algorithms.pvdr.model import DynamicsModel, token_cross_entropy
from pvdr_bench.algorithms.pvdr.planner import GoalDistance
from pvdr_bench.algorithms.pvdr.rounds import (
    future_frames,
    mean_ahead,
    plan_error,
    prior_finetuning_loss,
    reconstruction_loss,
    soft_plan_features,
)
from tests.test_pvdr_model import CODES, TINY, TableTokenizer, clips


def tiny(config: ModelConfig = TINY) -> DynamicsModel:
    torch.manual_seed(0)
    return DynamicsModel(config, CODES, 4)


def goal_distance(**changes: Any) -> GoalDistance:
    config = PlannerConfig.model_validate({"metric": "code_l1", **changes})
    return GoalDistance(config, TableTokenizer(), clips(1, seed=9)[0, 0])  # type: ignore[arg-type]


def test_futures_against_a_walk_through_the_episodes() -> None:
    generator = torch.Generator().manual_seed(0)
    time, envs, offsets = 9, 3, [2, 4]
    codes = torch.arange(time * envs).view(time, envs, 1, 1)
    next_codes = 1000 + codes
    ended = torch.rand(time, envs, generator=generator) < 0.3
    future, valid = future_frames(codes, next_codes, ended, offsets)
    for n in range(envs):
        for t in range(time):
            frames, at = [], t  # frames of this episode from t on, the true final one included
            while True:
                frames.append(int(codes[at, n]))
                if ended[at, n] or at == time - 1:
                    frames.append(int(next_codes[at, n]))
                    break
                at += 1
            for k, offset in enumerate(offsets):
                assert int(future[t, n, k]) == frames[min(offset, len(frames) - 1)]
            assert bool(valid[t, n]) == (len(frames) > max(offsets))


def test_equation_3_leaves_the_encoder_body_alone() -> None:
    model, batch, noise = tiny(), clips(3), torch.randn(3, 4, 4, 2)
    loss = reconstruction_loss(model, batch, noise, "sum")
    with torch.no_grad():
        z = model.encoder(batch).sample(noise)
        want = token_cross_entropy(model.decoder(batch[:, :2], batch[:, 2:], z), batch[:, 2:]).sum() / 3
    torch.testing.assert_close(loss, want)
    torch.autograd.backward(loss)
    assert all(p.grad is None for p in [*model.encoder.body.parameters(), *model.encoder.embed.parameters()])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.head.parameters())
    assert sum(float(p.grad.abs().sum()) for p in model.decoder.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("direction", ["prior_posterior", "posterior_prior"])
def test_equation_4_by_hand_and_its_gradient_reaches_the_prior_through_the_plan(direction: str) -> None:
    model, batch, noise, distance = tiny(), clips(2), torch.randn(2, 4, 4, 2), goal_distance()
    table = TableTokenizer().table
    config = PretrainConfig(prior_kl=direction)  # type: ignore[arg-type]
    loss, terms = prior_finetuning_loss(model, distance, table, batch, noise, 0.8, config)
    with torch.no_grad():
        prior, posterior = model.prior(batch[:, :2]), model.encoder(batch)
        pair = [torch.distributions.Normal(g.mean, (g.logvar / 2).exp()) for g in (prior, posterior)]
        p, q = pair if direction == "prior_posterior" else pair[::-1]
        kl = torch.distributions.kl_divergence(p, q).sum() / 2
        _, logits = model.decoder.rollout(batch[:, :2], prior.sample(noise))
        expected = torch.einsum("blhwk,kq->blhwq", logits.softmax(-1), table)
        goal = (expected - table[clips(1, seed=9)[0, 0]]).abs().mean()
    torch.testing.assert_close(loss.detach(), kl + 0.8 * goal, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["finetune_goal"], goal)
    features = soft_plan_features(model, distance, table, batch[:, :2], model.prior(batch[:, :2]).sample(noise))
    grads = torch.autograd.grad(features.sum(), list(model.prior.head.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)


def test_equation_4_compares_the_frames_and_codes_that_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, noise, table = tiny(), clips(2), torch.randn(2, 4, 4, 2), TableTokenizer().table
    goal_codes = clips(1, seed=9)[0, 0]
    with torch.no_grad():
        _, logits = model.decoder.rollout(batch[:, :2], model.prior(batch[:, :2]).sample(noise))
        error = (logits.softmax(-1) @ table - table[goal_codes]).abs()
    monkeypatch.setattr(TableTokenizer, "decode", lambda self, codes: codes[..., None].expand(*codes.shape, 3),
                        raising=False)
    for changes, want in (({"goal_frames": "last"}, error[:, -1].mean()), ({"metric": "pixel_l1"}, error.mean())):
        terms = prior_finetuning_loss(model, goal_distance(**changes), table, batch, noise, 0.8, PretrainConfig())[1]
        torch.testing.assert_close(terms["finetune_goal"], want)
    assert not torch.allclose(error[:, -1].mean(), error.mean())


def test_plan_error_of_equation_6() -> None:
    distance, table = goal_distance(), TableTokenizer().table
    plan, future = (clips(6, seed=s)[:, 2:].view(2, 3, 3, 4, 4) for s in (1, 2))
    error = plan_error(distance, plan, future)
    want = sum((table[plan[:, :, k]] - table[future[:, :, k]]).abs().mean((2, 3, 4)) for k in range(3)) / 3
    assert isinstance(want, Tensor)
    torch.testing.assert_close(error, want)
    assert float(plan_error(distance, plan, plan).abs().max()) == 0


def test_action_error_forms() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    assert float(action_error(a, b, "l2")) == 5.0
    assert float(action_error(a, b, "mse")) == 12.5


def test_mean_action_on_the_way_to_the_first_plan_frame() -> None:
    action = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    want = torch.stack([torch.stack([action[t:t + 3, n].mean(0) for n in range(2)]) for t in range(5)])
    torch.testing.assert_close(mean_ahead(action, 3), want)
    torch.testing.assert_close(mean_ahead(action, 1), action)
    torch.testing.assert_close(mean_ahead(action[:2], 3), want[3:] * 0 + torch.stack([action[:2].mean(0), action[1]]))
