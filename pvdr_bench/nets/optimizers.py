"""Optimiser helpers: a state that checkpoints can store (string keys, no lists) and gradient norms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pvdr_bench.errors import DataError, TrainingError
from pvdr_bench.nets.laprop import LaProp, clip_adaptively


def sgd_or_adam(kind: Literal["sgd", "adam"], parameters: Iterable[Tensor], lr: float, weight_decay: float,
                ) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or Adam, both with an L2 penalty of ``weight_decay`` in the gradient."""
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr, 0.9, weight_decay=weight_decay)
    return torch.optim.Adam(parameters, lr, weight_decay=weight_decay)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State per parameter, keyed by its position. Learning rates and betas are not in it: the config holds them."""
    return {str(i): dict(entry) for i, entry in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore what :func:`optimizer_state` gave.

    Raises:
        DataError: the state is of another number of parameters.
    """
    own = optimizer.state_dict()
    count = sum(len(group["params"]) for group in own["param_groups"])
    if any(int(i) >= count for i in state):
        raise DataError(f"optimiser state of {len(state)} parameters, the network has {count}",
                        hint="the checkpoint is of another network; start a new run")
    optimizer.load_state_dict({"state": {int(i): dict(entry) for i, entry in state.items()},
                               "param_groups": own["param_groups"]})
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # Stored tensors have the usual memory layout. Where the parameter has another (channels_last), Adam
                # would take a slower path that rounds differently, and the continued run would not be the same.
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale gradients to a global norm of at most ``max_norm`` (0: leave them) and return the norm before, a scalar."""
    return nn.utils.clip_grad_norm_(list(parameters), max_norm or float("inf"))


def require_finite(losses: dict[str, Tensor], where: str) -> None:
    """Stop learning when a loss is not finite.

    Raises:
        TrainingError: names every loss and its value.
    """
    if not torch.stack([loss.detach().float() for loss in losses.values()]).isfinite().all():
        values = ", ".join(f"{name}={loss.item():g}" for name, loss in losses.items())
        raise TrainingError(f"a loss is not finite: {values}", where=where,
                            hint="lower the learning rate, or look at the rewards and advantages in train.jsonl")


class GradientStep(ABC):
    """An optimiser, with what is done to gradients and weights before its step.

    Attributes:
        inner: what checkpoints store. parameters: of all of its groups, in order. decay: the share of every weight that
            is taken away before a step, whatever its learning rate.
    """

    decay = 0.0

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        self.parameters: list[Tensor] = [p for group in inner.param_groups for p in group["params"]]
        self._rates = [group["lr"] for group in inner.param_groups]

    def set_rates(self, share: float) -> None:
        """Learning rates of the next step, as a share of those that were given."""
        for group, rate in zip(self.inner.param_groups, self._rates, strict=True):
            group["lr"] = rate * share

    def update(self, loss: Tensor, retain_graph: bool = False,
               reduce: Callable[[list[Tensor]], None] | None = None) -> float:
        """One step down the gradient of ``loss``, to these parameters alone; returns the gradient's norm before clips.

        Args:
            reduce: adds up the gradients of several processes, in place.

        Raises:
            TrainingError: the loss is finite and its gradient is not; nothing was moved.
        """
        gradients = torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph, allow_unused=True)
        if reduce is not None:
            reduce([gradient for gradient in gradients if gradient is not None])
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = float(self._clip())
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient of a finite loss has the norm {norm}", where="an optimiser's step",
                                hint="lower the learning rate, or use float32 (the key dtype)")
        if self.decay:
            with torch.no_grad():
                torch._foreach_mul_(self.parameters, 1 - self.decay)
        self.inner.step()
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    @abstractmethod
    def _clip(self) -> Tensor:
        """Clip the gradients, and no weight; the norm of all of them before that."""


class DecayedAdam(GradientStep):
    """Adam with a clip of the global gradient norm and DreamerV2's weight decay.

    The decay multiplies every weight by ``1 - decay`` before a step, whatever its learning rate
    (dreamerv2 ``common/tfutils.py``); torch's AdamW would multiply the decay by the learning rate.

    Args:
        clip_each: every group's norm is clipped on its own, as if it had an optimiser of its own.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float, decay: float, max_norm: float,
                 clip_each: bool = False) -> None:
        super().__init__(torch.optim.Adam(groups, lr=lr, eps=eps))
        self.clipped = [group["params"] for group in self.inner.param_groups] if clip_each else [self.parameters]
        self.decay, self.max_norm = decay, max_norm

    def _clip(self) -> Tensor:
        norm: Tensor = torch.stack([clip_gradients(part, self.max_norm) for part in self.clipped]).norm()
        return norm


class AdaptiveLaProp(GradientStep):
    """LaProp with every tensor's gradient clipped to a share of the tensor's norm (DreamerV3; 0: not clipped)."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float, clip: float) -> None:
        super().__init__(LaProp(groups, lr, eps=eps))
        self.clip = clip

    def _clip(self) -> Tensor:
        norm = clip_gradients(self.parameters, 0.0)
        if self.clip:
            clip_adaptively(self.parameters, self.clip)
        return norm
