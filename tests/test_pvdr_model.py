"""PVDR's model, Eq. 1 and Eq. 2 against independent computations on small tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr import model as model_module
from pvdr_bench.algorithms.pvdr.config import ModelConfig, PlannerConfig, PretrainConfig, PVDRConfig
from pvdr_bench.algorithms.pvdr.model import Decoder, DynamicsModel, Gaussian
from pvdr_bench.algorithms.pvdr.planner import GoalDistance, Planner
from pvdr_bench.algorithms.pvdr.pretrain import (
    PVDRPretrainer,
    lambda1_at,
    pretraining_loss,
    prior_loss,
    rollout_accuracy,
)
from pvdr_bench.bench.plan import compare
from pvdr_bench.errors import CatalogError
from pvdr_bench.nets.blur import box_blur, pyramid
from tests.learning import above, below, learns

CODES = 11
TINY = ModelConfig(context_frames=2, future_frames=3, d_model=16, ff=16, heads=2, token_dim=8, encoder_depth=1,
                   prior_depth=1, decoder_depth=2, window=2, z_grid=4, z_dim=2)


class TableTokenizer:
    """A codebook without images: what the planner needs of a tokenizer."""

    def __init__(self) -> None:
        self.table = torch.randn(CODES, 5, generator=torch.Generator().manual_seed(3))

    def embed(self, codes: Tensor) -> Tensor:
        return self.table[codes]

    def decode(self, codes: Tensor) -> Tensor:
        return (self.table[codes].sigmoid() * 255).to(torch.uint8)


def tiny(**changes: object) -> DynamicsModel:
    torch.manual_seed(0)
    return DynamicsModel(TINY.model_copy(update=changes), CODES, 4)


def clips(batch: int, seed: int = 0) -> Tensor:
    return torch.randint(0, CODES, (batch, 5, 4, 4), generator=torch.Generator().manual_seed(seed))


def test_gaussian_kl_equals_torch_distributions() -> None:
    a = Gaussian(torch.randn(3, 2, 2, 4), torch.randn(3, 2, 2, 4))
    b = Gaussian(torch.randn(3, 2, 2, 4), torch.randn(3, 2, 2, 4))
    na, nb = (torch.distributions.Normal(g.mean, (0.5 * g.logvar).exp()) for g in (a, b))
    torch.testing.assert_close(a.kl(b), torch.distributions.kl_divergence(na, nb))
    unit = torch.distributions.Normal(torch.zeros_like(a.mean), torch.ones_like(a.mean))
    torch.testing.assert_close(a.kl_normal(), torch.distributions.kl_divergence(na, unit))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equation_1_by_hand(reduction: str) -> None:
    model, batch = tiny(), clips(3)
    config = PretrainConfig(lambda1=0.3, prior_weight=0.7, reduction=reduction)  # type: ignore[arg-type]
    noise = torch.randn(3, 4, 4, 2)
    loss, _ = pretraining_loss(model, config, 0.3, batch, noise)
    q, p = model.encoder(batch), model.prior(batch[:, :2])
    logits = model.decoder(batch[:, :2], batch[:, 2:], q.mean + (q.logvar / 2).exp() * noise).double()
    total = 0.0
    for b in range(3):
        ce = sum(float(torch.logsumexp(logits[b, t, i, j], 0) - logits[b, t, i, j, batch[b, 2 + t, i, j]])
                 for t in range(3) for i in range(4) for j in range(4))
        kl1 = kl2 = 0.0
        for m, v, pm, pv in zip(*(x[b].flatten().tolist() for x in (q.mean, q.logvar, p.mean, p.logvar)), strict=True):
            kl1 += 0.5 * (math.exp(v) + m * m - 1 - v)
            kl2 += 0.5 * (v - pv + (math.exp(pv) + (pm - m) ** 2) / math.exp(v) - 1)
        n_tokens, n_dims = (1, 1) if reduction == "sum" else (48, 32)
        total += ce / n_tokens + 0.3 * kl1 / n_dims + 0.7 * kl2 / n_dims
    assert float(loss) == pytest.approx(total / 3, rel=1e-5)


def test_the_prior_term_stops_at_the_encoder() -> None:
    model, batch = tiny(), clips(2)
    prior_loss(model.prior(batch[:, :2]), model.encoder(batch), "prior_posterior").sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert sum(float(p.grad.abs().sum()) for p in model.prior.parameters() if p.grad is not None) > 0


def test_the_pull_to_the_prior_is_annealed_and_stops_at_the_prior() -> None:
    model, batch, noise = tiny(), clips(3), torch.randn(3, 4, 4, 2)
    plain, _ = pretraining_loss(model, PretrainConfig(lambda1=0.2), 0.1, batch, noise)
    pulled, _ = pretraining_loss(model, PretrainConfig(lambda1=0.2, encoder_prior_weight=3.0), 0.1, batch, noise)
    q, p = model.encoder(batch), model.prior(batch[:, :2])
    normals = [torch.distributions.Normal(g.mean, (g.logvar / 2).exp()) for g in (q, p)]
    want = 0.5 * 3.0 * torch.distributions.kl_divergence(*normals).flatten(1).sum(1).mean()
    torch.testing.assert_close(pulled - plain, want, rtol=1e-3, atol=1e-3)
    grads = torch.autograd.grad(pulled - plain, list(model.prior.parameters()), allow_unused=True)
    assert all(g is None or float(g.abs().max()) < 1e-4 for g in grads)


def test_prior_directions() -> None:
    q, p = Gaussian(torch.ones(1, 1), torch.zeros(1, 1)), Gaussian(torch.zeros(1, 1), torch.ones(1, 1))
    assert float(prior_loss(p, q, "prior_posterior")) == pytest.approx(0.5 * (-1 + math.e + 1 - 1))
    assert float(prior_loss(p, q, "posterior_prior")) == pytest.approx(0.5 * (1 + 2 / math.e - 1))


@pytest.mark.parametrize("extra", [False, True])
def test_rollout_cached_equals_uncached_and_teacher_forcing(extra: bool) -> None:
    model = tiny(z_every_slot=extra, copy_gate=extra, z_grid=2 if extra else 4)
    context, z = clips(4)[:, :2], torch.randn(4, *model.z_shape)
    with torch.no_grad():
        codes, logits = model.decoder.rollout(context, z, cached=True)
        codes_slow, logits_slow = model.decoder.rollout(context, z, cached=False)
        forced = model.decoder(context, codes, z)
    torch.testing.assert_close(logits, logits_slow, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, forced, rtol=1e-4, atol=1e-5)
    top = logits.topk(2).values
    clear = (top[..., 0] - top[..., 1]) > 1e-4
    assert torch.equal(codes[clear], codes_slow[clear]) and clear.float().mean() > 0.99


@pytest.mark.parametrize(("extra", "depth", "frames"), [(False, 1, 2), (True, 2, 2), (True, 2, 1), (False, 2, 3)])
def test_a_plan_is_the_codes_of_a_rollout(extra: bool, depth: int, frames: int) -> None:
    model = tiny(z_every_slot=extra, copy_gate=extra, z_grid=2 if extra else 4, decoder_depth=depth,
                 context_frames=frames, window=2)
    torch.nn.init.normal_(model.decoder.head.weight, std=1.0)
    context = torch.randint(CODES, (6, frames, 4, 4))
    z = torch.randn(6, *model.z_shape)
    with torch.no_grad():
        codes, logits = model.decoder.rollout(context, z)
    found = model.decoder.plan(context, z)
    assert found.shape == codes.shape and found.dtype == torch.int64 and not found.is_inference()
    verdict = compare(codes, logits, found, logits)
    assert verdict["equal"] and verdict["compared_frames"] > 0.8 * found[:, :, 0, 0].numel()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.decoder.plan(context, z).shape == codes.shape


def test_plans_made_some_at_a_time_are_those_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    net, calls = tiny(z_every_slot=True, copy_gate=True, z_grid=2, decoder_depth=2, context_frames=2, window=2), []
    torch.nn.init.normal_(net.decoder.head.weight, std=1.0)
    context, z = torch.randint(CODES, (7, 2, 4, 4)), torch.randn(7, *net.z_shape)
    made = Decoder._plan
    monkeypatch.setattr(Decoder, "_plan", lambda self, x, *rest: calls.append(len(x)) or made(self, x, *rest))
    together = net.decoder.plan(context, z)
    monkeypatch.setattr(model_module, "AT_ONCE", 3 * (1 + 2) * 4 * 4 * net.config.d_model)
    assert torch.equal(net.decoder.plan(context, z), together) and calls == [7, 3, 2, 2]
    monkeypatch.setattr(model_module, "AT_ONCE", 1)  # less than one plan has
    assert torch.equal(net.decoder.plan(context, z), together) and calls[4:] == 7 * [1]


def test_a_decoded_frame_depends_on_z_and_context_only() -> None:
    model, batch = tiny(), clips(2)
    z, other = torch.randn(2, *model.z_shape), batch.clone()
    other[:, 3:] = (other[:, 3:] + 1) % CODES
    with torch.no_grad():
        a, b = (model.decoder(c[:, :2], c[:, 2:], z) for c in (batch, other))
        moved_z = model.decoder(batch[:, :2], batch[:, 2:], z + torch.randn_like(z))
    torch.testing.assert_close(a[:, :2], b[:, :2])  # frames 1, 2 see context and frame 1 only
    assert not torch.allclose(a[:, 2], b[:, 2])
    assert not torch.allclose(a, moved_z)


def test_copy_gate_adds_to_the_previous_token() -> None:
    model = tiny(copy_gate=True)
    gate = model.decoder.gate
    assert gate is not None
    with torch.no_grad():
        gate.weight.zero_()
        gate.bias.fill_(100.0)
        context = clips(2)[:, :2]
        codes, _ = model.decoder.rollout(context, torch.zeros(2, *model.z_shape))
    assert torch.equal(codes, context[:, -1:].expand_as(codes))


def test_blur_against_a_loop() -> None:
    x = torch.randn(2, 4, 4, 3)
    want = torch.zeros_like(x)
    for i in range(4):
        for j in range(4):
            want[:, i, j] = x[:, max(0, i - 1):i + 2, max(0, j - 1):j + 2].mean((1, 2))
    torch.testing.assert_close(box_blur(x, 3), want)


def test_a_pyramid_tells_short_ways_and_long_ones() -> None:
    """A spot that moves along a row: plain cells tell nothing after the first, the pyramid until the fourth."""
    row = torch.eye(8)[:, None, :, None].expand(8, 1, 8, 1)  # [8 places, h, w, C]
    plain, wide, both = ((f(row, w) - f(row, w)[:1]).abs().mean((1, 2, 3)).tolist()
                         for f, w in ((box_blur, 1), (box_blur, 5), (pyramid, 5)))
    middle = (box_blur(row, 3) - box_blur(row, 3)[:1]).abs().mean((1, 2, 3)).tolist()
    assert both == pytest.approx([(a + b + c) / 3 for a, b, c in zip(plain, middle, wide, strict=True)])
    assert len(set(plain[1:])) == 1 and both[1] < both[2] < both[3] < both[4] and both[0] == 0
    assert both[1] > wide[1] and torch.equal(pyramid(row, 1), row) and pyramid(row, 5).shape == (8, 1, 8, 3)
    with pytest.raises(CatalogError, match="odd"):
        pyramid(row, 4)


@pytest.mark.parametrize("metric", ["code_l1", "code_l1_blur", "code_l1_pyramid", "pixel_l1"])
@pytest.mark.parametrize("goal_frames", ["all", "last"])
def test_equation_2_by_brute_force(metric: str, goal_frames: str) -> None:
    model, tokenizer, context = tiny(init_logvar=1.0), TableTokenizer(), clips(3)[:, :2]
    config = PlannerConfig(candidates=5, metric=metric, goal_frames=goal_frames)  # type: ignore[arg-type]
    goal = clips(1, seed=9)[0, 0]
    planner = Planner(model, config, GoalDistance(config, tokenizer, goal))  # type: ignore[arg-type]
    plans = planner.plan(context, torch.Generator().manual_seed(5))
    z = planner.candidates(context, torch.Generator().manual_seed(5))

    def features(codes: Tensor) -> Tensor:
        if metric == "pixel_l1":
            return tokenizer.decode(codes).float() / 255
        levels = {"code_l1": [1], "code_l1_blur": [3], "code_l1_pyramid": [1, 3]}[metric]
        return torch.stack([box_blur(tokenizer.embed(codes), window) for window in levels])

    for b in range(3):
        distances = []
        for n in range(5):
            with torch.no_grad():
                codes = model.decoder.rollout(context[b:b + 1], z[b, n][None])[0][0]
            frames = range(3) if goal_frames == "all" else [2]
            distances.append(np.mean([(features(codes[t]) - features(goal)).abs().mean().item() for t in frames]))
        best = int(np.argmin(distances))
        np.testing.assert_allclose(plans.distance[b].numpy(), distances, rtol=1e-4)
        assert torch.equal(plans.z[b], z[b, best])
    assert float(plans.diversity.min()) > 0


def test_selection_first_ignores_the_goal() -> None:
    model, context = tiny(init_logvar=1.0), clips(4)[:, :2]
    config = PlannerConfig(candidates=4, selection="first")
    planner = Planner(model, config, GoalDistance(config, TableTokenizer(), clips(1)[0, 0]))  # type: ignore[arg-type]
    z = planner.candidates(context, torch.Generator().manual_seed(5))
    assert torch.equal(planner.plan(context, torch.Generator().manual_seed(5)).z, z[:, 0])


def test_lambda1_annealing_is_geometric() -> None:
    config = PretrainConfig(lambda1=0.1, lambda1_start=0.001, lambda1_anneal=100)
    assert [lambda1_at(config, s) for s in (0, 50, 100, 500)] == pytest.approx([0.001, 0.01, 0.1, 0.1])


@pytest.mark.parametrize("lambda1", [0.0, 1e-4, 0.009])
def test_a_lambda1_below_the_start_is_constant_and_leaves_the_other_weights_alone(lambda1: float) -> None:
    """Not annealed from above, and the pull of E to P, which is annealed with it, is never more than its weight."""
    config = PretrainConfig(lambda1=lambda1, lambda1_start=0.01, lambda1_anneal=100, encoder_prior_weight=3.0)
    assert [lambda1_at(config, s) for s in (0, 50, 100, 500)] == pytest.approx([lambda1] * 4)
    model = tiny()
    batch, noise = clips(4), torch.zeros((4, *model.z_shape))
    first, last = (pretraining_loss(model, config, lambda1_at(config, s), batch, noise)[0] for s in (0, 500))
    torch.testing.assert_close(first, last)


def test_rollout_accuracy_by_hand() -> None:
    context = torch.zeros(1, 2, 1, 2, dtype=torch.long)
    future = torch.tensor([[[[1, 0]], [[1, 2]]]])
    codes = torch.tensor([[[[1, 0]], [[0, 2]]]])
    assert rollout_accuracy(codes, future, context) == pytest.approx({"all": 0.75, "moved": 2 / 3, "moved_last": 0.5})


def pretrainer(seed: int = 0, **changes: object) -> PVDRPretrainer:
    config = PVDRConfig(model=TINY, pretrain=PretrainConfig(**{"lr": 3e-3, "batch": 10, "lambda1": 1e-4, **changes}))
    return PVDRPretrainer(config, seed, torch.device("cpu"), CODES, 4)


def check_same_gradients(whole: PVDRPretrainer, parts: PVDRPretrainer, batch: torch.Tensor) -> None:
    """One update of both on the same clips."""
    a, b = whole.update(batch), parts.update(batch)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    for (name, p), q in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_micro_batches_give_the_gradient_of_the_whole() -> None:
    check_same_gradients(pretrainer(), pretrainer(micro_batch=4), clips(10))


def test_same_seed_same_weights_and_exact_resume() -> None:
    one, two, batch = pretrainer(), pretrainer(), clips(10)
    for _ in range(2):
        one.update(batch)
    two.update(batch)
    resumed = pretrainer()
    resumed.load_state_dict(two.state_dict())
    resumed.update(batch)
    for a, b in zip(one.export().values(), resumed.export().values(), strict=True):
        assert torch.equal(a, b)


@learns(cross_entropy_left=below(0.3), accuracy_moved=above(0.8), cross_entropy_over_priors=below(0.7))
def test_overfits_ten_clips_and_z_carries_the_future(seed: int) -> dict[str, float]:
    """Ten clips share one context, so only z can tell their futures apart."""
    learner, batch = pretrainer(seed, lr=1e-2), clips(10, seed)
    batch[:, :2] = batch[:1, :2].clone()
    first = learner.validate(batch)
    for _ in range(250):
        metrics = learner.update(batch)
    last = learner.validate(batch)
    assert all(metrics[f"grad_{part}"] > 0 for part in ("encoder", "prior", "decoder"))
    return {"cross_entropy_left": last["ce_posterior"] / first["ce_posterior"],
            "accuracy_moved": last["acc_posterior_moved"],
            "cross_entropy_over_priors": last["ce_posterior"] / last["ce_prior"]}


def test_nan_is_reported() -> None:
    from pvdr_bench.errors import TrainingError

    learner = pretrainer()
    with torch.no_grad():
        learner.model.decoder.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 0"):
        learner.update(clips(10))
