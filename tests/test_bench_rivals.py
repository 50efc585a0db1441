"""``bench rivals``: both PPOs have the same networks and make as many steps; the rest needs the extra ``rivals``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from pvdr_bench.bench import rival_ppo, rivals
from pvdr_bench.catalog import load_catalog
from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.rl.contract import LearnerContext
from pvdr_bench.rl.facts import TaskFacts
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.vector import VectorEnv

THERE = find_spec("stable_baselines3") is not None
SIZE = 48


def learner_of(network: str, envs: VectorEnv, **changes: Any) -> Any:
    config = load_catalog().config("ppo", "smoke").value.model_copy(update=changes)
    task = TaskFacts(envs.observation_space, envs.action_space, envs.num_envs, budget_decisions=100)
    context = LearnerContext(config=config, task=task, seed=0, device=torch.device("cpu"))
    if network == "pixels":
        return rivals.PixelPPO(context, rivals.Packed(SIZE))
    return rivals.PPOLearner(context, rivals._tokenizer("smoke", 32, 0))


def envs_of(network: str) -> VectorEnv:
    return VectorEnv(EnvConfig("dummy", "point", image_size=SIZE if network == "pixels" else 32, action_repeat=2,
                               episode_steps=8), 2, workers=0)


def test_packed_pictures_are_the_same_pictures() -> None:
    images = torch.randint(256, (3, 5, 5, 3), dtype=torch.uint8)
    codes = rivals.Packed.encode(images)
    assert codes.shape == (3, 5, 5) and int(codes.max()) < rivals.Packed.codebook_size
    assert torch.equal(rivals.Packed.embed(codes), images.float() / 255)
    with envs_of("pixels") as envs:
        learner = learner_of("pixels", envs)
    picture = torch.randint(256, (1, 2, SIZE, SIZE, 3), dtype=torch.uint8)
    net, state = learner.updater.critic.net, {"tokens": rivals.Packed.encode(picture).to(learner.dtype)}
    expected = net(torch.cat([picture[:, t].permute(0, 3, 1, 2) for t in range(2)], 1).float() / 255)
    assert torch.allclose(learner.updater.critic(state), expected[:, 0])


@pytest.mark.parametrize("network", rivals.NETWORKS)
def test_our_round_is_a_rollout_and_its_update(network: str) -> None:
    with envs_of(network) as envs:
        learner = learner_of(network, envs, epochs=2)
        found = rivals.Ours(learner, envs, 0).round()
    assert learner.rounds == 1 and learner.updater.updates == 2 * 2  # 20 decisions in minibatches of 10, twice
    assert found["update_env_steps_per_second"] > found["loop_env_steps_per_second"] > 0


@pytest.mark.skipif(THERE, reason="stable-baselines3 is installed")
def test_without_the_rival_it_says_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"pvdr-bench\[rivals\]"):
        rivals.measure("smoke")


def test_other_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="no network mlp"):
        rivals.measure(networks=("mlp",))


@pytest.mark.skipif(not THERE, reason="needs the extra rivals")
@pytest.mark.parametrize("network", rivals.NETWORKS)
def test_the_rival_has_our_networks_and_makes_as_many_steps(network: str) -> None:
    with envs_of(network) as envs:
        learner = learner_of(network, envs, epochs=2)
        rival = rivals.Rival(learner, envs, 0)
        contexts = torch.from_numpy(rival.envs.reset())
        policy, action = rival.model.policy, torch.rand(2, envs.action_dim)
        value, log_prob, _ = policy.evaluate_actions(contexts, action)
        ours = learner.updater
        assert torch.equal(value, ours.critic({"tokens": contexts}))
        assert torch.equal(log_prob, ours.actor({"tokens": contexts}).log_prob(action))
        count = sum(p.numel() for net in (ours.actor, ours.critic) for p in net.parameters())
        assert count == sum(p.numel() for group in policy.optimizer.param_groups for p in group["params"])
        before, steps = {name: x.clone() for name, x in policy.state_dict().items()}, []
        step = policy.optimizer.step
        policy.optimizer.step = lambda *args: steps.append(None) or step(*args)
        found = rival.round()
        assert len(steps) == 2 * 2 and found["update_env_steps_per_second"] > found["loop_env_steps_per_second"] > 0
        assert any(not torch.equal(x, before[name]) for name, x in policy.state_dict().items())
        assert all(torch.equal(x, y) for x, y in zip(
            ours.critic.state_dict().values(), learner_of(network, envs).updater.critic.state_dict().values(),
            strict=True))  # copies learned, not ours


@pytest.mark.skipif(not THERE, reason="needs the extra rivals")
def test_the_rivals_contexts_are_those_that_ours_acts_on() -> None:
    with envs_of("tokens") as envs:
        learner = learner_of("tokens", envs)
        rival = rival_ppo.vec_env(envs, learner)
        first = rival.reset()
        assert np.array_equal(first[:, 0], first[:, 1])  # an episode's first frame fills all
        last = first
        for decision in range(4):  # episodes of 8 env_steps, two a decision
            rival.step_async(np.zeros((2, envs.action_dim), np.float32))
            contexts, _, ended, infos = rival.step_wait()
            assert ended.all() == (decision == 3)
            if decision < 3:
                assert np.array_equal(contexts[:, 0], last[:, 1])
            last = contexts.copy()
        assert infos[0]["TimeLimit.truncated"] and infos[0]["terminal_observation"].shape == first.shape[1:]
        assert np.array_equal(contexts[:, 0], contexts[:, 1]) and rival.env_steps == 16


@pytest.mark.skipif(not THERE, reason="needs the extra rivals")
def test_all_of_it() -> None:
    found = rivals.measure("smoke", rounds=1, seconds=0.2, image_size=SIZE)
    assert found["rival"].startswith("stable-baselines3 ") and found["image_size"] == SIZE
    assert found["environments"]["ratio"] == found["environments"]["ours"] / found["environments"]["stock"] > 1
    for network in rivals.NETWORKS:
        row = found[network]
        assert row["ratio"] == {key: row["ours"][key] / row["rival"][key] for key in row["ours"]}
