"""World model, behaviour and bonus against computations by hand; the silent bugs of other ports each have a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour
from pvdr_bench.algorithms.dreamer.behaviour import Path as Imagined
from pvdr_bench.algorithms.dreamer.bonus import VideoBonus, neighbour_distance
from pvdr_bench.algorithms.dreamer.config import BonusConfig, DreamerConfig
from pvdr_bench.algorithms.dreamer.pretrain import VideoPretrainer
from pvdr_bench.algorithms.dreamer.returns import lambda_returns
from pvdr_bench.algorithms.dreamer.video_model import VideoModel
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.nets.rssm import RSSM, balanced_kl
from pvdr_bench.rl.contract import Transition
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from tests.learning import above, below, learns

SIZE = 32
SMALL = {"model": {"input_size": SIZE, "deter": 12, "hidden": 12, "stoch": 3, "classes": 4, "cnn_depth": 4,
                   "encoder_kernels": (4, 4, 4), "decoder_kernels": (5, 6, 6), "head_layers": 1, "head_units": 16,
                   "action_width": 4},
         "train": {"batch": 3, "length": 6, "prefill": 10, "initial_updates": 2, "every": 5},
         "behaviour": {"horizon": 4}}


def config(**changes: object) -> DreamerConfig:
    return DreamerConfig.model_validate({**SMALL, **changes})


def sequences(seed: int = 0, batch: int = 3, length: int = 6) -> Sequences:
    g = torch.Generator().manual_seed(seed)
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = True
    return Sequences(torch.randint(0, 256, (batch, length, SIZE, SIZE, 3), generator=g, dtype=torch.uint8),
                     torch.rand(batch, length, 2, generator=g) * 2 - 1, torch.randn(batch, length, generator=g), first,
                     torch.zeros(batch, length, dtype=torch.bool))


def world_model(two_hot: bool = False, discount: bool = False, seed: int = 0, **changes: object) -> WorldModel:
    torch.manual_seed(seed)
    return WorldModel(config(**changes), 2, two_hot, discount)


# Replay -> sequences ------------------------------------------------------------------------------------------------


def test_actions_and_rewards_stand_at_the_image_they_led_to(tmp_path: Path) -> None:
    """Decision k shows image k, takes action k / 10 and earns reward k; two episodes of three decisions."""
    replay = EpisodeReplay(tmp_path, 1, 2, 1)
    for k in range(6):
        last, first = k % 3 == 2, k % 3 == 0
        replay.add(Transition(torch.full((1, 2, 2, 3), k, dtype=torch.uint8), torch.tensor([first]),
                              torch.tensor([[k / 10]]), torch.tensor([float(k)]), torch.tensor([last]),
                              torch.tensor([False]), torch.full((1, 2, 2, 3), 100 + k, dtype=torch.uint8), {}))
    data = Sequences.from_replay(replay.sample(torch.Generator(), 1, 8), torch.device("cpu"))
    assert data.image[0, :, 0, 0, 0].tolist() == [0, 1, 2, 102, 3, 4, 5, 105]
    assert data.action[0, :, 0].tolist() == pytest.approx([0, 0, 0.1, 0.2, 0, 0.3, 0.4, 0.5])
    assert data.reward[0].tolist() == [0, 0, 1, 2, 0, 3, 4, 5]
    assert data.is_first[0].tolist() == [True, False, False, False, True, False, False, False]
    assert data.is_terminal[0].tolist() == [False, False, False, True, False, False, False, True]
    middle = replay.sample(torch.Generator().manual_seed(3), 4, 2)
    assert Sequences.from_replay(middle, torch.device("cpu")).is_first[:, 0].all()  # what was before is not known


def test_actions_beyond_the_bounds_count_as_the_simulator_saw_them() -> None:
    batch = {"image": torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8), "action": torch.tensor([[[3.0], [0.0]]]),
             "reward": torch.zeros(1, 2), "is_first": torch.tensor([[True, False]]),
             "is_last": torch.zeros(1, 2, dtype=torch.bool), "is_terminal": torch.zeros(1, 2, dtype=torch.bool)}
    assert Sequences.from_replay(batch, torch.device("cpu")).action[0, 1].tolist() == [1.0]


# World model --------------------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    model, data = world_model(discount=True), sequences()
    data.is_terminal[1, 3] = True
    uniform = torch.rand(2, 3, 6, 3)
    loss, post, metrics = model.loss(data, uniform)
    image = data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5
    embed = model.encoder(image.flatten(0, 1)).unflatten(0, (3, 6))
    states, prior = model.rssm.scan(embed, data.action, data.is_first, uniform[0])
    feature = torch.cat([states["stoch"].flatten(-2), states["deter"]], -1)
    drawn = model.decoder(feature.flatten(0, 1)).unflatten(0, (3, 6))
    pixels = torch.stack([0.5 * ((drawn[b, t] - image[b, t]) ** 2).sum() for b in range(3) for t in range(6)]).mean()
    reward = (0.5 * (model.reward(feature)[..., 0] - data.reward) ** 2).mean()
    kl = balanced_kl(states["logits"], prior, 0.8, 0.0)[0]
    assert model.discount is not None
    alive = torch.sigmoid(model.discount(feature)[..., 0])
    end = -torch.where(data.is_terminal, (1 - alive).log(), alive.log()).mean()
    torch.testing.assert_close(loss, pixels + reward + kl + end)
    assert float(metrics["kl"]) > 0 and not metrics["kl"].requires_grad


def test_acting_filters_as_learning_does() -> None:
    """The policy path normalises images and aligns actions like the loss: the same numbers from both."""
    for stacked in (False, True):
        model, data = world_model(stacked=stacked), sequences()
        uniform = torch.rand(2, 3, 6, 3)
        _, post, _ = model.loss(data, uniform)
        states = model.initial(3, torch.device("cpu"))
        for t in range(6):
            states = model.step(states, data.image[:, t], data.action[:, t], data.is_first[:, t], uniform[:, :, t])
            torch.testing.assert_close(states["rssm"]["deter"], post["deter"][:, t])
            torch.testing.assert_close(states["rssm"]["stoch"], post["stoch"][:, t])


def test_the_stack_moves_both_models_but_not_the_lower_prior() -> None:
    model, data = world_model(stacked=True), sequences()
    assert model.af_rssm is not None
    torch.autograd.backward(model.loss(data, torch.rand(2, 3, 6, 3))[0])
    moved = {name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}
    for part in ("encoder", "af_rssm.obs_out", "af_rssm.cell", "rssm.obs_out", "rssm.img_out", "decoder", "reward"):
        assert any(name.startswith(part) for name in moved), part
    assert not any(name.startswith("af_rssm.img_out") for name in moved)  # its KL has weight 0
    columns = model.af_rssm.img_in[0].weight.grad[:, -4:]  # type: ignore[union-attr,index]
    assert float(columns.abs().max()) == 0  # the action-free RSSM never sees an action


def test_pretrained_modules_arrive_where_they_belong() -> None:
    pretrained = VideoPretrainer(config(), 7, torch.device("cpu")).export()
    for stacked in (True, False):
        model = world_model(stacked=stacked)
        fresh = {name: p.clone() for name, p in model.named_parameters()}
        model.load_video_model(pretrained)
        target = model.af_rssm if stacked else model.rssm
        assert target is not None
        for name, module in (("encoder", model.encoder), ("rssm", target), ("decoder", model.decoder)):
            for key, value in module.state_dict().items():
                assert torch.equal(value, pretrained[f"{name}.{key}"])
        if stacked:
            assert torch.equal(model.rssm.cell.gates.weight, fresh["rssm.cell.gates.weight"])


def test_the_bonus_enters_the_reward_target_of_the_first_windows_only() -> None:
    model, data = world_model(stacked=True, bonus={"weight": 2.0, "window": 3, "projection": 4, "queue": 64,
                                                   "neighbours": 2}), sequences()
    uniform = torch.rand(2, 3, 6, 3)
    assert model.bonus is not None and model.af_rssm is not None
    state = {name: x.clone() for name, x in model.bonus.state_dict().items()}
    _, _, metrics = model.loss(data, uniform)
    model.bonus.load_state_dict(state)
    embed = model.encoder((data.image.permute(0, 1, 4, 2, 3).float() / 255 - 0.5).flatten(0, 1)).unflatten(0, (3, 6))
    af, _ = model.af_rssm.scan(embed, torch.zeros(3, 6, 2), data.is_first, uniform[1])
    low = RSSM.feature(af)
    bonus, whole, _ = model.bonus(low.detach(), data.is_first)
    assert whole.all() and bonus.shape == (3, 4)
    post, _ = model.rssm.scan(low, data.action, data.is_first, uniform[0])
    predicted = model.reward(RSSM.feature(post)[:, :4])[..., 0]
    expected = (0.5 * (predicted - data.reward[:, :4] - 2 * bonus) ** 2).mean()
    torch.testing.assert_close(metrics["reward_loss"], expected.detach())


# Bonus --------------------------------------------------------------------------------------------------------------


def starts(batch: int, length: int) -> Tensor:
    """Sequences within one episode each."""
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = True
    return first


def brute_force(feature: np.ndarray, projection: np.ndarray, queue: np.ndarray, tau: int, k: int) -> np.ndarray:
    """Bonuses before scaling [B, W], and the queue after the push."""
    windows = [[feature[b, t:t + tau].mean(0) @ projection for t in range(feature.shape[1] - tau + 1)]
               for b in range(len(feature))]
    points = np.array(windows).reshape(-1, projection.shape[1])
    pool = np.concatenate([points, queue])
    return np.array([np.sort(np.linalg.norm(pool[:24] - p, axis=1))[:k].mean() for p in points])


@pytest.mark.parametrize("before", [0, 24])
def test_bonus_by_brute_force_with_and_without_a_full_queue(before: int) -> None:
    torch.manual_seed(0)
    bonus = VideoBonus(BonusConfig(window=3, projection=5, queue=24, neighbours=4, momentum=0.9), feature_dim=7)
    old = torch.randn(before, 5)
    bonus.queue[:before] = old
    bonus.filled.fill_(before)
    feature = torch.randn(2, 6, 7)
    expected = brute_force(feature.numpy(), bonus.projection.numpy(), old.numpy(), 3, 4)
    got, _, raw = bonus(feature, starts(2, 6))
    scale = 0.9 + 0.1 * expected.mean()
    assert float(raw) == pytest.approx(expected.mean(), rel=1e-5)
    np.testing.assert_allclose(got.flatten().numpy(), expected / scale, rtol=1e-5)
    assert int(bonus.filled) == min(24, before + 8)
    bonus(torch.randn(2, 6, 7), starts(2, 6))
    assert int(bonus.filled) == min(24, before + 16)


def test_the_bonus_is_computed_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    bonus, feature = VideoBonus(BonusConfig(window=2, projection=5, queue=24, neighbours=4), 7), torch.randn(2, 6, 7)
    state = {name: x.clone() for name, x in bonus.state_dict().items()}
    expected, _, _ = bonus(feature, starts(2, 6))
    bonus.load_state_dict(state)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bonus(feature, starts(2, 6))[0], expected)


def test_the_newest_windows_stay() -> None:
    bonus = VideoBonus(BonusConfig(window=1, projection=2, queue=3, neighbours=1), feature_dim=2)
    bonus.projection.copy_(torch.eye(2))
    bonus(torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]), starts(1, 2))
    bonus(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]]), starts(1, 2))
    assert bonus.queue[:, 0].tolist() == [3.0, 4.0, 1.0]
    again, _, _ = bonus(torch.tensor([[[3.0, 0.0]]]), starts(1, 1))
    assert float(again) == 0.0  # the nearest of one neighbour is itself


def test_windows_across_episodes_have_no_bonus_no_place_in_the_queue_and_no_part_in_the_reward_loss() -> None:
    changes = {"weight": 2.0, "window": 3, "projection": 4, "queue": 64, "neighbours": 2}
    model, data = world_model(stacked=True, bonus=changes), sequences()
    assert model.bonus is not None
    data.is_first[1, 4] = True  # windows 2 and 3 of steps 2-4 and 3-5 have a start behind their first step
    low = torch.randn(3, 6, RSSM.feature(model.rssm.initial(1, torch.device("cpu"))).shape[-1])
    state = {name: x.clone() for name, x in model.bonus.state_dict().items()}
    bonus, whole, raw = model.bonus(low, data.is_first)
    assert (~whole).nonzero().tolist() == [[1, 2], [1, 3]] and int(model.bonus.filled) == 10
    points = torch.stack([low[b, t:t + 3].mean(0) @ model.bonus.projection for b, t in whole.nonzero().tolist()])
    expected = torch.stack([(points - p).norm(dim=1).sort().values[:2].mean() for p in points])
    torch.testing.assert_close(bonus[whole] * model.bonus.scale, expected)
    torch.testing.assert_close(raw, expected.mean())
    assert (bonus[~whole] == 0).all()

    cut = VideoBonus(model.bonus.config.model_copy(update={"at_end": "cut"}), low.shape[-1])
    cut.load_state_dict(state)
    bonus, known, _ = cut(low, data.is_first)
    assert known.all() and int(cut.filled) == 12
    ends = [[3, 4, 5, 6], [3, 4, 4, 4], [3, 4, 5, 6]]  # behind each window's last step, before the start at 4
    points = torch.stack([low[b, t:ends[b][t]].mean(0) @ cut.projection for b in range(3) for t in range(4)])
    expected = torch.stack([(points - p).norm(dim=1).sort().values[:2].mean() for p in points])
    torch.testing.assert_close(bonus.flatten() * cut.scale, expected)

    uniform = torch.rand(2, 3, 6, 3)
    losses = []
    for reward in (0.0, 1e3):  # of the steps whose windows are broken
        model.bonus.load_state_dict(state)
        data.reward[1, 2:4] = reward
        losses.append(float(model.loss(data, uniform)[2]["reward_loss"]))
    assert losses[0] == losses[1]
    model.bonus.config = cut.config  # but where they are cut, their rewards are learned
    model.bonus.load_state_dict(state)
    assert float(model.loss(data, uniform)[2]["reward_loss"]) > 2 * losses[1]
    model.bonus.config = model.config.bonus
    data.reward[1, 1] += 1
    model.bonus.load_state_dict(state)
    assert float(model.loss(data, uniform)[2]["reward_loss"]) != losses[0]


def test_kth_neighbour_is_the_slides_form() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0]])
    assert neighbour_distance(points, points, 2, "kth").tolist() == [1.0, 1.0, 2.0]
    assert neighbour_distance(points, points, 2, "mean").tolist() == [0.5, 0.5, 1.0]


# Behaviour ----------------------------------------------------------------------------------------------------------


def test_lambda_returns_by_hand() -> None:
    reward, value = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])
    discount = torch.tensor([0.9, 0.5, 0.8])
    v3 = 40.0
    r2 = 3 + 0.8 * (0.05 * v3 + 0.95 * v3)
    r1 = 2 + 0.5 * (0.05 * 30 + 0.95 * r2)
    r0 = 1 + 0.9 * (0.05 * 20 + 0.95 * r1)
    got = lambda_returns(reward, value, discount, torch.tensor(v3), 0.95)
    assert got.tolist() == pytest.approx([r0, r1, r2])


def imagined(discount: bool = True) -> tuple[WorldModel, Behaviour, Imagined]:
    model = world_model(discount=discount)
    behaviour = Behaviour(model.config, model.rssm.feature_dim, 2)
    start = {name: torch.randn(5, *shape) for name, shape in (("deter", (12,)), ("logits", (3, 4)))}
    start["stoch"] = torch.nn.functional.one_hot(torch.randint(0, 4, (5, 3)), 4).float()
    terminal = torch.tensor([True, False, False, False, False])
    return model, behaviour, behaviour.imagine(model, start, terminal, torch.rand(4, 5, 2 + 3))


def test_what_follows_a_terminal_state_has_no_weight() -> None:
    _, _, path = imagined()
    assert path.feature.shape[:2] == (5, 5)
    assert path.weight[0].tolist() == [1.0] * 5
    assert (path.weight[1:, 0] == 0).all() and (path.weight[1:, 1:] > 0).all()
    torch.testing.assert_close(path.weight[2, 1:], (path.discount[0, 1:] * path.discount[1, 1:]).detach())
    _, _, plain = imagined(discount=False)
    torch.testing.assert_close(plain.weight[:, 1], 0.99 ** torch.arange(5))


def test_losses_by_hand_and_their_alignment() -> None:
    model, behaviour, path = imagined()
    actor_loss, critic_loss, _ = behaviour.losses(path)
    slow = behaviour.slow_critic(path.feature)[..., 0]
    returns = lambda_returns(path.reward[:-1], slow[:-1], path.discount[:-1], slow[-1], 0.95)
    actor = critic = 0.0
    for n in range(5):
        for t in range(3):  # states 0 .. H - 2 of H = 4: the last two are lost
            entropy = behaviour.actor(path.feature[t, n].detach()).entropy()
            actor -= float(path.weight[t, n] * (returns[t + 1, n] + 1e-4 * entropy)) / 15
        for t in range(4):
            error = behaviour.critic(path.feature[t, n])[0] - returns[t, n]
            critic += float(path.weight[t, n] * 0.5 * error**2) / 20
    assert float(actor_loss) == pytest.approx(actor, rel=1e-5)
    assert float(critic_loss) == pytest.approx(critic, rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(behaviour.critic.parameters(), behaviour.slow_critic.parameters(),
                                                 strict=True))


def test_the_actor_learns_through_the_dynamics_and_the_critic_alone_from_targets() -> None:
    _, behaviour, path = imagined()
    actor_loss, critic_loss, _ = behaviour.losses(path)
    gradients = torch.autograd.grad(actor_loss, list(behaviour.actor.parameters()), retain_graph=True)
    assert max(float(g.abs().max()) for g in gradients) > 0
    parameters = [*behaviour.actor.parameters(), *behaviour.slow_critic.parameters()]
    reached = torch.autograd.grad(critic_loss, [p for p in parameters if p.requires_grad], allow_unused=True)
    assert all(g is None for g in reached)


@learns(mean=above(0.9), std=below(0.5))
def test_the_actor_finds_the_action_that_pays(seed: int) -> dict[str, float]:
    """A model whose reward is the first action itself: dynamics backpropagation drives the mean to one."""
    model = world_model(seed=seed)
    behaviour = Behaviour(model.config, model.rssm.feature_dim, 2)
    marker = torch.zeros(3, 4)

    def imagine(state: dict[str, Tensor], action: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        deter = torch.cat([action[:, :1], torch.zeros(len(action), 11)], 1)
        return {"deter": deter, "stoch": marker.expand(len(action), 3, 4), "logits": state["logits"]}

    model.rssm.imagine = imagine  # type: ignore[method-assign]
    model.predict_reward = lambda feature: feature[..., 12]  # type: ignore[method-assign]
    adam = torch.optim.Adam(behaviour.actor.parameters(), lr=1e-2)
    start = model.rssm.initial(16, torch.device("cpu"))
    for _ in range(150):
        path = behaviour.imagine(model, start, torch.zeros(16, dtype=torch.bool), torch.rand(4, 16, 5))
        loss = behaviour.losses(path)[0]
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    policy = behaviour.actor(path.feature[1].detach())
    return {"mean": float(policy.mean[:, 0].detach().mean()), "std": float(policy.std[:, 0].detach().mean())}


# Pre-training -------------------------------------------------------------------------------------------------------


@learns(image_loss_left=below(0.2), psnr_over_copying=above(3))
def test_pretraining_learns_a_moving_square_and_imagines_better_than_copying(seed: int) -> dict[str, float]:
    g = torch.Generator().manual_seed(seed)

    def clips(count: int) -> Tensor:
        out = torch.zeros(count, 8, SIZE, SIZE, 3, dtype=torch.uint8)
        for i, start in enumerate(torch.randint(0, 8, (count,), generator=g).tolist()):
            for t in range(8):
                out[i, t, 12:20, start + 2 * t:start + 2 * t + 8] = 255
        return out

    settings = config(model={**SMALL["model"], "deter": 32, "hidden": 32, "cnn_depth": 8}, pretrain={"lr": 3e-3})
    learner = VideoPretrainer(settings, seed, torch.device("cpu"))
    held_out = clips(8)
    before = learner.validate(held_out)
    for _ in range(150):
        metrics = learner.update(clips(8))
    after = learner.validate(held_out)
    assert metrics["grad_norm"] > 0
    assert learner.validate(held_out) == after  # its randomness is fixed and nothing changes
    return {"image_loss_left": after["image_loss"] / before["image_loss"],
            "psnr_over_copying": after["psnr_imagined"] - after["psnr_copy_last"]}


def test_video_model_and_rssm_share_one_shape() -> None:
    model = VideoModel(config().model)
    assert model.decoder.size == SIZE and model.rssm.feature_dim == 3 * 4 + 12
