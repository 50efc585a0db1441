"""PreLAR: latent actions between frames, their prior, the consistency of actions and states."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.consistency import agreement, order_loss
from pvdr_bench.algorithms.dreamer.latent_action import gaussian_kl
from pvdr_bench.algorithms.dreamer.pretrain import Noise, VideoPretrainer
from pvdr_bench.algorithms.dreamer.video_model import learning
from pvdr_bench.rl.process_group import ALONE
from tests.learning import above, learns
from tests.test_dreamer_faithful import feature, kl_by_hand
from tests.test_dreamer_model import SMALL, config, sequences
from tests.test_ppo_learner import assert_equal

CPU = torch.device("cpu")
WIDTH = 4  # of latent actions
MODEL = {**SMALL["model"], "backbone": "resnet", "res_stages": 2, "res_blocks": 1, "action_width": WIDTH,
         "latent_action": {"kind": "gaussian", "units": 16}}


def settings(kind: str = "gaussian", reads: str = "frames", **changes: Any) -> DreamerConfig:
    latent = {"kind": kind, "reads": reads, "units": 16}
    return config(**{"action_encoder": True, "model": {**MODEL, "latent_action": latent}, **changes})


def pretrainer(consistency: str = "rank", kind: str = "gaussian", reads: str = "frames",
               **changes: Any) -> VideoPretrainer:
    return VideoPretrainer(settings(kind, reads, pretrain={"consistency": consistency, **changes}), 0, CPU)


def pictures(count: int = 3) -> Tensor:
    return sequences(batch=count).image


# The latent action --------------------------------------------------------------------------------------------------


def test_kl_of_gaussians_by_torch_and_the_squashed_unit_prior() -> None:
    g = torch.Generator().manual_seed(0)
    mean, other_mean = (torch.randn(5, 3, generator=g) for _ in range(2))
    std, other_std = (torch.rand(5, 3, generator=g) + 0.1 for _ in range(2))
    expected = kl_divergence(Independent(Normal(mean, std), 1), Independent(Normal(other_mean, other_std), 1))
    torch.testing.assert_close(gaussian_kl(mean, std, other_mean, other_std), expected)
    prior = settings().model.latent_action.prior_std
    assert prior == pytest.approx(2 / (1 + 2.718281828459045**-0.5), rel=1e-6)


@pytest.mark.parametrize("reads", ["frames", "embeddings"])
def test_a_latent_action_by_hand_stands_at_the_frame_it_led_to(reads: str) -> None:
    model = pretrainer("none", reads=reads).model.eval()
    assert model.implicit is not None
    image = pictures().permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    embed, normal = model.embed(image), torch.randn(3, 5, WIDTH)
    found = model.latent_actions(image, embed, normal)
    assert found.action.shape == (3, 6, WIDTH) and not found.action[:, 0].any()
    for b, t in itertools.product(range(3), range(5)):
        if reads == "frames":
            assert model.implicit.pictures is not None
            pair = model.implicit.pictures(torch.cat([image[b, t], image[b, t + 1]])[None])[0]
        else:
            pair = torch.cat([embed[b, t], embed[b, t + 1]])
        mean, raw = model.implicit.dense(pair).split(WIDTH)
        std = 2 / (1 + (-raw / 2).exp())
        torch.testing.assert_close(found.action[b, t + 1], mean + std * normal[b, t], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.kl(0.7), kl_divergence(
        Independent(Normal(found.mean, found.std), 1),
        Independent(Normal(torch.zeros(3, 5, WIDTH), 0.7 * torch.ones(3, 5, WIDTH)), 1)).mean())
    image[:, 3] += 0.1  # only the steps into it and out of it change
    again = model.latent_actions(image, model.embed(image), normal).action
    assert [bool((again[:, t] != found.action[:, t]).any()) for t in range(6)] == [False] * 3 + [True, True, False]


@pytest.mark.parametrize(("kind", "width"), [("zero", 0), ("none", 0), ("random", WIDTH), ("deterministic", WIDTH)])
def test_other_kinds(kind: str, width: int) -> None:
    learner = pretrainer("none", kind)
    noise = learner._noise(3, 6, torch.Generator().manual_seed(0))
    image = pictures().permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    found = learner.model.latent_actions(image, learner.model.embed(image), noise.action)
    assert found.action.shape == (3, 6, width) and found.mean is None and not found.kl(1.0).any()
    assert (noise.action is None) is (kind in ("zero", "none")) and (learner.model.implicit is None) is (
        kind != "deterministic")
    if kind == "random":
        assert noise.action is not None
        torch.testing.assert_close(found.action[:, 1:], 1.2449187 * noise.action)


# Pre-training's loss ------------------------------------------------------------------------------------------------


@torch.no_grad()
def loss_by_hand(learner: VideoPretrainer, clips: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
    """The loss without consistency, and both divergences of all transitions, clip by clip."""
    model, own, count = learner.model, learner.config.pretrain, len(clips)
    image = clips.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    embed = model.embed(image)
    latent = model.latent_actions(image, embed, noise.action)
    assert latent.mean is not None and latent.std is not None and noise.shuffle is not None
    post, prior = model.rssm.scan(embed, latent.action, sequences(batch=count).is_first, noise.uniform)
    drawn = model.decoder(feature(post).flatten(0, 1)).view_as(image)
    prior_std = learner.config.model.latent_action.prior_std
    kl = kl_divergence(Normal(latent.mean, latent.std), Normal(0.0, prior_std)).sum(-1).mean()
    loss = (0.5 * (drawn - image) ** 2).sum() / (count * 6) + own.action_kl_weight * kl + own.kl_weight * kl_by_hand(
        post["logits"], prior, own.kl_balance, 0.0)
    states, actions = [], []
    for b, t in itertools.product(range(count), range(5)):
        other = int(noise.shuffle[b])
        before = post["stoch"][b, t][None], post["deter"][b, t][None]
        deter = model.rssm.advance(*before, latent.action[other, t + 1][None])
        lent = model.rssm.img_out(deter).view(3, 4).log_softmax(-1)
        mine = prior[b, t + 1].log_softmax(-1)
        states.append((mine.exp() * (mine - lent)).sum() * (other != b))
        actions.append(kl_divergence(Normal(latent.mean[b, t], latent.std[b, t]),
                                     Normal(latent.mean[other, t], latent.std[other, t])).sum())
    return loss, torch.stack(states), torch.stack(actions)


@pytest.mark.parametrize(("form", "temperature"), [("sign", 1.0), ("rank", 1.0), ("rank", 0.3)])
def test_pretraining_loss_by_hand_with_consistency(form: str, temperature: float) -> None:
    learner = pretrainer(form, consistency_weight=5.0, action_kl_weight=3.0, rank_temperature=temperature,
                         kl_weight=2.0)
    clips, noise = pictures(4), learner._noise(4, 6, torch.Generator().manual_seed(0))
    loss, states, actions = loss_by_hand(learner, clips, noise)
    terms, _ = learner.terms(clips, noise, ALONE)
    n, total = len(states), 0.0
    for i, j in itertools.product(range(n), repeat=2):
        gap = actions[i] - actions[j]
        soft = gap.sign() if form == "sign" else torch.tanh(gap / temperature)
        total += float(((states[i] - states[j]).sign() - soft) ** 2) / n**2
    torch.testing.assert_close(float(terms["consistency"]), total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(float(terms["loss"]), float(loss) + 5 * total, rtol=1e-5, atol=1e-4)


def test_embeddings_predicted_by_hand() -> None:
    learner = pretrainer("l2", reads="embeddings")
    clips, noise = pictures(), learner._noise(3, 6, torch.Generator().manual_seed(0))
    assert noise.shuffle is None and learner.consistency.transition is not None
    with torch.no_grad():
        image = clips.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
        embed = learner.model.embed(image)
        action = learner.model.latent_actions(image, embed, noise.action).action
        both = list(itertools.product(range(3), range(5)))
        guesses = [learner.consistency.transition(torch.cat([embed[b, t], action[b, t + 1]])) for b, t in both]
        errors = [((guess - embed[b, t + 1]) ** 2).sum() for guess, (b, t) in zip(guesses, both, strict=True)]
    found = learner.terms(clips, noise, ALONE)[0]["consistency"].detach()
    torch.testing.assert_close(found, torch.stack(errors).mean())


def reached(learner: VideoPretrainer, loss: Tensor) -> set[str]:
    named = {**dict(learner.model.named_parameters()),
             **{f"consistency.{name}": p for name, p in learner.consistency.named_parameters()}}
    if not loss.requires_grad:
        return set()
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name.split(".")[0] for name, x in zip(named, gradients, strict=True)
            if x is not None and float(x.abs().max()) > 0}


ALL = {"encoder", "rssm", "implicit"}


@pytest.mark.parametrize(("form", "moves", "expected"), [
    ("sign", "actions", set()), ("rank", "actions", {"implicit"}), ("rank", "both", ALL),
    ("l2", "actions", {"implicit", "encoder", "consistency"})])
def test_each_loss_reaches_its_modules(form: str, moves: str, expected: set[str]) -> None:
    """The released consistency reaches nothing: its signs have no slope, and the states' side is detached."""
    learner = pretrainer(form, consistency_moves=moves)
    terms, _ = learner.terms(pictures(4), learner._noise(4, 6, torch.Generator().manual_seed(0)), ALONE)
    assert reached(learner, terms["consistency"]) == expected
    assert reached(learner, terms["image_loss"]) == ALL | {"decoder"}
    assert reached(learner, terms["action_kl"]) == {"implicit"}
    left = terms["loss"] - learner.config.pretrain.consistency_weight * terms["consistency"]
    assert reached(learner, left) == ALL | {"decoder"}


