"""Batches for updates: drawn from replay by priority, with values of the target network and policies searched anew.

Shapes: B positions, U unrolled steps, T rewards of a value target, S frames of a stack, K boxes, A action dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pvdr_bench.algorithms.efficientzero import pictures, targets
from pvdr_bench.algorithms.efficientzero.actions import ActionInput
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.latent_tree import LatentSearch, Reward, numpy_generator
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.algorithms.efficientzero.targets import Batch
from pvdr_bench.nets.folding import Folded
from pvdr_bench.rl.replay.columns import Column
from pvdr_bench.rl.replay.drawing import Draw, Positions
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.replay.priorities import PRIORITY, Priorities

POLICY = "policy"  # the replay's column of shares of visits
_LEAST_PRIORITY = 1e-6  # EfficientZero's prioritized_replay_eps


def declare(replay: EpisodeReplay, config: EfficientZeroConfig, boxes: int) -> None:
    """What EfficientZero keeps in replay."""
    replay.declare([Column(POLICY, (boxes,), rewritable=True)], capacity=config.train.capacity,
                   priorities=Priorities(config.train.priority_exponent))


class Reanalysis:
    """Makes batches.

    Args:
        target: the target network; its folded form follows it when it is told to.
        budget: decisions of the run, for what depends on age.
    """

    def __init__(self, config: EfficientZeroConfig, replay: EpisodeReplay, target: EfficientZeroNet,
                 inputs: ActionInput, budget: int, device: torch.device, reward: Reward | None) -> None:
        self.config, self.replay, self.inputs, self.device = config, replay, inputs, device
        self.target = Folded(target, without=("likeness",))
        self.budget, self.search, self.reward = budget, LatentSearch(config), reward

    @torch.no_grad()
    def batch(self, generator: torch.Generator, share: float) -> tuple[Batch, Draw]:
        """Draw positions and make their targets; policies of a share of them are searched again, and go back into the
        replay.
        """
        train, model = self.config.train, self.config.model
        unroll, stack = train.unroll, model.stack
        draw = self.replay.draw(generator, train.batch, 1, "padded", prioritised=True)
        data = self.replay.read(draw.positions, unroll + 1 + train.td_steps, before=stack - 1, padded=True)
        planes = pictures.frames(data["image"].to(self.device), model.input_size, model.gray)
        observation = pictures.stacks(planes, stack)  # [B, U + 1 + T, ...]
        here = {name: data[name][:, stack - 1:] for name in ("reward", "inside", "is_last", "is_terminal")}
        inside, first = here["inside"], slice(0, unroll + 1)
        last = inside.sum(1) - 1
        terminal = here["is_terminal"].gather(1, last[:, None])[:, 0]
        steps = targets.target_steps(self._age(draw.positions), train.td_steps, train.stale_share * self.budget)
        bootstrap = targets.bootstrap_entries(last, steps, unroll)
        value = targets.value_targets(here["reward"], self._values(observation, bootstrap), last, terminal, bootstrap,
                                      self.config.search.discount)
        decided = (inside & ~here["is_last"])[:, first]
        policy = self._policies(draw.positions, observation[:, first], data[POLICY][:, stack - 1:][:, first], decided,
                                generator, share)
        weight = draw.weights(self._beta())
        return Batch(*(x.to(self.device) for x in (
            observation[:, first], data["action"][:, stack - 1:][:, :unroll], policy, value,
            targets.value_prefixes(here["reward"], inside, unroll), inside[:, first], decided, weight))), draw

    def _age(self, positions: Positions) -> Tensor:
        """Decisions since positions [B], of all environments together."""
        lengths = torch.tensor([stream.length for stream in self.replay.streams])
        return (lengths[positions.stream] - positions.index) * len(lengths)

    def _beta(self) -> float:
        """The importance weights' exponent, rising with the decisions made."""
        start = self.config.train.priority_beta
        return start + (1 - start) * min(1.0, len(self.replay) / self.budget)

    def _values(self, observation: Tensor, bootstrap: Tensor) -> Tensor:
        """Values [B, U + 1] of the bootstrap entries, by the target network."""
        rows = torch.arange(len(bootstrap))[:, None].expand_as(bootstrap)
        net = self.target.net
        _, logits = net.predict(net.encoder(observation[rows, bootstrap].flatten(0, 1)))
        return net.scalars.mean(logits).cpu().view(bootstrap.shape)

    def _policies(self, positions: Positions, observation: Tensor, stored: Tensor, decided: Tensor,
                  generator: torch.Generator, share: float) -> Tensor:
        """Policy targets [B, U + 1, K]: those of the last search, but for a share that is searched again here."""
        train, count = self.config.train, math.ceil(share * len(stored))
        if not count:
            return stored
        live = decided[:count]
        roots = observation[:count][live.to(self.device)]
        actions = self.inputs.boxes.draw(len(roots), generator)
        noise = numpy_generator(generator) if train.reanalyse_noise else None
        simulations = train.reanalyse_simulations or self.config.search.simulations
        found = self.search.run(self.target.net, roots, self.inputs(actions), simulations, noise, self.reward)
        policy = stored.clone()
        policy[:count][live] = shares = torch.from_numpy(found.policy).float()
        ahead = positions.ahead(stored.shape[1])
        self.replay.write(Positions(ahead.stream[:count][live], ahead.index[:count][live]), POLICY, shares)
        return policy

    def write_priorities(self, draw: Draw, error: Tensor) -> None:
        """Priorities of what was drawn: errors of its values [B]."""
        self.replay.write(draw.positions, PRIORITY, error.detach().cpu() + _LEAST_PRIORITY)
