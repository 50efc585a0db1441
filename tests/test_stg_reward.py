"""STG's reward of a roll-out: stretches, final frames, scales."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.stg.config import RewardConfig
from pvdr_bench.algorithms.stg.networks import STGModel, symexp
from pvdr_bench.algorithms.stg.reward import RunningStd, StateToGoReward
from pvdr_bench.errors import SetupError
from pvdr_bench.rl.contract import Transition
from pvdr_bench.rl.rollout import Rollout, RolloutBuffer
from pvdr_bench.rl.rollout_reward import next_steps, segments
from tests.stg_small import CONTEXT, CPU, SIZE, pretrainer

N = 3


def images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def model(seed: int = 0) -> STGModel:
    """Random weights, positions that count."""
    found = pretrainer(seed).model
    with torch.no_grad():
        found.local_positions.normal_()
        found.global_positions.normal_()
        found.critic_std.fill_(0.25)
    return found


class Film:
    """Frames, ends and rewards of T decisions in three environments, as the loop would give them."""

    def __init__(self, length: int, ends: dict[int, list[int]], first: bool = True) -> None:
        self.length = length
        self.ended = torch.zeros(length, N, dtype=torch.bool)
        for env, times in ends.items():
            self.ended[times, env] = True
        self.image = torch.stack([images(N, t) for t in range(length + 1)])
        self.final = torch.stack([images(N, 100 + t) for t in range(length)])
        for t in range(length):  # where no episode ends, the next decision's frame is what came of this one
            self.final[t][~self.ended[t]] = self.image[t + 1][~self.ended[t]]
        self.terminated = self.ended & (torch.arange(N) == 1)
        self.reward = torch.rand(length, N)
        self.first = first

    def transition(self, t: int) -> Transition:
        is_first = self.ended[t - 1] if t else torch.full((N,), self.first)
        return Transition(self.image[t], is_first, torch.zeros(N, 2), self.reward[t], self.terminated[t],
                          self.ended[t] & ~self.terminated[t], self.final[t], {})

    def rollout(self, reward: StateToGoReward, begin: int = 0, stop: int | None = None) -> Rollout:
        """What PPO would have stored of some of the decisions."""
        buffer, stop = RolloutBuffer(), self.length if stop is None else stop
        nothing = torch.zeros(N)
        for t in range(begin, stop):
            step = self.transition(t)
            buffer.add(reward.remember(step, last=t + 1 == stop), action=step.action, log_prob=nothing, value=nothing,
                       reward=step.reward, terminated=step.terminated, truncated=step.truncated, bootstrap=nothing)
        return buffer.rollout()


def by_hand(net: STGModel, film: Film, own: RewardConfig, unit: float, begin: int = 0,
            ages: list[int] | None = None) -> Tensor:
    """Every environment alone, frame by frame, as the released loop does it: a list of frames for each stretch."""
    out = torch.zeros(film.length - begin, N)
    for env in range(N):
        age, t = (ages or [0] * N)[env], begin
        while t < film.length:
            stretch = [t]
            while len(stretch) < CONTEXT and not film.ended[stretch[-1], env] and stretch[-1] + 1 < film.length:
                stretch.append(stretch[-1] + 1)
            frames = net.encoder(torch.stack([film.image[i, env] for i in stretch] + [film.final[stretch[-1], env]]))
            before, after = frames[:-1], frames[1:]
            guess = before + net.steps(before[None], torch.tensor([age]))[0]
            for place, i in enumerate(stretch):
                real = net.critic(before[place], after[place]) - net.critic(before[place], guess[place])
                progress = symexp(net.distance(before[place], guess[place]))
                out[i - begin, env] = (own.task_weight * film.reward[i, env] + own.beta * real / unit
                                       + own.nu * progress)
            age = 0 if film.ended[stretch[-1], env] else age + len(stretch)
            t = stretch[-1] + 1
    return out


ENDS = {0: [3, 4, 12], 1: [13], 2: []}  # an episode of one decision; one that ends with the roll-out; a long one


@pytest.mark.parametrize("star", [False, True])
def test_rewards_are_those_of_a_loop_over_stretches(star: bool) -> None:
    own = RewardConfig(beta=0.6, nu=0.01 if star else 0.0, task_weight=0.5)
    net, film = model(), Film(14, ENDS)
    reward = StateToGoReward(net, own, N, CPU)
    with torch.no_grad():
        found, told = reward.label(film.rollout(reward))
        expected = by_hand(net, film, own, unit=0.25)
    assert found.shape == (14, N) and torch.allclose(found, expected, atol=1e-5)
    assert told["intrinsic_unit"] == 0.25 and told["progress_mean"] != 0
    plain = RewardConfig(beta=0.6, nu=0.0, task_weight=0.5)
    with torch.no_grad():  # STG*'s part reads the predicted frame, never the one that came
        progress = (expected - by_hand(net, film, plain, unit=0.25)).detach()
        film.final[film.ended] = images(int(film.ended.sum()), 7)
        other = by_hand(net, film, own, 0.25) - by_hand(net, film, plain, 0.25)
    assert torch.allclose(progress, other, atol=1e-5)
    assert bool(progress.abs().max() > 1e-4) is star


def test_a_rollout_that_begins_within_an_episode_knows_its_time() -> None:
    own = RewardConfig(task_weight=0.0, unit="none")
    net, film = model(), Film(14, ENDS)
    reward = StateToGoReward(net, own, N, CPU)
    film.rollout(reward, 0, 7)
    with torch.no_grad():
        found, _ = reward.label(film.rollout(reward, 7))
        expected = by_hand(net, film, own, 1.0, 7, [2, 7, 7])
        wrong = by_hand(net, film, own, 1.0, 7, [0, 0, 0])
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, wrong, atol=1e-4)


def test_every_decision_has_a_stretch_also_one_alone_between_two_cuts() -> None:
    ended = torch.zeros(8, 2, dtype=torch.bool)
    ended[[3, 4], 0] = True  # decision 4 stands alone; so does 7, behind a cut of the context
    segment, position = segments(ended, 3)
    assert position.T.tolist() == [[0, 1, 2, 0, 0, 0, 1, 2], [0, 1, 2, 0, 1, 2, 0, 1]]
    assert segment.T.tolist() == [[0, 0, 0, 1, 2, 3, 3, 3], [4, 4, 4, 5, 5, 5, 6, 6]]


def test_an_episode_leads_to_its_own_last_frame_and_not_to_the_next_episodes_first() -> None:
    """The released loop resets before it looks."""
    values, final = torch.arange(4.0)[:, None, None], torch.full((4, 1, 1), 9.0)
    ended = torch.tensor([[False], [True], [False], [False]])
    assert next_steps(values, final, ended).flatten().tolist() == [1, 9, 3, 9]


def test_raw_values_are_small_and_are_scaled_before_the_tasks_reward_is_added() -> None:
    learner = pretrainer()
    clips = images(7, 3)[None]
    learner.update(clips)
    film, found = Film(14, ENDS), {}
    for unit in ("none", "corpus", "running"):
        reward = StateToGoReward(learner.model, RewardConfig(beta=1.0, task_weight=0.0, unit=unit), N, CPU)
        found[unit], told = reward.label(film.rollout(reward))
        assert float(found[unit].std()) == pytest.approx(told["opinion_std"] / told["intrinsic_unit"], rel=0.02)
    assert float(found["none"].std()) < 0.02
    assert float(found["running"].std(correction=0)) == pytest.approx(1, rel=1e-3)
    assert torch.allclose(found["corpus"] * learner.model.critic_std, found["none"], atol=1e-6)


@pytest.mark.parametrize("std", [0.0, 1e-8, float("nan")])
def test_a_collapsed_critic_is_no_unit(std: float) -> None:
    net = model()
    net.critic_std.fill_(std)
    with pytest.raises(SetupError, match="tells no transitions apart"):
        StateToGoReward(net, RewardConfig(), N, CPU)
    StateToGoReward(net, RewardConfig(unit="running"), N, CPU)


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_values_that_are_all_alike_pay_nothing(noise: float) -> None:
    """A running unit of 0, or of rounding, would make any offset of the critic a reward without bounds."""
    net, film = model(), Film(14, ENDS)
    net.reward_terms = lambda before, after, guess: (  # type: ignore[method-assign]
        1e-4 + noise * torch.rand(before.shape[:-1]), torch.ones(before.shape[:-1]))
    reward = StateToGoReward(net, RewardConfig(beta=1.0, nu=0.5, task_weight=0.0, unit="running"), N, CPU)
    found, told = reward.label(film.rollout(reward))
    assert (found == 0.5).all() and told["intrinsic_unit"] < 1e-6


def test_the_running_unit_is_that_of_all_values() -> None:
    parts, running = [torch.randn(5, 3) * 2 + 1, torch.randn(4), torch.randn(2, 2) - 3], RunningStd()
    for part in parts:
        running.add(part)
    assert running.std == pytest.approx(float(torch.cat([p.flatten() for p in parts]).std(correction=0)), rel=1e-5)
