"""Dreamer against methods.md, sections 2 and 7.1: gradients, weights, acting and settings, computed anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour
from pvdr_bench.algorithms.dreamer.bonus import VideoBonus
from pvdr_bench.algorithms.dreamer.config import BonusConfig, DreamerConfig
from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.pretrain import Noise, VideoPretrainer
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.catalog import load_catalog
from pvdr_bench.rl.contract import Transition
from pvdr_bench.rl.process_group import ALONE
from tests.test_dreamer_learner import SIZE, context
from tests.test_dreamer_learner import config as learner_config
from tests.test_dreamer_model import config, sequences, world_model

CPU = torch.device("cpu")
TRAIN = {"batch": 2, "length": 4, "prefill": 20}
WINDOW = 3
BONUS = {"weight": 2.0, "window": WINDOW, "projection": 4, "queue": 64, "neighbours": 2}


def feature(states: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([states["stoch"].flatten(-2), states["deter"]], -1)


def assert_gradients(ours: Tensor, theirs: Tensor, parameters: Mapping[str, Tensor]) -> None:
    """Equal gradients of two scalars, some of them not zero."""
    pairs = [torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
             for loss in (ours, theirs)]
    for (name, parameter), *both in zip(parameters.items(), *pairs, strict=True):
        a, b = (torch.zeros_like(parameter) if x is None else x for x in both)
        scale = float(a.abs().max())
        assert float((a - b).abs().max()) <= 1e-4 * scale, name
    assert any(x is not None and float(x.abs().max()) > 0 for x in pairs[0])


# Acting -------------------------------------------------------------------------------------------------------------

FIRST = torch.tensor([[1, 1], [0, 0], [0, 1], [0, 0], [1, 0], [0, 0]]).bool()  # [T, N]
Mode = Literal["train", "eval"]


def actor_of(tmp_path: Path, **changes: Any) -> DreamerLearner:
    return DreamerLearner(context(learner_config(train=TRAIN, **changes), tmp_path))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("mode", "decisions"), [("train", 0), ("train", 20), ("eval", 0)])
def test_acting_filters_what_it_did_and_begins_again_at_a_first(
        tmp_path: Path, mode: Mode, decisions: int, stacked: bool) -> None:
    learner = actor_of(tmp_path, stacked=stacked)
    learner.decisions = decisions
    images = torch.randint(0, 256, (6, 2, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0),
                           dtype=torch.uint8)
    given, own = (torch.Generator().manual_seed(5) for _ in range(2))
    carry, states, actions, latent, noise = learner.initial(2), [], [], [], []
    for image, first in zip(images, FIRST, strict=True):
        action, carry, _ = learner.act(image, first, carry, mode, given)
        states.append(carry["states"]["rssm"])
        actions.append(action)
        latent.append(torch.rand(2, 2, 4, generator=own))
        noise.append(torch.rand(2, 2, generator=own))
    before = torch.stack([torch.zeros(2, 2), *actions[:-1]]) * ~FIRST[..., None]
    data = Sequences(images.transpose(0, 1), before.transpose(0, 1), torch.zeros(2, 6), FIRST.T,
                     torch.zeros(2, 6, dtype=torch.bool))
    _, post, _ = learner.model.loss(data, torch.stack(latent, 2))
    for t in range(6):
        for name in ("deter", "stoch", "logits"):
            torch.testing.assert_close(states[t][name], post[name][:, t])
        if mode == "train" and decisions == 0:
            expected = 2 * noise[t] - 1
        else:
            expected = learner.behaviour.actor(feature(post)[:, t]).sample(noise[t]).detach()
        torch.testing.assert_close(actions[t], expected)


def test_first_actions_are_uniform_until_the_prefill(tmp_path: Path) -> None:
    learner = actor_of(tmp_path)
    image, first = torch.zeros(300, SIZE, SIZE, 3, dtype=torch.uint8), torch.ones(300, dtype=torch.bool)

    def actions() -> tuple[Tensor, Tensor]:
        given, own = (torch.Generator().manual_seed(1) for _ in range(2))
        torch.rand(2, 300, 4, generator=own)
        action, _, _ = learner.act(image, first, learner.initial(300), "train", given)
        return action, 2 * torch.rand(300, 2, generator=own) - 1

    learner.decisions = 19
    action, uniform = actions()
    assert torch.equal(action, uniform)
    assert -1 <= action.min() < -0.95 and 0.95 < action.max() < 1 and abs(float(action.mean())) < 0.1
    learner.decisions = 20
    action, uniform = actions()
    assert not torch.equal(action, uniform)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_only_evaluation_may_take_the_mean(tmp_path: Path, mode: Mode, mean: bool) -> None:
    learner = actor_of(tmp_path, behaviour={"mean_policy_in_eval": mean})
    learner.decisions = 20
    image = torch.full((3, SIZE, SIZE, 3), 90, dtype=torch.uint8)
    given, own = (torch.Generator().manual_seed(2) for _ in range(2))
    action, carry, _ = learner.act(image, torch.ones(3, dtype=torch.bool), learner.initial(3), mode, given)
    torch.rand(2, 3, 4, generator=own)
    policy = learner.behaviour.actor(feature(carry["states"]["rssm"]))
    sampled = policy.sample(torch.rand(3, 2, generator=own))
    right, wrong = (policy.mean, sampled) if mean and mode == "eval" else (sampled, policy.mean)
    torch.testing.assert_close(action, right.detach())
    assert (action - wrong).abs().min() > 1e-3


# Behaviour ----------------------------------------------------------------------------------------------------------

HEADS = pytest.mark.parametrize(("discount", "two_hot"), [(False, False), (True, False), (True, True)])
H, N = 4, 5


class Imagination:
    """A model, a behaviour whose slow critic is another than its critic, and one path computed step by step."""

    def __init__(self, discount: bool, two_hot: bool) -> None:
        self.model = world_model(two_hot, discount)
        cfg = config(behaviour={"horizon": H, "entropy_coef": 0.5, "gamma": 0.9, "gae_lambda": 0.7})
        self.behaviour = Behaviour(cfg, self.model.rssm.feature_dim, 2)
        heads = [self.behaviour.actor, self.behaviour.critic, self.model.reward, self.model.discount]
        with torch.no_grad():
            for parameter in (p for head in heads if head is not None for p in head.parameters()):
                parameter.add_(0.1 * torch.randn_like(parameter))
        self.start = {"deter": torch.randn(N, 12), "logits": torch.randn(N, 3, 4),
                      "stoch": F.one_hot(torch.randint(0, 4, (N, 3)), 4).float()}
        self.terminal = torch.tensor([True, False, False, True, False])
        self.uniform = torch.rand(H, N, 2 + 3)
        self.follow(discount, two_hot)

    def follow(self, discount: bool, two_hot: bool) -> None:
        rssm, stoch, deter = self.model.rssm, self.start["stoch"], self.start["deter"]
        features = [torch.cat([stoch.flatten(1), deter], 1)]
        for t in range(H):
            action = self.behaviour.actor(features[t].detach()).sample(self.uniform[t, :, :2])
            inputs = torch.cat([stoch.flatten(1), action, torch.zeros(N, 2)], 1)  # padded to action_width
            deter = rssm.cell(rssm.img_in(inputs), deter)
            probs = rssm.img_out(deter).view(N, 3, 4).softmax(-1)
            index = (probs.cumsum(-1) <= self.uniform[t, :, 2:, None]).sum(-1).clamp_max(3)
            stoch = F.one_hot(index, 4) + probs - probs.detach()
            features.append(torch.cat([stoch.flatten(1), deter], 1))
        self.feature = torch.stack(features)
        out = self.model.reward(self.feature)
        self.reward = out.softmax(-1) @ self.model.reward.bins if two_hot else out[..., 0]
        self.discount = torch.full((H + 1, N), 0.9)
        if discount:
            assert self.model.discount is not None
            ends = 0.9 * torch.sigmoid(self.model.discount(self.feature)[..., 0])
            self.discount = torch.cat([0.9 * (~self.terminal).float()[None], ends[1:]])
        weights = [torch.ones(N)]
        for t in range(H):
            weights.append(weights[t] * self.discount[t].detach())
        self.weight = torch.stack(weights)

    def targets(self) -> Tensor:
        value = self.behaviour.slow_critic(self.feature)[..., 0]
        last, out = value[H], list[Tensor]()
        for t in reversed(range(H)):
            last = self.reward[t] + self.discount[t] * (0.3 * value[t + 1] + 0.7 * last)
            out.insert(0, last)
        return torch.stack(out)

    def losses(self) -> tuple[Tensor, Tensor]:
        target, actor, critic = self.targets(), torch.zeros(()), torch.zeros(())
        for t in range(H - 1):
            entropy = self.behaviour.actor(self.feature[t].detach()).entropy()
            actor = actor - (self.weight[t] * (target[t + 1] + 0.5 * entropy)).sum() / (N * (H - 1))
        for t in range(H):
            predicted = self.behaviour.critic(self.feature[t].detach())[:, 0]
            critic = critic + (self.weight[t] * 0.5 * (predicted - target[t].detach()) ** 2).sum() / (N * H)
        return actor, critic


@HEADS
def test_imagination_by_hand(discount: bool, two_hot: bool) -> None:
    own = Imagination(discount, two_hot)
    path = own.behaviour.imagine(own.model, own.start, own.terminal, own.uniform)
    for name in ("feature", "reward", "discount", "weight"):
        torch.testing.assert_close(getattr(path, name), getattr(own, name), rtol=1e-4, atol=1e-4)
    assert not path.weight.requires_grad
    assert bool((path.weight[1:, 0] == 0).all()) is discount  # without the head no episode ends


@HEADS
def test_gradients_of_actor_and_critic_by_hand(discount: bool, two_hot: bool) -> None:
    own = Imagination(discount, two_hot)
    behaviour = own.behaviour
    got = behaviour.losses(behaviour.imagine(own.model, own.start, own.terminal, own.uniform))
    expected = own.losses()
    for mine, yours, net in zip(expected, got[:2], (behaviour.actor, behaviour.critic), strict=True):
        torch.testing.assert_close(yours, mine, rtol=1e-4, atol=1e-5)
        assert_gradients(mine, yours, dict(net.named_parameters()))


def test_targets_are_the_slow_critics() -> None:
    own = Imagination(discount=True, two_hot=False)
    path = own.behaviour.imagine(own.model, own.start, own.terminal, own.uniform)
    returned = float(own.behaviour.losses(path)[2]["imagined_return"])
    assert returned == pytest.approx(float(own.targets().mean().detach()), rel=1e-4)
    own.behaviour.settle(100)
    assert abs(returned - float(own.targets().mean().detach())) > 0.01


def fill(learner: DreamerLearner) -> None:
    """Noise in episodes of three decisions that end in a terminal state."""
    g = torch.Generator().manual_seed(3)
    for k in range(12):
        ends = torch.full((4,), k % 3 == 2)
        image, final = (torch.randint(0, 256, (4, SIZE, SIZE, 3), generator=g, dtype=torch.uint8) for _ in range(2))
        learner.replay.add(Transition(image, torch.full((4,), k % 3 == 0), torch.rand(4, 2, generator=g) * 2 - 1,
                                      torch.randn(4, generator=g), ends, torch.zeros_like(ends), final, {}))


def test_an_update_imagines_from_every_posterior_state_and_its_end(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = actor_of(tmp_path)
    fill(learner)
    seen: dict[str, Any] = {}
    loss, imagine = learner.scan_loss, learner.behaviour.imagine

    def spy_loss(data: Sequences, *rest: Any) -> Any:
        seen["terminal"], out = data.is_terminal, loss(data, *rest)
        seen["post"] = out[1]
        return out

    def spy_imagine(model: WorldModel, start: dict[str, Tensor], is_terminal: Tensor, uniform: Tensor) -> Any:
        seen["start"], seen["given"] = start, is_terminal
        return imagine(model, start, is_terminal, uniform)

    monkeypatch.setattr(learner, "scan_loss", spy_loss)
    monkeypatch.setattr(learner.behaviour, "imagine", spy_imagine)
    learner.update()
    assert torch.equal(seen["given"], seen["terminal"].flatten()) and int(seen["given"].sum()) == 2
    for name in ("deter", "stoch", "logits"):
        assert torch.equal(seen["start"][name], seen["post"][name].flatten(0, 1))


# World model --------------------------------------------------------------------------------------------------------


def kl_by_hand(posterior: Tensor, prior: Tensor, balance: float, free: float) -> Tensor:
    def kl(p: Tensor, q: Tensor) -> Tensor:
        return kl_divergence(Categorical(logits=p), Categorical(logits=q)).sum(-1).mean().clamp_min(free)

    return balance * kl(posterior.detach(), prior) + (1 - balance) * kl(posterior, prior.detach())


def two_hot_by_hand(logits: Tensor, values: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy [...] of the two bins around each value."""
    out = []
    for row, value in zip(logits.flatten(0, -2), values.flatten().tolist(), strict=True):
        above = next(i for i, one in enumerate(bins.tolist()) if one > value)
        low, high = bins[above - 1], bins[above]
        weights = torch.zeros(len(bins))
        weights[above - 1], weights[above] = (high - value) / (high - low), (value - low) / (high - low)
        out.append(F.cross_entropy(row[None], weights[None]))
    return torch.stack(out).view(values.shape)


