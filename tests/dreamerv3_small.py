"""DreamerV3 at sizes that take seconds, for the tests of its parts and of its learner."""

from __future__ import annotations

from typing import Any

import torch

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour
from pvdr_bench.algorithms.dreamer.config_v3 import DreamerV3Config
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel

SIZE = 16
MODEL = {"input_size": SIZE, "deter": 16, "hidden": 10, "stoch": 3, "classes": 4, "cnn_depth": 4,
         "cnn_multipliers": (2, 4), "blocks": 4, "head_layers": 2, "head_units": 16, "action_width": 2}
TRAIN = {"batch": 3, "length": 6, "prefill": 24, "ratio": 6.0, "warmup": 2, "dtype": "float32"}


def config(**changes: Any) -> DreamerV3Config:
    """Sections given replace the keys they name; all else is small, or as published."""
    small: dict[str, dict[str, Any]] = {"model": MODEL, "train": TRAIN, "behaviour": {"horizon": 4},
                                        "loss": {"bin_limit": 3.0}}
    given = {name: {**small.get(name, {}), **part} if isinstance(part, dict) else part
             for name, part in changes.items()}
    return DreamerV3Config.model_validate({**small, **given})


def sequences(seed: int = 0, batch: int = 3, length: int = 6) -> Sequences:
    """Noise; the second sequence ends at step 2 in a terminal state, the third is cut off at step 3."""
    g = torch.Generator().manual_seed(seed)
    first, terminal = (torch.zeros(batch, length, dtype=torch.bool) for _ in range(2))
    first[:, 0] = first[1, 3] = first[2, 4] = terminal[1, 2] = True
    action = (torch.rand(batch, length, 2, generator=g) * 2 - 1) * ~first[..., None]
    reward = torch.randn(batch, length, generator=g) * ~first
    return Sequences(torch.randint(0, 256, (batch, length, SIZE, SIZE, 3), generator=g, dtype=torch.uint8), action,
                     reward, first, terminal)


def stirred(seed: int = 0, **changes: Any) -> tuple[WorldModel, Behaviour]:
    """A model and a behaviour none of whose outputs are zero any more, and whose slow critic is another."""
    cfg = config(**changes)
    torch.manual_seed(seed)
    model = WorldModel(cfg, 2, two_hot=True, discount=True)
    behaviour = Behaviour(cfg, model.rssm.feature_dim, 2)
    with torch.no_grad():
        for parameter in (*model.parameters(), *behaviour.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, behaviour
