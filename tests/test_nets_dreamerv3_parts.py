"""The parts of DreamerV3's networks and optimiser against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from pvdr_bench.nets.block_gru import BlockGRU
from pvdr_bench.nets.conv import MLP
from pvdr_bench.nets.laprop import LaProp, clip_adaptively
from pvdr_bench.nets.layers import BlockLinear, RMSNorm, Style
from pvdr_bench.nets.optimizers import AdaptiveLaProp, load_optimizer_state, optimizer_state
from pvdr_bench.nets.rssm import RSSM, RSSMForm, categorical_kl, mix_uniform, scaled_kl
from pvdr_bench.nets.twohot import ScalarHead, symexp, symlog, two_hot, two_hot_bins
from tests.test_nets_rssm import check_scan

V3 = Style(norm="rms", activation="silu", init="truncated")


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def numpy_two_hot(value: float, bins: np.ndarray) -> np.ndarray:
    out = np.zeros(len(bins))
    value = min(max(value, bins[0]), bins[-1])
    above = next(i for i, one in enumerate(bins) if one >= value)
    low = max(above - 1, 0)
    share = 1.0 if above == low else (value - bins[low]) / (bins[above] - bins[low])
    out[low] += 1 - share
    out[above] += share
    return out


# Scalars ------------------------------------------------------------------------------------------------------------


def test_symlog_and_symexp_are_inverse_and_meet_the_identity_at_zero() -> None:
    x = torch.tensor([-1e4, -1.0, -1e-6, 0.0, 1e-6, 2.0, 1e6], dtype=torch.float64)
    np.testing.assert_allclose(symlog(x).numpy(), np.sign(x.numpy()) * np.log(np.abs(x.numpy()) + 1))
    np.testing.assert_allclose(symexp(symlog(x)).numpy(), x.numpy(), rtol=1e-12)
    assert float(symlog(torch.tensor(1e-6))) == pytest.approx(1e-6, rel=1e-4)


@pytest.mark.parametrize("limit", [7.0, 20.0])
def test_two_hot_of_any_value_by_numpy(limit: float) -> None:
    bins = two_hot_bins(limit=limit)
    values = torch.tensor([-1e9, -300.0, -0.3, -1e-9, 0.0, 0.011, 1.0, 61.7, 1e9])
    got = two_hot(values, bins)
    for row, value in zip(array(got), values.tolist(), strict=True):
        np.testing.assert_allclose(row, numpy_two_hot(value, array(bins)), atol=1e-6)


def test_a_new_two_hot_head_says_exactly_zero_with_published_bins() -> None:
    """Sums from left to right would say something else: the ends are at 5e8."""
    torch.manual_seed(0)
    head = ScalarHead(6, 2, 16, two_hot=True, limit=20.0, style=V3)
    assert head.mean(head(torch.randn(50, 6))).tolist() == [0.0] * 50
    target = torch.tensor([3.0, -0.5])
    torch.testing.assert_close(head.loss(head(torch.randn(2, 6)), target), torch.full((2,), np.log(255)).float())
    squares = ScalarHead(6, 2, 16, two_hot=False)
    out = squares(torch.randn(2, 6))
    torch.testing.assert_close(squares.loss(out, target), 0.5 * (out[:, 0] - target) ** 2)
    assert (squares.mean(out) == out[:, 0]).all()


# Layers -------------------------------------------------------------------------------------------------------------


def rms(x: np.ndarray, weight: np.ndarray, axis: int = -1) -> np.ndarray:
    shape = [1] * x.ndim
    shape[axis] = -1
    return x / np.sqrt((x**2).mean(axis, keepdims=True) + 1e-4) * weight.reshape(shape)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_a_block_reads_only_its_own_inputs() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(6, 9, 3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 6)
    full = np.zeros((6, 9))
    for g in range(3):
        full[2 * g:2 * g + 2, 3 * g:3 * g + 3] = array(layer.weight[g])
    np.testing.assert_allclose(array(layer(x)), array(x) @ full + array(layer.bias), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 blocks do not divide"):
        BlockLinear(7, 9, 3)


def test_norms_by_numpy() -> None:
    torch.manual_seed(0)
    pixels, row = RMSNorm(4, pixels=True), V3.after(4)[0]
    assert isinstance(row, RMSNorm)
    for norm in (pixels, row):
        nn.init.normal_(norm.weight)
    x = torch.randn(3, 4, 5, 5)
    np.testing.assert_allclose(array(pixels(x)), rms(array(x), array(pixels.weight), 1), rtol=1e-5, atol=1e-6)
    y = x[:, :, 0, 0]
    np.testing.assert_allclose(array(row(y)), rms(array(y), array(row.weight)), rtol=1e-5, atol=1e-6)
    assert pixels(x.bfloat16()).dtype == torch.bfloat16


def test_weights_begin_as_a_truncated_normal_of_the_fan_in() -> None:
    torch.manual_seed(0)
    net, block = MLP(400, 50, 1, 300, style=V3), nn.Sequential(BlockLinear(400, 800, 4))
    V3.begin(block)
    for layer, fan in ((net.layers[0], 400), (net.layers[-1], 300), (block[0], 400)):
        weight = array(layer.weight).ravel() * fan**0.5
        assert weight.std() == pytest.approx(1.0, abs=0.02) and np.abs(weight).max() <= 2 * 1.1368
        assert scipy.stats.kstest(weight / 1.1368, scipy.stats.truncnorm(-2, 2).cdf).pvalue > 1e-3
        assert not layer.bias.any()
    small = MLP(400, 50, 1, 300, output_scale=0.01, style=V3).layers[-1]
    assert array(small.weight).std() == pytest.approx(0.01 / 300**0.5, rel=0.05)


def test_the_block_gru_by_numpy() -> None:
    torch.manual_seed(0)
    cell = BlockGRU(stoch=6, action=2, hidden=5, deter=8, blocks=4, style=V3)
    for parameter in cell.parameters():
        nn.init.normal_(parameter)
    stoch, action, deter = torch.randn(3, 6), torch.randn(3, 2), torch.randn(3, 8)

    def dense(net: nn.Module, x: np.ndarray) -> np.ndarray:
        linear, norm = net[0], net[1]  # type: ignore[index]
        return silu(rms(x @ array(linear.weight).T + array(linear.bias), array(norm.weight)))

    parts = [dense(net, array(x)) for net, x in zip(cell.inputs, (deter, stoch, action), strict=True)]
    hidden, h = [], array(deter)
    for g in range(4):
        x = np.concatenate([h[:, 2 * g:2 * g + 2], *parts], 1)
        hidden.append(x @ array(cell.hidden[0].weight[g]))
    x = silu(rms(np.concatenate(hidden, 1) + array(cell.hidden[0].bias), array(cell.hidden[1].weight)))
    new = []
    for g in range(4):
        gates = x[:, 2 * g:2 * g + 2] @ array(cell.gates.weight[g]) + array(cell.gates.bias)[6 * g:6 * g + 6]
        sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
        reset, candidate, update = gates[:, :2], gates[:, 2:4], gates[:, 4:]
        candidate, update = np.tanh(sigmoid(reset) * candidate), sigmoid(update - 1)
        new.append(update * candidate + (1 - update) * h[:, 2 * g:2 * g + 2])
    np.testing.assert_allclose(array(cell(stoch, action, deter)), np.concatenate(new, 1), rtol=1e-4, atol=1e-5)


# RSSM ---------------------------------------------------------------------------------------------------------------


def small() -> RSSM:
    torch.manual_seed(1)
    return RSSM(3, 5, 8, 7, 2, 4, RSSMForm("block_gru", 4, 2, 0.01, V3))


def test_unimix_by_numpy_and_no_class_is_ever_impossible() -> None:
    logits = torch.tensor([[0.0, 3.0, -200.0, 1.0]], dtype=torch.float64)
    probs = np.exp(array(logits)) / np.exp(array(logits)).sum()
    np.testing.assert_allclose(array(mix_uniform(logits, 0.01).exp()), 0.99 * probs + 0.01 / 4)
    rssm, embed = small(), torch.randn(4, 6, 5)
    for layer in (rssm.img_out[-1], rssm.obs_out[-1]):
        nn.init.normal_(layer.weight, std=50.0)  # type: ignore[arg-type]
    first = torch.arange(6).expand(4, 6) == 0
    post, prior = rssm.scan(embed, torch.randn(4, 6, 2), first, torch.rand(4, 6, 2))
    for found in (post["logits"].detach(), prior.detach()):
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(4, 6, 2))
        assert float(found.exp().min()) >= 0.01 / 4 * 0.999 and float(found.exp().max()) > 0.9


def test_its_scan_is_its_steps_and_forgets_at_a_first() -> None:
    rssm, embed, action, uniform = small(), torch.randn(4, 8, 5), torch.randn(4, 8, 2), torch.rand(4, 8, 2)
    first = torch.zeros(4, 8, dtype=torch.bool)
    first[:, 0] = first[:, 5] = True
    post = check_scan(rssm, embed, action, first, uniform)
    part, _ = rssm.scan(embed[:, 5:], action[:, 5:], first[:, 5:], uniform[:, 5:])
    torch.testing.assert_close(post["deter"][:, 5:], part["deter"])


def test_free_bits_are_of_every_state_and_stop_its_gradient_alone() -> None:
    g = torch.Generator().manual_seed(0)
    q, p = (torch.randn(6, 3, 4, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    each = categorical_kl(q, p).detach().numpy()
    free = float(np.median(each))
    loss, value = scaled_kl(q, p, dyn=0.7, rep=0.2, free_nats=free)
    assert float(loss.detach()) == pytest.approx(0.9 * np.maximum(each, free).mean())
    assert float(value) == pytest.approx(each.mean())
    plain = torch.autograd.grad(categorical_kl(q, p).mean(), [q, p])
    grad_q, grad_p = torch.autograd.grad(loss, [q, p])
    over = torch.from_numpy(each > free)[:, None, None]
    assert 0 < int(over.sum()) < 6
    torch.testing.assert_close(grad_p, 0.7 * plain[1] * over)
    torch.testing.assert_close(grad_q, 0.2 * plain[0] * over)


# Optimiser ----------------------------------------------------------------------------------------------------------


def numpy_steps(weights: list[np.ndarray], gradients: list[list[np.ndarray]], lr: float, clip: float, eps: float,
                beta1: float = 0.9, beta2: float = 0.999) -> list[np.ndarray]:
    """Clip each tensor, divide by the debiased root mean square, average, step."""
    weights = [w.copy() for w in weights]
    squares, means = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for t, row in enumerate(gradients, 1):
        for i, grad in enumerate(row):
            limit = clip * max(np.linalg.norm(weights[i]), 1e-3)
            if clip:
                grad = grad / max(1.0, np.linalg.norm(grad) / limit)
            squares[i] = beta2 * squares[i] + (1 - beta2) * grad**2
            scaled = grad / (np.sqrt(squares[i] / (1 - beta2**t)) + eps)
            means[i] = beta1 * means[i] + (1 - beta1) * scaled
            weights[i] = weights[i] - lr * means[i] / (1 - beta1**t)
    return weights


@pytest.mark.parametrize("clip", [0.3, 0.0])
def test_laprop_behind_adaptive_clipping_by_numpy(clip: float) -> None:
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (5,), (2, 2, 2)]
    start = [rng.normal(size=shape) for shape in shapes]
    start[1][:] = 0.0  # a new bias: it counts as of norm 1e-3
    gradients = [[rng.normal(size=shape) * 10.0 ** rng.integers(-4, 3) for shape in shapes] for _ in range(5)]
    parameters = [nn.Parameter(torch.from_numpy(w.copy())) for w in start]
    step = AdaptiveLaProp([{"params": parameters}], lr=0.05, eps=1e-20, clip=clip)
    for row in gradients:
        loss = torch.stack([(p * torch.from_numpy(g)).sum() for p, g in zip(parameters, row, strict=True)]).sum()
        norm = step.update(loss)
        assert norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in row)))
    for p, expected in zip(parameters, numpy_steps(start, gradients, 0.05, clip, 1e-20), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-6)  # counts of steps are float32
        assert p.grad is None


def test_it_steps_with_the_oldest_torch_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``get_total_norm`` is of 2.6."""
    monkeypatch.delattr(nn.utils, "get_total_norm", raising=False)
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    step = AdaptiveLaProp([{"params": weights}], lr=0.1, eps=1e-20, clip=0.3)
    assert step.update(3 * weights[0].sum() + 4 * weights[1].sum()) == pytest.approx(5.0)


