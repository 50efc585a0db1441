"""Pictures as the networks see them: stacks of frames, and random shifts and brightness.

Shapes: B batch, T frames, S frames of a stack, H = W image size, c colours (1 or 3), h = w the network's size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GRAY = (0.299, 0.587, 0.114)  # ITU-R 601


def frames(images: Tensor, size: int, gray: bool) -> Tensor:
    """uint8 [..., H, W, 3] -> float [..., c, h, w] in [0, 1]; larger ones are averaged down. At least one dimension
    leads.

    Raises:
        TypeError: floats would silently be normalised twice or not at all.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, not {images.dtype}")
    planes = images.movedim(-1, -3).float() / 255
    if gray:
        planes = (planes * planes.new_tensor(_GRAY)[:, None, None]).sum(-3, keepdim=True)
    if planes.shape[-1] != size:
        flat = F.adaptive_avg_pool2d(planes.flatten(0, -4), size)
        planes = flat.view(*planes.shape[:-2], size, size)
    return planes


def stacks(planes: Tensor, stack: int) -> Tensor:
    """Frames [B, S - 1 + T, c, h, w] -> observations [B, T, S * c, h, w], each with the S - 1 frames before it."""
    count = planes.shape[1] - stack + 1
    return torch.cat([planes[:, i:i + count] for i in range(stack)], 2)


def noise(shape: tuple[int, ...], shift: int, intensity: float, generator: torch.Generator) -> Tensor:
    """Augmentations [*shape, 3]: moves in rows and columns of up to ``shift`` pixels, and a factor of brightness."""
    moves = torch.randint(-shift, shift + 1, (*shape, 2), generator=generator, device=generator.device).float()
    bright = torch.randn(*shape, 1, generator=generator, device=generator.device).clamp(-2, 2)
    return torch.cat([moves, 1 + intensity * bright], -1)


def augment(observation: Tensor, noise: Tensor) -> Tensor:
    """Move observations [M, C, h, w], edges repeated, and change their brightness, as :func:`noise` [M, 3] says."""
    count, moves = len(observation), noise[:, :2].long()
    if moves.any():
        place = torch.arange(observation.shape[-1], device=observation.device)
        rows, columns = ((place + moves[:, i:i + 1]).clamp(0, len(place) - 1) for i in (0, 1))
        first = torch.arange(count, device=observation.device)[:, None, None]
        observation = observation.movedim(1, 3)[first, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
    return observation * noise[:, 2, None, None, None]
