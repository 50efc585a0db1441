"""A small STG for tests, and clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.stg.config import STGConfig
from pvdr_bench.algorithms.stg.pretrain import STGPretrainer

CPU = torch.device("cpu")
SIZE, CONTEXT = 16, 6
MODEL: dict[str, Any] = {"input_size": SIZE, "cnn_channels": (4, 8), "cnn_kernels": (4, 4), "cnn_strides": (2, 2),
                         "width": 16, "layers": 2, "heads": 2, "context": CONTEXT, "max_timestep": 12,
                         "critic_widths": (12, 8), "init_std": 0.2}
PPO: dict[str, Any] = {"window": 2, "d_model": 16, "ff": 32, "heads": 2, "depth": 1, "token_dim": 8,
                       "rollout_decisions": 192, "readout": "flatten", "readout_channels": 8, "minibatch": 64,
                       "entropy_coef": 1e-3, "actor_lr": 1e-3}


def config(model: dict[str, Any] | None = None, reward: dict[str, Any] | None = None, ppo: dict[str, Any] | None = None,
           **pretrain: Any) -> STGConfig:
    """A small configuration with changes."""
    return STGConfig.model_validate({"model": MODEL | (model or {}), "pretrain": pretrain, "reward": reward or {},
                                     "ppo": PPO | (ppo or {})})


def pretrainer(seed: int = 0, **pretrain: Any) -> STGPretrainer:
    """An untrained learner."""
    return STGPretrainer(config(**pretrain), seed, CPU)


def random_clips(count: int, size: int = SIZE, seed: int = 0) -> Tensor:
    """uint8 [count, 7, size, size, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, CONTEXT + 1, size, size, 3), generator=generator, dtype=torch.uint8)
