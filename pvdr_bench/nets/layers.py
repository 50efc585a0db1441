"""The layers of two generations of Dreamers, told apart by a :class:`Style`.

DreamerV2 (arXiv 2010.02193): ELU, Glorot-uniform weights. DreamerV3 (arXiv 2301.04104; its code's ``nets.py``): RMS
norm before SiLU, weights of a truncated normal. Shapes: N rows, I inputs, O outputs, G blocks, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

RMS_EPSILON = 1e-4  # DreamerV3's
UPDATE_BIAS = -1.0  # of both GRUs: a new one keeps most of its state
_CUT = 1.1368  # standard deviation of a standard normal cut at +-2, inverted (DreamerV3's constant)


class BlockLinear(nn.Module):
    """A dense layer whose matrix is block-diagonal: block g of the outputs reads block g of the inputs alone.

    Raises:
        ValueError: the blocks do not divide inputs and outputs.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(f"{blocks} blocks do not divide {inputs} inputs and {outputs} outputs")
        self.blocks, self.inputs = blocks, inputs
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        rows = x.reshape(-1, self.blocks, self.weight.shape[1]).transpose(0, 1)  # [G, N, I / G]
        out = torch.bmm(rows, self.weight.to(rows.dtype)).transpose(0, 1).reshape(*x.shape[:-1], -1)
        return out + self.bias.to(out.dtype)


class RMSNorm(nn.Module):
    """RMS norm over the last dimension, or over the channels of each pixel, [N, C, H, W]; computed in float32."""

    def __init__(self, width: int, pixels: bool = False) -> None:
        super().__init__()
        self.weight, self.dim = nn.Parameter(torch.ones(width)), 1 if pixels else -1

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and type."""
        wide = x.float()
        weight = self.weight[:, None, None] if self.dim == 1 else self.weight
        scale = torch.rsqrt(wide.square().mean(self.dim, keepdim=True) + RMS_EPSILON)
        return (wide * (scale * weight)).to(x.dtype)


@dataclass(frozen=True)
class Style:
    """What stands behind a layer, and how weights begin."""

    norm: Literal["none", "rms"] = "none"
    activation: Literal["elu", "silu"] = "elu"
    init: Literal["glorot", "truncated"] = "glorot"

    def after(self, width: int, pixels: bool = False) -> list[nn.Module]:
        """Norm and activation behind a layer of ``width`` outputs (of channels, if they are ``pixels``)."""
        act: nn.Module = nn.ELU() if self.activation == "elu" else nn.SiLU()
        if self.norm == "none":
            return [act]
        return [RMSNorm(width, pixels), act]

    def dense(self, inputs: int, widths: Sequence[int]) -> list[nn.Module]:
        """Dense layers of these widths, each with what stands behind it."""
        return [part for pair in pairwise((inputs, *widths)) for part in (nn.Linear(*pair), *self.after(pair[1]))]

    def begin(self, module: nn.Module) -> None:
        """Set all weights within a module, in place; biases are zero."""
        if self.init == "glorot":
            init_like_keras(module)
        else:
            init_truncated(module)


V2_STYLE = Style()


def init_like_keras(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases in place, as in TensorFlow, which the references were written in."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_truncated(module: nn.Module) -> None:
    """Normal weights of variance 1 / fan-in, cut at two standard deviations, and zero biases, in place (DreamerV3).

    The fan-in of a block-diagonal layer is all of its inputs, as in the code, so its outputs begin smaller.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | BlockLinear):
            fan = layer.inputs if isinstance(layer, BlockLinear) else layer.weight[0].numel()
            std = _CUT / fan ** 0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def gated(reset: Tensor, candidate: Tensor, update: Tensor, deter: Tensor) -> Tensor:
    """The next state of a Dreamer's GRU from its three raw gates and the state, all of one shape.

    The reset gate multiplies the candidate's whole pre-activation, the input's part included; update bias -1.
    """
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update + UPDATE_BIAS)
    return update * candidate + (1 - update) * deter


def scale_output(layer: nn.Module, scale: float) -> None:
    """Multiply the weights of a last layer in place; 0: what it says is its bias, zero, until it learns."""
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"the last layer is a {type(layer).__name__}, not dense")
    with torch.no_grad():
        layer.weight.mul_(scale) if scale else layer.weight.zero_()
