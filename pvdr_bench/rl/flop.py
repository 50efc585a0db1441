"""Floating-point operations (FLOP) of the parts of a run, by the formulas of ``torch.utils.flop_counter``.

Counted are matrix products, convolutions and attention, forwards and backwards; a multiplication and an addition are
two. What is element by element (normalisations, activations, optimisers) is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

_FUSED_ON_CPU = {"aten::_scaled_dot_product_flash_attention_for_cpu": sdpa_flop,
                 "aten::_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward_flop}


def counted(call: int) -> bool:
    """Whether the ``call``-th call of a part is counted: 1, 4, 16, 64, ..., which costs next to nothing."""
    return call & (call - 1) == 0 and call.bit_length() % 2 == 1


class FlopTally:
    """FLOP by part, those of parts within it not included.

    A few calls of each part are counted as they are made; the others are taken to be like the last one that was, in
    proportion to their size. Counting changes no result: the same operations are done, one after the other.

    Attributes:
        kind: of calls; those of one name are alike within it (a policy may do more in training than in evaluation).
    """

    def __init__(self) -> None:
        self.kind = ""
        self._calls: dict[tuple[str, str], int] = {}
        self._each: dict[tuple[str, str], float] = {}  # of the last counted call, by its size
        self._total: dict[str, float] = {}
        self._open: list[_Call] = []
        self._counter: FlopCounter | None = None
        self._seen = 0

    def enter(self, name: str, size: int) -> None:
        """A part begins."""
        self._attribute()
        key = (self.kind, name)
        self._calls[key] = self._calls.get(key, 0) + 1
        starts = self._counter is None and counted(self._calls[key])
        if starts:
            self._counter, self._seen = FlopCounter(), 0
            self._counter.__enter__()  # type: ignore[no-untyped-call]
        self._open.append(_Call(key, max(1, size), self._counter is not None, starts))

    def leave(self) -> None:
        """The innermost part ends."""
        self._attribute()
        call = self._open.pop()
        if call.starts and self._counter is not None:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._counter = None
        if call.counted:
            self._each[call.key] = call.flop / call.size
        flop = call.flop if call.counted else self._each.get(call.key, 0.0) * call.size
        self._total[call.key[1]] = self._total.get(call.key[1], 0.0) + flop

    def _attribute(self) -> None:
        """What was done since the last boundary belongs to the innermost part."""
        if self._counter is not None:
            total = self._counter.flop
            self._open[-1].flop += total - self._seen
            self._seen = total

    def take(self) -> dict[str, float]:
        """FLOP by part since the last call, sorted by name; parts that have none are left out."""
        taken, self._total = {name: flop for name, flop in sorted(self._total.items()) if flop}, {}
        return taken


@dataclass
class _Call:
    """A part that is going on."""

    key: tuple[str, str]  # kind and name
    size: int
    counted: bool
    starts: bool  # whether it is the outermost that is counted
    flop: float = 0.0


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by the formulas of PyTorch's ``FlopCounterMode``, and of no module in particular, which is much quicker.

    The fused attention of CPUs, which PyTorch's does not know, is counted as that of GPUs.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: what is counted is not compiled, and asking the compiler to look away imports it, for four seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """Do the operation and count it; one that is made of others comes again as those."""
        kwargs = kwargs or {}
        formula = _formula(func)
        if formula is None and _composite(func):
            with self:
                done = func.decompose(*args, **kwargs)
            if done is not NotImplemented:
                return done
        out = func(*args, **kwargs)
        if formula is not None:
            self.flop += int(formula(*args, **kwargs, out_val=out))
        return out


@cache
def _formula(func: Any) -> Callable[..., int] | None:
    """How an operation is counted; None: not at all."""
    packet = getattr(func, "_overloadpacket", None)
    name = getattr(packet, "_qualified_op_name", "")
    found = _FUSED_ON_CPU.get(name) or flop_registry.get(packet)
    return cast("Callable[..., int] | None", found)


@cache
def _composite(func: Any) -> bool:
    """Whether an operation is made of others, and inference mode has not taken it apart already.

    One that also has a kernel of its own is done by that kernel: taken apart it would round otherwise.
    """
    if not isinstance(func, OpOverload):
        return False
    name: str = func.name()  # type: ignore[no-untyped-call]
    composite, *devices = (torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
                           for key in ("CompositeImplicitAutograd", "CPU", "CUDA"))
    return composite and not any(devices)
