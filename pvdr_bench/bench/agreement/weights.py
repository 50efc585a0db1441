"""Our weights under somebody else's names.

A rule is a pattern of our name and what it is called there. A name that ends in ``#k`` is the k-th part, along the
first dimension, of a tensor there; a pair of names are two tensors there that ours holds one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pvdr_bench.errors import SetupError

Rule = tuple[str, str | tuple[str, str]]


def translate(ours: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Tensors by their names there; the first rule whose pattern is all of a name holds.

    It serves weights and gradients alike, since it only renames, joins and splits.

    Raises:
        SetupError: no rule for a name, or two tensors of one name.
    """
    found, parts = dict[str, Tensor](), dict[str, dict[int, Tensor]]()

    def put(name: str, value: Tensor) -> None:
        base, _, index = name.partition("#")
        if base in found or index and int(index) in parts.get(base, {}):
            raise SetupError(f"two of our weights are called {name} there")
        if index:
            parts.setdefault(base, {})[int(index)] = value
        else:
            found[base] = value

    for name, value in ours.items():
        names = _names(name, rules)
        for target, part in zip(names, [value] if len(names) == 1 else value.chunk(len(names)), strict=True):
            put(target, part)
    for base, pieces in parts.items():
        put(base, torch.cat([pieces[index] for index in sorted(pieces)]))
    return found


def _names(name: str, rules: Sequence[Rule]) -> list[str]:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return [match.expand(one) for one in ([replacement] if isinstance(replacement, str) else replacement)]
    raise SetupError(f"there is no rule for what {name} is called there")


def give(theirs: nn.Module, values: Mapping[str, Tensor], leave: Sequence[str] = ()) -> None:
    """Set all parameters and buffers there, in place.

    Args:
        leave: patterns of names that keep their values.

    Raises:
        SetupError: one that is given is not there or has another shape, or one there is not given.
    """
    own = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    own = {name: value for name, value in own.items() if not any(re.search(pattern, name) for pattern in leave)}
    wrong = sorted(set(own) ^ set(values))
    if wrong:
        raise SetupError(f"weights of the two models do not pair: {', '.join(wrong[:6])}",
                         hint="check out the commit that the documentation names")
    for name, value in values.items():
        if own[name].shape != value.shape:
            raise SetupError(f"{name} has the shape {tuple(own[name].shape)} there and {tuple(value.shape)} here")
        with torch.no_grad():
            own[name].copy_(value)


def stir(module: nn.Module, generator: torch.Generator, amount: float = 0.05) -> None:
    """Move all parameters a little, in place, so that none is zero, or one, as it begins."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))


def state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, but for those that count batches."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()
            if not name.endswith("num_batches_tracked")}


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradients of all parameters that learn, zero where nothing was sent."""
    return {name: torch.zeros_like(value) if value.grad is None else value.grad.detach().clone()
            for name, value in module.named_parameters() if value.requires_grad}