def loss_by_hand(model: WorldModel, data: Sequences, uniform: Tensor) -> Tensor:
    settings, (count, length) = model.config.loss, data.reward.shape
    image = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    embed = model.encoder(image.flatten(0, 1)).unflatten(0, (count, length))
    total: Tensor = torch.zeros(())
    reward = data.reward
    counts = torch.ones(count, length, dtype=torch.bool)
    if model.af_rssm is not None:
        af, prior = model.af_rssm.scan(embed, torch.zeros(count, length, 2), data.is_first, uniform[1])
        total = total + settings.af_kl_weight * kl_by_hand(af["logits"], prior, settings.kl_balance,
                                                           settings.free_nats)
        embed = feature(af)
        if model.bonus is not None:
            before = {name: x.clone() for name, x in model.bonus.state_dict().items()}
            extra = model.bonus(embed.detach(), data.is_first)[0]
            model.bonus.load_state_dict(before)
            windows = range(length - WINDOW + 1)
            reward = reward[:, :len(windows)] + model.config.bonus.weight * extra
            counts = torch.stack([~data.is_first[:, t + 1:t + WINDOW].any(1) for t in windows], 1)
    post, prior = model.rssm.scan(embed, data.action, data.is_first, uniform[0])
    total = total + settings.kl_weight * kl_by_hand(post["logits"], prior, settings.kl_balance, settings.free_nats)
    drawn = model.decoder(feature(post).flatten(0, 1)).unflatten(0, (count, length))
    total = total + (0.5 * (drawn - image) ** 2).sum() / (count * length)
    out = model.reward(feature(post))[:, :reward.shape[1]]
    errors = two_hot_by_hand(out, reward, model.reward.bins) if model.two_hot else 0.5 * (out[..., 0] - reward) ** 2
    total = total + errors[counts].mean()
    if model.discount is not None:
        alive = torch.sigmoid(model.discount(feature(post))[..., 0])
        ends = torch.where(data.is_terminal, (1 - alive).log(), alive.log())
        total = total - settings.discount_weight * ends.mean()
    return total


