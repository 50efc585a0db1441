"""Stage ``pretrain``: an RSSM learns to filter and draw videos, without actions (APV, arXiv 2203.13880, section 3.1;
ContextWM, arXiv 2305.18499) or with latent ones (PreLAR, ECCV 2024).

Shapes: B clips, T frames, H = W image size, S latents, A latent action width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.consistency import Consistency
from pvdr_bench.algorithms.dreamer.video_model import VideoModel, image_loss, learning
from pvdr_bench.errors import TrainingError
from pvdr_bench.nets.context import ContextNoise
from pvdr_bench.nets.conv import preprocess
from pvdr_bench.nets.optimizers import DecayedAdam, load_optimizer_state, optimizer_state
from pvdr_bench.nets.rssm import RSSM, State, balanced_kl
from pvdr_bench.rl.contract import OfflineLearner, StageContext
from pvdr_bench.rl.process_group import ALONE, ProcessGroup


@dataclass(frozen=True)
class Noise:
    """The random numbers of one step on clips.

    Attributes:
        uniform: [B, T, S], of latents. context: see :class:`ContextNoise`. action: standard normal [B, T - 1, A], of
            latent actions. shuffle: int64, a permutation of all processes' clips, whose actions are lent.
    """

    uniform: Tensor
    context: ContextNoise | None = None
    action: Tensor | None = None
    shuffle: Tensor | None = None

    def mine(self, group: ProcessGroup) -> Noise:
        """A rank's share of what was drawn for all."""
        return Noise(group.mine(self.uniform), None if self.context is None else self.context.map(group.mine),
                     None if self.action is None else group.mine(self.action), self.shuffle)


@dataclass(frozen=True)
class Filtered:
    """Clips as the model sees them: images [B, T, 3, S, S], posterior states [B, T, ...], latent actions [B, T, A], and
    the images [B * T, 3, S, S] drawn from the states."""

    image: Tensor
    post: State
    action: Tensor
    drawn: Tensor


