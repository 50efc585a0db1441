"""A second device that needs no hardware: ``cpu:1``, whose tensors compute on the CPU and refuse to mix with the CPU's.

What a GPU refuses, this refuses too, by torch's own rules: operands on two devices, unless one is a scalar without
dimensions or an index; random numbers of another device's generator; ``numpy()``. So no machine with a GPU is spent on
a forgotten ``.to(device)``.

A tensor of the device is a wrapper around the one that computes. What makes tensors on it (factories, ``to``) is seen
by a dispatch mode, so the device exists only inside :func:`pretend_device`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE, CPU = torch.device("cpu:1"), torch.device("cpu")
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}  # from device to device
_INDEXED = {_aten.index.Tensor, _aten._unsafe_index.Tensor, _aten.index_put.default, _aten.index_put_.default,
            _aten._index_put_impl_.default}  # indices may lie on the CPU

_GENERATORS: dict[int, torch.Generator] = {}  # of the device, by their address: torch makes new objects around them


class There(torch.Tensor):
    """A tensor on the pretended device; ``here`` computes."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        out = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            layout=here.layout, device=DEVICE)
        out.here = here
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here!r})"

    def tolist(self) -> Any:
        return self.here.tolist()


def _leaves(x: Any) -> Iterator[Any]:
    """Tensors and generators in nested arguments."""
    if isinstance(x, list | tuple):
        for one in x:
            yield from _leaves(one)
    elif isinstance(x, dict):
        yield from _leaves(list(x.values()))
    elif isinstance(x, torch.Tensor | torch._C.Generator):
        yield x


def _map(call: Any, x: Any) -> Any:
    """The same nesting with ``call`` of every tensor."""
    if isinstance(x, list | tuple):
        return type(x)([_map(call, one) for one in x])
    return call(x) if isinstance(x, torch.Tensor) else x


def _refuse(func: Any, args: Any, kwargs: Any) -> None:
    """Raise as torch's kernels do where operands lie on two devices."""
    if func in _COPIES:
        return
    operands = list(_leaves([args[0], *args[2:]] if func in _INDEXED else [args, kwargs]))
    indices = list(_leaves(args[1])) if func in _INDEXED else []
    there = any(isinstance(x, There) for x in [*operands, *indices])
    here = [x for x in operands if not isinstance(x, There) and (
        x._cdata not in _GENERATORS if isinstance(x, torch._C.Generator) else x.dim())]
    if here and (there or kwargs.get("device") == DEVICE):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {DEVICE} and "
                           f"{type(here[0]).__name__} {tuple(getattr(here[0], 'shape', ()))} on the CPU")


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU, and wrap what lies there."""
    target, wrapped = kwargs.get("device"), any(isinstance(x, There) for x in _leaves([args, kwargs]))
    if not wrapped and target != DEVICE:
        return func(*args, **kwargs)
    _refuse(func, args, kwargs)
    there = wrapped if target is None else target == DEVICE
    if func is _aten.copy_.default:
        there = isinstance(args[0], There)
    plain = {name: _map(_inner, x) for name, x in kwargs.items()} | ({} if target is None else {"device": CPU})
    out = func(*_map(_inner, args), **plain)
    out = _map(There, out) if there else out
    return return_and_correct_aliasing(func, args, kwargs, out) if wrapped else out


def _inner(x: torch.Tensor) -> torch.Tensor:
    return x.here if isinstance(x, There) else x


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """The device exists inside."""
    tensor, generator = torch.tensor, torch.Generator
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()

    def made(*args: Any, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> torch.Tensor:
        return tensor(*args, **kwargs).to(device).requires_grad_(requires_grad)

    class Generator(generator):
        def __init__(self, device: Any = CPU) -> None:
            if torch.device(device) == DEVICE:
                _GENERATORS[self._cdata] = self

    torch.tensor, torch.Generator = made, Generator  # the first moves what it makes where no mode sees it
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's data cannot change its class
    try:
        with _Mode():
            yield DEVICE
    finally:
        torch.tensor, torch.Generator = tensor, generator
        _GENERATORS.clear()
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