@pytest.mark.parametrize(("stacked", "two_hot", "bonus", "free_nats"), [
    (False, False, False, 0.0), (False, True, False, 100.0), (True, True, False, 0.0), (True, False, True, 0.0),
    (True, True, True, 100.0)])
def test_loss_and_gradients_by_hand_with_all_weights(
        stacked: bool, two_hot: bool, bonus: bool, free_nats: float) -> None:
    weights = {"kl_weight": 40.0, "af_kl_weight": 60.0, "kl_balance": 0.3, "discount_weight": 25.0}
    model = world_model(two_hot, True, stacked=stacked, loss={**weights, "free_nats": free_nats},
                        bonus=BONUS if bonus else {"weight": 0.0})
    with torch.no_grad():
        for parameter in model.reward.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    data = sequences()
    data.is_terminal[1, 2] = data.is_first[1, 3] = True
    uniform = torch.rand(2, 3, 6, 3)
    expected = loss_by_hand(model, data, uniform)
    got, _, _ = model.loss(data, uniform)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    assert_gradients(expected, got, dict(model.named_parameters()))


def silence(module: nn.Module | None) -> None:
    """Make outputs the same for all inputs."""
    if module is not None:
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        nn.init.zeros_(layers[-1].weight)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("two_hot", [False, True])
def test_every_term_teaches_the_encoder_and_the_posterior(stacked: bool, two_hot: bool) -> None:
    data, uniform = sequences(), torch.rand(2, 3, 6, 3, generator=torch.Generator().manual_seed(0))
    for term in ("image", "reward", "discount", "kl", "none"):
        model = world_model(two_hot, True, stacked=stacked, loss={"kl_weight": float(term == "kl")})
        nn.init.normal_(model.reward.layers[-1].weight)  # type: ignore[arg-type]
        heads = {"image": model.decoder, "reward": model.reward, "discount": model.discount}
        for name, head in heads.items():
            if name != term:
                silence(head)
        parts = {"encoder": model.encoder, "obs_out": model.rssm.obs_out, "cell": model.rssm.cell}
        if model.af_rssm is not None:
            parts |= {"af obs_out": model.af_rssm.obs_out, "af cell": model.af_rssm.cell}
        torch.autograd.backward(model.loss(data, uniform)[0])
        for name, part in parts.items():
            sizes = [0.0 if p.grad is None else float(p.grad.abs().max()) for p in part.parameters()]
            assert all(sizes) is (term != "none"), (term, name)


