"""Batch normalisation folded into the layer before it, for networks that are asked much more often than they change."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)
_Normed = (nn.Conv2d, nn.Linear)
_Norm = (nn.BatchNorm1d, nn.BatchNorm2d)
_EPSILON = 1e-5  # torch's default, which all of ours have


class Folded(Generic[N]):
    """A copy of a network as it is in evaluation mode, where normalisation costs nothing.

    In each ``nn.Sequential`` a convolution or dense layer that is followed by batch normalisation becomes one with it.

    Args:
        source: the network, which may go on learning; :meth:`refresh` follows it.
        without: names of children that the copy does not need.
    """

    def __init__(self, source: N, without: Sequence[str] = ()) -> None:
        self.net: N = copy.deepcopy(source).eval().requires_grad_(False)
        for name in without:
            setattr(self.net, name, nn.Identity())
        self._pairs: list[tuple[nn.Module, nn.Module, nn.Module]] = []  # layer, its normalisation, both in one
        twins = dict(source.named_modules())
        for name, module in list(self.net.named_modules()):
            if isinstance(module, nn.Sequential):
                self._fold(module, twins[name])
        folded = {id(layer) for _, _, layer in self._pairs}
        owners = {name: module for name, module in self.net.named_modules() if id(module) not in folded}
        self._rest = [(own, dict(_tensors(twins[name]))[part]) for name, module in owners.items()
                      for part, own in _tensors(module)]
        self.refresh()

    def _fold(self, module: nn.Sequential, twin: nn.Module) -> None:
        originals = list(twin.children())
        for i, (layer, norm) in enumerate(pairwise(list(module.children()))):
            if isinstance(layer, _Normed) and isinstance(norm, _Norm):
                layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), requires_grad=False)
                module[i + 1] = nn.Identity()
                self._pairs.append((originals[i], originals[i + 1], layer))

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the source's weights and running averages of now."""
        for layer, norm, both in self._pairs:
            theirs, own = ({name: x.detach() for name, x in module.named_parameters()} for module in (layer, both))
            mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            affine = dict(norm.named_parameters())
            scale = (var + _EPSILON).rsqrt() * affine.get("weight", torch.ones_like(var))
            own["weight"].copy_(theirs["weight"] * scale.view(-1, *[1] * (theirs["weight"].dim() - 1)))
            shift = theirs.get("bias", torch.zeros_like(mean)) - mean
            own["bias"].copy_(shift * scale + affine.get("bias", torch.zeros_like(mean)))
        for mine, source in self._rest:
            mine.copy_(source)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module itself, not of its children."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)
