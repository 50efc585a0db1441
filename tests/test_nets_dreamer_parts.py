"""Truncated normal, two-hot regression, convolutions and the decaying optimiser against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import nn

from pvdr_bench.errors import TrainingError
from pvdr_bench.nets.conv import MLP, ConvDecoder, ConvEncoder, preprocess
from pvdr_bench.nets.distributions import TruncatedNormal
from pvdr_bench.nets.optimizers import AdaptiveLaProp, DecayedAdam, GradientStep
from pvdr_bench.nets.twohot import two_hot, two_hot_bins, two_hot_loss, two_hot_mean
from tests.learning import below, learns

CASES = [(0.0, 0.1), (0.0, 2.1), (0.9, 0.3), (-0.99, 1.5), (0.6, 0.1)]


def truncated(mean: float, std: float) -> TruncatedNormal:
    return TruncatedNormal(torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64))


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_truncated_normal_by_numerical_integration(mean: float, std: float) -> None:
    policy = truncated(mean, std)
    density = lambda x: float(policy.log_prob(torch.tensor([x], dtype=torch.float64)).exp())  # noqa: E731
    assert scipy.integrate.quad(density, -1, 1, points=[mean])[0] == pytest.approx(1, abs=1e-6)
    entropy = scipy.integrate.quad(lambda x: -density(x) * np.log(density(x) + 1e-300), -1, 1, points=[mean])[0]
    assert float(policy.entropy()) == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_truncated_normal_samples_as_scipy(mean: float, std: float) -> None:
    u = np.linspace(0.001, 0.999, 201)
    expected = scipy.stats.truncnorm.ppf(u, (-1 - mean) / std, (1 - mean) / std, mean, std)
    sample = TruncatedNormal(torch.tensor(mean), torch.tensor(std)).sample(torch.from_numpy(u).float())
    np.testing.assert_allclose(sample.numpy(), expected, atol=2e-5)
    extreme = TruncatedNormal(torch.tensor(mean), torch.tensor(std)).sample(torch.tensor([0.0, 1 - 2**-24]))
    assert (extreme.abs() < 1).all() and extreme.isfinite().all()


def test_samples_carry_the_gradient_of_the_inverse_cdf() -> None:
    mean, std = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.4, 0.5))
    u = torch.tensor(0.7, dtype=torch.float64)
    got = torch.autograd.grad(TruncatedNormal(mean, std).sample(u), [mean, std])
    ppf = lambda m, s: scipy.stats.truncnorm.ppf(0.7, (-1 - m) / s, (1 - m) / s, m, s)  # noqa: E731
    assert float(got[0]) == pytest.approx((ppf(0.4 + 1e-5, 0.5) - ppf(0.4 - 1e-5, 0.5)) / 2e-5, rel=1e-4)
    assert float(got[1]) == pytest.approx((ppf(0.4, 0.5 + 1e-5) - ppf(0.4, 0.5 - 1e-5)) / 2e-5, rel=1e-4)


def test_from_raw_is_dreamers_parametrisation() -> None:
    policy = TruncatedNormal.from_raw(torch.tensor([0.3]), torch.tensor([0.0]))
    assert float(policy.mean) == pytest.approx(np.tanh(0.3))
    assert float(policy.std) == pytest.approx(1.1)


def test_bins_are_symexp_of_an_even_grid() -> None:
    bins = two_hot_bins(limit=20.0).double().numpy()
    grid = np.linspace(-20, 20, 255)
    np.testing.assert_allclose(bins, np.sign(grid) * np.expm1(np.abs(grid)), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(bins, -bins[::-1])


def test_two_hot_keeps_the_value_on_two_neighbours() -> None:
    bins, beyond = two_hot_bins(), 1e12
    values = torch.tensor([-3.0, -1e-3, 0.0, 0.02, 1.0, 60.0, beyond])
    weights = two_hot(values, bins)
    assert weights.sum(-1).tolist() == pytest.approx([1.0] * 7)
    assert ((weights > 0).sum(-1) <= 2).all()
    assert (weights[:-1] @ bins).tolist() == pytest.approx(values[:-1].tolist(), rel=1e-4, abs=1e-6)
    assert (weights[-1] @ bins).item() == pytest.approx(float(bins[-1]))


def test_two_hot_loss_is_cross_entropy_and_a_flat_head_says_zero() -> None:
    bins, logits = two_hot_bins(), torch.randn(4, 255)
    values = torch.tensor([0.5, -2.0, 60.0, 0.0])
    expected = nn.functional.cross_entropy(logits, two_hot(values, bins), reduction="none")
    torch.testing.assert_close(two_hot_loss(logits, values, bins), expected)
    assert two_hot_mean(torch.zeros(3, 255), bins).tolist() == [0.0, 0.0, 0.0]
    peaked = torch.full((255,), -1e4)
    peaked[140] = 0
    assert float(two_hot_mean(peaked, bins)) == pytest.approx(float(bins[140]))


def fit(two_hot_head: bool, steps: int, seed: int) -> tuple[float, float]:
    """Errors on common small rewards and on the rare bonus after equal training, means over the last fifth of it: Adam
    shakes a regression whose targets are that far apart."""
    torch.manual_seed(seed)
    x = torch.randn(512, 4)
    rare = torch.arange(512) % 64 == 0
    x[:, 0] = rare.float()
    reward = torch.where(rare, 60.0, -0.01 - 0.5 * torch.sigmoid(x[:, 1]))
    bins = two_hot_bins()
    head = MLP(4, 255 if two_hot_head else 1, 2, 64, output_scale=float(not two_hot_head))
    adam = torch.optim.Adam(head.parameters(), lr=1e-3)
    errors = []
    for _ in range(steps):
        out = head(x)
        predicted = (two_hot_mean(out, bins) if two_hot_head else out[:, 0]).detach()
        error = (predicted - reward).abs()
        errors.append((float(error[~rare].mean()), float(error[rare].mean())))
        loss = two_hot_loss(out, reward, bins).mean() if two_hot_head else 0.5 * (out[:, 0] - reward).square().mean()
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    small, bonus = np.mean(errors[-steps // 5:], axis=0)
    return float(small), float(bonus)


@learns(small=below(0.01), bonus=below(0.5), small_mse=below(0.05), bonus_mse=below(0.5), small_over_mse=below(0.7))
def test_both_heads_fit_rare_bonuses_and_small_rewards_at_once_and_two_hot_the_small_ones_better(
        seed: int) -> dict[str, float]:
    """The small rewards scatter by 0.1 about their mean, so that is the error of a head that says the mean."""
    small, bonus = fit(two_hot_head=True, steps=1000, seed=seed)
    small_mse, bonus_mse = fit(two_hot_head=False, steps=1000, seed=seed)
    return {"small": small, "bonus": bonus, "small_mse": small_mse, "bonus_mse": bonus_mse,
            "small_over_mse": small / small_mse}


def test_published_sizes() -> None:
    encoder, decoder = ConvEncoder(64, 48, (4, 4, 4, 4)), ConvDecoder(2048, 48, (5, 5, 6, 6))
    assert encoder.embed_dim == 1536  # 2 x 2 x 384
    assert [layer.out_channels for layer in decoder.layers if isinstance(layer, nn.ConvTranspose2d)] == [192, 96, 48, 3]
    assert decoder(torch.randn(2, 2048)).shape == (2, 3, 64, 64)
    assert encoder(torch.randn(2, 3, 64, 64)).shape == (2, 1536)


def test_the_first_layer_is_the_transposed_convolution_it_stands_for() -> None:
    torch.manual_seed(0)
    decoder = ConvDecoder(6, 4, (5, 6))
    nn.init.normal_(decoder.layers[0].bias)  # type: ignore[arg-type]
    features = torch.randn(3, 6)
    torch.testing.assert_close(decoder(features), decoder.layers(decoder.dense(features)[..., None, None]))


def test_images_are_normalised_once_whatever_the_leading_shape() -> None:
    image = torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)
    out = preprocess(image, 8)
    assert out.shape == (2, 3, 3, 8, 8) and float(out.min()) >= -0.5 and float(out.max()) <= 0.5
    torch.testing.assert_close(out[1, 2], image[1, 2].permute(2, 0, 1) / 255.0 - 0.5)
    small = preprocess(image, 4)
    torch.testing.assert_close(small[0, 0, 1, 0, 0], image[0, 0, :2, :2, 1].float().mean() / 255 - 0.5)
    with pytest.raises(TypeError, match="uint8"):
        preprocess(image.float(), 8)  # 0..255 as floats would pass unnoticed


def test_decay_does_not_depend_on_the_learning_rate() -> None:
    """One step by hand: w (1 - decay), then Adam's first step of lr in the gradient's sign; a frozen group decays."""
    moving, frozen = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([4.0]))
    optimiser = DecayedAdam([{"params": [moving]}, {"params": [frozen], "lr": 0.0}], lr=0.5, eps=0.0, decay=0.1,
                            max_norm=1.0)
    norm = optimiser.update((3 * moving + 4 * frozen).sum())
    assert norm == pytest.approx(5.0)
    assert float(moving) == pytest.approx(2 * 0.9 - 0.5)
    assert float(frozen) == pytest.approx(4 * 0.9)
    assert moving.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["adam", "laprop"])
def test_a_gradient_that_is_not_finite_moves_nothing(kind: str, bad: float) -> None:
    """Neither the step nor the decay before it, and the next finite step is as if there had been none."""
    def made() -> tuple[list[nn.Parameter], GradientStep]:
        weights = [nn.Parameter(torch.tensor([2.0, -3.0])), nn.Parameter(torch.tensor([4.0]))]
        groups = [{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.01}]
        return weights, (DecayedAdam(groups, 0.5, 1e-5, decay=0.1, max_norm=1.0, clip_each=True) if kind == "adam" else
                         AdaptiveLaProp(groups, 0.5, 1e-20, clip=0.3))

    def step(weights: list[nn.Parameter], optimiser: GradientStep, scale: float) -> float:
        return optimiser.update((weights[0] ** 2).sum() + scale * weights[1].sum())

    (weights, optimiser), (others, untouched) = made(), made()
    for own, one in ((weights, optimiser), (others, untouched)):
        step(own, one, 3.0)
    before = [w.detach().clone() for w in weights]
    state = {k: v.clone() for k, v in optimiser.inner.state[weights[0]].items()}
    with pytest.raises(TrainingError, match="gradient of a finite loss has the norm"):
        optimiser.update((weights[0] ** 2).sum() + (weights[1] * bad).sum())
    assert all(map(torch.equal, weights, before))
    assert all(torch.equal(x, state[name]) for name, x in optimiser.inner.state[weights[0]].items())
    assert step(weights, optimiser, 5.0) == step(others, untouched, 5.0) and all(map(torch.equal, weights, others))
