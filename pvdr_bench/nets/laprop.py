"""LaProp: gradients are divided by their running root mean square first and averaged then (arXiv 2002.04839).

DreamerV3 chains it behind adaptive gradient clipping (its code's ``embodied/jax/opt.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

SMALLEST_NORM = 1e-3  # a tensor counts as at least this large (AGC, arXiv 2102.06171; DreamerV3's pmin)


def clip_adaptively(parameters: Iterable[Tensor], share: float) -> None:
    """Scale each tensor's gradient, in place, to a norm of at most ``share`` times that of the tensor."""
    moving = [p for p in parameters if p.grad is not None]
    if not moving:
        return
    gradients = [p.grad for p in moving if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    limits = torch._foreach_norm([p.detach() for p in moving])
    torch._foreach_clamp_min_(limits, SMALLEST_NORM)
    torch._foreach_mul_(limits, share)
    torch._foreach_div_(norms, limits)
    torch._foreach_clamp_min_(norms, 1.0)
    torch._foreach_div_(gradients, norms)


class LaProp(torch.optim.Optimizer):
    """``v = b2 v + (1 - b2) g^2; m = b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps); w -= lr m / (1 - b1^t)``."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-20) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        assert closure is None, "the gradients are there already"
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if moving:
                self._move(moving, group["lr"], group["betas"], group["eps"])

    def _move(self, moving: list[Tensor], lr: float, betas: tuple[float, float], eps: float) -> None:
        beta1, beta2 = betas
        for p in moving:
            if not self.state[p]:
                self.state[p] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p),
                                 "exp_avg_sq": torch.zeros_like(p)}
        states = [self.state[p] for p in moving]
        for state in states:
            state["step"] += 1
        steps = [float(state["step"]) for state in states]
        gradients = [p.grad for p in moving if p.grad is not None]
        squares, means = ([state[name] for state in states] for name in ("exp_avg_sq", "exp_avg"))
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_div(squares, [1 - beta2**t for t in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, eps)
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, torch._foreach_div(gradients, roots), alpha=1 - beta1)
        torch._foreach_add_(moving, torch._foreach_div(means, [1 - beta1**t for t in steps]), alpha=-lr)