def test_as_released_the_consistency_has_exactly_no_gradient() -> None:
    """Two trainings that differ in its weight alone are the same to the last bit; with a slope they are not."""
    for form, same in (("sign", True), ("rank", False)):
        learners = [pretrainer(form, consistency_weight=weight) for weight in (0.0, 100.0)]
        losses = [[learner.update(pictures(4))["consistency"] for _ in range(2)][0] for learner in learners]
        assert losses[0] == losses[1] > 0.1, "it has a value"
        weights = [learner.model.state_dict().values() for learner in learners]
        assert all(map(torch.equal, *weights)) is same
    actions = torch.randn(9, requires_grad=True)
    loss = order_loss(torch.randn(9), actions, "sign", 1.0)
    assert float(torch.autograd.grad(loss, actions)[0].abs().max()) == 0


def test_rank_orders_actions_as_states_and_draws_them_apart() -> None:
    g = torch.Generator().manual_seed(0)
    states, start = torch.randn(12, generator=g), torch.randn(12, generator=g)
    for scale in (1e-2, 1.0):  # nats
        actions = nn.Parameter(scale * start)
        adam = torch.optim.Adam([actions], lr=0.02)
        before = float(agreement(states, actions))
        for _ in range(200):
            adam.zero_grad()
            torch.autograd.backward(order_loss(states, actions, "rank", 1.0))
            adam.step()
        assert before < 0.4 and float(agreement(states, actions)) > 0.95 and float(actions.detach().std()) > 1
    assert float(agreement(states, -states)) == -1 and float(agreement(states, states)) == pytest.approx(1)
    assert float(order_loss(states, states, "sign", 1.0)) == 0


