"""Convolutions that double a map's side, computed on the small map: four phases of the output, put between each other.

An output pixel at an even row reads other weights of the kernel than one at an odd row, but both read the same small
window of the input. So each of the four kinds of pixels (even or odd row, even or odd column) is an ordinary
convolution of the input, and :func:`torch.nn.functional.pixel_shuffle` puts them together. The result is the same but
for rounding. Shapes: N maps, I input and O output channels, k kernel size, h = w side of the input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upsampling_taps(kernel: int) -> Tensor:
    """Which weights of a kernel read which pixel of the map before nearest-neighbour upsampling; 0 or 1, [2, m, k].

    Output pixel 2 i + a of a convolution that keeps the (odd) side reads upsampled pixels 2 i + a + d, |d| <= k // 2,
    which are copies of the pixels i + (a + d) // 2. First axis: a; second: m = 2 * ((k // 2 + 1) // 2) + 1 pixels
    around i.

    Raises:
        ValueError: an even kernel has no middle.
    """
    if kernel % 2 == 0:
        raise ValueError(f"a kernel of {kernel} does not keep the side")
    half = kernel // 2
    reach = (half + 1) // 2
    taps = torch.zeros(2, 2 * reach + 1, kernel)
    for a in (0, 1):
        for d in range(-half, half + 1):
            taps[a, reach + (a + d) // 2, half + d] = 1
    return taps


class UpsampledConv2d(nn.Conv2d):
    """``Conv2d(inputs, outputs, k, padding=k // 2)`` of the map doubled by nearest neighbours; k is odd.

    With k = 5 it takes 36 % of the multiplications, on a map of a quarter of the size.
    """

    taps: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.register_buffer("taps", upsampling_taps(kernel), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, h, w] -> [N, O, 2 h, 2 w]."""
        phases = torch.einsum("apk,bql,oikl->oabipq", self.taps, self.taps, self.weight)
        return _put_together(x, phases, self.bias, self.taps.shape[1] // 2)


class DoublingConvTranspose2d(nn.ConvTranspose2d):
    """``ConvTranspose2d(inputs, outputs, k, 2, padding, output_padding)``.

    On a CPU, where torch's own adds up windows that overlap one by one, it takes the phases.

    Raises:
        ValueError: the output would go beyond all windows.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0, output_padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, 2, padding, output_padding)
        self.kernel, self.cut, self.more = kernel, padding, output_padding
        if output_padding > padding + kernel % 2:
            raise ValueError(f"an output padding of {output_padding} is beyond the windows of a kernel of {kernel}")

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, I, h, w] -> [N, O, s, s], s = 2 (h - 1) + k - 2 padding + output_padding."""
        if x.device.type != "cpu" or output_size is not None:
            return super().forward(x, output_size)
        # Pixel 2 i + a of the whole output reads input i - j with weight 2 j + a: a convolution with j reversed.
        taps = (self.kernel + 1) // 2
        whole = F.pad(self.weight, (0, 2 * taps - self.kernel) * 2)
        phases = whole.view(*whole.shape[:2], taps, 2, taps, 2).flip(2, 4)  # [I, O, j, a, j, b]
        out = _put_together(x, phases.permute(1, 3, 5, 0, 2, 4), self.bias, taps - 1)
        height, width = (2 * (side - 1) + self.kernel - 2 * self.cut + self.more for side in x.shape[2:])
        return out[:, :, self.cut:self.cut + height, self.cut:self.cut + width]


def _put_together(x: Tensor, phases: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """[N, O, 2 s, 2 s] of a map [N, I, h, w] and the kernels [O, 2, 2, I, m, m] of the four kinds of pixels."""
    every = None if bias is None else bias.repeat_interleave(4)
    return F.pixel_shuffle(F.conv2d(x, phases.flatten(0, 2), every, padding=padding), 2)