# Pre-training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"kl_weight": 30.0, "kl_balance": 0.3}])
def test_the_pretraining_loss_by_hand(changes: dict[str, float]) -> None:
    cfg = config(pretrain=changes, loss={"kl_weight": 7.0, "kl_balance": 0.6, "free_nats": 50.0})
    learner = VideoPretrainer(cfg, 0, CPU)
    clips, uniform = sequences().image, torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(0))
    image = clips.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    embed = learner.model.encoder(image.flatten(0, 1)).unflatten(0, (3, 6))
    post, prior = learner.model.rssm.scan(embed, torch.zeros(3, 6, 4), sequences().is_first, uniform)
    drawn = learner.model.decoder(feature(post).flatten(0, 1)).unflatten(0, (3, 6))
    kl = kl_by_hand(post["logits"], prior, changes.get("kl_balance", 0.8), 0.0)
    expected = (0.5 * (drawn - image) ** 2).sum() / 18 + changes.get("kl_weight", 0.1) * kl
    terms, _ = learner.terms(clips, Noise(uniform), ALONE)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=0)
    parameters = dict(learner.model.named_parameters())
    assert_gradients(expected, terms["loss"], parameters)
    prior_only = {name: p for name, p in parameters.items() if "img_out" in name}  # where the weight is all there is
    assert_gradients(expected, terms["loss"], prior_only)


