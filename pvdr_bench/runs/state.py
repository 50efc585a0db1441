"""Any nested training state <-> a JSON tree and one safetensors file; no pickle.

Kept exactly: dicts with any scalar keys and their order, lists, tuples, None, bool, int of any size, float (NaN and
infinities too), str, bytes, torch tensors of every dense dtype (bfloat16, bool, uint8, complex ... also empty and
0-dimensional), NumPy arrays and NumPy scalars. Not kept: sharing of memory between tensors, strides, devices (all
load on the CPU, as state dicts expect), gradients. Anything else raises TypeError with its place.

torch is imported only when a state holds torch tensors.
"""

from __future__ import annotations

import base64
import math
import sys
from typing import Any

import numpy as np

_TAG = "$"  # objects with this key are not plain dicts


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}  # name -> torch tensor or NumPy array, safe to store
        self.has_torch = False
        self._storages: set[int] = set()

    def encode(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, np.generic):
            return self._array(np.asarray(value), path, "scalar")
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {_TAG: "float", "v": repr(float(value))}
        if isinstance(value, bytes | bytearray):
            return {_TAG: "bytes", "v": base64.b64encode(value).decode("ascii")}
        if isinstance(value, dict):
            return self._dict(value, path)
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{path}/{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {_TAG: "tuple", "v": items}
        if isinstance(value, np.ndarray):
            return self._array(value, path, "array")
        if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
            return self._tensor(torch, value, path)
        raise TypeError(f"state{path}: a {type(value).__module__}.{type(value).__qualname__} cannot be stored")

    def _dict(self, value: dict[Any, Any], path: str) -> Any:
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: self.encode(item, f"{path}/{_escape(key)}") for key, item in value.items()}
        pairs = []
        for key, item in value.items():
            if not isinstance(key, str | int | float | bool | tuple | None):
                raise TypeError(f"state{path}: a key of type {type(key).__name__} cannot be stored")
            name = _escape(key if isinstance(key, str) else repr(key))
            pairs.append([self.encode(key, f"{path}/key {name}"), self.encode(item, f"{path}/{name}")])
        return {_TAG: "dict", "v": pairs}

    def _name(self, path: str) -> str:
        name, count = path or "/", 2
        while name in self.tensors:  # the keys 1 and "1" of one dict
            name, count = f"{path}#{count}", count + 1
        return name

    def _array(self, value: np.ndarray[Any, Any], path: str, kind: str) -> dict[str, Any]:
        if value.dtype.kind not in "biufc" or value.dtype.itemsize > 16 or not value.dtype.isnative:
            raise TypeError(f"state{path}: an array of {value.dtype} cannot be stored")
        name = self._name(path)
        # The raw bytes and the dtype's name: safetensors has no complex128.
        self.tensors[name] = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        return {_TAG: kind, "k": name, "dtype": value.dtype.str, "shape": list(value.shape)}

    def _tensor(self, torch: Any, value: Any, path: str) -> dict[str, Any]:
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(f"state{path}: a sparse or quantised tensor cannot be stored")
        self.has_torch = True
        dense = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        kind = "complex" if dense.is_complex() else "tensor"
        if kind == "complex":
            dense = torch.view_as_real(dense).contiguous()
        storage = dense.untyped_storage().data_ptr()
        if storage in self._storages:  # safetensors refuses shared memory
            dense = dense.clone()
        self._storages.add(dense.untyped_storage().data_ptr())
        name = self._name(path)
        self.tensors[name] = dense
        return {_TAG: kind, "k": name}


def pack(state: Any) -> tuple[Any, bytes]:
    """A state as (JSON tree, safetensors bytes). Equal states give equal results.

    Raises:
        TypeError: something in it cannot be stored; says where.
    """
    encoder = _Encoder()
    tree = encoder.encode(state, "")
    if encoder.has_torch:
        import safetensors.torch
        import torch
        tensors = {name: item if isinstance(item, torch.Tensor) else torch.from_numpy(item.copy())
                   for name, item in encoder.tensors.items()}
        return tree, safetensors.torch.save(tensors)
    import safetensors.numpy
    return tree, safetensors.numpy.save(encoder.tensors)


def unpack(tree: Any, data: bytes) -> Any:
    """What :func:`pack` was given. Tensors own their memory and may be written to.

    Raises:
        ValueError, KeyError: tree and data do not belong together.
    """
    if _holds_torch(tree):
        import safetensors.torch
        tensors: dict[str, Any] = dict(safetensors.torch.load(data))
    else:
        import safetensors.numpy
        tensors = dict(safetensors.numpy.load(data))
    return _decode(tree, tensors)


def _holds_torch(tree: Any) -> bool:
    if isinstance(tree, dict):
        return tree.get(_TAG) in ("tensor", "complex") or any(_holds_torch(item) for item in tree.values())
    return isinstance(tree, list) and any(_holds_torch(item) for item in tree)


def _decode(tree: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(tree, list):
        return [_decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(_TAG)
    if kind is None:
        return {key: _decode(item, tensors) for key, item in tree.items()}
    if kind == "float":
        return float(tree["v"])
    if kind == "bytes":
        return base64.b64decode(tree["v"])
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in tree["v"])
    if kind == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in tree["v"]}
    if kind == "tensor":
        return tensors[tree["k"]].clone()
    if kind == "complex":
        import torch
        return torch.view_as_complex(tensors[tree["k"]].clone())
    if kind in ("array", "scalar"):
        raw = np.asarray(tensors[tree["k"]])
        array = np.frombuffer(raw.tobytes(), np.dtype(tree["dtype"])).reshape(tree["shape"]).copy()
        return array if kind == "array" else array[()]
    raise ValueError(f"unknown kind {kind!r} in a stored state")


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
