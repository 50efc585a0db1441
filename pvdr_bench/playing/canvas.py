"""Pictures put together pixel by pixel: frames enlarged by whole pixels, and words.

Shapes: H = W image size.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
BACKGROUND, INK = 255, (60, 60, 60)
HEAD = 16  # height of a line of words


def enlarge(image: Frames, size: int) -> Frames:
    """Scale [..., H, W, 3] to about ``size`` by whole pixels, so that nothing is blurred."""
    factor = max(1, round(size / image.shape[-2]))
    return image.repeat(factor, axis=-3).repeat(factor, axis=-2)


@cache
def label(text: str, color: tuple[int, int, int] = INK) -> Frames:
    """Text as an image [HEAD, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(11)
    width = int(font.getlength(text)) + 2
    image = Image.new("RGB", (width, HEAD), (BACKGROUND,) * 3)
    ImageDraw.Draw(image).text((0, 0), text, font=font, fill=color)
    return np.asarray(image)


def paste(canvas: Frames, image: Frames, top: int, left: int) -> None:
    """Copy as much of an image as fits."""
    height = min(image.shape[0], canvas.shape[0] - top)
    width = min(image.shape[1], canvas.shape[1] - left)
    canvas[top:top + height, left:left + width] = image[:height, :width]
