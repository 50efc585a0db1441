"""Gradients of a whole batch, summed over its micro-batches.

Shapes: N frames; K codes of q numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def grad_norm(grads: Sequence[Tensor]) -> Tensor:
    """Global norm of gradients, a scalar."""
    return torch.stack(torch._foreach_norm(list(grads))).norm() if grads else torch.zeros(())


def add_gradients(sums: list[Tensor] | None, loss: Tensor, parameters: Sequence[nn.Parameter],
                  keep_graph: bool = False) -> list[Tensor]:
    """Add the gradients of a loss to ``sums`` (None: start); parameters that it does not reach get zeros."""
    grads = torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)
    dense = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    if sums is None:
        return dense
    torch._foreach_add_(sums, dense)
    return sums


@dataclass(frozen=True)
class Piece:
    """This rank's rows of a micro-batch of the whole batch."""

    frames: Tensor  # uint8 [n, H, W, 3]; one row that stands for none where ``empty``
    before: int = 0  # rows of the micro-batch that other ranks have, before and after
    after: int = 0
    empty: bool = False


@dataclass
class Sums:
    """What the micro-batches of one step add up to."""

    main: list[Tensor] | None = None  # gradients of reconstruction and quantiser
    gan: list[Tensor] | None = None  # gradients of the adversarial loss
    disc: list[Tensor] | None = None  # gradients of the discriminator's loss
    terms: dict[str, Tensor] = field(default_factory=dict)
    count: Tensor | None = None  # [K]
    total: Tensor | None = None  # [K, q]
    vectors: list[Tensor] = field(default_factory=list)  # encoder outputs [n, q], where codes may be replaced

    def add_terms(self, terms: dict[str, Tensor], share: float) -> None:
        """Add metrics of a micro-batch, weighted by its share of the batch."""
        for name, value in terms.items():
            part = value.detach().float() * share
            self.terms[name] = self.terms[name] + part if name in self.terms else part


def step_with(optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], grads: Sequence[Tensor],
              lr: float) -> None:
    """One step of an optimiser with given gradients."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
