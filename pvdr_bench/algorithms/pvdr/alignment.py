"""Action alignment, L_act (Eq. 5): the action module learns which action makes a plan come true.

Shapes: T decisions in time, N environments, m context frames, h x w token grid, s x s x c the latent z, A action
dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.model import Gaussian
from pvdr_bench.rl.rollout import Batch


@dataclass
class Alignment:
    """L_act (Eq. 5) over a round's decisions; only those whose whole future was seen count (reading 29)."""

    actor: nn.Module
    tokens: Tensor  # int64 [T * N, m, h, w]
    posterior: Gaussian  # [T * N, s, s, c]
    action: Tensor  # [T * N, A], as executed, or the mean over the way to a plan frame
    valid: Tensor  # bool [T * N]
    weight: float
    form: str
    generator: torch.Generator
    micro_batch: int  # decisions at a time in memory; 0: all

    def __len__(self) -> int:
        return int(self.valid.sum())

    def parts(self, index: Tensor) -> Iterator[Tensor]:
        """Eq. 5's mean over the decisions at ``index`` int64 [b], in parts that sum up to it."""
        return self._parts(index, index, self._noise(index))

    def _parts(self, index: Tensor, source: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """The same with z of the posteriors at ``source`` int64 [b], drawn by ``noise`` [b, s, s, c]."""
        size = self.micro_batch or max(1, len(index))
        for rows, of, drawn in zip(*(torch.split(x, size) for x in (index, source, noise)), strict=True):
            yield len(rows) / len(index) * self._errors(rows, of, drawn).mean()

    def _noise(self, index: Tensor) -> Tensor:
        return torch.randn(self.posterior.mean[index].shape, generator=self.generator).to(index.device)

    def _errors(self, index: Tensor, source: Tensor, noise: Tensor) -> Tensor:
        """Eq. 5 of each decision at ``index`` int64 [b] with z of the posterior at ``source``, drawn by ``noise``."""
        z = Gaussian(self.posterior.mean[source], self.posterior.logvar[source]).sample(noise)
        predicted = self.actor({"tokens": self.tokens[index], "extra": z}).mean
        errors: Tensor = action_error(predicted, self.action[index], self.form)
        return errors

    def loss(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The weighted loss of a PPO minibatch, by rows of it; z is drawn for all of them at once."""
        valid = self.valid[batch.index]
        index, place = batch.index[valid], valid.cumsum(0) - 1
        noise = self._noise(index)

        def part(rows: Tensor) -> Tensor:
            mine = place[rows[valid[rows]]]
            if not len(mine):
                return self.posterior.mean.new_zeros(())
            return self.weight * (len(mine) / len(index)) * self._errors(index[mine], index[mine], noise[mine]).mean()

        return part

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """L_act after the update, beside two that have learned nothing of plans.

        ``l_act_constant`` is that of the best constant action in the same form's sense (the mean), and
        ``l_act_other_z`` that of the action module given another decision's z: as low as ``l_act`` where it ignores z.
        """
        if not len(self):
            return {}
        index = self.valid.nonzero()[:, 0]
        noise, other = self._noise(index), index.roll(len(index) // 2)
        constant = action_error(self.action[index].mean(0), self.action[index], self.form).mean()
        own, others = (float(torch.stack(list(self._parts(index, source, noise))).sum()) for source in (index, other))
        return {"l_act": own, "l_act_other_z": others, "l_act_constant": float(constant)}


def action_error(predicted: Tensor, action: Tensor, form: str) -> Tensor:
    """Eq. 5 per sample [B]: mean squared error over the action's dimensions, or the L2 norm of the difference."""
    difference = predicted - action
    return difference.norm(dim=-1) if form == "l2" else (difference**2).mean(-1)
