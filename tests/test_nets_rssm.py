"""The RSSM and its parts against formulas, torch's own distributions and step-by-step filtering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, OneHotCategorical, kl_divergence

from pvdr_bench.nets.rssm import (
    RSSM,
    NormedGRU,
    State,
    balanced_kl,
    categorical_entropy,
    categorical_kl,
    sample_one_hot,
)


def logits_pair(requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.randn(6, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return q.requires_grad_(requires_grad), p.requires_grad_(requires_grad)


def test_gru_by_its_formula() -> None:
    torch.manual_seed(0)
    cell = NormedGRU(3, 4)
    torch.nn.init.normal_(cell.gates.bias)
    torch.nn.init.normal_(cell.norm.weight)
    torch.nn.init.normal_(cell.norm.bias)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    weight, bias = cell.gates.weight.detach().numpy(), cell.gates.bias.detach().numpy()
    raw = np.concatenate([x.numpy(), h.numpy()], 1) @ weight.T + bias
    normed = (raw - raw.mean(1, keepdims=True)) / np.sqrt(raw.var(1, keepdims=True) + 1e-3)
    normed = normed * cell.norm.weight.detach().numpy() + cell.norm.bias.detach().numpy()
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    reset, candidate, update = normed[:, :4], normed[:, 4:8], normed[:, 8:]
    update = sigmoid(update - 1)
    expected = update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * h.numpy()
    np.testing.assert_allclose(cell(x, h).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_kl_equals_torch_distributions() -> None:
    q, p = logits_pair()
    expected = kl_divergence(Independent(OneHotCategorical(logits=q), 1), Independent(OneHotCategorical(logits=p), 1))
    torch.testing.assert_close(categorical_kl(q, p), expected)
    torch.testing.assert_close(categorical_entropy(q), Independent(OneHotCategorical(logits=q), 1).entropy())


def test_kl_balance_and_its_two_stop_gradients() -> None:
    """Each side gets its share of the gradient of the plain KL and nothing else."""
    q, p = logits_pair(requires_grad=True)
    plain = torch.autograd.grad(categorical_kl(q, p).mean(), [q, p])
    loss, value = balanced_kl(q, p, balance=0.8, free_nats=0.0)
    mixed = torch.autograd.grad(loss, [q, p])
    torch.testing.assert_close(mixed[0], 0.2 * plain[0])
    torch.testing.assert_close(mixed[1], 0.8 * plain[1])
    torch.testing.assert_close(loss.detach(), value)
    assert float(value) == pytest.approx(float(categorical_kl(q, p).mean()))


def test_free_nats_bound_the_mean_and_stop_the_gradient() -> None:
    q, p = logits_pair(requires_grad=True)
    loss, value = balanced_kl(q, p, balance=0.8, free_nats=float(categorical_kl(q, p).mean()) + 1)
    assert float(loss) == pytest.approx(float(value) + 1)
    assert all(float(g.abs().max()) == 0 for g in torch.autograd.grad(loss, [q, p]))


def test_samples_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    sample = sample_one_hot(logits.expand(40_000, 3), uniform)
    assert set(sample.unique().tolist()) == {0.0, 1.0} and (sample.sum(-1) == 1).all()
    assert sample.mean(0).tolist() == pytest.approx(logits.softmax(0).tolist(), abs=0.01)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_are_classes(u: float) -> None:
    logits = torch.tensor([[-200.0, 0.0, 1.0, -200.0]])
    index = sample_one_hot(logits, torch.tensor([u])).argmax()
    assert int(index) in (1, 2)


def test_straight_through_gradient_is_that_of_the_probabilities() -> None:
    q, _ = logits_pair(requires_grad=True)
    weights = torch.randn(q.shape, dtype=torch.float64)
    sample = sample_one_hot(q, torch.rand(6, 3, dtype=torch.float64))
    got = torch.autograd.grad((sample * weights).sum(), q)[0]
    expected = torch.autograd.grad((q.softmax(-1) * weights).sum(), q)[0]
    torch.testing.assert_close(got, expected)


def small() -> tuple[RSSM, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    rssm = RSSM(action_width=3, embed_dim=5, deter=6, hidden=7, stoch=2, classes=3)
    embed, action, uniform = torch.randn(4, 8, 5), torch.randn(4, 8, 2), torch.rand(4, 8, 2)
    first = torch.zeros(4, 8, dtype=torch.bool)
    first[:, 0] = True
    return rssm, embed, action, first, uniform


def check_scan(rssm: RSSM, embed: Tensor, action: Tensor, first: Tensor, uniform: Tensor) -> State:
    """A scan is its steps, and its prior is imagination; the scan's posterior states."""
    post, prior = rssm.scan(embed, action, first, uniform)
    state = rssm.initial(len(embed), embed.device)
    for t in range(embed.shape[1]):
        keep = (~first[:, t]).float()[:, None]
        before = {"stoch": state["stoch"] * keep[..., None], "deter": state["deter"] * keep}
        imagined = rssm.imagine(before, action[:, t] * keep, uniform[:, t])
        state = rssm.observe(state, action[:, t], embed[:, t], first[:, t], uniform[:, t])
        for name in state:
            torch.testing.assert_close(post[name][:, t], state[name])
        torch.testing.assert_close(prior[:, t], imagined["logits"])
    return post


def test_scan_equals_steps_and_its_prior_equals_imagination() -> None:
    check_scan(*small())


def test_an_episode_start_forgets_what_was_before() -> None:
    rssm, embed, action, first, uniform = small()
    first[:, 5] = True
    whole, _ = rssm.scan(embed, action, first, uniform)
    part, _ = rssm.scan(embed[:, 5:], torch.zeros_like(action[:, 5:]) + action[:, 5:], first[:, 5:], uniform[:, 5:])
    torch.testing.assert_close(whole["deter"][:, 5:], part["deter"])
    other, _ = rssm.scan(embed, action.index_fill(1, torch.tensor([5]), 9.0), first, uniform)
    torch.testing.assert_close(whole["deter"][:, 5:], other["deter"][:, 5:])  # nor does the action before count
    first[:, 5] = False
    kept, _ = rssm.scan(embed, action, first, uniform)
    assert not torch.allclose(whole["deter"][:, 5], kept["deter"][:, 5])


def test_padding_an_action_is_having_none_there() -> None:
    rssm, embed, _, first, uniform = small()
    none, _ = rssm.scan(embed, torch.zeros(4, 8, 0), first, uniform)
    zero, _ = rssm.scan(embed, torch.zeros(4, 8, 3), first, uniform)
    torch.testing.assert_close(none["deter"], zero["deter"])


def test_keras_initialisation() -> None:
    rssm = RSSM(4, 64, 64, 200, 8, 8)
    layer = rssm.img_out[0]
    assert isinstance(layer, torch.nn.Linear)
    assert float(layer.bias.abs().max()) == 0
    bound = (6 / (64 + 200)) ** 0.5
    assert 0.95 * bound < float(layer.weight.abs().max()) <= bound
