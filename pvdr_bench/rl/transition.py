"""What one decision led to, as the loop hands it to a learner and to replay.

Shapes: N environments, H = W image size, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pvdr_bench.rl.truth import Diagnostics


@dataclass
class Transition:
    """One decision in N environments, as the loop hands it to :meth:`Learner.observe`.

    ``next_image`` is the true observation after the step, also where an episode ended.
    """

    image: Tensor  # uint8 [N, H, W, 3], what was acted on
    is_first: Tensor  # bool [N], image starts an episode
    action: Tensor  # float32 [N, A], as returned by act (before clipping)
    reward: Tensor  # float32 [N], the protocol's reward, the success bonus included
    terminated: Tensor  # bool [N]
    truncated: Tensor  # bool [N], time limit or a sync point of the loop
    next_image: Tensor  # uint8 [N, H, W, 3]
    extras: dict[str, Tensor]  # what act returned for learning, each [N, ...]
    diagnostics: Diagnostics = field(default_factory=Diagnostics)  # what only the simulator knows, each [N]
