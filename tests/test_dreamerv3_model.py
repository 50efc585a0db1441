"""DreamerV3's losses computed anew, step by step, and which modules each of them reaches."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour, Path, Replayed
from pvdr_bench.algorithms.dreamer.config import BehaviourConfig
from pvdr_bench.algorithms.dreamer.returns import ReturnScale, replay_returns
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.nets.distributions import BoundedNormal
from pvdr_bench.nets.layers import Style
from pvdr_bench.nets.pooled_conv import PooledEncoder, UpsampledDecoder
from pvdr_bench.nets.rssm import RSSM
from tests.dreamerv3_small import config, sequences, stirred
from tests.test_nets_dreamerv3_parts import array, numpy_two_hot, rms, silu

V3 = Style("rms", "silu", "truncated")


# Pictures -----------------------------------------------------------------------------------------------------------


def test_the_encoder_pools_then_norms() -> None:
    torch.manual_seed(0)
    encoder, x = PooledEncoder(4, 3, (1, 2), 3, V3), torch.randn(2, 3, 4, 4)
    maps = array(x)
    for conv, norm in ((encoder.layers[0], encoder.layers[2]), (encoder.layers[4], encoder.layers[6])):
        nn.init.normal_(norm.weight)
        maps = array(F.conv2d(torch.from_numpy(maps).float(), conv.weight, conv.bias, padding=1))
        n, c, h, _ = maps.shape
        maps = maps.reshape(n, c, h // 2, 2, h // 2, 2).max((3, 5))
        maps = silu(rms(maps, array(norm.weight), 1))
    np.testing.assert_allclose(array(encoder(x)), maps.reshape(2, -1), rtol=1e-4, atol=1e-5)
    assert encoder.embed_dim == 6
    assert PooledEncoder(64, 16, (2, 3, 4, 4), 5, V3).embed_dim == 1024


def test_each_block_of_the_state_draws_channels_of_its_own() -> None:
    torch.manual_seed(0)
    decoder = UpsampledDecoder(5, 8, 16, 4, (2, 4), 3, 6, 4, V3)
    features = torch.randn(2, 13)
    rows = array(decoder.from_deter(features[:, 5:])).reshape(2, 4, 4, 4, 4)  # block, height, width, its channels
    planes = np.zeros((2, 16, 4, 4))
    for g in range(4):
        for c in range(4):
            planes[:, 4 * g + c] = rows[:, g, :, :, c]
    planes = planes + array(decoder.from_stoch(features[:, :5])).reshape(2, 16, 4, 4)
    out = silu(rms(planes, array(decoder.layers[0].weight), 1)).repeat(2, 2).repeat(2, 3)
    second, norm, last = decoder.layers[3], decoder.layers[4], decoder.layers[-1]
    out = array(F.conv2d(torch.from_numpy(out).float(), second.weight, second.bias, padding=1))
    out = silu(rms(out, array(norm.weight), 1)).repeat(2, 2).repeat(2, 3)
    out = array(F.conv2d(torch.from_numpy(out).float(), last.weight, last.bias, padding=1))
    got = decoder(features)
    np.testing.assert_allclose(array(got), 1 / (1 + np.exp(-out)) - 0.5, rtol=1e-4, atol=1e-5)
    assert got.shape == (2, 3, 16, 16)


def test_weights_of_the_decoder_have_the_names_of_older_checkpoints() -> None:
    """Those of norm, activation, and then of upsampling, convolution, norm, activation in turn."""
    decoder = UpsampledDecoder(5, 8, 16, 4, (2, 4), 3, 6, 4, V3)
    names = {name for name in decoder.state_dict() if name.startswith("layers.")}
    assert names == {"layers.0.weight", "layers.3.weight", "layers.3.bias", "layers.4.weight", "layers.7.weight",
                     "layers.7.bias"}


# Policy and returns -------------------------------------------------------------------------------------------------


def test_the_bounded_normal_by_scipy() -> None:
    raw = torch.randn(5, 2, 3, dtype=torch.float64)
    policy = BoundedNormal.from_raw(raw[:, 0], raw[:, 1], 0.1, 1.0)
    mean, std = np.tanh(array(raw[:, 0])), 0.9 / (1 + np.exp(-array(raw[:, 1]) - 2)) + 0.1
    normal, uniform = scipy.stats.norm(mean, std), np.random.default_rng(0).random((5, 3))
    drawn = policy.sample(torch.from_numpy(uniform))
    np.testing.assert_allclose(array(drawn), normal.ppf(uniform), rtol=1e-6)
    np.testing.assert_allclose(array(policy.log_prob(drawn)), normal.logpdf(array(drawn)).sum(1), rtol=1e-6)
    np.testing.assert_allclose(array(policy.entropy()), normal.entropy().sum(1), rtol=1e-6)
    assert policy.sample(torch.zeros(5, 3, dtype=torch.float64)).isfinite().all()


def test_returns_are_scaled_by_running_percentiles_and_never_blown_up() -> None:
    own = ReturnScale(BehaviourConfig(return_low=5, return_high=95, return_rate=0.1, return_floor=1.0))
    rng, low, high = np.random.default_rng(0), 0.0, 0.0
    for size in (0.2, 50.0, 50.0, 50.0):
        returns = size * rng.normal(size=(4, 30))
        before = own.bounds.clone()
        bounds = own.moved(torch.from_numpy(returns))
        assert torch.equal(own.bounds, before), "nothing is stored before the step is made"
        own.bounds.copy_(bounds)
        low = 0.9 * low + 0.1 * np.percentile(returns, 5)
        high = 0.9 * high + 0.1 * np.percentile(returns, 95)
        assert bounds.tolist() == pytest.approx([low, high], rel=1e-5)
        assert float(own.scale(bounds)) == pytest.approx(max(1.0, high - low), rel=1e-5)
    assert "bounds" in own.state_dict()


def returns_by_hand(reward: np.ndarray, last: np.ndarray, terminal: np.ndarray, value: np.ndarray, gamma: float,
                    lambda_: float) -> np.ndarray:
    out, carried = [], value[-1]
    for t in reversed(range(len(reward) - 1)):
        if terminal[t + 1]:
            carried = reward[t + 1]
        elif last[t + 1]:
            carried = reward[t + 1] + gamma * value[t + 1]
        else:
            carried = reward[t + 1] + gamma * ((1 - lambda_) * value[t + 1] + lambda_ * carried)
        out.insert(0, carried)
    return np.array(out)


def test_replayed_returns_stop_at_ends_of_episodes() -> None:
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(4, 7)), rng.normal(size=(4, 7))
    last, terminal = np.zeros((4, 7), bool), np.zeros((4, 7), bool)
    last[1, 3] = last[2, 3] = terminal[2, 3] = last[3, 6] = True
    got = replay_returns(*(torch.from_numpy(x) for x in (reward, last, terminal, value)), gamma=0.9, lambda_=0.7)
    for b in range(4):
        expected = returns_by_hand(reward[b], last[b], terminal[b], value[b], 0.9, 0.7)
        np.testing.assert_allclose(got[b].numpy(), expected)


# The losses, anew ---------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, values: Tensor, bins: Tensor) -> Tensor:
    """Of two-hot targets made by NumPy; [...] of logits [..., K]."""
    target = np.stack([numpy_two_hot(value, array(bins)) for value in values.detach().flatten().tolist()])
    weights = torch.from_numpy(target).float().view(*values.shape, -1)
    return -(weights * logits.log_softmax(-1)).sum(-1)


def feature_of(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state["stoch"].flatten(-2), state["deter"]], -1)


def mixed_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL [B, T] of normalised log-probabilities [B, T, S, C]."""
    return (p.exp() * (p - q)).sum((-2, -1))


