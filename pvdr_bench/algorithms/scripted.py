"""The scripted expert as a method: a ceiling, and a check of task, goal and evaluation.

Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pvdr_bench.algorithms.floor import ScriptedConfig
from pvdr_bench.errors import SetupError
from pvdr_bench.rl.contract import Carry, FixedPolicy, LearnerContext, Mode


class ScriptedLearner(FixedPolicy):
    """Plays the suite's expert, whose actions the loop puts into ``carry["expert"]`` (float [N, A]) before each act."""

    def __init__(self, context: LearnerContext) -> None:
        self.config: ScriptedConfig = context.config
        self.action_dim, self.device = context.task.action.dim, context.device

    def act(self, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Carry, dict[str, Tensor]]:
        """The expert's actions [N, A], with noise if the config asks for it.

        Raises:
            SetupError: the carry holds no expert actions of that shape.
        """
        expert = carry.get("expert") if isinstance(carry, dict) else None
        shape = (len(image), self.action_dim)
        if expert is None or tuple(expert.shape) != shape:
            found = "nothing" if expert is None else f"shape {tuple(expert.shape)}"
            raise SetupError(f"the scripted expert's actions {shape} are missing: carry['expert'] holds {found}",
                             hint="the suite has no scripted expert for this task")
        action = torch.as_tensor(expert, dtype=torch.float32)
        if self.config.noise:
            action = action + self.config.noise * torch.randn(shape, generator=generator).to(action.device)
        return action.to(self.device), carry, {}
