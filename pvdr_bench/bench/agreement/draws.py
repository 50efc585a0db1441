"""The same random numbers for somebody else's model: what it draws comes from queues that were filled for it.

Shapes: N rows, S latents of C classes, P positions, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from pvdr_bench.errors import SetupError
from pvdr_bench.nets.rssm import sample_one_hot

KINDS = ("latent", "order", "frame", "dropout", "action", "normal", "shuffle")


class Draws:
    """Queues of what is drawn, by kind.

    Attributes:
        latent: uniform [N, S], for one-hot samples by inverse CDF, also in place of a Gumbel softmax; None where the
            sample plays no part.
        order: uniform [N, P], whose order says which positions are masked. frame: int [N], which frame is a context.
        dropout: bool, what dropout leaves. action: uniform [N, A], for truncated normals by inverse CDF.
        normal: standard normal numbers. shuffle: a permutation.
    """

    def __init__(self, **queues: Sequence[Tensor | None]) -> None:
        self.queues = {kind: list(queues.get(kind, ())) for kind in KINDS}

    def take(self, kind: str, shape: Sequence[int] | None = None) -> Tensor | None:
        """The next one of a kind.

        Raises:
            SetupError: there is none left, or it is of another shape: the checkout draws in another order.
        """
        if not self.queues[kind]:
            raise SetupError(f"the checkout draws more numbers of the kind {kind} than it is given",
                             hint="check out the commit that the documentation names")
        found = self.queues[kind].pop(0)
        if found is not None and shape is not None and tuple(found.shape) != tuple(shape):
            raise SetupError(f"the checkout draws {tuple(shape)} of the kind {kind} where {tuple(found.shape)} was "
                             "expected", hint="check out the commit that the documentation names")
        return found

    def need(self, kind: str, shape: Sequence[int] | None = None) -> Tensor:
        """The same, where there must be one."""
        found = self.take(kind, shape)
        if found is None:
            raise SetupError(f"the checkout draws a number of the kind {kind} in another order than expected")
        return found

    def require_empty(self) -> None:
        """Raises SetupError if something was left over."""
        left = {kind: len(queue) for kind, queue in self.queues.items() if queue}
        if left:
            raise SetupError(f"the checkout did not draw all that it was given: {left} are left",
                             hint="check out the commit that the documentation names")


@contextmanager
def replayed(draws: Draws) -> Iterator[None]:
    """Within the block torch and NumPy draw from the queues; after it all of them must have been drawn."""
    uniform = torch.rand

    def rand(*shape: Any, **options: Any) -> Tensor:
        if len(shape) == 1 and not isinstance(shape[0], int):  # torch's Uniform: which member of an ensemble of one
            return uniform(*shape, **options)
        return draws.need("order", shape)

    def straight_through(logits: Tensor, *args: Any, **options: Any) -> Tensor:
        found = draws.take("latent", logits.shape[:-1])
        return sample_one_hot(logits, torch.full(logits.shape[:-1], 0.5) if found is None else found)

    def one_hot(self: Any, sample_shape: Any = ()) -> Tensor:
        return straight_through(self.logits.detach())

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return x * draws.need("dropout").reshape(x.shape) / (1 - p) if training and p else x

    def uniform_(self: Tensor, low: float = 0.0, high: float = 1.0, **options: Any) -> Tensor:
        return self.copy_(draws.need("action", self.shape).clamp(low, high))

    with ExitStack() as stack:
        for owner, name, function in (
                (torch, "rand", rand), (torch.distributions.OneHotCategorical, "sample", one_hot),
                (torch.nn.functional, "dropout", dropout),
                (torch.nn.functional, "gumbel_softmax", straight_through), (torch.Tensor, "uniform_", uniform_),
                (torch, "randperm", lambda count, **options: draws.need("shuffle", (count,))),
                (torch.distributions.normal, "_standard_normal",
                 lambda shape, dtype, device: draws.need("normal", shape)),
                (np.random, "choice", lambda count, size: draws.need("frame", (size,)).numpy())):
            stack.enter_context(patch.object(owner, name, function))
        yield
    draws.require_empty()


@contextmanager
def double_precision() -> Iterator[None]:
    """Within the block all is computed in float64, also what asks for float32: a difference is then no rounding.

    Rounding to float32 is enough to put inputs of a ReLU on its other side, where gradients are others.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch.Tensor, "float", torch.Tensor.double), patch.object(torch, "float32", torch.float64):
            yield
    finally:
        torch.set_default_dtype(before)