def model_terms(model: WorldModel, data: Sequences, uniform: Tensor) -> dict[str, Tensor]:
    image = data.image.permute(0, 1, 4, 2, 3).float() / 255
    embed = model.encoder(image.flatten(0, 1) - 0.5).unflatten(0, (3, 6))
    post, prior = model.rssm.scan(embed, data.action, data.is_first, uniform[0])
    feature, logits = feature_of(post), post["logits"]
    drawn = model.decoder(feature.flatten(0, 1)).unflatten(0, (3, 6)) + 0.5
    assert model.discount is not None
    alive = torch.sigmoid(model.discount(feature)[..., 0])
    goal = 0.996997 * (~data.is_terminal).float()
    return {"image": (drawn - image).square().sum((2, 3, 4)).mean(),
            "reward": cross_entropy(model.reward(feature), data.reward, model.reward.bins).mean(),
            "discount": -(goal * alive.log() + (1 - goal) * (1 - alive).log()).mean(),
            "dyn": 1.0 * mixed_kl(logits.detach(), prior).clamp_min(1.0).mean(),
            "rep": 0.1 * mixed_kl(logits, prior.detach()).clamp_min(1.0).mean()}


def assert_same_gradients(ours: Tensor, theirs: Tensor, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        parameters = list(module.parameters())
        pairs = [torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True) for x in (ours, theirs)]
        for a, b in zip(*pairs, strict=True):
            assert (a is None) == (b is None), name
            if a is not None and b is not None:
                assert float((a - b).abs().max()) <= 2e-4 * float(a.abs().max()) + 1e-8, name