class VideoPretrainer(OfflineLearner):
    """Trains encoder, RSSM, decoder, and what else a video model has, together on uint8 clips [B, T, H, W, 3]."""

    def __init__(self, config: DreamerConfig, seed: int, device: torch.device) -> None:
        self.config, self.device, own = config, device, config.pretrain
        self.generator = torch.Generator(device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = VideoModel(config.model)
            self.consistency = Consistency(config, self.model.encoder.embed_dim)
        self.model.to(device).eval()
        self.consistency.to(device)
        self.optimiser = DecayedAdam([{"params": [*self.model.parameters(), *self.consistency.parameters()]}], own.lr,
                                     own.adam_eps, own.weight_decay, own.max_grad_norm)
        self.step = 0

    @classmethod
    def for_stage(cls, context: StageContext) -> VideoPretrainer:
        """On frames."""
        return cls(context.config, context.seed, context.device)

    def _uniform(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Standard uniform numbers [count, length, S]."""
        return torch.rand(count, length, self.config.model.stoch, generator=generator, device=self.device)

    def _noise(self, count: int, length: int, generator: torch.Generator) -> Noise:
        """Of ``count`` clips of ``length`` frames; nothing more is drawn than the config uses."""
        uniform, action, shuffle = self._uniform(count, length, generator), None, None
        context = self.model.context_noise(count, length, generator)
        if self.config.model.latent_action.kind not in ("none", "zero"):
            action = torch.randn(count, length - 1, self.config.model.action_width, generator=generator,
                                 device=self.device)
        if self.config.pretrain.consistency in ("rank", "sign"):
            shuffle = torch.rand(count, generator=generator, device=self.device).argsort()
        return Noise(uniform, context, action, shuffle)

    def terms(self, batch: Tensor, noise: Noise, group: ProcessGroup) -> tuple[dict[str, Tensor], Filtered]:
        """Losses of a rank's clips, and what they were filtered to.

        All losses are means over the clips, so that those of equal parts average to that of the whole batch; that of
        consistency is the whole batch's on every rank. (Free nats would bound the mean of each part; there are none in
        this stage.)
        """
        own, image = self.config.pretrain, preprocess(batch.to(self.device), self.config.model.input_size)
        count, length = image.shape[:2]
        embed = self.model.embed(image)
        first = torch.zeros(count, length, dtype=torch.bool, device=self.device)
        first[:, 0] = True
        latent = self.model.latent_actions(image, embed, noise.action)
        post, prior = self.model.rssm.scan(embed, latent.action, first, noise.uniform)
        drawn = self.model.draw(RSSM.feature(post), image, noise.context)
        kl_loss, kl = balanced_kl(post["logits"], prior, own.kl_balance, 0.0)
        terms = {"image_loss": image_loss(drawn, image.flatten(0, 1)), "kl": kl}
        loss = terms["image_loss"] + own.kl_weight * kl_loss
        if latent.mean is not None:
            terms["action_kl"] = latent.kl(self.config.model.latent_action.prior_std)
            loss = loss + own.action_kl_weight * terms["action_kl"]
        if own.consistency != "none":
            terms |= self.consistency(self.model.rssm, embed, post, prior, latent, noise.shuffle, group)
            loss = loss + own.consistency_weight * terms["consistency"]
        return {"loss": loss, **terms}, Filtered(image, post, latent.action, drawn)

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """One optimiser step."""
        share = 1 / self.group.size
        noise = self._noise(len(batch) * self.group.size, batch.shape[1], self.generator).mine(self.group)
        self.model.share_norms(self.group)
        with learning(self.model), torch.autocast(self.device.type, torch.bfloat16,
                                                  enabled=self.config.pretrain.dtype == "bfloat16"):
            terms, _ = self.terms(batch, noise, self.group)
        metrics = self.group.sum_metrics({name: float(x.detach()) * share for name, x in terms.items()})
        if not math.isfinite(metrics["loss"]):
            raise TrainingError(f"the pre-training loss is {metrics['loss']}", where=f"step {self.step}",
                                hint="lower pretrain.lr, or use pretrain.dtype=float32")
        norm = self.optimiser.update(terms["loss"] * share, reduce=self.group.sum_tensors)
        self.step += 1
        return {**metrics, "grad_norm": norm}

    @torch.no_grad()
    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """Losses and PSNR of held-out clips; then the second half imagined from the first, beside copying its last.

        Latent actions of the second half are those of its own frames; ``psnr_imagined_still`` is without them. The
        context is a frame of the first half there.
        """
        generator = torch.Generator(self.device).manual_seed(0)
        noise = self._noise(len(batch), batch.shape[1], generator)
        terms, found = self.terms(batch, noise, ALONE)
        half = found.image.shape[1] // 2
        rest, seen = found.image[:, half:], found.image[:, :half]
        last = {name: x[:, half - 1] for name, x in found.post.items()}
        out = {name: float(x) for name, x in terms.items()}
        ways = {"psnr_imagined": found.action} | ({"psnr_imagined_still": torch.zeros_like(found.action)}
                                                  if found.action.shape[-1] else {})
        for name, action in ways.items():
            out[name] = _psnr(self._imagined(last, action[:, half:], seen, generator), rest)
        usage = found.post["stoch"].flatten(0, 1).mean(0)  # [S, C]
        perplexity = torch.exp(-(usage * usage.clamp_min(1e-9).log()).sum(-1)).mean()
        return {**out, "psnr": _psnr(found.drawn.view_as(found.image), found.image),
                "psnr_copy_last": _psnr(seen[:, -1:].expand_as(rest), rest), "latent_perplexity": float(perplexity)}

    def _imagined(self, state: State, action: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        """Image means [B, t, 3, S, S] of t imagined steps from states [B, ...] under actions [B, t, A]."""
        features = []
        for t in range(action.shape[1]):
            uniform = self._uniform(len(seen), 1, generator)[:, 0]
            state = self.model.rssm.imagine(state, action[:, t], uniform)
            features.append(RSSM.feature(state))
        feature = torch.stack(features, 1)
        noise = self.model.context_noise(len(feature), feature.shape[1], generator)
        return self.model.draw(feature, seen, noise).view(*feature.shape[:2], *seen.shape[2:])

    def export(self) -> dict[str, Tensor]:
        """All weights: encoder, rssm, decoder."""
        return {name: x.detach().cpu() for name, x in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, random state, step."""
        return {"model": self.model.state_dict(), "consistency": self.consistency.state_dict(),
                "optimiser": optimizer_state(self.optimiser.inner),
                "generator": self.generator.get_state(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.consistency.load_state_dict(state["consistency"])
        load_optimizer_state(self.optimiser.inner, state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])


def _psnr(drawn: Tensor, image: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-0.5, 0.5]."""
    return float(-10 * torch.log10((drawn.float() - image).square().mean()))
