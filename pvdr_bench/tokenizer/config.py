"""Every hyperparameter of the frame tokenizer with its meaning and source. Imports no torch.

Defaults are the published ones (arXiv 2411.03169, Table 1), or, where the paper is silent, those of
taming-transformers, whose ``custom_vqgan.yaml`` the paper's table follows; "departure" marks what neither has.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pvdr_bench.rl.config import Schedule, Section, TokenizerConfig, key, schedule_from


class NetConfig(Section):
    """Encoder and decoder."""

    encoder_width: int = key(160, "base channels of the encoder", "paper Table 1, 'channel in'", ge=4)
    decoder_width: int = key(64, "base channels of the decoder", "paper Table 1, 'channel out'", ge=4)
    multipliers: tuple[int, ...] = key((1, 2, 2, 4), "channel multiplier per level; each level but the last halves the "
                                       "resolution", "paper Table 1 (4 levels, 3 halvings: 128 -> 16)", min_length=1)
    encoder_blocks: int = key(2, "residual blocks per level of the encoder", "paper Table 1", ge=0)
    decoder_blocks: int = key(2, "residual blocks per level of the decoder (one more is added, as in taming)",
                              "paper Table 1", ge=0)
    middle_blocks: int = key(2, "residual blocks in the middle of encoder and decoder", "taming", ge=0)
    attention: bool = key(True, "self-attention at the lowest resolution", "paper silent: taming attends at 16x16")
    z_channels: int = key(256, "channels before the projection to code_dim", "paper silent: taming", ge=1)
    dropout: float = key(0.1, "dropout in residual blocks", "paper Table 1", ge=0, lt=1)
    patch: int = key(1, "side of the space-to-depth stem and depth-to-space head; 1: plain convolutions at full "
                     "resolution", "departure if more: many times faster without a GPU", ge=1)
    norm: Literal["group", "pixel"] = key(
        "group", "normalise over groups of channels and the whole image, or over the channels of each position",
        "taming: group; departure: pixel, so that motion in one corner cannot change the tokens of another")
    block: Literal["residual", "separable"] = key(
        "residual", "two full convolutions, or a depthwise one and two pointwise ones",
        "taming: residual; departure: separable, about three times fewer operations")
    expansion: int = key(2, "widening between the pointwise convolutions of separable blocks", "departure", ge=1)
    encoder_kernel: Literal[1, 3, 5] = key(
        3, "kernel of the encoder's blocks; 1 with a patch stem: a token sees its own patch only",
        "taming: 3; departure: 1, tokens of still pixels are still")
    decoder_kernel: Literal[3, 5, 7] = key(3, "kernel of the decoder's blocks", "taming: 3")
    decoder_positions: bool = key(False, "add a learned map over the grid to the decoder's input",
                                  "departure: with a fixed camera the decoder may know where it is")


class CodebookConfig(Section):
    """The vector quantiser."""

    size: int = key(256, "K, number of codes", "paper Tables 1 and 2", ge=2, le=65536)
    dim: int = key(1024, "n_q, dimension of a code", "paper Tables 1 and 2 (taming's default is the swap)", ge=1)
    weight: float = key(1.0, "weight of the quantiser's losses", "paper Table 1", ge=0)
    commitment: float = key(0.25, "beta, weight of the term that pulls the encoder to its codes",
                            "paper silent: taming, on the encoder's term (its legacy=False)", ge=0)
    update: Literal["gradient", "ema"] = key(
        "gradient", "move codes by the gradient of the codebook loss, or to moving averages of what they encode",
        "taming: gradient; departure: ema")
    data_init: bool = key(False, "start the codes at encodings of the first batch", "taming: uniform +-1/K; departure")
    decay: float = key(0.97, "decay of the moving averages (ema)", "departure", gt=0, lt=1)
    restart_below: float = key(0.0, "replace a code by a random encoding when its average share of positions, times K, "
                               "falls below this (ema); 0: never", "departure: keeps codes alive", ge=0, lt=1)
    restart_every: int = key(20, "steps between looks for dead codes", "departure", ge=1)
    restart_until: float = key(0.7, "share of the training after which codes are no longer replaced", "departure", ge=0)


class LossConfig(Section):
    """Reconstruction, perceptual and adversarial losses, on pixels in [-1, 1]."""

    l1: float = key(1.0, "weight of the mean absolute error", "taming", ge=0)
    l2: float = key(0.0, "weight of the mean squared error", "taming: none; departure: sharp edges sooner", ge=0)
    foreground: float = key(0.0, "extra weight of pixels that differ from the mean frame of the batch, times their "
                            "relative difference", "departure: arms and objects are a small share of the pixels", ge=0)
    perceptual: float = key(0.0, "weight of the perceptual distance (LPIPS)", "taming: 1; off: its VGG weights are "
                            "not shipped, see perceptual_weights", ge=0)
    perceptual_weights: str | None = key(None, "safetensors file with torchvision's VGG-16 features.* and LPIPS lin0-4",
                                         "the user's file")
    disc_weight: float = key(0.8, "weight of the adversarial loss, times the adaptive weight; 0: no discriminator",
                             "paper Table 1", ge=0)
    disc_start: int = key(10_000, "first optimiser step with an adversarial loss (own counter)", "paper Table 1", ge=0)
    disc_layers: int = key(3, "strided layers of the discriminator", "taming", ge=1)
    disc_width: int = key(64, "base channels of the discriminator", "taming", ge=1)
    disc_norm: Literal["batch", "group"] = key("batch", "normalisation in the discriminator; batch uses the statistics "
                                               "of a micro-batch", "taming: batch")


class TrainConfig(Section):
    """Stage ``tokenize``."""

    steps: int = key(400_000, "optimiser steps", "paper Table 1", ge=1)
    batch: int = key(1600, "frames in a batch", "paper Table 1", ge=1)
    micro_batch: int = key(0, "frames at a time in memory; 0: the whole batch", "memory only, same gradients", ge=0)
    lr: float = key(4.5e-6, "Adam's learning rate", "paper Table 1, read as the final rate (reading 4)", gt=0)
    lr_final: float = key(1.0, "learning rate at the end as a share of lr (cosine)", "paper silent: constant",
                          ge=0, le=1)
    warmup_steps: int = key(0, "steps of linear warm-up of the learning rate", "paper silent: none", ge=0)
    beta1: float = key(0.5, "Adam's beta1", "paper silent: taming", ge=0, lt=1)
    beta2: float = key(0.9, "Adam's beta2", "paper silent: taming", ge=0, lt=1)
    max_grad_norm: float = key(0.0, "clip of the gradient norm of encoder and decoder; 0: none", "taming: none", ge=0)
    validate_every: int = key(5000, "steps between validations", "paper silent", ge=1)
    validation_clips: int = key(256, "held-out clips in a validation", "paper silent", ge=1)
    dtype: Literal["float32", "bfloat16"] = key("float32", "autocast precision", "hardware")
    compile: bool = key(False, "torch.compile the networks", "hardware")
    channels_last: bool = key(True, "memory layout of the convolutions", "hardware")


class VQGANConfig(TokenizerConfig):
    """The frame tokenizer (VQGAN, arXiv 2012.09841), as PVDR uses it."""

    net: NetConfig = NetConfig()
    codebook: CodebookConfig = CodebookConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fits(self) -> VQGANConfig:
        if self.net.encoder_kernel == 1 and self.net.patch == 1:
            raise ValueError("net.encoder_kernel 1 needs net.patch of at least 2: a token would see few pixels")
        if self.loss.perceptual and not self.loss.perceptual_weights:
            raise ValueError("loss.perceptual needs loss.perceptual_weights, a file with VGG-16 and LPIPS weights")
        if self.codebook.restart_below and self.codebook.update != "ema":
            raise ValueError("codebook.restart_below needs codebook.update ema, which keeps usage averages")
        return self

    def schedule(self, stage: str) -> Schedule:
        """Single frames."""
        return schedule_from(self.train, frames=1) if stage == "tokenize" else super().schedule(stage)

    @property
    def factor(self) -> int:
        """Pixels along one side of a token's cell."""
        return int(self.net.patch * 2 ** (len(self.net.multipliers) - 1))