def test_the_model_loss_and_its_gradients_anew() -> None:
    model, _ = stirred()
    data, uniform = sequences(), torch.rand(2, 3, 6, 3)
    expected = torch.stack(list(model_terms(model, data, uniform).values())).sum()
    got, _, metrics = model.loss(data, uniform)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    assert_same_gradients(expected, got, {name: getattr(model, name) for name in (
        "encoder", "rssm", "decoder", "reward", "discount")})
    assert all(x.isfinite() and not x.requires_grad for x in metrics.values())


class Dreamt:
    """A path, and losses of actor and critic on it with loops."""

    def __init__(self, **changes: object) -> None:
        self.model, self.behaviour = stirred(behaviour={"horizon": 4, **changes})
        self.data, uniform = sequences(), torch.rand(2, 3, 6, 3)
        self.loss, post, _ = self.model.loss(self.data, uniform)
        self.feature = feature_of(post)
        start = {name: x.detach().flatten(0, 1) for name, x in post.items()}
        noise = torch.rand(4, 18, 2 + 3)
        self.path = self.behaviour.imagine(self.model, start, self.data.is_terminal.flatten(), noise)
        self.noise = noise

    def returns(self) -> Tensor:
        path, critic = self.path, self.behaviour.critic
        value = (critic(path.feature).softmax(-1) @ critic.bins).detach()
        carried, out = value[4], list[Tensor]()
        for t in (3, 2, 1, 0):
            carried = path.reward[t + 1] + path.discount[t + 1] * (0.05 * value[t + 1] + 0.95 * carried)
            out.insert(0, carried)
        return torch.stack(out)

    def actor_loss(self) -> Tensor:
        path, returns, total = self.path, self.returns(), torch.zeros(())
        critic = self.behaviour.critic
        spread = 0.01 * (np.percentile(array(returns), 95) - np.percentile(array(returns), 5))
        for n in range(18):
            weight = torch.ones(())
            for t in range(4):
                weight = weight * path.discount[t, n]
                value = (critic(path.feature[t, n]).softmax(-1) @ critic.bins).detach()
                policy = self.behaviour.actor(path.feature[t, n])
                normal = torch.distributions.Normal(policy.mean, policy.std)
                score = normal.log_prob(path.action[t, n]).sum() * (returns[t, n] - value) / max(1.0, spread)
                total = total - weight * (score + 3e-4 * normal.entropy().sum())
        return total / (18 * 4)

    def critic_loss(self) -> Tensor:
        path, returns, behaviour = self.path, self.returns(), self.behaviour
        weight = path.discount.cumprod(0)[:4]
        terms = self.terms(path.feature[:4], returns)
        replayed, data = torch.zeros(()), self.data
        imagined = array(returns[0]).reshape(3, 6)
        for b in range(3):
            last = np.array([*data.is_first[b, 1:].tolist(), False])
            target = returns_by_hand(array(data.reward[b]), last, array(data.is_terminal[b]) > 0, imagined[b], 0.996997,
                                     0.95)
            out = self.terms(self.feature[b, :5], torch.from_numpy(target).float())
            replayed = replayed + (torch.from_numpy(~last[:5]).float() * out).sum() / 15
        assert behaviour.config.replay_value == 0.3
        return (weight * terms).mean() + 0.3 * replayed

    def terms(self, feature: Tensor, target: Tensor) -> Tensor:
        behaviour, bins = self.behaviour, self.behaviour.critic.bins
        slow = behaviour.slow_critic(feature).softmax(-1) @ bins
        out = behaviour.critic(feature)
        return cross_entropy(out, target, bins) + 1.0 * cross_entropy(out, slow, bins)


