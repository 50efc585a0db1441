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

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pvdr_bench.algorithms.ppo.config import PPOConfig
from pvdr_bench.algorithms.ppo.learner import PPOLearner
from pvdr_bench.algorithms.registry import load_object
from pvdr_bench.catalog import load_catalog
from pvdr_bench.errors import UsageError
from pvdr_bench.needed import need
from pvdr_bench.nets.distributions import DiagonalGaussian
from pvdr_bench.progress import told
from pvdr_bench.rl.config import config_as
from pvdr_bench.rl.contract import Carry, LearnerContext, Transition
from pvdr_bench.rl.facts import GoalFacts, TaskFacts
from pvdr_bench.rl.token_history import push_frame
from pvdr_bench.suites.base import EnvConfig, Image
from pvdr_bench.suites.registry import suite
from pvdr_bench.suites.vector import VectorEnv
from pvdr_bench.tokenizer.config import VQGANConfig
from pvdr_bench.tokenizer.frozen import load_tokenizer
from pvdr_bench.tokenizer.interface import FrameTokenizer
from pvdr_bench.tokenizer.learner import VQGANLearner

NETWORKS = ("tokens", "pixels")
CAMERA = "corner"  # the suite's package has it too


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


# The two networks -------------------------------------------------------------------------------------------------


class Packed:
    """Pictures as a grid of one integer a pixel, so that our learner takes them for tokens."""

    codebook_size, code_dim = 2**24, 3

    def __init__(self, image_size: int) -> None:
        self.grid = image_size

    @staticmethod
    def encode(images: Tensor) -> Tensor:
        """int64 [..., H, W] of uint8 [..., H, W, 3]."""
        red, green, blue = images.long().unbind(-1)
        return (red << 16) | (green << 8) | blue

    @staticmethod
    def embed(codes: Tensor) -> Tensor:
        """Colours float [..., H, W, 3] in [0, 1]."""
        return torch.stack([(codes >> shift) & 255 for shift in (16, 8, 0)], -1).float() / 255


class Convolutions(nn.Module):
    """The network of Mnih et al. (2015), as in stable-baselines3's ``NatureCNN``, and a linear layer."""

    def __init__(self, frames: int, size: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        parts: list[nn.Module] = []
        for channels, last, kernel, stride in ((32, 3 * frames, 8, 4), (64, 32, 4, 2), (64, 64, 3, 1)):
            parts += [nn.Conv2d(last, channels, kernel, stride), nn.ReLU()]
        body = nn.Sequential(*parts, nn.Flatten())
        with torch.no_grad():
            width = body(torch.zeros(1, 3 * frames, size, size)).shape[1]
        self.net = nn.Sequential(body, nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, outputs))

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        """[B, outputs] of packed pictures ``tokens`` [B, m, H, W]."""
        pictures = Packed.embed(state["tokens"].long()).permute(0, 1, 4, 2, 3).flatten(1, 2)
        out: Tensor = self.scale * self.net(pictures.contiguous())
        return out


class PixelActor(Convolutions):
    """A diagonal Gaussian over pictures."""

    def __init__(self, frames: int, size: int, actions: int, log_std: float) -> None:
        super().__init__(frames, size, actions)
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, state: dict[str, Tensor]) -> DiagonalGaussian:  # type: ignore[override]
        """The distribution over actions [B, A]."""
        return DiagonalGaussian(super().forward(state), self.log_std)


class PixelCritic(Convolutions):
    """The value [B] of pictures."""

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        """Values [B]."""
        return super().forward(state)[:, 0]


class PixelPPO(PPOLearner):
    """Our learner with convolutions over pictures."""

    def _networks(self, context: LearnerContext) -> Any:
        config, size, actions = self.config, self.tokenizer.grid, context.task.action.dim
        return (PixelActor(config.context_frames, size, actions, config.log_std_init),
                PixelCritic(config.context_frames, size, 1, config.value_scale))


# The two loops ----------------------------------------------------------------------------------------------------


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