# Optimisers ---------------------------------------------------------------------------------------------------------


def test_each_optimiser_has_its_own_settings(tmp_path: Path) -> None:
    train = {**TRAIN, "model_lr": 1e-3, "adam_eps": 2e-3, "max_grad_norm": 3.0, "weight_decay": 4e-3}
    pretrain = {"lr": 5e-3, "adam_eps": 6e-3, "max_grad_norm": 7.0, "weight_decay": 8e-3}
    cfg = learner_config(train=train, behaviour={"actor_lr": 9e-3, "critic_lr": 1e-2}, pretrain=pretrain)
    learner = DreamerLearner(context(cfg, tmp_path))
    for adam, lr in ((learner.steps["model"], 1e-3), (learner.steps["actor"], 9e-3), (learner.steps["critic"], 1e-2)):
        assert [(group["lr"], group["eps"]) for group in adam.inner.param_groups] == (
            [(lr, 2e-3)] * len(adam.inner.param_groups))
        assert (adam.max_norm, adam.decay) == (3.0, 4e-3)
    video = VideoPretrainer(cfg, 0, CPU).optimiser
    group = video.inner.param_groups[0]
    assert (group["lr"], group["eps"], video.max_norm, video.decay) == (5e-3, 6e-3, 7.0, 8e-3)


TRANSFERRED = ("encoder", "af_rssm")
DECAY = 0.01


