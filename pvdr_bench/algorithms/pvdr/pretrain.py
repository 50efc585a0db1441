"""Stage ``pretrain`` of PVDR: Eq. 1 on windows of tokens.

Shapes: B clips, m context and l future frames, h x w token grid.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.config import PretrainConfig, PVDRConfig
from pvdr_bench.algorithms.pvdr.context import Painter, Shown
from pvdr_bench.algorithms.pvdr.model import DynamicsModel, Gaussian, dynamics_model, token_cross_entropy
from pvdr_bench.errors import TrainingError
from pvdr_bench.rl.contract import OfflineLearner, StageContext

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def reduce_terms(values: Tensor, reduction: str) -> Tensor:
    """Sum (or mean) over everything but the batch, then mean over the batch."""
    per_clip = values.flatten(1)
    return (per_clip.sum(1) if reduction == "sum" else per_clip.mean(1)).mean()


def prior_loss(prior: Gaussian, posterior: Gaussian, direction: str) -> Tensor:
    """KL(P || sg E) of Eq. 1 per dimension, or KL(sg E || P)."""
    fixed = posterior.detach()
    return prior.kl(fixed) if direction == "prior_posterior" else fixed.kl(prior)


def pretraining_loss(model: DynamicsModel, config: PretrainConfig, lambda1: float, clips: Tensor,
                     noise: Tensor, shown: Shown | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 1 for clips int64 [B, m + l, h, w] and standard normal noise [B, s, s, c], with what a context shows."""
    context, future = model.split(clips)
    posterior, prior = model.encoder(clips), model.prior(context)
    ce = token_cross_entropy(model.decoder(context, future, posterior.sample(noise), shown), future)
    kl_normal, kl_prior = posterior.kl_normal(), prior_loss(prior, posterior, config.prior_kl)
    loss = (reduce_terms(ce, config.reduction) + lambda1 * reduce_terms(kl_normal, config.reduction)
            + config.prior_weight * reduce_terms(kl_prior, config.reduction))
    if config.encoder_prior_weight:
        annealed = lambda1 / config.lambda1 if config.lambda1 else 1.0
        pull = reduce_terms(posterior.kl(prior.detach()), config.reduction)
        loss = loss + annealed * config.encoder_prior_weight * pull
    terms = {"ce": ce.mean(), "kl_normal": reduce_terms(kl_normal, "sum"), "kl_prior": reduce_terms(kl_prior, "sum")}
    return loss, {name: value.detach() for name, value in terms.items()}


def lambda1_at(config: PretrainConfig, step: int) -> float:
    """lambda1 at an optimiser step: constant, or geometric from ``lambda1_start`` over ``lambda1_anneal`` steps."""
    if config.lambda1_start is None or not config.lambda1_anneal:
        return config.lambda1
    part = min(1.0, step / config.lambda1_anneal)
    return float(config.lambda1_start ** (1 - part) * config.lambda1**part)


def lr_at(config: PretrainConfig, step: int) -> float:
    """Learning rate: linear warm-up, then cosine to ``lr * lr_final``."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return config.lr * warm * (config.lr_final + (1 - config.lr_final) * cosine)


def gradient_norm(module: nn.Module) -> float:
    """Global norm of a module's gradients."""
    grads = [p.grad.norm() for p in module.parameters() if p.grad is not None]
    return float(torch.stack(grads).norm()) if grads else 0.0


