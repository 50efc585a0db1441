"""The online stage of EfficientZero, and of FICC, which starts from what it learned of videos.

Shapes: N environments, H = W image size, A action dimensions, K boxes, S frames of a stack.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.efficientzero import pictures
from pvdr_bench.algorithms.efficientzero.actions import ActionInput
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.latent_tree import LatentSearch, numpy_generator
from pvdr_bench.algorithms.efficientzero.losses import unroll
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.algorithms.efficientzero.reanalysis import POLICY, Reanalysis, declare
from pvdr_bench.algorithms.efficientzero.transfer import Transferred
from pvdr_bench.errors import SetupError
from pvdr_bench.nets.folding import Folded
from pvdr_bench.nets.optimizers import (
    clip_gradients,
    load_optimizer_state,
    optimizer_state,
    require_finite,
    sgd_or_adam,
)
from pvdr_bench.rl.contract import Carry, Learner, LearnerContext, Mode, Transition
from pvdr_bench.rl.search.boxes import ActionBoxes
from pvdr_bench.rl.search.mcts import sample_visits

LOG_EVERY = 20  # updates whose metrics make one row


class EfficientZeroLearner(Learner):
    """One update per ``train.every`` decisions, after ``train.prefill`` decisions in evenly drawn boxes.

    Raises:
        SetupError: the pre-trained artefact is missing, or, once it should learn, there is no replay.
        CatalogError: pictures smaller than ``model.input_size``, or a goal is read and there is none.
    """

    def __init__(self, context: LearnerContext) -> None:
        config: EfficientZeroConfig = context.config
        task = context.task
        config.check_image(task.observation.height)
        self.config, self.device, self.replay = config, context.device, context.replay
        self.stopwatch = context.stopwatch
        self.boxes = ActionBoxes(task.action.dim, config.search.halved)
        self.inputs = ActionInput(config.model, self.boxes, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.net = EfficientZeroNet(config.model, self.boxes.count, self.inputs.dim)
            self.transferred = Transferred(context, self.net) if config.pretrained else None
        self.net.to(self.device).eval()
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        self.quick = Folded(self.net, without=("likeness",))  # what acts
        self.stale = False  # whether it is behind the network
        self.search = LatentSearch(config)
        self.reward = None
        if self.transferred is not None:
            self.transferred.give(self.inputs)
            self.reward = self.transferred.reward(task)
        self._optimiser()
        self.budget = max(1, task.budget_decisions)
        if self.replay is not None:
            declare(self.replay, config, self.boxes.count)
            self.reanalysis = Reanalysis(config, self.replay, self.target, self.inputs, self.budget, self.device,
                                         self.reward)
        self.cpu_generator = torch.Generator().manual_seed(context.seed)  # of replay, boxes and noise
        self.generator = torch.Generator(self.device).manual_seed(context.seed)  # of augmentations
        self.decisions = self.updates = self.counted_at = 0
        self.reward_sum = 0.0  # of the decisions before the first update
        self.sums: dict[str, float] = {}
        self.summed = 0

    def _optimiser(self) -> None:
        train = self.config.train
        self.parameters = [*self.net.parameters(), *(self.transferred.parameters() if self.transferred else ())]
        self.optimiser = sgd_or_adam(train.optimiser, self.parameters, train.lr, train.weight_decay)

    # Acting -------------------------------------------------------------------------------------------------------

    def initial(self, n: int) -> Carry:
        """No frames yet."""
        return {}

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Carry, dict[str, Tensor]]:
        """Search from the newest frames; evenly drawn boxes until the replay is filled for the first time, and then
        until ``train.search_after`` updates.

        The extras have the search's shares of visits [N, K]; zeros where there was no search.
        """
        count, train, own = len(image), mode == "train", self.config.search
        planes = pictures.frames(image.to(self.device), self.config.model.input_size, self.config.model.gray)
        kept = self._newest(planes, is_first, carry.get("frames"))
        actions = self.boxes.draw(count, generator)
        rng = numpy_generator(generator)
        if train and not (self.decisions >= self.config.train.prefill and self._searched()):
            policy = torch.zeros(count, self.boxes.count)
            chosen = torch.from_numpy(rng.integers(self.boxes.count, size=count))
        else:
            with self.stopwatch("plan", count):
                found = self.search.run(self._current(), kept.flatten(1, 2), self.inputs(actions), own.simulations,
                                        rng if train else None, reward=self.reward)
            temperature = self._temperature() if train else own.eval_temperature
            policy = torch.from_numpy(found.policy).float()
            chosen = torch.from_numpy(sample_visits(found.visits, temperature, rng))
        return actions[torch.arange(count), chosen], {"frames": kept}, {POLICY: policy}

    def _newest(self, planes: Tensor, is_first: Tensor, kept: Tensor | None) -> Tensor:
        """The newest S frames [N, S, c, h, w] of each environment; the first of an episode stands for those before."""
        repeated = planes[:, None].expand(-1, self.config.model.stack, -1, -1, -1)
        if kept is None:
            return repeated.clone()
        moved = torch.cat([kept[:, 1:], planes[:, None]], 1)
        return torch.where(is_first.to(self.device)[:, None, None, None, None], repeated, moved)

    def _current(self) -> EfficientZeroNet:
        """The network of now, folded for searching."""
        if self.stale:
            self.quick.refresh()
            self.stale = False
        return self.quick.net

    def _searched(self) -> bool:
        """Whether searches are worth something: they decide in training, and are what the policy learns."""
        return self.updates >= self.config.train.search_after

    def _temperature(self) -> float:
        done = self.decisions / self.budget
        return self.config.search.temperatures[0 if done < 0.5 else 1 if done < 0.75 else 2]

    def observe(self, transition: Transition) -> None:
        """The loop has put the decision into the replay; count it."""
        self.decisions += len(transition.action)
        if not self.updates:
            self.reward_sum += float(transition.reward.sum())

    # Learning -----------------------------------------------------------------------------------------------------

    def updates_due(self, decisions: int) -> int:
        """Updates that should have been made after so many decisions."""
        return max(0, int((decisions - self.config.train.prefill) / self.config.train.every))

    def learn(self) -> dict[str, float]:
        """Make the updates that are due; metrics are means over at least :data:`LOG_EVERY` of them."""
        while self.updates < self.updates_due(self.decisions):
            with self.stopwatch("recount"):
                self._count_codes()
            with self.stopwatch("update"):
                metrics = self.update()
            for name, value in metrics.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.summed += 1
        if self.summed < LOG_EVERY:
            return {}
        out = {name: value / self.summed for name, value in self.sums.items()}
        self.sums, self.summed = {}, 0
        return out | {"updates": float(self.updates)} | (self.transferred.metrics if self.transferred else {})

    def _count_codes(self) -> None:
        """Recompute which latent action each box stands for, where that is due."""
        if self.transferred is None or self.config.model.dynamics_input != "code":
            return
        if self.updates and self.decisions - self.counted_at < self.config.adapter.every:
            return
        self.counted_at = self.decisions
        self.inputs.table = self.transferred.recount(self._need_replay(), self.net.encoder, self.boxes,
                                                     self.cpu_generator)

    def _need_replay(self) -> Any:
        """The replay, without which a policy only acts."""
        if self.replay is None:
            raise SetupError("EfficientZero learns from replay and was given none")
        return self.replay

    def _rate(self) -> float:
        """The learning rate of the next update."""
        train = self.config.train
        warm = train.warmup * max(1, self.updates_due(self.budget))
        rate = train.lr * min(1.0, (self.updates + 1) / warm) if warm else train.lr
        return rate * (0.1 if self.updates >= train.lr_decay_at else 1.0)

    def update(self) -> dict[str, float]:
        """One step of all networks on a fresh batch.

        Raises:
            TrainingError: a loss or the norm of its gradient is not finite. What follows it is not done; the last
                checkpoint stands.
        """
        self._need_replay()
        train = self.config.train
        if not self.updates and train.value_start == "mean_reward":
            self._start_values(self.reward_sum / self.decisions)
        with self.stopwatch("reanalyse"):
            batch, draw = self.reanalysis.batch(self.cpu_generator, train.reanalyse if self._searched() else 0.0)
        count, steps = batch.observation.shape[:2]
        noise = pictures.noise((count * steps,), train.shift, train.intensity, self.generator)
        observation = pictures.augment(batch.observation.flatten(0, 1), noise)
        self.net.train()
        losses = unroll(self.net, observation.view(count, steps, *observation.shape[1:]), batch,
                        self.inputs(batch.action))
        loss = losses.total(train)
        if self.transferred is not None and self.reward is not None:
            loss = loss + train.decoder_weight * self.transferred.decoder_loss(losses.states, batch)
        self.net.eval()
        require_finite({"loss": loss}, f"update {self.updates}")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self.parameters, train.max_grad_norm)
        require_finite({"loss": loss, "grad_norm": norm}, f"update {self.updates}")  # NaN would play on in silence
        self.optimiser.param_groups[0]["lr"] = self._rate()
        self.optimiser.step()
        self.reanalysis.write_priorities(draw, losses.value_error)
        self.updates, self.stale = self.updates + 1, True
        if self.updates % train.target_every == 0:
            self.target.load_state_dict(self.net.state_dict())
            self.reanalysis.target.refresh()
        value, prefix = batch.value[batch.inside], batch.prefix[batch.inside[:, 1:]]
        found = {"loss": loss, "policy_loss": losses.policy, "value_loss": losses.value, "prefix_loss": losses.prefix,
                 "consistency_loss": losses.consistency, "value_error": losses.value_error.mean(), "grad_norm": norm,
                 "target_entropy": batch.entropy(), "target_value": value.mean(),
                 "state_std": losses.states[0].flatten(1).std(0, correction=0).mean(),  # 0: states have collapsed
                 "value_beyond": self.net.scalars.beyond(value), "prefix_beyond": self.net.scalars.beyond(prefix)}
        return {name: float(value.detach()) for name, value in found.items()}

    def _start_values(self, reward: float) -> None:
        """Values are what a mean reward is worth for ever."""
        for net in (self.net, self.target):
            net.start_value(reward / (1 - self.config.search.discount))
        self.reanalysis.target.refresh()
        self.stale = True

    # State --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, the boxes' latent actions, random states, counters, unfinished metrics."""
        return {"net": self.net.state_dict(), "target": self.target.state_dict(),
                "transferred": self.transferred.state_dict() if self.transferred else {},
                "optimiser": optimizer_state(self.optimiser), "table": self.inputs.table,
                "cpu_generator": self.cpu_generator.get_state(), "generator": self.generator.get_state(),
                "decisions": self.decisions, "updates": self.updates, "counted_at": self.counted_at,
                "reward_sum": self.reward_sum,
                "sums": self.sums, "summed": self.summed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.load_policy_state(state)
        self.target.load_state_dict(state["target"])
        if self.replay is not None:
            self.reanalysis.target.refresh()
        load_optimizer_state(self.optimiser, state["optimiser"])
        self.cpu_generator.set_state(state["cpu_generator"].cpu())
        self.generator.set_state(state["generator"].cpu())
        self.updates, self.counted_at = int(state["updates"]), int(state["counted_at"])
        self.reward_sum = float(state["reward_sum"])
        self.sums, self.summed = dict(state["sums"]), int(state["summed"])

    def policy_state(self) -> dict[str, Any]:
        """Network and the boxes' latent actions; with what decodes frames, if the search reads them."""
        state = self.state_dict()
        return {name: state[name] for name in ("net", "transferred", "table", "decisions")}

    def load_policy_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`policy_state` gave."""
        self.net.load_state_dict(state["net"])
        self.stale = True
        if self.transferred is not None:
            self.transferred.load_state_dict(state["transferred"])
        self.inputs.table = state["table"].to(self.device)
        self.decisions = int(state["decisions"])
