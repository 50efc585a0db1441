"""Stage ``pretrain`` of FICC: forward-inverse cycle consistency on clips.

Shapes: B clips, T frames of an unroll, S frames of a stack, H = W image size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.efficientzero import pictures
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig, PretrainConfig
from pvdr_bench.algorithms.efficientzero.video_model import Unrolled, VideoModel, ficc_loss
from pvdr_bench.nets.optimizers import (
    clip_gradients,
    load_optimizer_state,
    optimizer_state,
    require_finite,
    sgd_or_adam,
)
from pvdr_bench.nets.quantizer import perplexity
from pvdr_bench.rl.contract import OfflineLearner, StageContext
from pvdr_bench.tokenizer.shared import SharedBatchNorm


def stage_rate(own: PretrainConfig, step: int) -> float:
    """The learning rate of a step: geometric from lr_start to lr over the first stages, then down to lr_final."""
    stage, last = step // own.stage_steps, (own.steps - 1) // own.stage_steps
    if stage < own.warmup_stages:
        return float(own.lr_start * (own.lr / own.lr_start) ** (stage / own.warmup_stages))
    share = (stage - own.warmup_stages) / max(1, last - own.warmup_stages)
    return float(own.lr * (own.lr_final / own.lr) ** share)


class FICCPretrainer(OfflineLearner):
    """Trains all of :class:`VideoModel` on uint8 clips [B, S - 1 + T, H, W, 3], which lie inside episodes.

    With several processes batch normalisation is that of the whole batch.
    """

    def __init__(self, config: EfficientZeroConfig, seed: int, device: torch.device) -> None:
        self.config, self.device, own = config, device, config.pretrain
        self.generator = torch.Generator(device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = VideoModel(config.model, own).to(device)
        self.norms = [module for module in self.model.modules() if isinstance(module, SharedBatchNorm)]
        self.optimiser = sgd_or_adam(own.optimiser, self.model.parameters(), own.lr, own.weight_decay)
        self.step = 0

    @classmethod
    def for_stage(cls, context: StageContext) -> FICCPretrainer:
        """On frames."""
        return cls(context.config, context.seed, context.device)

    def _pictures(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [B, T, S * c, w, w] of clips, and their newest frames [B, T, c, w, w]."""
        model = self.config.model
        planes = pictures.frames(batch.to(self.device), model.input_size, model.gray)
        return pictures.stacks(planes, model.stack), planes[:, model.stack - 1:]

    def _augmented(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [B, T, ...] with noise of their own, and the first of each clip with another."""
        own, (count, steps) = self.config.pretrain, observation.shape[:2]
        noise = self.group.mine(pictures.noise((count * self.group.size, steps + 1), own.shift, own.intensity,
                                               self.generator)).flatten(0, 1)
        both = torch.cat([observation, observation[:, :1]], 1).flatten(0, 1)
        noisy = pictures.augment(both, noise).view(count, steps + 1, *both.shape[1:])
        return noisy[:, :-1], noisy[:, -1]

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """One optimiser step."""
        own, share = self.config.pretrain, 1 / self.group.size
        observation, frames = self._pictures(batch)
        self.model.train()
        for norm in self.norms:
            norm.group = self.group
        found = self.model(*self._augmented(observation), frames)
        loss, terms = ficc_loss(found, own)
        metrics = self.group.sum_metrics({name: float(x.detach()) * share for name, x in terms.items()})
        require_finite({name: torch.tensor(x) for name, x in metrics.items()}, f"step {self.step}")  # all stop, or none
        if own.fresh_optimiser and self.step % own.stage_steps == 0:
            self.optimiser.state.clear()
        self.optimiser.param_groups[0]["lr"] = stage_rate(own, self.step)
        self.optimiser.zero_grad()
        (loss * share).backward()  # type: ignore[no-untyped-call]
        self.group.sum_tensors([p.grad for p in self.model.parameters() if p.grad is not None])
        norms = [clip_gradients(parameters, own.max_grad_norm) for parameters in self.model.clipped()]
        self.optimiser.step()
        usage = self._move_codes(found)
        self.step += 1
        return {**metrics, "grad_norm": float(torch.stack(norms).norm()), "perplexity": float(perplexity(usage))}

    @torch.no_grad()
    def _move_codes(self, found: Unrolled) -> Tensor:
        """Move the codes of a codebook of moving averages; returns how often each [K] was used."""
        own, quantiser = self.config.pretrain, self.model.quantiser
        count, total = quantiser.statistics(found.encoded, found.actions.codes)
        self.group.sum_tensors([count, total])
        if own.codebook == "ema":
            quantiser.ema_update(count, total, own.ema_decay)
            if self.step % own.restart_every == 0 and self.step < own.restart_until * own.steps:
                dead = quantiser.dead(own.restart_below)
                vectors = found.encoded.detach().float()
                order = torch.randperm(len(vectors) * self.group.size, generator=self.generator, device=self.device)
                quantiser.set_codes(dead, self.group.pick(vectors, order[:len(dead)]))
        return count

    @torch.no_grad()
    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """Losses of held-out clips, perplexity of codes, and the share of moving frames whose motion the codes predict.

        A code predicts a motion if the change decoded with it is nearer the true one than with another clip's code.
        """
        observation, frames = self._pictures(batch)
        self.model.eval()
        found = self.model(observation, observation[:, 0], frames)
        _, terms = ficc_loss(found, self.config.pretrain)
        before = self.model.encoder(observation[:, :-1].flatten(0, 1))
        codes = found.actions.z
        own, other = (self.model.change_loss(self.model.change_dynamics(before, z), frames)
                      for z in (codes, codes.roll(frames.shape[1] - 1, 0)))
        moved = (frames[:, 1:] - frames[:, :-1]).abs().flatten(0, 1).flatten(1).amax(1) > 0.1
        differs = moved & (found.actions.codes != found.actions.codes.roll(frames.shape[1] - 1, 0))
        count, _ = self.model.quantiser.statistics(found.encoded, found.actions.codes)
        return {**{name: float(x) for name, x in terms.items()}, "perplexity": float(perplexity(count)),
                "motion_predicted": float((own < other)[differs].float().mean()) if differs.any() else 0.0,
                "codes_differ": float(differs.float().mean())}

    def export(self) -> dict[str, Tensor]:
        """All weights of the :class:`VideoModel`."""
        return {name: x.detach().cpu() for name, x in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, random state, step."""
        return {"model": self.model.state_dict(), "optimiser": optimizer_state(self.optimiser),
                "generator": self.generator.get_state(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimiser, state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])
