"""What is measured of frames and their reconstructions.

Shapes: B clips of T frames, N frames; h x w token grid.
"""

from __future__ import annotations

import math

from torch import Tensor

from pvdr_bench.errors import TrainingError

STILL = 2  # a cell is still if none of its values changes by more than this, of 255
PEAK = 4.0  # squared range of images in [-1, 1]


def foreground_weights(images: Tensor, mean: Tensor, spread: Tensor, strength: float) -> Tensor:
    """Weights [N, 1, H, W] of pixels: 1 + strength * min(10, difference from the mean frame / its average)."""
    difference = (images - mean).abs().mean(1, keepdim=True) / spread.clamp_min(1e-6)
    return 1 + strength * difference.clamp_max(10)


def cell_changes(frames: Tensor, factor: int) -> Tensor:
    """Largest change of any value of a token's cell between neighbours: uint8 [B, T, H, W, 3] -> int [B, T-1, h, w]."""
    change = (frames[:, 1:].int() - frames[:, :-1].int()).abs().amax(-1)
    b, t, h, w = change.shape
    return change.view(b, t, h // factor, factor, w // factor, factor).amax((3, 5))


def psnr(mse: float) -> float:
    """Peak signal to noise ratio in dB of a squared error on images in [-1, 1].

    Raises:
        TrainingError: the error is not a number.
    """
    if not math.isfinite(mse):
        raise TrainingError(f"the squared error is {mse}", hint="lower train.lr")
    return 10 * math.log10(PEAK / max(mse, 1e-10))


def motion_metrics(frames: Tensor, error: Tensor, codes: Tensor, factor: int) -> dict[str, float]:
    """What tokens do between neighbouring frames, see :meth:`VQGANLearner.validate`.

    Args:
        frames: uint8 [B, T, H, W, 3]. error: of the reconstruction, float of the same shape. codes: [B, T, h, w].
        factor: pixels along one side of a token's cell.
    """
    moving = cell_changes(frames, factor) > STILL
    changed = codes[:, 1:] != codes[:, :-1]
    b, t, size, _, _ = error[:, 1:].shape
    cells = error[:, 1:].mean(-1).view(b, t, size // factor, factor, size // factor, factor).mean((3, 5))

    def mean(values: Tensor, mask: Tensor) -> float:
        return float(values[mask].float().mean()) if mask.any() else 0.0

    return {"token_change": float(changed.float().mean()), "token_flicker": mean(changed, ~moving),
            "token_response": mean(changed, moving), "l1_moving": mean(cells, moving)}
