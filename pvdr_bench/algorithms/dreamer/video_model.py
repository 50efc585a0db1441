"""What is learned from videos, and transferred: encoder, RSSM, decoder, and what else belongs to pictures.

Shapes: B sequences, T steps, N = B * T, S = image size, E embedding width, F feature width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import ModelConfig
from pvdr_bench.algorithms.dreamer.forms import (
    Decoder,
    Encoder,
    make_decoder,
    make_encoder,
    make_rssm,
    residual_encoder,
)
from pvdr_bench.algorithms.dreamer.latent_action import ImplicitAction, LatentActions, starting_with_none
from pvdr_bench.nets.context import Augment, ContextNoise, choose, choose_within, erase
from pvdr_bench.nets.resnet import ResNetDecoder, ResNetEncoder
from pvdr_bench.rl.process_group import ProcessGroup
from pvdr_bench.tokenizer.shared import SharedBatchNorm


def image_loss(mean: Tensor, image: Tensor, scale: float = 0.5) -> Tensor:
    """``scale`` times the squared error, summed over pixels, mean over images.

    With one half it is -log N(image; mean, 1) without its constant.
    """
    return scale * (mean.float() - image).square().flatten(1).sum(1).mean()


class Pictures(nn.Module):
    """A model that embeds images and draws them from features; batch normalisation is in training mode in its losses
    alone."""

    encoder: Encoder
    decoder: Decoder
    context: ResNetEncoder | None  # of context frames
    settings: ModelConfig

    def embed(self, image: Tensor) -> Tensor:
        """Embeddings [B, T, E] of images [B, T, 3, S, S]."""
        out: Tensor = self.encoder(image.flatten(0, 1)).unflatten(0, image.shape[:2])
        return out

    def context_noise(self, count: int, length: int, generator: torch.Generator) -> ContextNoise | None:
        """The random numbers of :meth:`draw` for B = ``count`` sequences of T = ``length``; none without a context."""
        if self.context is None:
            return None
        assert isinstance(self.decoder, ResNetDecoder)
        return ContextNoise.draw(self.decoder.attentions(), count, length, generator)

    def draw(self, feature: Tensor, image: Tensor, noise: ContextNoise | None, augment: Augment = "none",
             is_first: Tensor | None = None) -> Tensor:
        """Image means [N, 3, S, S] of features [B, T, F], beside a frame of images [B, any, 3, S, S] if there is a
        context.

        Args:
            is_first: bool [B, T], where images are of the T steps and may be of several episodes: a step's context is
                then a frame of its own. None: each sequence is of one episode.
        """
        flat = feature.flatten(0, 1)
        if self.context is None:
            plain: Tensor = self.decoder(flat)
            return plain
        assert noise is not None and isinstance(self.decoder, ResNetDecoder)
        frame, erasing, which = self._contexts(image, noise, is_first)
        maps = self.context.maps(erase(frame, erasing) if augment == "erasing" else frame)
        seen = {side: found if which is None else found[which] for side, found in maps if side in noise.attention}
        out: Tensor = self.decoder(flat, seen, noise.attention)
        return out

    def _contexts(self, image: Tensor, noise: ContextNoise,
                  is_first: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Context frames [M, 3, S, S], how they are erased [M, 5], and which of them each step is shown [N].

        There is one frame of each episode in each sequence; None: one of each sequence, for all of its steps.
        """
        rule = self.settings.context.frame
        if is_first is None:
            return choose(image, rule, noise.frame), noise.erasing, None
        count, length = is_first.shape
        place = choose_within(is_first, rule, noise.frame) + length * torch.arange(count, device=image.device)[:, None]
        rows, which = place.flatten().unique(return_inverse=True)  # type: ignore[no-untyped-call]
        return image.flatten(0, 1)[rows], noise.erasing[rows // length], None if len(rows) == count else which

    def share_norms(self, group: ProcessGroup) -> None:
        """Batch statistics are those of a group's batch."""
        for module in self.modules():
            if isinstance(module, SharedBatchNorm):
                module.group = group


@contextmanager
def learning(model: nn.Module) -> Iterator[None]:
    """Training mode within the block, evaluation mode after it: batch normalisation and dropout."""
    model.train()
    try:
        yield
    finally:
        model.eval()


class VideoModel(Pictures):
    """Encoder, RSSM and decoder; the RSSM's action is zero, or a latent one (see ``action_width``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.settings = config
        self.encoder = make_encoder(config)
        self.rssm = make_rssm(config, self.encoder.embed_dim)
        self.decoder = make_decoder(config, self.rssm.feature_dim)
        self.context = residual_encoder(config) if config.context.frame != "none" else None
        self.implicit = _implicit_action(config, self.encoder.embed_dim)

    def latent_actions(self, image: Tensor, embed: Tensor, normal: Tensor | None) -> LatentActions:
        """What drives the RSSM between frames: images [B, T, 3, S, S], embeddings [B, T, E], standard normal numbers
        [B, T - 1, A], where the kind wants them."""
        if self.implicit is not None:
            out: LatentActions = self.implicit(image, embed, normal)
            return out
        if normal is not None:  # random
            return LatentActions(starting_with_none(self.settings.latent_action.prior_std * normal))
        return LatentActions(embed.new_zeros(*embed.shape[:2], 0))


def _implicit_action(config: ModelConfig, embed_dim: int) -> ImplicitAction | None:
    own = config.latent_action
    if own.kind not in ("gaussian", "deterministic"):
        return None
    return ImplicitAction(config, residual_encoder(config, 6) if own.reads == "frames" else None, embed_dim)