def moved(before: dict[str, Tensor], module: nn.Module) -> Iterator[tuple[str, bool]]:
    """Whether more than weight decay happened to each parameter."""
    for name, parameter in module.named_parameters():
        yield name, not torch.equal(parameter, before[name] * (1 - DECAY))


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("pretrained", [True, False])
def test_only_encoder_and_action_free_rssm_wait_and_only_if_pretrained(tmp_path: Path, pretrained: bool) -> None:
    cfg = learner_config(pretrained=pretrained, stacked=True, bonus=BONUS, loss={"reward_head": "mse"},
                         train={**TRAIN, "weight_decay": DECAY, "frozen_updates": 2, "model_lr": 1e-3})
    ctx = context(cfg, tmp_path)
    ctx.artefacts["pretrain"] = VideoPretrainer(cfg, 3, CPU).export()
    learner = DreamerLearner(ctx)
    fill(learner)
    for update in (1, 2, 3):
        before, actor = copy_of(learner.model), copy_of(learner.behaviour.actor)
        learner.update()
        waits = pretrained and update < 3
        for name, changed in moved(before, learner.model):
            if "af_rssm.img_out" in name:
                assert not changed, name  # the action-free prior gets no gradient online
            else:
                assert changed is not (waits and name.startswith(TRANSFERRED)), (update, name)
        assert all(changed for _, changed in moved(actor, learner.behaviour.actor))
        for name, parameter in learner.model.named_parameters():
            if name.startswith(TRANSFERRED) and "img_out" not in name:
                state = learner.steps["model"].inner.state[parameter]
                assert int(state["step"]) == update and float(state["exp_avg"].abs().max()) > 0, name


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dreamerv2", "apv"])
def test_the_paper_scale_is_the_published_table(name: str) -> None:
    cfg = load_catalog().config(name, "paper").value
    assert isinstance(cfg, DreamerConfig)
    expected: dict[str, dict[str, Any]] = {
        "model": {"input_size": 64, "deter": 1024, "hidden": 1024, "stoch": 32, "classes": 32, "cnn_depth": 48,
                  "encoder_kernels": (4, 4, 4, 4), "decoder_kernels": (5, 5, 6, 6), "head_layers": 4,
                  "head_units": 400, "action_width": 50},
        "pretrain": {"steps": 600_000, "batch": 16, "length": 25, "lr": 3e-4, "kl_weight": 0.1, "kl_balance": 0.8,
                     "adam_eps": 1e-5, "max_grad_norm": 100.0, "weight_decay": 1e-6, "dtype": "float32"},
        "loss": {"kl_weight": 1.0, "af_kl_weight": 0.0, "kl_balance": 0.8, "free_nats": 0.0, "discount_weight": 1.0},
        "train": {"prefill": 5000, "initial_updates": 100, "every": 5, "batch": 50, "length": 50,
                  "capacity": 1_000_000, "model_lr": 3e-4, "frozen_updates": 100, "adam_eps": 1e-5,
                  "max_grad_norm": 100.0, "weight_decay": 1e-6},
        "behaviour": {"horizon": 15, "gamma": 0.99, "gae_lambda": 0.95, "entropy_coef": 1e-4, "actor_lr": 8e-5,
                      "critic_lr": 8e-5, "min_std": 0.1, "slow_every": 100},
        "bonus": {"weight": 1.0 if name == "apv" else 0.0, "window": 5, "projection": 128, "queue": 4096,
                  "neighbours": 16, "distance": "mean", "momentum": 0.99}}
    values = cfg.model_dump()
    assert {section: {key: values[section].get(key) for key in keys} for section, keys in expected.items()} == expected
    assert (cfg.pretrained, cfg.stacked) == ((True, True) if name == "apv" else (False, False))


def test_the_projection_is_fixed_noise_of_the_published_size() -> None:
    torch.manual_seed(0)
    bonus = VideoBonus(BonusConfig(), feature_dim=500)
    assert bonus.projection.shape == (500, 128)
    assert float(bonus.projection.std()) * 128 == pytest.approx(1, abs=0.02)
    assert abs(float(bonus.projection.mean())) * 128 < 0.02
    assert not list(bonus.parameters()) and not bonus.projection.requires_grad
    assert "bonus.projection" in world_model(stacked=True, bonus=BONUS).state_dict()
