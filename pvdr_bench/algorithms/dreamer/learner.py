"""The online stage of the Dreamers: act on filtered states, learn a world model and a behaviour from replay.

Shapes: N environments, H = W image size, A action dimensions, B sequences of T steps, S latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour, Replayed
from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.steps import ALL, make_steps, set_rates
from pvdr_bench.algorithms.dreamer.video_model import learning
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.errors import CatalogError, SetupError
from pvdr_bench.nets.optimizers import load_optimizer_state, optimizer_state, require_finite
from pvdr_bench.nets.rssm import RSSM, State
from pvdr_bench.rl.contract import Carry, Learner, LearnerContext, Mode, Transition

if TYPE_CHECKING:
    from pvdr_bench.rl.replay.episodes import EpisodeReplay

LOG_EVERY = 20  # updates whose metrics make one row


class DreamerLearner(Learner):
    """One update per ``train.every`` decisions, or as many as ``train.ratio`` asks for, after ``train.prefill``.

    Raises:
        SetupError: the pre-trained artefact is missing, or, once it should learn, there is no replay.
        CatalogError: pictures smaller than ``model.input_size``, more action dimensions than ``model.action_width``, or
            too small a prefill.
    """

    def __init__(self, context: LearnerContext) -> None:
        config: DreamerConfig = context.config
        task = context.task
        config.check_image(task.observation.height)
        if task.action.dim > config.model.action_width:
            raise CatalogError(f"{task.action.dim} action dimensions do not fit model.action_width "
                               f"{config.model.action_width}", where="key model.action_width")
        if config.train.prefill < config.train.length * task.num_envs:
            raise CatalogError(f"train.prefill {config.train.prefill} in {task.num_envs} environments holds no "
                               f"sequence of train.length {config.train.length}", where="key train.prefill",
                               hint=f"at least {config.train.length * task.num_envs}")
        self.config, self.device, self.replay = config, context.device, context.replay
        self.stopwatch = context.stopwatch
        if self.replay is not None:
            self.replay.declare(capacity=config.train.capacity)
        self.action_dim, self.num_envs = task.action.dim, task.num_envs
        two_hot = config.loss.reward_head == "two_hot" or (
            config.loss.reward_head == "auto" and task.reward.success_bonus > 0)
        discount = config.loss.predict_discount == "yes" or (
            config.loss.predict_discount == "auto" and task.reward.ends_on_success)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.model = WorldModel(config, task.action.dim, two_hot, discount)
            self.behaviour = Behaviour(config, self.model.rssm.feature_dim, task.action.dim)
        if config.pretrained:
            self._load_pretrained(context)
        self.model.to(self.device).eval()
        self.behaviour.to(self.device)
        self.steps = make_steps(config, self.model, self.behaviour)
        self.cpu_generator = torch.Generator().manual_seed(context.seed)  # of replay
        self.generator = torch.Generator(self.device).manual_seed(context.seed)  # of latents and imagination
        self.decisions = self.updates = 0
        self.sums: dict[str, Tensor] = {}
        self.summed = 0
        self.uniform_first = config.train.prefill_policy == "uniform"
        if config.train.compile:
            self.stopwatch.count_no_flop()
        self.scan_loss = torch.compile(self.model.loss) if config.train.compile else self.model.loss

    def _load_pretrained(self, context: LearnerContext) -> None:
        if "pretrain" not in context.artefacts:
            raise SetupError("this method starts from a pre-trained video model (stage pretrain), and there is none",
                             hint="run it with pvdr-bench run, which makes the stage first")
        self.model.load_video_model(context.artefacts["pretrain"])

    # Acting -------------------------------------------------------------------------------------------------------

    def initial(self, n: int) -> Carry:
        """States of the RSSMs and the last action."""
        return {"states": self.model.initial(n, self.device),
                "action": torch.zeros(n, self.action_dim, device=self.device)}

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Carry, dict[str, Tensor]]:
        """Filter the image and sample the actor; until the prefill, where the config says so, uniform actions."""
        n = len(image)
        uniform = torch.rand(2, n, self.config.model.stoch, generator=generator).to(self.device)
        noise = torch.rand(n, self.action_dim, generator=generator)
        states = self.model.step(carry["states"], image.to(self.device), carry["action"], is_first.to(self.device),
                                 uniform)
        if mode == "train" and self.decisions < self.config.train.prefill and self.uniform_first:
            action = 2 * noise - 1
        else:
            policy = self.behaviour.actor(RSSM.feature(states["rssm"]))
            mean = mode == "eval" and self.config.behaviour.mean_policy_in_eval
            action = (policy.mean if mean else policy.sample(noise.to(self.device))).cpu()
        return action, {"states": states, "action": action.clamp(-1, 1).to(self.device)}, {}  # as it is executed

    def observe(self, transition: Transition) -> None:
        """The loop has put the decision into the replay; count it."""
        self.decisions += len(transition.action)

    # Learning -----------------------------------------------------------------------------------------------------

    def updates_due(self, decisions: int) -> int:
        """Updates that should have been made after so many decisions."""
        train = self.config.train
        if decisions < train.prefill:
            return 0
        since = decisions - train.prefill
        if train.ratio:
            return train.initial_updates + int(since * train.ratio / (train.batch * train.length))
        return train.initial_updates + since // train.every

    def learn(self) -> dict[str, float]:
        """Make the updates that are due; metrics are means over at least :data:`LOG_EVERY` of them."""
        while self.updates < self.updates_due(self.decisions):
            with self.stopwatch("update"):
                metrics = self.update()
            for name, value in metrics.items():
                self.sums[name] = self.sums.get(name, torch.zeros(())) + value
            self.summed += 1
        if self.summed < LOG_EVERY:
            return {}
        out = {name: float(value) / self.summed for name, value in self.sums.items()}
        self.sums, self.summed = {}, 0
        return out | {"updates": float(self.updates), "replay_steps": float(len(self._need_replay()))}

    def _need_replay(self) -> EpisodeReplay:
        """The replay, without which a policy only acts."""
        if self.replay is None:
            raise SetupError("Dreamer learns from replay and was given none")
        return self.replay

    def update(self) -> dict[str, Tensor]:
        """One step of world model, actor and critic on a fresh batch.

        Raises:
            TrainingError: a loss is not finite. What follows it is not done; the last checkpoint stands.
        """
        config, train = self.config, self.config.train
        batch = self._need_replay().sample(self.cpu_generator, train.batch, train.length)
        data = Sequences.from_replay(batch, self.device)
        set_rates(self.steps, config, self.updates)
        uniform = self._uniform(2, train.batch, train.length, config.model.stoch)
        noise = self.model.context_noise(train.batch, train.length, self.generator)
        with learning(self.model), self._autocast():
            loss, post, metrics = self.scan_loss(data, uniform, noise)
        require_finite({"model_loss": loss}, f"update {self.updates} of the world model")
        norms = {} if train.joint else {"model_grad": self.steps["model"].update(loss)}
        actor_loss, critic_loss, more = self._imagine(data, post)
        require_finite({"actor_loss": actor_loss, "critic_loss": critic_loss}, f"update {self.updates} in imagination")
        if train.joint:
            norms["all_grad"] = self.steps[ALL].update(loss + actor_loss + critic_loss)
        else:
            norms["actor_grad"] = self.steps["actor"].update(actor_loss)
            norms["critic_grad"] = self.steps["critic"].update(critic_loss)
        self.updates += 1
        self.behaviour.settle(self.updates)
        return {name: value.cpu() for name, value in {**metrics, **more}.items()} | {
            name: torch.tensor(norm) for name, norm in norms.items()}

    def _imagine(self, data: Sequences, post: State) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Losses of actor and critic from every posterior state [B, T, ...], and metrics."""
        own, train = self.config.behaviour, self.config.train
        start: State = {name: x.detach().flatten(0, 1) for name, x in post.items()}
        uniform = self._uniform(own.horizon, train.batch * train.length, self.action_dim + self.config.model.stoch)
        replayed = Replayed(RSSM.feature(post), data) if own.replay_value else None
        with self._autocast():
            path = self.behaviour.imagine(self.model, start, data.is_terminal.flatten(), uniform)
        # A block of its own: older versions of torch (pytorch issue 112583) keep the weights that were rounded while
        # imagining without gradients, and the losses would have no gradient of them.
        with self._autocast():
            return self.behaviour.losses(path, replayed)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.dtype == "bfloat16")

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    # State --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Networks (the bonus' queue included), optimisers, random states, counters, unfinished metrics."""
        return {"model": self.model.state_dict(), "behaviour": self.behaviour.state_dict(),
                "optimisers": {name: optimizer_state(one.inner) for name, one in self.steps.items()},
                "cpu_generator": self.cpu_generator.get_state(), "generator": self.generator.get_state(),
                "decisions": self.decisions, "updates": self.updates, "sums": self.sums, "summed": self.summed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.behaviour.load_state_dict(state["behaviour"])
        for name, one in self.steps.items():
            load_optimizer_state(one.inner, state["optimisers"][name])
        self.cpu_generator.set_state(state["cpu_generator"].cpu())
        self.generator.set_state(state["generator"].cpu())
        self.decisions, self.updates = int(state["decisions"]), int(state["updates"])
        self.sums, self.summed = {name: x.cpu() for name, x in state["sums"].items()}, int(state["summed"])