class Ours:
    """Our learner, driven as the online loop does it."""

    def __init__(self, learner: PPOLearner, envs: VectorEnv, seed: int) -> None:
        self.learner, self.envs, self.n = learner, envs, envs.num_envs
        self.generator = torch.Generator().manual_seed(seed)
        self.image = torch.from_numpy(envs.reset(range(self.n)))
        self.first, self.carry = torch.ones(self.n, dtype=torch.bool), learner.initial(self.n)

    def round(self) -> dict[str, float]:
        """One rollout and its update."""
        steps, learning, began = 0, 0.0, time.process_time()
        for _ in range(self.learner.length):
            action, self.carry, extras = self.learner.act(self.image, self.first, self.carry, "train", self.generator)
            step = self.envs.step(action.clamp(-1, 1).numpy())
            steps += int(step.env_steps.sum())
            terminated, truncated = torch.from_numpy(step.terminated), torch.from_numpy(step.truncated)
            self.learner.observe(Transition(
                self.image, self.first, action, torch.from_numpy(step.dense_reward), terminated, truncated,
                torch.from_numpy(step.final_image), extras))
            self.image, self.first = torch.from_numpy(step.image), terminated | truncated
            started = time.process_time()
            metrics = self.learner.learn()
            learning += time.process_time() - started
        assert metrics
        return _rates(steps, learning, time.process_time() - began)


class Rival:
    """stable-baselines3's PPO with copies of a learner's actor and critic."""

    def __init__(self, learner: PPOLearner, envs: VectorEnv, seed: int) -> None:
        from stable_baselines3 import PPO

        config = learner.config
        self.envs = _vec_env(envs, learner)
        minibatch = config.minibatch
        self.length = learner.length
        self.model = PPO(
            _policy(copy.deepcopy(learner.updater.actor), copy.deepcopy(learner.updater.critic), config.adam_eps, seed),
            self.envs, learning_rate=config.actor_lr, n_steps=learner.length, batch_size=minibatch,
            n_epochs=config.epochs, gamma=config.gamma, gae_lambda=config.gae_lambda, clip_range=config.clip,
            clip_range_vf=config.value_clip, ent_coef=config.entropy_coef, vf_coef=config.value_coef,
            max_grad_norm=config.max_grad_norm, device="cpu", seed=seed)
        self.learning, self._train = 0.0, self.model.train
        self.model.train = self._timed

    def _timed(self) -> None:
        started = time.process_time()
        self._train()
        self.learning += time.process_time() - started

    def round(self) -> dict[str, float]:
        """One rollout and its update."""
        self.learning, before, began = 0.0, self.envs.env_steps, time.process_time()
        self.model.learn(self.length * self.envs.num_envs, reset_num_timesteps=False)
        return _rates(self.envs.env_steps - before, self.learning, time.process_time() - began)


def _rates(env_steps: int, learning: float, whole: float) -> dict[str, float]:
    return {"update_env_steps_per_second": env_steps / learning, "loop_env_steps_per_second": env_steps / whole}


