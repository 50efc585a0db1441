"""Stage ``pretrain`` of APV: an action-free RSSM learns to filter and draw videos (arXiv 2203.13880, section 3.1).

Shapes: B clips, T frames, H = W image size, S latents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.world_model import VideoModel, image_loss
from pvdr_bench.errors import TrainingError
from pvdr_bench.nets.conv import preprocess
from pvdr_bench.nets.optimizers import DecayedAdam, load_optimizer_state, optimizer_state
from pvdr_bench.nets.rssm import RSSM, State, balanced_kl
from pvdr_bench.rl.contract import OfflineLearner, StageContext


class VideoPretrainer(OfflineLearner):
    """Trains encoder, action-free RSSM and decoder together on uint8 clips [B, T, H, W, 3]."""

    def __init__(self, config: DreamerConfig, seed: int, device: torch.device) -> None:
        self.config, self.device, own = config, device, config.pretrain
        self.generator = torch.Generator(device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = VideoModel(config.model).to(device)
        self.optimiser = DecayedAdam([{"params": list(self.model.parameters())}], own.lr, own.adam_eps,
                                     own.weight_decay, own.max_grad_norm)
        self.step = 0

    @classmethod
    def for_stage(cls, context: StageContext) -> VideoPretrainer:
        """On frames."""
        return cls(context.config, context.seed, context.device)

    def _uniform(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Standard uniform numbers [count, length, S]."""
        return torch.rand(count, length, self.config.model.stoch, generator=generator, device=self.device)

    def _terms(self, batch: Tensor, uniform: Tensor) -> tuple[dict[str, Tensor], State, Tensor]:
        """Losses, posterior states and images [B, T, 3, h, w] of clips; uniform [B, T, S].

        All losses are means over the clips, so that those of equal parts average to that of the whole batch. (Free
        nats would bound the mean of each part; there are none in this stage.)
        """
        image = preprocess(batch.to(self.device), self.config.model.input_size)
        count, length = image.shape[:2]
        embed = self.model.encoder(image.flatten(0, 1)).unflatten(0, (count, length))
        first = torch.zeros(count, length, dtype=torch.bool, device=self.device)
        first[:, 0] = True
        post, prior = self.model.rssm.scan(embed, embed.new_zeros(count, length, 0), first, uniform)
        drawn = self.model.decoder(RSSM.feature(post).flatten(0, 1))
        kl_loss, kl = balanced_kl(post["logits"], prior, self.config.pretrain.kl_balance, 0.0)
        image_term = image_loss(drawn, image.flatten(0, 1))
        return ({"loss": image_term + self.config.pretrain.kl_weight * kl_loss, "image_loss": image_term, "kl": kl},
                post, image)

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """One optimiser step."""
        share = 1 / self.group.size
        uniform = self.group.mine(self._uniform(len(batch) * self.group.size, batch.shape[1], self.generator))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.pretrain.dtype == "bfloat16"):
            terms, _, _ = self._terms(batch, uniform)
        metrics = self.group.sum_metrics({name: float(x.detach()) * share for name, x in terms.items()})
        if not math.isfinite(metrics["loss"]):
            raise TrainingError(f"the pre-training loss is {metrics['loss']}", where=f"step {self.step}",
                                hint="lower pretrain.lr, or use train.dtype=float32")
        norm = self.optimiser.update(terms["loss"] * share, reduce=self.group.sum_tensors)
        self.step += 1
        return {**metrics, "grad_norm": norm}

    @torch.no_grad()
    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """Losses and PSNR of held-out clips; then the second half imagined from the first, beside copying its last."""
        generator = torch.Generator(self.device).manual_seed(0)
        terms, post, image = self._terms(batch, self._uniform(len(batch), batch.shape[1], generator))
        half = image.shape[1] // 2
        state = {name: x[:, half - 1] for name, x in post.items()}
        still, drawn = image.new_zeros(len(image), 0), []
        for _ in range(image.shape[1] - half):
            uniform = self._uniform(len(image), 1, generator)[:, 0]
            state = self.model.rssm.imagine(state, still, uniform)
            drawn.append(self.model.decoder(RSSM.feature(state)))
        filtered = self.model.decoder(RSSM.feature(post).flatten(0, 1)).unflatten(0, image.shape[:2])
        usage = post["stoch"].flatten(0, 1).mean(0)  # [S, C]
        perplexity = torch.exp(-(usage * usage.clamp_min(1e-9).log()).sum(-1)).mean()
        return {**{name: float(x) for name, x in terms.items()}, "psnr": _psnr(filtered, image),
                "psnr_imagined": _psnr(torch.stack(drawn, 1), image[:, half:]),
                "psnr_copy_last": _psnr(image[:, half - 1:half].expand_as(image[:, half:]), image[:, half:]),
                "latent_perplexity": float(perplexity)}

    def export(self) -> dict[str, Tensor]:
        """All weights: encoder, rssm, decoder."""
        return {name: x.detach().cpu() for name, x in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, random state, step."""
        return {"model": self.model.state_dict(), "optimiser": optimizer_state(self.optimiser.inner),
                "generator": self.generator.get_state(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimiser.inner, state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])


def _psnr(drawn: Tensor, image: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-0.5, 0.5]."""
    return float(-10 * torch.log10((drawn.float() - image).square().mean()))
