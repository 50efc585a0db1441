"""Hyperparameters of what learns from videos: pictures, their context, latent actions, pre-training. Imports no torch.

ContextWM: thuml/ContextWM at 3a8bca80. PreLAR: zhanglixuan0720/PreLAR at fb9c4d26, with the settings of its README.
"""

from __future__ import annotations

from typing import Literal

from pvdr_bench.rl.config import Section, key

CONTEXT = "ContextWM code"
PRELAR = "PreLAR code"
OURS = "ours"


class ContextConfig(Section):
    """A frame of the same clip that the decoder sees, and nothing else does (arXiv 2305.18499, section 4.2)."""

    frame: Literal["none", "random", "first", "last"] = key(
        "none", "which frame of a sequence is its context; none: there is no context", f"{CONTEXT}: random (trand)")
    mask: float = key(0.75, "share of the positions of a context map that an attention does not see, each time others",
                      CONTEXT, ge=0, lt=1)
    largest_map: int = key(16, "side of the largest context maps that the decoder attends to",
                           f"{CONTEXT}: maps below 32", ge=1)
    heads: int = key(4, "attention heads", CONTEXT, ge=1)
    dropout: float = key(0.1, "of attention weights and of outputs", CONTEXT, ge=0, lt=1)


class LatentActionConfig(Section):
    """What drives the RSSM in pre-training, where videos have no actions (PreLAR); ``action_width`` wide."""

    kind: Literal["none", "gaussian", "deterministic", "zero", "random"] = key(
        "none", "none: there is none (APV); gaussian: read off two neighbouring frames, with a prior; deterministic: "
        "the same without noise and prior; zero, random: constant, or drawn from the prior whatever the frames",
        f"{PRELAR}: gaussian; deterministic: its 'w/o AL & CL'; zero, random: ablations of the seed summary")
    reads: Literal["frames", "embeddings"] = key(
        "frames", "frames: a residual encoder of its own on both pictures; embeddings: a dense layer on those of the "
        "world model's encoder", f"{PRELAR}: frames; the seed summary: embeddings")
    units: int = key(1024, "units of the dense layer before a latent action, and of the encoder of real ones", PRELAR,
                      ge=8)
    prior_std: float = key(1.2449187, "standard deviation of the prior",
                           f"{PRELAR}: 2 sigmoid(1/2), for its unit prior is squashed like a posterior's", gt=0)


class PretrainConfig(Section):
    """Stage ``pretrain``: a world model on videos, action-free or driven by latent actions."""

    steps: int = key(600_000, "optimiser steps", "PreLAR's README for the same data; APV's default is 5e7; ContextWM's "
                     "README: 1.2e6", ge=1)
    batch: int = key(16, "clips in a batch", "APV code, metaworld_pretrain", ge=1)
    length: int = key(25, "frames of a clip", "APV code, metaworld_pretrain", ge=2)
    frame_stride: int = key(1, "decisions between neighbouring frames of a clip", "APV code", ge=1)
    lr: float = key(3e-4, "Adam's learning rate", "APV code, metaworld_pretrain", gt=0)
    adam_eps: float = key(1e-5, "Adam's epsilon", "APV code, metaworld_pretrain", gt=0)
    max_grad_norm: float = key(100.0, "clip of the global gradient norm", "APV code, metaworld_pretrain", ge=0)
    weight_decay: float = key(1e-6, "weights are multiplied by one minus this before each step, whatever the learning "
                              "rate", "APV code, tfutils.py", ge=0)
    kl_weight: float = key(0.1, "weight of the balanced KL", "APV code, metaworld_pretrain; ContextWM, PreLAR: 1", ge=0)
    kl_balance: float = key(0.8, "share of the KL that moves the prior", "APV code, metaworld_pretrain", ge=0, le=1)
    action_kl_weight: float = key(1.0, "weight of the KL of a gaussian latent action to its prior", PRELAR, ge=0)
    consistency: Literal["none", "rank", "sign", "l2"] = key(
        "none", "how latent actions are held to the changes of state that they make. rank: those further apart move "
        "the state further, with a gradient; sign: the same as released, whose gradient is zero; l2: the next "
        "embedding is predicted from this one and the latent action", f"{PRELAR}: sign; rank: {OURS}, its evident "
        "intent; l2: the seed summary")
    consistency_weight: float = key(1.0, "its weight", f"{PRELAR}; the seed summary: lambda", ge=0)
    consistency_moves: Literal["actions", "both"] = key(
        "actions", "what rank teaches: the latent actions, the change of state standing still, or both sides",
        f"{PRELAR}: the state's divergence is detached")
    rank_temperature: float = key(
        1.0, "tau of rank's tanh(difference / tau), in nats", f"{OURS}; without a unit (differences over their "
        "deviation) the gradient grows as latent actions shrink, and they vanished on a toy corpus", gt=0)
    dtype: Literal["float32", "bfloat16"] = key("float32", "autocast precision; APV: float16", "hardware")
    validate_every: int = key(5000, "steps between validations", "APV silent", ge=1)
    validation_clips: int = key(64, "held-out clips in a validation", "APV silent", ge=1)