def _vec_env(envs: VectorEnv, learner: PPOLearner) -> Any:
    """Our environments as stable-baselines3 takes them, observing the contexts [N, m, h, w] that ours acts on."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    dtype = torch.zeros(0, dtype=learner.dtype).numpy().dtype
    shape = tuple(learner.initial(1)["tokens"].shape[1:])

    class Contexts(VecEnv):  # type: ignore[misc]
        env_steps = 0

        def __init__(self) -> None:
            low, high = np.zeros(shape, dtype), np.full(shape, min(np.iinfo(dtype).max, 2**24), dtype)
            super().__init__(envs.num_envs, spaces.Box(low, high, dtype=dtype),
                             spaces.Box(-1.0, 1.0, (envs.action_dim,), np.float32))
            self.carry: Carry = learner.initial(envs.num_envs)

        def _push(self, images: Image, first: NDArray[np.bool_]) -> NDArray[Any]:
            codes = learner.encode(torch.from_numpy(images)).to(learner.dtype)
            self.carry = {"tokens": push_frame(self.carry["tokens"], codes, torch.from_numpy(first))}
            contexts: NDArray[Any] = self.carry["tokens"].numpy()
            return contexts

        def reset(self) -> NDArray[Any]:
            return self._push(envs.reset(range(self.num_envs)), np.ones(self.num_envs, np.bool_))

        def step_async(self, actions: NDArray[np.float32]) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            step = envs.step(self.actions)
            self.env_steps += int(step.env_steps.sum())
            ended = step.terminated | step.truncated
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            if ended.any():
                before = self.carry
                last = self._push(step.final_image, np.zeros_like(ended))
                for i in np.flatnonzero(ended):
                    infos[i] = {"terminal_observation": last[i].copy(), "TimeLimit.truncated": bool(step.truncated[i])}
                self.carry = before
            return self._push(step.image, ended), step.dense_reward, ended, infos

        def close(self) -> None:
            pass

        def get_attr(self, name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return Contexts()


def _policy(actor: nn.Module, critic: nn.Module, adam_eps: float, seed: int) -> Any:
    """A policy class of stable-baselines3 around an actor and a critic."""
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Same(ActorCriticPolicy):  # type: ignore[misc]
        def _build(self, lr_schedule: Callable[[float], float]) -> None:
            self.actor, self.critic = actor, critic
            self.generator = torch.Generator().manual_seed(seed)
            self.features_extractor = self.pi_features_extractor = self.vf_features_extractor = nn.Identity()
            self.optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=lr_schedule(1),
                                              eps=adam_eps)

        def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
            state = {"tokens": obs}
            policy = self.actor(state)
            action = policy.mean if deterministic else policy.sample(self.generator)
            return action, self.critic(state), policy.log_prob(action)

        def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            state = {"tokens": obs}
            policy = self.actor(state)
            return self.critic(state), policy.log_prob(actions), policy.entropy()

        def predict_values(self, obs: Tensor) -> Tensor:
            value: Tensor = self.critic({"tokens": obs})
            return value

    return Same


# Environments -----------------------------------------------------------------------------------------------------


def measure_environments(config: EnvConfig, n: int, seconds: float) -> dict[str, Any]:
    """Ours in this process beside gymnasium's ``SyncVectorEnv`` of the stock ones with their own renderer: random
    actions, one frame a decision from the same camera at the same size, episodes that start anew.

    Returns:
        ours, stock: env_steps_per_second. ratio.

    Raises:
        UsageError: the suite has no stock environments.
    """
    info = suite(config.suite)
    if not info.stock:
        raise UsageError(f"the suite {info.name} has no stock environments to set ours beside")
    make = load_object(info.stock)
    config = replace(config, camera=info.cameras[CAMERA])
    with VectorEnv(config, n, workers=0) as envs:
        envs.reset(range(n))
        ours = _pace(lambda action: int(envs.step(action).env_steps.sum()), n, envs.action_dim, seconds)
    stock_envs = need("gymnasium", "bench rivals").vector.SyncVectorEnv([partial(make, config, CAMERA)] * n)
    try:
        stock_envs.reset(seed=list(range(n)))
        dim = stock_envs.single_action_space.shape[0]
        stock = _pace(lambda action: n * config.action_repeat if stock_envs.step(action) else 0, n, dim, seconds)
    finally:
        stock_envs.close()
    return {"ours": ours, "stock": stock, "ratio": ours / stock}


def _pace(step: Callable[[NDArray[np.float32]], int], n: int, actions: int, seconds: float) -> float:
    """env_steps a second of decisions with random actions, after one to warm up."""
    rng, made = np.random.default_rng(0), 0
    step(rng.uniform(-1, 1, (n, actions)).astype(np.float32))
    began = time.process_time()
    while time.process_time() - began < seconds or not made:
        made += step(rng.uniform(-1, 1, (n, actions)).astype(np.float32))
    return made / (time.process_time() - began)
