"""GAE, the PPO losses, distributions and the updater against independent computations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvdr_bench.errors import DataError, TrainingError
from pvdr_bench.nets.distributions import DiagonalGaussian
from pvdr_bench.nets.optimizers import load_optimizer_state, optimizer_state
from pvdr_bench.rl.ppo import PPOUpdater, explained_variance, ppo_losses
from pvdr_bench.rl.rollout import Batch, Rollout, RolloutBuffer, gae, needs_bootstrap
from tests.learning import below, learns

GAMMA, LAM = 0.9, 0.7


@dataclass(frozen=True)
class Settings:
    gamma: float = GAMMA
    gae_lambda: float = LAM
    clip: float = 0.2
    value_clip: float = 0.5
    value_coef: float = 0.5
    entropy_coef: float = 0.01
    max_grad_norm: float = 1.0
    epochs: int = 2
    minibatch: int = 8
    actor_lr: float = 1e-2
    critic_lr: float = 1e-2


class TinyActor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(3, 2), nn.Parameter(torch.tensor([-0.5, 0.2]))

    def forward(self, state: dict[str, Tensor]) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean(state["x"]), self.log_std)


class TinyCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(3, 1)

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        return self.value(state["x"])[:, 0]


def networks(seed: int = 0) -> tuple[TinyActor, TinyCritic]:
    torch.manual_seed(seed)
    return TinyActor(), TinyCritic()


def make_batch(size: int = 24, seed: int = 1) -> Batch:
    g = torch.Generator().manual_seed(seed)
    advantage, value = torch.randn(size, generator=g), torch.randn(size, generator=g)
    return Batch({"x": torch.randn(size, 3, generator=g)}, torch.randn(size, 2, generator=g),
                 -2 + 0.3 * torch.randn(size, generator=g), value, advantage, advantage + value, torch.arange(size))


def brute_force_advantage(reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor,
                          t: int, n: int) -> float:
    """The definition: a lambda-weighted mean of k-step returns, each bootstrapped where its episode is cut by time."""
    steps = []
    for k in range(t, len(reward)):
        ret = sum(GAMMA ** (i - t) * float(reward[i, n]) for i in range(t, k + 1))
        steps.append(ret + (0.0 if terminated[k, n] else GAMMA ** (k + 1 - t) * float(next_value[k, n])))
        if terminated[k, n] or truncated[k, n]:
            break
    weights = [(1 - LAM) * LAM**k for k in range(len(steps) - 1)] + [LAM ** (len(steps) - 1)]
    return sum(w * s for w, s in zip(weights, steps, strict=True)) - float(value[t, n])


def test_gae_is_the_mean_of_k_step_returns_with_termination_and_truncation_in_one_batch() -> None:
    g = torch.Generator().manual_seed(0)
    reward, value, final = (torch.randn(9, 4, generator=g, dtype=torch.float64) for _ in range(3))
    terminated, truncated = torch.zeros(9, 4, dtype=torch.bool), torch.zeros(9, 4, dtype=torch.bool)
    terminated[3, 0] = truncated[3, 1] = terminated[8, 2] = truncated[0, 2] = True
    terminated[5, 3] = truncated[5, 3] = True  # a success in the very last decision is a termination
    truncated[8, 1] = True
    next_value = torch.cat([value[1:], final[-1:]])  # inside an episode both name the same state
    next_value = torch.where(terminated | truncated, final, next_value)
    advantage = gae(reward, value, next_value, terminated, truncated, GAMMA, LAM)
    for t in range(9):
        for n in range(4):
            expected = brute_force_advantage(reward, value, next_value, terminated, truncated, t, n)
            assert float(advantage[t, n]) == pytest.approx(expected, abs=1e-12)


def test_gae_by_hand() -> None:
    """Two steps: the first of each episode kind, lambda 1, so that advantages are returns minus values."""
    reward, value, following = torch.tensor([[-1.0, -1.0]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[-20.0, -20.0]])
    end, none = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    out = gae(reward, value, following, end, none, gamma=0.9, lam=1.0)
    assert out.tolist() == [[-1.5, pytest.approx(-1 - 18 - 0.5)]]  # time-out keeps its negative tail


def test_needs_bootstrap() -> None:
    terminated, truncated = torch.tensor([True, False, False, True]), torch.tensor([False, True, False, True])
    assert needs_bootstrap(terminated, truncated, last=False).tolist() == [False, True, False, False]
    assert needs_bootstrap(terminated, truncated, last=True).tolist() == [False, True, True, False]


def fill(buffer: RolloutBuffer, steps: int, start: int = 0) -> None:
    for t in range(start, start + steps):
        base = torch.tensor([10.0 * t, 10.0 * t + 1])
        buffer.add({"x": base[:, None].repeat(1, 3)}, action=base[:, None].repeat(1, 2), log_prob=-base, value=base,
                   reward=torch.ones(2), terminated=torch.tensor([t == 1, False]),
                   truncated=torch.tensor([False, t == 2]), bootstrap=torch.tensor([0.0, 7.0 if t == 2 else 0.0]))


def test_rollout_takes_the_value_of_the_true_next_observation() -> None:
    buffer = RolloutBuffer()
    fill(buffer, 4)
    rollout = buffer.rollout()
    rollout.bootstrap[-1] = torch.tensor([3.0, 4.0])
    assert rollout.next_value().tolist() == [[10, 11], [0, 21], [30, 7], [3, 4]]  # none sees the next episode
    batch = rollout.batch(GAMMA, LAM)
    assert batch.index.tolist() == list(range(8))
    assert batch.state["x"][5].tolist() == [21, 21, 21]  # decision t = 2 of environment 1 is at 2 * 2 + 1
    assert torch.equal(batch.returns, batch.advantage + batch.value)
    other = rollout.batch(GAMMA, LAM, reward=torch.zeros(4, 2))
    assert not torch.equal(other.advantage, batch.advantage)


def test_a_partial_rollout_survives_a_checkpoint() -> None:
    whole, first, second = RolloutBuffer(), RolloutBuffer(), RolloutBuffer()
    fill(whole, 4)
    fill(first, 3)
    second.load_state_dict(first.state_dict())
    fill(second, 1, start=3)
    a, b = whole.state_dict(), second.state_dict()
    assert a.pop("diagnostics") == b.pop("diagnostics") == {}
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    empty = RolloutBuffer()
    empty.load_state_dict(RolloutBuffer().state_dict())
    assert len(empty) == 0 and isinstance(whole.rollout(), Rollout)


def test_losses_equal_a_computation_in_plain_python() -> None:
    batch, (actor, critic) = make_batch(), networks()
    with torch.no_grad():
        policy, value = actor(batch.state), critic(batch.state)
        out = ppo_losses(policy, value, batch.normalised(), clip=0.2, value_clip=0.5)
    std = [math.exp(s) for s in actor.log_std.tolist()]
    raw = batch.advantage.double()
    advantage = ((raw - raw.mean()) / (raw.var(correction=0).sqrt() + 1e-8)).tolist()
    surrogates, values, kls, clipped = [], [], [], []
    for i in range(len(batch)):
        log_prob = sum(-0.5 * ((float(batch.action[i, j]) - float(policy.mean[i, j])) / std[j]) ** 2
                       - math.log(std[j] * math.sqrt(2 * math.pi)) for j in range(2))
        ratio = math.exp(log_prob - float(batch.log_prob[i]))
        surrogates.append(min(ratio * advantage[i], min(max(ratio, 0.8), 1.2) * advantage[i]))
        v, old, ret = float(value[i]), float(batch.value[i]), float(batch.returns[i])
        near = old + min(max(v - old, -0.5), 0.5)
        values.append(0.5 * max((v - ret) ** 2, (near - ret) ** 2))
        kls.append(ratio - 1 - math.log(ratio))
        clipped.append(abs(ratio - 1) > 0.2)
    size = len(batch)
    assert 0 < sum(clipped) < size  # the example exercises both sides
    assert float(out.policy) == pytest.approx(-sum(surrogates) / size, rel=1e-4)
    assert float(out.value) == pytest.approx(sum(values) / size, rel=1e-4)
    assert float(out.approx_kl) == pytest.approx(sum(kls) / size, rel=1e-4)
    assert float(out.clip_fraction) == pytest.approx(sum(clipped) / size)
    assert float(out.entropy) == pytest.approx(sum(0.5 * math.log(2 * math.pi * math.e * s * s) for s in std), rel=1e-5)


def test_no_gradient_beyond_the_clip_range() -> None:
    batch, (actor, critic) = make_batch(2), networks()
    batch.advantage = torch.tensor([1.0, -1.0])
    with torch.no_grad():
        now = actor(batch.state).log_prob(batch.action)
    batch.log_prob = now - torch.tensor([1.0, -1.0])  # already far up where good, far down where bad
    ppo_losses(actor(batch.state), critic(batch.state), batch.normalised(), 0.2, 0.5).policy.backward()
    assert actor.mean.weight.grad is not None and float(actor.mean.weight.grad.abs().max()) == 0


def test_distribution_equals_torch() -> None:
    g = torch.Generator().manual_seed(0)
    ours = DiagonalGaussian(torch.randn(5, 3, generator=g), torch.tensor([-1.0, 0.0, 0.4]))
    theirs = torch.distributions.Independent(torch.distributions.Normal(ours.mean, ours.log_std.exp()), 1)
    action = torch.randn(5, 3, generator=g)
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-5)
    assert torch.allclose(ours.entropy(), theirs.entropy(), atol=1e-5)


def test_samples_come_from_the_given_generator_only() -> None:
    wide = DiagonalGaussian(torch.tensor([1.0, -2.0]).expand(20_000, 2), torch.tensor([-1.0, 0.5]))
    before = torch.get_rng_state()
    a, b = (wide.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(before, torch.get_rng_state())
    assert torch.allclose(a.mean(0), torch.tensor([1.0, -2.0]), atol=0.05)
    assert torch.allclose(a.std(0), torch.tensor([-1.0, 0.5]).exp(), rtol=0.03)


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.zeros(4), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, torch.ones(4)) == 0  # a metric is always finite: the loop stops at nan


def test_update_reports_and_moves_both_networks() -> None:
    actor, critic = networks()
    old = [p.clone() for p in (*actor.parameters(), *critic.parameters())]
    metrics = PPOUpdater(actor, critic, Settings(), seed=0).update(make_batch())
    assert all(not torch.equal(a, b) for a, b in zip(old, (*actor.parameters(), *critic.parameters()), strict=True))
    assert metrics["ppo_updates"] == 2 * 3 and metrics["grad_norm_actor"] > 0 and metrics["grad_norm_critic"] > 0
    assert {"approx_kl", "clip_fraction", "explained_variance", "entropy", "policy_loss"} <= metrics.keys()
    assert all(math.isfinite(x) for x in metrics.values())


@learns(error_left=below(0.5))
def test_an_auxiliary_loss_reaches_the_actor_alone_and_sees_positions(seed: int) -> dict[str, float]:
    batch, seen = make_batch(24, seed + 1), []
    target = torch.tensor([3.0, -3.0])
    actor, critic = networks(seed)

    def auxiliary(part: Batch) -> Callable[[Tensor], Tensor]:
        seen.append(part.index)
        assert torch.equal(part.state["x"], batch.state["x"][part.index])
        return lambda rows: ((actor(part.state).mean[rows] - target) ** 2).mean() * len(rows) / len(part)

    lone_actor, lone_critic = networks(seed)
    updater, alone = (PPOUpdater(*pair, Settings(), seed) for pair in ((actor, critic), (lone_actor, lone_critic)))
    start = actor(batch.state).mean.detach()
    for _ in range(20):
        updater.update(batch, auxiliary, policy_weight=0.0)
        alone.update(batch)
    assert torch.equal(torch.cat(seen[:3]).sort().values, torch.arange(24))
    end = actor(batch.state).mean.detach()
    assert torch.equal(actor.log_std, networks(seed)[0].log_std)  # weight 0: surrogate and entropy leave it alone
    assert torch.equal(critic.value.weight, lone_critic.value.weight)
    return {"error_left": float((end - target).square().mean() / (start - target).square().mean())}


@pytest.mark.parametrize("micro_batch", [1, 5, 7, 8, 100])
def test_micro_batches_give_the_gradient_of_the_whole(micro_batch: int) -> None:
    """A stochastic gradient step of size one shows the gradient itself; both networks' clips are off."""
    batch, settings = make_batch(24), Settings(epochs=1, minibatch=8, max_grad_norm=0.0)
    states, metrics = [], []
    for size in (0, micro_batch):
        updater = PPOUpdater(*networks(), settings, 0, micro_batch=size)
        updater.actor_optimizer = torch.optim.SGD(updater.actor.parameters(), lr=1.0)  # type: ignore[assignment]
        updater.critic_optimizer = torch.optim.SGD(updater.critic.parameters(), lr=1.0)  # type: ignore[assignment]

        def auxiliary(part: Batch, actor: Any = updater.actor) -> Callable[[Tensor], Tensor]:
            return lambda rows: actor(part.select(rows).state).mean.square().sum() / len(part)

        metrics.append(updater.update(batch, auxiliary, policy_weight=0.5))
        states.append([*updater.actor.parameters(), *updater.critic.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*states, strict=True))
    assert metrics[0].keys() == metrics[1].keys()
    assert all(metrics[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in metrics[0].items())


def test_minibatches_are_even_and_cover_the_batch() -> None:
    sizes: list[int] = []

    def spy(part: Batch) -> Callable[[Tensor], Tensor]:
        sizes.append(len(part))
        return lambda rows: torch.zeros(())

    PPOUpdater(*networks(), Settings(epochs=1, minibatch=10), 0).update(make_batch(24), spy)
    assert sizes == [12, 12]
    sizes.clear()
    PPOUpdater(*networks(), Settings(epochs=1, minibatch=100), 0).update(make_batch(24), spy)
    assert sizes == [24]


def test_updater_resumes_exactly() -> None:
    through, first, second = (PPOUpdater(*networks(), Settings(), seed=5) for _ in range(3))
    for i in range(4):
        through.update(make_batch(seed=i))
    for i in range(2):
        first.update(make_batch(seed=i))
    second.load_state_dict(first.state_dict())
    for i in range(2, 4):
        second.update(make_batch(seed=i))
    for a, b in zip((*through.actor.parameters(), *through.critic.parameters()),
                    (*second.actor.parameters(), *second.critic.parameters()), strict=True):
        assert torch.equal(a, b)
    assert second.updates == through.updates


def test_a_loss_that_is_not_finite_stops_learning_before_it_spoils_the_weights() -> None:
    batch, (actor, critic) = make_batch(), networks()
    batch.advantage[3] = float("nan")
    old = actor.mean.weight.clone()
    with pytest.raises(TrainingError, match="policy_loss=nan"):
        PPOUpdater(actor, critic, Settings(minibatch=100), 0).update(batch)
    assert torch.equal(old, actor.mean.weight)


def test_optimizer_state_of_another_network_is_refused() -> None:
    big, small = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)
    optimizer = torch.optim.Adam(big.parameters())
    big(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with pytest.raises(DataError, match="another network|has 2"):
        load_optimizer_state(torch.optim.Adam(small.parameters()), optimizer_state(optimizer))