def test_imagination_executes_what_it_draws_cut_to_the_bounds() -> None:
    own = Dreamt()
    state = {"deter": own.path.feature[1, :, 12:], "stoch": own.path.feature[1, :, :12].view(18, 3, 4),
             "logits": torch.zeros(18, 3, 4)}
    action = own.behaviour.actor(own.path.feature[1]).sample(own.noise[1, :, :2])
    torch.testing.assert_close(action, own.path.action[1])
    assert float(action.abs().max()) > 1
    after = own.model.rssm.imagine(state, action.clamp(-1, 1), own.noise[1, :, 2:])
    torch.testing.assert_close(own.path.feature[2], feature_of(after))
    unclipped = own.model.rssm.imagine(state, action, own.noise[1, :, 2:])
    assert not torch.allclose(unclipped["deter"], after["deter"])
    assert not own.path.feature.requires_grad and not own.path.reward.requires_grad


def test_the_losses_of_actor_and_critic_and_their_gradients_anew() -> None:
    own = Dreamt()
    actor, critic, metrics = own.behaviour.losses(own.path, Replayed(own.feature, own.data))
    torch.testing.assert_close(actor, own.actor_loss(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(critic, own.critic_loss(), rtol=1e-4, atol=1e-5)
    assert_same_gradients(own.actor_loss(), actor, {"actor": own.behaviour.actor})
    assert_same_gradients(own.critic_loss(), critic, {"critic": own.behaviour.critic, "encoder": own.model.encoder,
                                                      "rssm": own.model.rssm})
    assert float(metrics["return_scale"]) == pytest.approx(max(1.0, 0.01 * float(np.subtract(
        *np.percentile(array(own.returns()), [95, 5])))), rel=1e-4)


def test_nothing_is_learned_at_or_after_an_end() -> None:
    own = Dreamt()
    terminal = own.data.is_terminal.flatten()
    first = own.path.weight * own.path.discount
    assert (first[:, terminal] == 0).all() and (first[:, ~terminal] > 0).all()
    before = own.behaviour.losses(own.path)
    assert float(before[2]["return_scale"]) == 1, "the floor, which other rewards do not move"
    reward = own.path.reward.clone()
    reward[:, terminal] += 3.0  # seen by what starts there alone
    path = Path(own.path.feature, reward, own.path.discount, own.path.weight, own.path.action)
    after = own.behaviour.losses(path)
    assert float(after[2]["return_scale"]) == 1
    torch.testing.assert_close(after[:2], before[:2])


def test_the_slow_critic_follows_and_the_scale_is_taken_over_after_a_step() -> None:
    own = Dreamt()
    behaviour: Behaviour = own.behaviour
    slow, fast = ([p.clone() for p in net.parameters()] for net in (behaviour.slow_critic, behaviour.critic))
    behaviour.losses(own.path)
    assert behaviour.return_scale is not None and behaviour.return_scale.bounds.tolist() == [0.0, 0.0]
    behaviour.settle(1)
    assert behaviour.return_scale.bounds.tolist() != [0.0, 0.0]
    for p, a, b in zip(behaviour.slow_critic.parameters(), slow, fast, strict=True):
        torch.testing.assert_close(p, 0.98 * a + 0.02 * b)


# Which module each loss reaches -------------------------------------------------------------------------------------

PARTS = ("encoder", "prior", "posterior", "cell", "decoder", "reward", "discount", "actor", "critic", "slow_critic")
STATE = {"encoder", "posterior", "cell"}  # what a loss on the states' features moves
REACHES = {
    "image": STATE | {"decoder"}, "reward": STATE | {"reward"}, "discount": STATE | {"discount"},
    "dyn": STATE | {"prior"}, "rep": STATE,  # the prior reads states that earlier posteriors made
    "actor": {"actor"}, "critic": {"critic"}, "replay value": STATE | {"critic"}}


def parts_of(own: Dreamt) -> dict[str, nn.Module]:
    model, behaviour = own.model, own.behaviour
    return {"encoder": model.encoder, "prior": model.rssm.img_out, "posterior": model.rssm.obs_out,
            "cell": model.rssm.cell, "decoder": model.decoder, "reward": model.reward,
            "discount": model.discount or nn.Identity(), "actor": behaviour.actor, "critic": behaviour.critic,
            "slow_critic": behaviour.slow_critic}


def reached(loss: Tensor, own: Dreamt) -> set[str]:
    out = set()
    for name, module in parts_of(own).items():
        moving = [p for p in module.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, moving, retain_graph=True, allow_unused=True) if moving else ()
        if any(g is not None and float(g.abs().max()) > 0 for g in found):
            out.add(name)
    return out


def only(name: str) -> dict[str, object]:
    """A config whose model loss is one term alone."""
    off = {"dyn_scale": 0.0, "rep_scale": 0.0, "image_scale": 0.0, "discount_weight": 0.0, "free_nats": 0.0}
    keys = {"image": {"image_scale": 1.0}, "discount": {"discount_weight": 1.0}, "dyn": {"dyn_scale": 1.0},
            "rep": {"rep_scale": 1.0}, "reward": {}}[name]
    return {**off, **keys, "bin_limit": 3.0}


@pytest.mark.parametrize("name", ["image", "reward", "discount", "dyn", "rep"])
def test_each_term_of_the_model_reaches_what_it_should(name: str) -> None:
    own = Dreamt()
    own.model, _ = stirred(loss=only(name))
    if name != "reward":  # which has no weight to switch off: it says the same of all states
        nn.init.zeros_(own.model.reward.layers[-1].weight)  # type: ignore[arg-type]
    loss = own.model.loss(own.data, torch.rand(2, 3, 6, 3))[0]
    assert reached(loss, own) - ({"reward"} if name != "reward" else set()) == REACHES[name]


def one_step() -> Sequences:
    data = sequences()
    return Sequences(data.image[:, :1], data.action[:, :1], data.reward[:, :1], data.is_first[:, :1],
                     data.is_terminal[:, :1])


def test_at_a_single_step_the_two_kl_terms_move_their_own_sides_alone() -> None:
    for name, sides in (("dyn", {"prior"}), ("rep", {"encoder", "posterior"})):
        own = Dreamt()
        own.model, _ = stirred(loss=only(name))
        nn.init.zeros_(own.model.reward.layers[-1].weight)  # type: ignore[arg-type]
        loss = own.model.loss(one_step(), torch.rand(2, 3, 1, 3))[0]
        assert reached(loss, own) - {"reward"} == sides | {"cell"}


def test_actor_and_critic_reach_themselves_and_the_replay_value_loss_the_representation() -> None:
    own = Dreamt()
    plain = own.behaviour.losses(own.path)
    both = own.behaviour.losses(own.path, Replayed(own.feature, own.data))
    assert reached(plain[0], own) == REACHES["actor"] and reached(plain[1], own) == REACHES["critic"]
    assert reached(both[1], own) == REACHES["replay value"]
    apart = Dreamt(replay_value_grad=False)
    loss = apart.behaviour.losses(apart.path, Replayed(apart.feature, apart.data))[1]
    assert reached(loss, apart) == REACHES["critic"]


def test_what_cannot_be_joined_is_refused() -> None:
    with pytest.raises(ValueError, match="learn to promise rewards"):
        config(behaviour={"objective": "dynamics", "replay_value": 0.0})
    with pytest.raises(ValueError, match="replay_value needs train.joint"):
        config(train={"joint": False})
    with pytest.raises(ValueError, match="blocks 5 do not divide"):
        config(model={"blocks": 5})
    with pytest.raises(ValueError, match="cannot be halved 2 times"):
        config(model={"input_size": 18})
    with pytest.raises(ValueError, match="must be odd"):
        config(model={"cnn_kernel": 4})


def test_a_feature_is_latents_then_the_deterministic_state() -> None:
    """The decoder splits it there."""
    model, _ = stirred()
    state = model.rssm.initial(1, torch.device("cpu"))
    state["deter"] += 1
    assert RSSM.feature(state)[0, :12].tolist() == [0.0] * 12
    assert isinstance(model.decoder, UpsampledDecoder) and model.decoder.stoch == 12
