"""What the dynamics are told of an action: itself, its box, or the latent action that FICC's adapter has for its box.

Shapes: B batch, A action dimensions, K boxes, Z numbers of an action's input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pvdr_bench.algorithms.efficientzero.config import ModelConfig
from pvdr_bench.rl.search.boxes import ActionBoxes


class ActionInput:
    """Actions [..., A] -> inputs of the dynamics [..., Z].

    Attributes:
        codebook: vectors [codes, q] of latent actions. table: int64 [K], the latent action of each box. Both are read
            by ``dynamics_input: code`` alone.
    """

    def __init__(self, config: ModelConfig, boxes: ActionBoxes, device: torch.device) -> None:
        self.kind, self.boxes = config.dynamics_input, boxes
        self.codebook = torch.zeros(config.codes, config.code_dim, device=device)
        self.table = torch.zeros(boxes.count, dtype=torch.int64, device=device)
        self.dim = {"code": config.code_dim, "action": boxes.action_dim, "box": boxes.count}[self.kind]

    def __call__(self, action: Tensor) -> Tensor:
        """Inputs of actions on the device of the codebook."""
        action = action.to(self.codebook.device).clamp(-1, 1)
        if self.kind == "action":
            return action
        box = self.boxes.of(action)
        if self.kind == "box":
            return F.one_hot(box, self.boxes.count).float()
        return self.codebook[self.table[box]]
