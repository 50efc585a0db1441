"""Convolutional encoder and decoder, and dense heads, of DreamerV2 (arXiv 2010.02193; its ``common/nets.py``).

Shapes: N images, H = W image size, E embedding width. Images are floats [N, 3, H, W] in [-0.5, 0.5].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.nets.layers import V2_STYLE, Style, init_like_keras, scale_output
from pvdr_bench.nets.phases import DoublingConvTranspose2d


def preprocess(images: Tensor, size: int) -> Tensor:
    """uint8 [..., H, W, 3] -> float [..., 3, size, size] in [-0.5, 0.5]; larger ones are averaged down.

    Raises:
        TypeError: floats would silently be normalised twice or not at all.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, not {images.dtype}")
    planes = images.movedim(-1, -3).float()
    if planes.shape[-1] != size:
        small = F.adaptive_avg_pool2d(planes.flatten(0, -4), size)
        planes = small.view(*planes.shape[:-2], size, size)
    return planes / 255 - 0.5


class ConvEncoder(nn.Module):
    """Strided convolutions without padding; depth doubles at each. [N, 3, H, H] -> [N, E]."""

    def __init__(self, size: int, depth: int, kernels: Sequence[int]) -> None:
        super().__init__()
        widths = [3, *(depth * 2**i for i in range(len(kernels)))]
        layers: list[nn.Module] = []
        for (inputs, outputs), kernel in zip(pairwise(widths), kernels, strict=True):
            layers += [nn.Conv2d(inputs, outputs, kernel, 2), nn.ELU()]
            size = (size - kernel) // 2 + 1
        self.layers, self.embed_dim = nn.Sequential(*layers), widths[-1] * size * size
        init_like_keras(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N, E] of images [N, 3, H, H]."""
        out: Tensor = self.layers(images).flatten(1)
        return out


class ConvDecoder(nn.Module):
    """A dense layer to a 1 x 1 map, then transposed convolutions. Features [N, F] -> image means [N, 3, H, H]."""

    def __init__(self, feature_dim: int, depth: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.dense = nn.Linear(feature_dim, 32 * depth)
        widths = [32 * depth, *(depth * 2 ** (len(kernels) - 2 - i) for i in range(len(kernels) - 1)), 3]
        layers: list[nn.Module] = []
        size = 1
        for (inputs, outputs), kernel in zip(pairwise(widths), kernels, strict=True):
            layers += [DoublingConvTranspose2d(inputs, outputs, kernel), nn.ELU()]
            size = 2 * (size - 1) + kernel
        self.layers, self.size = nn.Sequential(*layers[:-1]), size
        init_like_keras(self)

    def forward(self, features: Tensor) -> Tensor:
        """Image means [N, 3, H, H]."""
        first = self.layers[0]
        assert isinstance(first, nn.ConvTranspose2d) and first.bias is not None
        # On a 1 x 1 map the first layer is a matrix product, which is several times faster.
        shape = (-1, *first.weight.shape[1:])
        planes = (self.dense(features) @ first.weight.flatten(1)).view(shape) + first.bias[:, None, None]
        out: Tensor = self.layers[1:](planes.contiguous(memory_format=torch.channels_last))
        return out


class MLP(nn.Module):
    """Dense layers, and a linear output.

    Args:
        output_scale: of the first weights of the output; 0: it says zero until it learns.
    """

    def __init__(self, inputs: int, outputs: int, layers: int, units: int, output_scale: float = 1.0,
                 style: Style = V2_STYLE) -> None:
        super().__init__()
        hidden = style.dense(inputs, [units] * layers)
        self.layers = nn.Sequential(*hidden, nn.Linear(units if layers else inputs, outputs))
        style.begin(self)
        if output_scale != 1.0:
            scale_output(self.layers[-1], output_scale)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        out: Tensor = self.layers(x)
        return out