def test_adaptive_clipping_bounds_each_tensor_by_itself() -> None:
    large, small_ = nn.Parameter(torch.full((4,), 10.0)), nn.Parameter(torch.zeros(4))
    large.grad, small_.grad = torch.full((4,), 1.0), torch.full((4,), 1.0)
    clip_adaptively([large, small_, nn.Parameter(torch.ones(2))], 0.3)
    assert large.grad.tolist() == [1.0] * 4  # 2 of 20, less than 0.3
    assert float(small_.grad.norm()) == pytest.approx(0.3 * 1e-3)


def test_a_rate_per_group_and_a_parameter_without_gradient_stands_still() -> None:
    moving, frozen, untouched = (nn.Parameter(torch.ones(3)) for _ in range(3))
    step = AdaptiveLaProp([{"params": [moving, untouched]}, {"params": [frozen], "lr": 0.0}], 0.1, 1e-20, 0.3)
    step.update((moving * torch.ones(3) + 2 * frozen).sum())
    assert moving.tolist() == pytest.approx([0.9] * 3) and frozen.tolist() == [1.0] * 3
    assert untouched.tolist() == [1.0] * 3 and untouched not in step.inner.state
    assert float(step.inner.state[frozen]["exp_avg"][0]) != 0


def test_its_state_is_stored_and_continues_exactly() -> None:
    def loss(p: Tensor) -> Tensor:
        return (p**2).sum() + p[0]

    through = nn.Parameter(torch.arange(1.0, 4.0))
    first = nn.Parameter(through.detach().clone())
    whole, before = (LaProp([p], lr=0.1) for p in (through, first))
    for _ in range(6):
        through.grad, = torch.autograd.grad(loss(through), [through])
        whole.step()
    for _ in range(2):
        first.grad, = torch.autograd.grad(loss(first), [first])
        before.step()
    after = LaProp([first], lr=0.1)
    load_optimizer_state(after, optimizer_state(before))
    for _ in range(4):
        first.grad, = torch.autograd.grad(loss(first), [first])
        after.step()
    assert torch.equal(first, through)
