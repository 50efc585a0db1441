"""Action alignment, L_act (Eq. 5): the action module learns which action makes a plan come true.

Shapes: T decisions in time, N environments, B decisions, m context and l future frames, h x w token grid, s x s x c the
latent z, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.finetuning import pieces
from pvdr_bench.algorithms.pvdr.model import DynamicsModel, Gaussian
from pvdr_bench.algorithms.pvdr.rounds import mean_ahead
from pvdr_bench.rl.rollout import Batch, Rollout, State

READ_AT_ONCE = 32  # clips that E reads at a time where no micro_batch says otherwise: more only take more memory
Mean = Callable[[State], Tensor]  # a state -> the mean action [B, A] that L_act trains


@dataclass
class Labels:
    """Decisions whose future was seen, with what E read of it and the action that made it."""

    tokens: Tensor  # int16 [B, m, h, w], x_t
    future: Tensor  # int16 [B, l, h, w], y_t
    mean: Tensor  # [B, s, s, c], of E(z | x_t, y_t) when it was seen
    logvar: Tensor  # [B, s, s, c]
    action: Tensor  # [B, A], as executed, or the mean over the way to a plan frame
    way: Tensor | None = None  # [B, l, A], with guide_pairs all: actions up to each frame, as a share of the whole plan

    def __len__(self) -> int:
        return len(self.action)

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        way = {} if self.way is None else {"way": self.way}
        return {"tokens": self.tokens, "future": self.future, "mean": self.mean, "logvar": self.logvar,
                "action": self.action, **way}

    def rows(self, index: Tensor | slice) -> Labels:
        """Some of them."""
        return Labels(**{name: x[index] for name, x in self.tensors().items()})

    def followed_by(self, later: Labels, capacity: int) -> Labels:
        """The last ``capacity`` of these and later ones."""
        mine, more = self.tensors(), later.tensors()
        return Labels(**{name: torch.cat([mine[name], more[name]])[-capacity:] for name in mine})


@dataclass
class Alignment:
    """L_act (Eq. 5) on labels."""

    network: Mean
    labels: Labels
    drawn: bool  # whether z is drawn from E at each look, or is E's mean
    form: str
    generator: torch.Generator
    micro_batch: int  # decisions at a time in memory; 0: all
    pairs: bool = False  # learn from any two frames of a label, not from its own plan

    def parts(self, index: Tensor) -> Iterator[Tensor]:
        """Eq. 5's mean over the labels at ``index`` int64 [b], in parts that sum up to it."""
        return self._of_pairs(index) if self.pairs else self._parts(index, index, self.noise(index))

    def _of_pairs(self, index: Tensor) -> Iterator[Tensor]:
        """The same with one pair of frames drawn of each label: an end, and a start of those before it."""
        length = self.labels.future.shape[1]
        end = torch.randint(1, length + 1, (len(index),), generator=self.generator)
        start = (torch.rand(len(index), generator=self.generator) * end).long()
        size = self.micro_batch or max(1, len(index))
        for rows, a, b in zip(*(torch.split(x.to(index.device), size) for x in (index, start, end)), strict=True):
            yield len(rows) / len(index) * self.pair_errors(rows, a, b).mean()

    def pair_errors(self, index: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Eq. 5 of the labels at ``index`` int64 [b] from frame ``start`` to ``end`` int64 [b], of 0 ... l."""
        assert self.labels.way is not None
        rows, way = torch.arange(len(index), device=index.device), self.labels.way[index]
        frames = torch.cat([self.labels.tokens[index][:, -1:], self.labels.future[index]], 1).long()
        way = torch.cat([torch.zeros_like(way[:, :1]), way], 1)
        state = {"tokens": frames[rows, start, None], "plan": frames[rows, end, None]}
        return action_error(self.network(state), way[rows, end] - way[rows, start], self.form)

    def _parts(self, index: Tensor, source: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """The same with z of the labels at ``source`` int64 [b], drawn by ``noise`` [b, s, s, c]."""
        size = self.micro_batch or max(1, len(index))
        for rows, of, drawn in zip(*(torch.split(x, size) for x in (index, source, noise)), strict=True):
            yield len(rows) / len(index) * self.errors(rows, of, drawn).mean()

    def noise(self, index: Tensor) -> Tensor:
        """Noise [b, s, s, c] that z of ``index`` int64 [b] is drawn by."""
        shape = self.labels.mean[index].shape
        if not self.drawn:
            return torch.zeros(shape, device=index.device)
        return torch.randn(shape, generator=self.generator).to(index.device)

    def errors(self, index: Tensor, source: Tensor, noise: Tensor) -> Tensor:
        """Eq. 5 of each label at ``index`` int64 [b] with the future, and its z, of that at ``source``; z is drawn by
        ``noise``."""
        labels = self.labels
        z = Gaussian(labels.mean[source], labels.logvar[source]).sample(noise)
        state = {"tokens": labels.tokens[index].long(), "extra": z, "plan": labels.future[source].long()}
        predicted = self.network(state)
        return action_error(predicted, labels.action[index], self.form)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """L_act as it is now, beside two that have learned nothing of plans.

        ``l_act_constant`` is that of the best constant action in the same form's sense (the mean), and
        ``l_act_other_z`` that of the action module given another decision's z: as low as ``l_act`` where it ignores z.
        """
        if not len(self.labels):
            return {}
        action = self.labels.action
        index = torch.arange(len(action), device=action.device)
        noise, other = self.noise(index), index.roll(len(index) // 2)
        constant = action_error(action.mean(0), action, self.form).mean()
        own, others = (float(torch.stack(list(self._parts(index, source, noise))).sum()) for source in (index, other))
        return {"l_act": own, "l_act_other_z": others, "l_act_constant": float(constant)}


def in_minibatches(alignment: Alignment, valid: Tensor, weight: float) -> Callable[[Batch], Callable[[Tensor], Tensor]]:
    """The weighted loss of a PPO minibatch, by rows of it; z is drawn for all of them at once.

    Args:
        alignment: of the decisions of a rollout where ``valid`` bool [T * N], in their order.
    """
    place = valid.cumsum(0) - 1  # of a decision among the labels

    def loss(batch: Batch) -> Callable[[Tensor], Tensor]:
        known = valid[batch.index]
        index, among = place[batch.index[known]], known.cumsum(0) - 1
        noise = alignment.noise(index)

        def part(rows: Tensor) -> Tensor:
            mine = among[rows[known[rows]]]
            if not len(mine):
                return noise.new_zeros(())
            return weight * (len(mine) / len(index)) * alignment.errors(index[mine], index[mine], noise[mine]).mean()

        return part

    return loss


class Aligner:
    """Makes labels of rollouts, keeps them, and takes L_act's own steps on them.

    Args:
        network: the mean action that L_act trains. step: one step of its optimiser on the sum of a loss's parts.
    """

    def __init__(self, model: DynamicsModel, config: PVDRConfig, network: Mean,
                 step: Callable[[Iterable[Tensor]], float], generator: torch.Generator) -> None:
        self.model, self.config, self.network, self.step, self.generator = model, config, network, step, generator
        self.kept: Labels | None = None

    @torch.no_grad()
    def labels(self, rollout: Rollout, future: Tensor, valid: Tensor) -> Labels:
        """Those of the decisions whose whole future was seen (reading 29), in their order; future [T, N, l, h, w],
        valid bool [T, N]."""
        tokens = rollout.state["tokens"][valid]
        clips = torch.cat([tokens.long(), future[valid]], 1)
        size = self.config.pretrain.micro_batch or READ_AT_ONCE
        parts = [self.model.encoder(clips[rows]) for rows in pieces(len(clips), size)]
        action = mean_ahead(rollout.action.clamp(-1, 1), self.config.lact_decisions)[valid]
        empty = action.new_zeros((0, *self.model.z_shape))
        means = torch.cat([empty, *(part.mean for part in parts)])
        way = self._way(rollout.action.clamp(-1, 1))[valid] if self.config.online.guide_pairs == "all" else None
        return Labels(tokens, future[valid].to(tokens.dtype), means,
                      torch.cat([empty, *(part.logvar for part in parts)]), action, way)

    def _way(self, action: Tensor) -> Tensor:
        """Of actions [T, N, A] those up to each plan frame, as a share of the whole plan's length [T, N, l, A]."""
        stride, length = self.config.model.frame_stride, self.config.model.future_frames
        return torch.stack([mean_ahead(action, stride * k) * (k / length) for k in range(1, length + 1)], 2)

    def on(self, labels: Labels, pairs: bool = False) -> Alignment:
        """L_act on labels, or on any ``pairs`` of their frames."""
        config = self.config
        return Alignment(self.network, labels, config.planner.z_star == "drawn", config.online.lact_form,
                         self.generator, config.pretrain.micro_batch, pairs)

    def learn(self, new: Labels, buffer: Literal["e1", "e2"] = "e1") -> dict[str, float]:
        """``lact_e1_epochs`` (``lact_e2_epochs``) passes over the buffer's labels or, with ``lact_replay``, as many
        minibatches of all kept ones.

        Metrics: L_act of the new ones before these passes and after; a guide has learned from none of them before, nor
        has anything from E1's.
        """
        online = self.config.online
        passes = online.lact_e1_epochs if buffer == "e1" else online.lact_e2_epochs
        if not passes or not len(new):
            return {}
        if online.lact_replay:
            self.kept = (self.kept or new.rows(slice(0))).followed_by(new, online.lact_replay)
        draws = self.generator.get_state()
        before = self.on(new).metrics()["l_act"]
        self.generator.set_state(draws)  # looking changes nothing
        count = max(1, round(len(new) / online.minibatch))
        source = self.kept if self.kept is not None else new
        alignment = self.on(source, online.guide_pairs == "all")
        for _ in range(passes):
            for rows in self._minibatches(len(source), count, online.minibatch):
                self.step(alignment.parts(rows.to(new.action.device)))
        if not (online.e1_decisions or online.lact_e2_epochs):  # no buffer follows that would draw from them
            self.kept = None
        after = self.on(new).metrics()
        return {f"{buffer}_l_act_before": before, **{f"{buffer}_{name}": value for name, value in after.items()}}

    def _minibatches(self, size: int, count: int, minibatch: int) -> Iterator[Tensor]:
        """``count`` minibatches: of all kept labels drawn with repetition, or a pass over the buffer's."""
        if self.kept is None:
            yield from torch.randperm(size, generator=self.generator).tensor_split(count)
            return
        for _ in range(count):
            yield torch.randint(size, (minibatch,), generator=self.generator)

    def state_dict(self) -> dict[str, Any]:
        """The kept labels."""
        return {} if self.kept is None else dict(self.kept.tensors())

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.kept = Labels(**{name: x.to(device) for name, x in state.items()}) if state else None


def action_error(predicted: Tensor, action: Tensor, form: str) -> Tensor:
    """Eq. 5 per sample [B]: mean squared error over the action's dimensions, or the L2 norm of the difference."""
    difference = predicted - action
    return difference.norm(dim=-1) if form == "l2" else (difference**2).mean(-1)