MOVES = torch.tensor([(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)])


def walks(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips [count, 6, 16, 16, 3] of a square that walks on 4 x 4 places, and its moves [count, 5]."""
    out, chosen = torch.zeros(count, 6, 16, 16, 3, dtype=torch.uint8), torch.randint(5, (count, 5), generator=g)
    place = torch.randint(0, 4, (count, 2), generator=g)
    for t in range(6):
        for image, (y, x) in zip(out[:, t], place.tolist(), strict=True):
            image[1 + 3 * y:6 + 3 * y, 1 + 3 * x:6 + 3 * x] = 255
        if t < 5:
            there = place + MOVES[chosen[:, t]]
            off = ((there < 0) | (there > 3)).any(1)  # it stays where it is
            chosen[off, t] = 0
            place = torch.where(off[:, None], place, there)
    return out, chosen


@learns(told=above(0.6), over_the_commonest=above(0.2), gain=above(0.2), agreement=above(0.15))
def test_latent_actions_tell_the_motion(seed: int) -> dict[str, float]:
    """The class whose mean is nearest to a held-out latent action names the move, and the second half of a clip is
    imagined better with the latent actions than without."""
    g = torch.Generator().manual_seed(seed)
    model = {**MODEL, "input_size": 16, "cnn_depth": 8, "deter": 32, "hidden": 32, "stoch": 8, "classes": 8,
             "res_norm": "none", "latent_action": {"kind": "gaussian", "units": 32}}
    stage = {"consistency": "rank", "lr": 3e-3, "kl_weight": 1.0, "action_kl_weight": 0.3}
    learner = VideoPretrainer(config(model=model, pretrain=stage), seed, CPU)
    for _ in range(300):
        learner.update(walks(8, g)[0])
    (known, names), (held_out, truth) = walks(48, g), walks(48, g)

    @torch.no_grad()
    def means(clips: Tensor) -> Tensor:
        image = clips.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
        normal = torch.zeros(len(clips), 5, WIDTH)
        found = learner.model.latent_actions(image, learner.model.embed(image), normal).mean
        assert found is not None
        return found.flatten(0, 1)

    centres = torch.stack([means(known)[names.flatten() == k].mean(0) for k in range(5)])
    told = (torch.cdist(means(held_out), centres).argmin(1) == truth.flatten()).float().mean()
    shown = learner.validate(held_out)
    return {"told": float(told), "over_the_commonest": float(told - truth.flatten().bincount().max() / truth.numel()),
            "gain": shown["psnr_imagined"] - shown["psnr_imagined_still"], "agreement": shown["rank_agreement"]}


# The stage --------------------------------------------------------------------------------------------------------


def test_pretraining_resumes_exactly_and_validates_in_evaluation_mode() -> None:
    for form in ("rank", "l2"):
        through, first = (pretrainer(form) for _ in range(2))
        for _ in range(4):
            through.update(pictures())
        for _ in range(2):
            first.update(pictures())
        second = VideoPretrainer(first.config, 9, CPU)
        second.load_state_dict(first.state_dict())
        found = second.validate(pictures())
        assert found == second.validate(pictures()) and found["action_kl"] > 0 and "psnr_imagined_still" in found
        for _ in range(2):
            second.update(pictures())
        assert_equal(through.state_dict(), second.state_dict())


def test_training_mode_is_of_the_loss_alone() -> None:
    learner = pretrainer()
    assert not learner.model.training
    with learning(learner.model):
        assert all(module.training for module in learner.model.modules())
    learner.update(pictures())
    assert not any(module.training for module in learner.model.modules())
