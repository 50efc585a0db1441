"""Fine-tuning of the visual dynamics model on E1: encoder head and decoder by Eq. 3, prior by Eq. 4 (Algorithm 1).

Shapes: C clips, m context and l future frames, h x w token grid, s x s x c the shape of z.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.model import DynamicsModel
from pvdr_bench.algorithms.pvdr.planner import GoalDistance
from pvdr_bench.algorithms.pvdr.rounds import prior_finetuning_loss, reconstruction_loss
from pvdr_bench.nets.context import ContextNoise
from pvdr_bench.nets.optimizers import load_optimizer_state, optimizer_state, require_finite


def pieces(count: int, size: int) -> list[slice]:
    """Rows that fit into memory at a time: ``size`` of ``count`` (0: all)."""
    size = size or max(1, count)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _part(noise: ContextNoise | None, rows: slice) -> ContextNoise | None:
    return None if noise is None else noise.part(rows.start, rows.stop)


class FineTuner:
    """The two optimisers of Eqs. 3 and 4; KL of the prior and CE keep pre-training's reduction.

    Args:
        code_table: code vectors [K, q]. scale: unit of Eq. 4's distance. generator: of the order of clips and of z.
    """

    def __init__(self, model: DynamicsModel, config: PVDRConfig, distance: GoalDistance, code_table: Tensor,
                 scale: float, generator: torch.Generator) -> None:
        self.model, self.online, self.pretrain = model, config.online, config.pretrain
        self.distance, self.code_table, self.scale, self.generator = distance, code_table, scale, generator
        self.dynamics_optimizer = torch.optim.Adam(
            [*model.encoder.head.parameters(), *model.decoder.parameters()], lr=self.online.finetune_lr)
        self.prior_optimizer = torch.optim.Adam(model.prior.parameters(), lr=self.online.finetune_lr)

    def learn(self, clips: Tensor) -> dict[str, float]:
        """All passes over clips int64 [C, m + l, h, w]; means over the batches."""
        if not len(clips):  # every episode ended sooner than a plan is long
            return {"e1_clips": 0.0}
        sums: dict[str, float] = defaultdict(float)
        batches = [rows for _ in range(self.online.finetune_epochs) for rows in torch.split(
            torch.randperm(len(clips), generator=self.generator), self.online.finetune_batch)]
        for rows in batches:
            for name, value in self._step(clips[rows.to(clips.device)]).items():
                sums[name] += float(value) / len(batches)
        return {"e1_clips": float(len(clips)), **sums}

    def _step(self, clips: Tensor) -> dict[str, Tensor]:
        """One step of both optimisers: Eq. 3, then Eq. 4 with the decoder that Eq. 3 left."""
        device = clips.device
        model, count = self.model, len(clips)
        noise = torch.randn((2, count, *model.z_shape), generator=self.generator).to(device)
        contexts = [model.context_noise(count, self.generator, learning) for learning in (True, False)]
        sums = defaultdict[str, Tensor](lambda: torch.zeros((), device=device))
        self.dynamics_optimizer.zero_grad(set_to_none=True)
        for rows in pieces(len(clips), self.pretrain.micro_batch):
            share = len(clips[rows]) / len(clips)
            shown = model.shown_of_clips(clips[rows], _part(contexts[0], rows), online=True)
            loss = share * reconstruction_loss(model, clips[rows], noise[0, rows], self.pretrain.reduction, shown)
            torch.autograd.backward(loss)
            sums["finetune_rec"] += loss.detach()
        require_finite(sums, "fine-tuning on E1")
        self.dynamics_optimizer.step()
        self.prior_optimizer.zero_grad(set_to_none=True)
        for rows in pieces(len(clips), self.pretrain.micro_batch):
            share = len(clips[rows]) / len(clips)
            shown = model.shown_in(model.split(clips[rows])[0], _part(contexts[1], rows))
            loss, terms = prior_finetuning_loss(model, self.distance, self.code_table, clips[rows], noise[1, rows],
                                                self.online.lambda2 * self.scale, self.pretrain, shown)
            torch.autograd.backward(share * loss, inputs=list(self.model.prior.parameters()))
            for name, value in terms.items():
                sums[name] += share * value
        require_finite(sums, "fine-tuning on E1")
        self.prior_optimizer.step()
        return dict(sums)

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers."""
        return {"dynamics_optimizer": optimizer_state(self.dynamics_optimizer),
                "prior_optimizer": optimizer_state(self.prior_optimizer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        load_optimizer_state(self.dynamics_optimizer, state["dynamics_optimizer"])
        load_optimizer_state(self.prior_optimizer, state["prior_optimizer"])