class PVDRPretrainer(OfflineLearner):
    """Trains encoder, decoder and prior together.

    Args:
        config: the algorithm's config. codebook_size, grid: of the tokenizer.
        painter: the tokenizer, where the config has a context.
    """

    def __init__(self, config: PVDRConfig, seed: int, device: torch.device, codebook_size: int, grid: int,
                 painter: Painter | None = None) -> None:
        self.config, self.device = config.pretrain, device
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = dynamics_model(config, codebook_size, grid, painter).to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.pretrain.lr)
        self.step = 0
        self.loss_fn = torch.compile(pretraining_loss) if self.config.compile else pretraining_loss

    @classmethod
    def for_stage(cls, context: StageContext) -> PVDRPretrainer:
        """On the tokens of the frozen tokenizer."""
        tokenizer = context.inputs["tokenize"]
        return cls(context.config, context.seed, context.device, tokenizer.codebook_size, tokenizer.grid, tokenizer)

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """One optimiser step on tokens [B, m + l, h, w]; micro-batches give the gradient of the whole batch, and so do
        the parts of several processes."""
        config, total = self.config, len(batch) * self.group.size
        for group in self.optimiser.param_groups:
            group["lr"] = lr_at(config, self.step)
        lambda1 = lambda1_at(config, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, float] = defaultdict(float)
        noise = self.group.mine(torch.randn((total, *self.model.z_shape), generator=self.generator))
        context = self.model.context_noise(total, self.generator)
        context = None if context is None else context.map(self.group.mine)
        size = config.micro_batch or len(batch)
        for number, (clips, eps) in enumerate(zip(torch.split(batch, size), torch.split(noise, size), strict=True)):
            share, start_row = len(clips) / total, number * size
            part = None if context is None else context.part(start_row, start_row + len(clips))
            with torch.autocast(self.device.type, DTYPES[config.dtype], enabled=config.dtype != "float32"):
                tokens, eps = clips.to(self.device).long(), eps.to(self.device)
                shown = self.model.shown_of_clips(tokens, part)
                loss, terms = self.loss_fn(self.model, config, lambda1, tokens, eps, shown)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss.detach(), **terms}.items():
                sums[name] += float(value) * share
        sums = self.group.sum_metrics(sums)
        if not math.isfinite(sums["loss"]):
            raise TrainingError(f"the pre-training loss is {sums['loss']}", where=f"step {self.step}",
                                hint="lower pretrain.lr, or use pretrain.dtype=float32")
        self.group.sum_tensors([p.grad for p in self.model.parameters() if p.grad is not None])
        for name in ("encoder", "prior", "decoder"):
            sums[f"grad_{name}"] = gradient_norm(getattr(self.model, name))
        if config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.optimiser.step()
        self.step += 1
        return {**sums, "lambda1": lambda1, "lr": lr_at(config, self.step - 1)}

    @torch.no_grad()
    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """Metrics on held-out tokens [B, m + l, h, w]; see :func:`validation_metrics`."""
        self.model.eval()
        generator = torch.Generator().manual_seed(1)
        pieces = torch.split(batch, self.config.micro_batch or 64)
        parts = [validation_metrics(self.model, clips.to(self.device).long(), generator) for clips in pieces]
        self.model.train()
        sizes = [len(clips) for clips in pieces]
        return {name: sum(p[name] * n for p, n in zip(parts, sizes, strict=True)) / sum(sizes) for name in parts[0]}

    def export(self) -> dict[str, Tensor]:
        """The model's weights."""
        return {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step,
                "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])
        self.generator.set_state(state["generator"])


def rollout_accuracy(codes: Tensor, future: Tensor, context: Tensor) -> dict[str, float]:
    """Share of right tokens of a plan, over all tokens, over those that moved since the last context frame, and
    over the moved tokens of the last plan frame. All [B, l, h, w]."""
    right, moved = codes == future, future != context[:, -1:]
    def share(mask: Tensor) -> float:
        return float(right[mask].float().mean()) if mask.any() else 0.0
    last = torch.zeros_like(moved)
    last[:, -1] = moved[:, -1]
    return {"all": float(right.float().mean()), "moved": share(moved), "moved_last": share(last)}


def validation_metrics(model: DynamicsModel, clips: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Cross-entropy (nats per token) with z from posterior, prior and N(0, I); both KLs (nats per clip); greedy
    roll-outs beside copy-last-frame; diversity of plans from the prior (share of tokens two samples differ in)."""
    context, future = model.split(clips)
    posterior, prior = model.encoder(clips), model.prior(context)
    noise = [torch.randn((len(clips), *model.z_shape), generator=generator).to(clips.device) for _ in range(3)]
    samples = {"posterior": posterior.sample(noise[0]), "prior": prior.sample(noise[1]), "normal": noise[2]}
    beside = model.shown_of_clips(clips, model.context_noise(len(clips), generator, learning=False))
    moved = future != context[:, -1:]
    out: dict[str, float] = {}
    for name, z in samples.items():
        ce = token_cross_entropy(model.decoder(context, future, z, beside), future)
        out[f"ce_{name}"] = float(ce.mean())
        out[f"ce_moved_{name}"] = float(ce[moved].mean()) if moved.any() else 0.0
    shown = model.shown_to_plan(context, generator)
    plans = {name: model.decoder.rollout(context, z, shown=shown)[0] for name, z in samples.items() if name != "normal"}
    for name, codes in plans.items():
        out |= {f"acc_{name}_{part}": value for part, value in rollout_accuracy(codes, future, context).items()}
    other = model.decoder.rollout(context, prior.sample(noise[2]), shown=shown)[0]
    out["acc_copy_all"] = float((~moved).float().mean())
    out["plan_diversity"] = float((plans["prior"] != other).float().mean())
    out["plan_motion"] = float((plans["prior"] != context[:, -1:]).float().mean())
    out["true_motion"] = float(moved.float().mean())
    out["kl_posterior_normal"] = float(reduce_terms(posterior.kl_normal(), "sum"))
    out["kl_prior_posterior"] = float(reduce_terms(prior.kl(posterior), "sum"))
    out["kl_posterior_prior"] = float(reduce_terms(posterior.kl(prior), "sum"))
    out["sd_posterior"] = float((0.5 * posterior.logvar).exp().mean())
    out["sd_prior"] = float((0.5 * prior.logvar).exp().mean())
    return out
