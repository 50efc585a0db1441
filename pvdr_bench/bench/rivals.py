"""``bench rivals``: our PPO beside stable-baselines3's, and our environments beside gymnasium's over the stock ones.

The two PPOs are given *the same modules*, copied, so that what differs is what is theirs: rollout, batches, losses,
clip and optimiser. Two networks: ``tokens``, our transformers over frame tokens, and ``pixels``, the convolutions of
stable-baselines3's ``CnnPolicy`` (Mnih et al., 2015) over the same frames, kept as one integer a pixel in both.
Actor and critic are two networks, as ours are. Both learn from vector environments of ours in this process, with the
same reward, rollout, epochs and minibatches, in turn; ours is the learner that runs have, acting included. What is
learned plays no part: weights are random, also the tokenizer's.

Seconds are those of processor time of this process, all of its threads together (the software renderer has several):
what one core to itself takes, also on a machine that does other work. So on a CPU alone.

Not alike, and left as each has it: stable-baselines3 makes one step of one Adam with one clip for actor and critic,
ours two; ours says whether losses are finite at every minibatch and values an episode's true last frame, cut by the
rollout or not; theirs values it where an episode was cut by time. Needs the extra ``rivals``.

Shapes: N environments, m frames of context, h x w token grid, H = W image size, A action dimensions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pvdr_bench.algorithms.ppo.config import PPOConfig
from pvdr_bench.algorithms.ppo.learner import PPOLearner
from pvdr_bench.bench.rival_envs import measure_environments
from pvdr_bench.bench.rival_networks import Packed, PixelPPO
from pvdr_bench.bench.rival_ppo import Ours, Rival
from pvdr_bench.catalog import load_catalog
from pvdr_bench.errors import UsageError
from pvdr_bench.needed import need
from pvdr_bench.progress import told
from pvdr_bench.rl.config import config_as
from pvdr_bench.rl.contract import LearnerContext
from pvdr_bench.rl.facts import GoalFacts, TaskFacts
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.vector import VectorEnv
from pvdr_bench.tokenizer.config import VQGANConfig
from pvdr_bench.tokenizer.frozen import load_tokenizer
from pvdr_bench.tokenizer.interface import FrameTokenizer
from pvdr_bench.tokenizer.learner import VQGANLearner

NETWORKS = ("tokens", "pixels")


def measure(scale: str = "cpu", networks: tuple[str, ...] = NETWORKS, rounds: int = 3, seconds: float = 10.0,
            threads: int = 1, seed: int = 0, image_size: int = 0) -> dict[str, Any]:
    """Play and learn ``rounds`` rollouts with each PPO after one to warm up, and step the environments.

    Args:
        scale: whose settings of ``ppo``, protocol and tokenizer.
        seconds: of stepping each kind of environments.
        image_size: in pixels; 0: as the scale has it. Convolutions need 36.

    Returns:
        environments: env_steps_per_second of ours and stock, and their ratio, one frame a decision in both. And per
        network: parameters (of actor and critic), and for ours and rival the medians over rounds of
        update_env_steps_per_second (the rollout's env_steps over the seconds of its update) and
        loop_env_steps_per_second (over those of acting, stepping and the update); ratio: ours over rival's of each.
        rival: its version. And the sizes.

    Raises:
        UsageError: no such network. SetupError: stable-baselines3 is missing.
    """
    if unknown := set(networks) - set(NETWORKS):
        raise UsageError(f"there is no network {', '.join(sorted(unknown))}", where="-o networks",
                         hint=f"there is: {', '.join(NETWORKS)}")
    rival = need("stable_baselines3", "bench rivals", "pip install 'pvdr-bench[rivals]'")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        spec = load_catalog().resolve("ppo", "reach", seed, scale)
        config, protocol = config_as(PPOConfig, spec.config_object()), spec.protocol
        env = replace(spec.env_config(), image_size=image_size or protocol.image_size)
        tokenizer = _tokenizer(scale, env.image_size, seed)
        found: dict[str, Any] = {}
        for network in told(networks, "networks"):
            found[network] = _compare(network, config, env, protocol.num_envs, tokenizer, rounds, seed)
        environments = measure_environments(env, protocol.num_envs, seconds)
    finally:
        torch.set_num_threads(before)
    return {"rival": f"stable-baselines3 {rival.__version__}", "environments": environments, **found, "scale": scale,
            "num_envs": protocol.num_envs, "rollout_decisions": config.rollout_decisions, "epochs": config.epochs,
            "minibatch": config.minibatch, "action_repeat": protocol.action_repeat,
            "image_size": env.image_size, "rounds": rounds, "threads": threads}


def _tokenizer(scale: str, image_size: int, seed: int) -> FrameTokenizer:
    config = config_as(VQGANConfig, load_catalog().config("tokenizer", scale).value)
    return load_tokenizer(VQGANLearner(config, seed, torch.device("cpu"), image_size).export(), config)


def _compare(network: str, config: PPOConfig, env: EnvConfig, n: int, tokenizer: FrameTokenizer, rounds: int,
             seed: int) -> dict[str, Any]:
    """Rounds in turn."""
    own, packed = network == "tokens", Packed(env.image_size)
    with VectorEnv(env, n, workers=0) as ours, VectorEnv(env, n, workers=0) as theirs:
        goal = GoalFacts(image=np.array(ours.goal_image()), start=ours.reset(range(n))[0].copy())
        task = TaskFacts(ours.observation_space, ours.action_space, n, budget_decisions=40_000, goal=goal)
        context = LearnerContext(config=config, task=task, seed=seed, device=torch.device("cpu"))
        learner = (PPOLearner if own else PixelPPO)(context, tokenizer if own else packed)
        loops: dict[str, Any] = {"ours": Ours(learner, ours, seed), "rival": Rival(learner, theirs, seed)}
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
        for attempt in told(range(rounds + 1), f"{network}: rounds"):
            for name, loop in loops.items():
                row = loop.round()
                if attempt:  # the first one warms up
                    rows[name].append(row)
    found: dict[str, Any] = {name: {key: float(np.median([row[key] for row in own_rows])) for key in own_rows[0]}
                             for name, own_rows in rows.items()}
    found["ratio"] = {key: found["ours"][key] / found["rival"][key] for key in found["ours"]}
    return {"parameters": sum(p.numel() for net in (learner.updater.actor, learner.updater.critic)
                              for p in net.parameters()), **found}
