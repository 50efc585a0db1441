"""EfficientZero's parts against independent computations: targets, scalars, losses, the search's latent states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pvdr_bench.algorithms.efficientzero import pictures, targets
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig, ModelConfig, SearchConfig, TrainConfig
from pvdr_bench.algorithms.efficientzero.latent_tree import LatentSearch, LatentTrees
from pvdr_bench.algorithms.efficientzero.losses import unroll
from pvdr_bench.algorithms.efficientzero.networks import (
    EfficientZeroNet,
    Scalars,
    inverse_transform,
    transform,
)
from pvdr_bench.nets.folding import Folded

SMALL = ModelConfig(input_size=12, stack=2, downsamplings=2, channels=8, head_channels=2, head_units=8, prefix_units=6,
                    projection=8, predictor=4, support=4.0, bin_width=0.5)


def made(boxes: int = 4, inputs: int = 3, seed: int = 0) -> EfficientZeroNet:
    """A network whose heads and running averages are not those of the start."""
    torch.manual_seed(seed)
    net = EfficientZeroNet(SMALL, boxes, inputs).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)
    return net


def test_the_transformed_scale_goes_back_and_forth() -> None:
    x = torch.linspace(-299, 299, 1001, dtype=torch.float64)
    assert torch.allclose(inverse_transform(transform(x)), x, atol=1e-6)
    assert transform(torch.tensor(3.0)) == pytest.approx(1.003)


def test_scalars_are_read_back_from_their_distributions() -> None:
    scalars = Scalars(SMALL)
    x = torch.tensor([-7.3, -0.02, 0.0, 0.4, 10.0])
    logits = torch.zeros(5, len(scalars.atoms), requires_grad=True)
    optimiser = torch.optim.Adam([logits], 0.3)
    for _ in range(300):
        optimiser.zero_grad()
        scalars.loss(logits, x).sum().backward()
        optimiser.step()
    assert torch.allclose(scalars.mean(logits), x, atol=0.03)
    assert (scalars.mean(torch.zeros(2, len(scalars.atoms))) == 0).all()


def test_shares_beyond_the_support_are_counted() -> None:
    """h(x) = 4 at x = 23.78: sqrt(24.78) - 1 + 0.02378."""
    scalars, far = Scalars(SMALL), SMALL.reach
    assert far == pytest.approx(float(inverse_transform(torch.tensor(4.0, dtype=torch.float64))))
    assert ((far + 1) ** 0.5 - 1) + 0.001 * far == pytest.approx(4)
    assert scalars.beyond(torch.tensor([[far + 0.1, -far - 0.1], [far - 0.1, 0.0]])) == 0.5
    assert scalars.beyond(torch.zeros(0)) == 0


def by_hand(reward: list[float], value: list[float], last: int, terminal: bool, steps: int, gamma: float,
            k: int) -> float:
    """A value target in plain loops."""
    if k > last:
        return 0.0
    total, weight, j = 0.0, 1.0, k
    while j < last and j < k + steps:
        j += 1
        total += weight * reward[j]
        weight *= gamma
    return total + (0.0 if terminal and j == last else weight * value[j])


def test_value_targets_bootstrap_where_an_episode_was_cut_off_and_not_where_it_ended() -> None:
    rng = np.random.default_rng(0)
    n, unrolled, td, gamma = 40, 3, 4, 0.9
    entries = unrolled + 1 + td
    reward, value = rng.normal(size=(n, entries)), rng.normal(size=(n, entries))
    last, steps = rng.integers(1, entries, n), rng.integers(1, td + 1, n)
    terminal = rng.random(n) < 0.5
    bootstrap = targets.bootstrap_entries(torch.from_numpy(last), torch.from_numpy(steps), unrolled)
    found = targets.value_targets(torch.from_numpy(reward), torch.from_numpy(value).gather(1, bootstrap),
                                  torch.from_numpy(last), torch.from_numpy(terminal), bootstrap, gamma)
    wanted = [[by_hand(reward[i].tolist(), value[i].tolist(), last[i], terminal[i], steps[i], gamma, k)
               for k in range(unrolled + 1)] for i in range(n)]
    assert np.allclose(found.numpy(), wanted)


def test_value_prefixes_are_sums_without_discount_up_to_the_last_entry() -> None:
    reward = torch.tensor([[9.0, 1.0, 2.0, 4.0, 8.0]])
    inside = torch.tensor([[True, True, True, False, False]])
    assert targets.value_prefixes(reward, inside, 3).tolist() == [[1, 3, 3]]


def test_stale_experience_has_shorter_targets() -> None:
    assert targets.target_steps(torch.tensor([0, 29, 30, 95, 10_000]), 5, 30.0).tolist() == [5, 5, 4, 2, 1]


def test_stacks_hold_the_newest_frame_last() -> None:
    planes = torch.arange(5.0).view(1, 5, 1, 1, 1)
    assert pictures.stacks(planes, 3).flatten(2).tolist() == [[[0, 1, 2], [1, 2, 3], [2, 3, 4]]]
    images = torch.tensor([[[0, 0, 0], [255, 255, 255]], [[0, 0, 0], [255, 255, 255]]], dtype=torch.uint8)
    assert pictures.frames(images[None], 1, True).item() == pytest.approx(0.5)
    with pytest.raises(TypeError, match="uint8"):
        pictures.frames(images[None].float(), 1, True)


def test_augmentation_moves_pictures_and_repeats_their_edges() -> None:
    picture = torch.arange(9.0).view(1, 1, 3, 3)
    moved = pictures.augment(picture, torch.tensor([[1.0, -1.0, 2.0]]))
    assert moved[0, 0].tolist() == [[6, 6, 8], [12, 12, 14], [12, 12, 14]]
    noise = pictures.noise((500,), 2, 0.05, torch.Generator().manual_seed(0))
    assert set(noise[:, 0].tolist()) == {-2, -1, 0, 1, 2} and noise[:, 2].std() == pytest.approx(0.045, abs=0.005)


def test_folding_changes_no_output_and_follows_the_source() -> None:
    net = made()
    folded = Folded(net, without=("likeness",))
    observation, action = torch.rand(5, 2, 12, 12), torch.rand(5, 3)

    def outputs(one: EfficientZeroNet) -> list[torch.Tensor]:
        state = one.encoder(observation)
        after, prefix, hidden = one.step(state, action, one.hidden(5))
        return [state, after, prefix, *hidden, *one.predict(after)]

    def agree() -> bool:
        return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(outputs(net), outputs(folded.net), strict=True))

    assert agree()
    left = [name for name, m in folded.net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == ["prefix.0"], "the one that follows no layer of a sequence, but the LSTM"
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.mul_(1.1)
    assert not agree()
    folded.refresh()
    assert agree()
    for name, shift, factor in (("running_mean", 0.2, 1.0), ("running_var", 0.0, 2.0)):
        for buffer in (x for own, x in net.named_buffers() if own.endswith(name)):
            buffer.mul_(factor).add_(shift)
        assert not agree(), name
        folded.refresh()
        assert agree(), name


def test_the_search_follows_the_networks_and_restarts_the_value_prefix() -> None:
    """Three nodes in a row, in each of two trees: rewards and hidden states as an unroll by hand has them."""
    net, restart = made(), 2
    roots, inputs = net.encoder(torch.rand(2, 2, 12, 12)), torch.rand(2, 4, 3)
    with torch.inference_mode():
        trees = LatentTrees(net, roots, inputs, 3, restart)
        rows, actions = np.arange(2), np.array([[1, 3], [0, 2], [3, 3]])
        state, hidden, before = roots, net.hidden(2), torch.zeros(2)
        for slot in (1, 2, 3):
            reward, value, logits = trees.expand(rows, slot, np.full(2, slot - 1), actions[slot - 1])
            taken = inputs[torch.arange(2), torch.from_numpy(actions[slot - 1])]
            state, prefix, hidden = net.step(state, taken, hidden)
            policy, value_logits = net.predict(state)
            total = net.scalars.mean(prefix)
            assert np.allclose(reward, total - before, atol=1e-5)
            assert np.allclose(value, net.scalars.mean(value_logits), atol=1e-5)
            assert np.allclose(logits, policy, atol=1e-5)
            before = total
            if slot % restart == 0:
                before, hidden = torch.zeros(2), net.hidden(2)


def test_a_root_is_searched_alike_alone_and_in_company() -> None:
    net, search = made(), LatentSearch(EfficientZeroConfig(model=SMALL, search=SearchConfig(simulations=20)))
    observation, inputs = torch.rand(6, 2, 12, 12), torch.rand(6, 4, 3)
    whole = search.run(net, observation, inputs, 20)
    alone = [search.run(net, observation[i:i + 1], inputs[i:i + 1], 20) for i in range(6)]
    assert np.abs(np.concatenate([one.visits for one in alone]) - whole.visits).max() <= 1  # of rounding
    assert np.allclose(np.concatenate([one.value for one in alone]), whole.value, atol=0.05)


def batch_of(net: EfficientZeroNet, steps: int) -> targets.Batch:
    inside = torch.ones(3, steps + 1, dtype=torch.bool)
    inside[2, 2:] = False
    decided = inside.clone()
    decided[2, 1] = False
    return targets.Batch(torch.rand(3, steps + 1, 2, 12, 12), torch.rand(3, steps, 3),
                         torch.softmax(torch.randn(3, steps + 1, 4), 2), torch.randn(3, steps + 1),
                         torch.randn(3, steps),
                         inside, decided, torch.tensor([1.0, 0.5, 0.25]))


def test_losses_are_those_of_a_loop_over_positions_and_nothing_behind_an_episode_counts() -> None:
    net, steps = made(), 3
    batch = batch_of(net, steps)
    found = unroll(net, batch.observation, batch, batch.action)
    policy = value = prefix = consistency = 0.0
    for b in range(3):
        weight = float(batch.weight[b]) / 3
        state, hidden = net.encoder(batch.observation[b:b + 1, 0]), net.hidden(1)
        for k in range(steps + 1):
            if k:
                state, logits, hidden = net.step(state, batch.action[b:b + 1, k - 1], hidden)
                if batch.inside[b, k]:
                    prefix += weight * net.scalars.loss(logits, batch.prefix[b:b + 1, k - 1]).item()
                    real = net.likeness.projector(net.encoder(batch.observation[b:b + 1, k]).flatten(1))
                    mine = net.likeness.predictor(net.likeness.projector(state.flatten(1)))
                    consistency += weight * (1 - torch.cosine_similarity(mine, real).item())
            p, v = net.predict(state)
            if batch.decided[b, k]:
                policy += weight * nn.functional.cross_entropy(p, batch.policy[b:b + 1, k]).item()
            if batch.inside[b, k]:
                value += weight * net.scalars.loss(v, batch.value[b:b + 1, k]).item()
    got = [x.item() for x in (found.policy, found.value, found.prefix, found.consistency)]
    assert got == pytest.approx([policy, value, prefix, consistency], rel=1e-4)
    total = found.total(TrainConfig(unroll=steps))
    assert total.item() == pytest.approx((policy + 0.25 * value + prefix + 2 * consistency) / steps, rel=1e-4)


def test_the_entropy_of_targets_leaves_out_what_was_never_searched_or_lies_behind_an_episode() -> None:
    batch = batch_of(made(), 1)
    assert not batch.decided[2, 1]
    batch.policy = torch.tensor([[[0.5, 0.5, 0, 0], [0] * 4], [[1, 0, 0, 0], [0.25] * 4], [[0] * 4, [0.25] * 4]])
    assert batch.entropy().item() == pytest.approx((np.log(2) + 0 + np.log(4)) / 3)


def test_gradients_are_halved_at_each_unrolled_state() -> None:
    """The last policy alone: its gradient at the first state is that of a plain unroll times 1/2 ^ steps."""
    net, steps = made(), 2
    batch = batch_of(net, steps)
    batch.decided[:] = False
    batch.decided[0, steps] = True

    def gradient(hooks: bool) -> torch.Tensor:
        net.zero_grad()
        if hooks:
            found = unroll(net, batch.observation, batch, batch.action).policy
        else:
            state, hidden = net.encoder(batch.observation[:, 0]), net.hidden(3)
            for k in range(steps):
                state, _, hidden = net.step(state, batch.action[:, k], hidden)
            log_probs = net.predict(state)[0].log_softmax(1)
            found = -(batch.policy[0, steps] * log_probs[0]).sum() * batch.weight[0] / 3
        found.backward()
        return net.encoder.layers[0].weight.grad.clone()

    assert torch.allclose(gradient(True), gradient(False) / 2**steps, rtol=1e-4, atol=1e-9)


def test_consistency_has_no_gradient_through_what_was_seen() -> None:
    net = made()
    batch = batch_of(net, 1)
    batch.observation[:, 1].requires_grad_(True)
    observation = batch.observation.clone().requires_grad_(True)
    meant: list[torch.Tensor] = []
    loss = net.likeness.loss
    net.likeness.loss = lambda state, target: meant.append(target) or loss(state, target)  # type: ignore[method-assign]
    unroll(net, observation, batch, batch.action).consistency.backward()
    assert len(meant) == 1 and not meant[0].requires_grad
    assert observation.grad is not None and observation.grad[:, 1].abs().max() == 0
    assert observation.grad[:, 0].abs().max() > 0


def test_the_search_reads_the_reward_that_every_decision_was_paid() -> None:
    """Trained on a reward of -1 in training mode: the rewards of a search, by running averages, are it at any depth."""
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"prefix_units": 32, "head_units": 32, "bin_width": 0.25})
    net, steps, count = EfficientZeroNet(config, 4, 3), 5, 16
    optimiser, inside = torch.optim.Adam(net.parameters(), 5e-3), torch.ones(count, steps + 1, dtype=torch.bool)
    paid = -torch.arange(1.0, steps + 1).expand(count, -1)
    for _ in range(150):
        batch = targets.Batch(torch.rand(count, steps + 1, 2, 12, 12), torch.rand(count, steps, 3),
                              torch.full((count, steps + 1, 4), 0.25), torch.zeros(count, steps + 1), paid, inside,
                              inside, torch.ones(count))
        optimiser.zero_grad()
        unroll(net, batch.observation, batch, batch.action).prefix.backward()
        optimiser.step()
    net.eval()
    with torch.inference_mode():
        trees = LatentTrees(net, net.encoder(torch.rand(8, 2, 12, 12)), torch.rand(8, 4, 3), steps, steps)
        read = [trees.expand(np.arange(8), slot, np.full(8, slot - 1), np.zeros(8, np.int64))[0].mean()
                for slot in range(1, steps + 1)]
    assert read == pytest.approx([-1.0] * steps, abs=0.4)
