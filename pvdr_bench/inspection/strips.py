"""Rows of frames as one picture, pixel by pixel.

Shapes: H = W image size.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pvdr_bench.playing.canvas import BACKGROUND, INK, Frames, enlarge, paste
from pvdr_bench.rl.views import Row, Strips

CELL = 96  # sides of a frame are at least about so many pixels
GAP, APART = 4, 14
MARGIN = 10
FONT = 13
LINE = 18


@cache
def words(text: str) -> Frames:
    """Text as a picture [LINE, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT)
    image = Image.new("RGB", (int(font.getlength(text)) + 3, LINE), (BACKGROUND,) * 3)
    ImageDraw.Draw(image).text((0, 1), text, font=font, fill=INK)
    return np.asarray(image)


def cell_size(strips: Strips) -> int:
    """Pixels along a side of every enlarged frame."""
    frame = next(cell for row in strips.rows for cell in row.cells if cell is not None)
    size: int = enlarge(frame, CELL).shape[0]
    return size


def places(strips: Strips) -> list[tuple[int, int, Frames]]:
    """Top, left and enlarged frame of every cell that is not empty, row by row."""
    size, left = cell_size(strips), _left(strips)
    return [(top, left + column * (size + GAP), enlarge(cell, CELL))
            for row, top in zip(strips.rows, _tops(strips.rows, size), strict=True)
            for column, cell in enumerate(row.cells) if cell is not None]


def _left(strips: Strips) -> int:
    widest: int = max(words(row.label).shape[1] for row in strips.rows)
    return MARGIN + widest + 2 * GAP


def _tops(rows: tuple[Row, ...], size: int) -> list[int]:
    tops, top = [], MARGIN + LINE + 2
    for row in rows:
        top += APART if row.apart else 0
        tops.append(top)
        top += size + GAP
    return tops


def compose(strips: Strips) -> Frames:
    """The picture uint8 [h, w, 3]."""
    size, left, tops = cell_size(strips), _left(strips), _tops(strips.rows, cell_size(strips))
    columns = max(len(strips.columns), max(len(row.cells) for row in strips.rows))
    canvas = np.full((tops[-1] + size + MARGIN, left + columns * (size + GAP) - GAP + MARGIN, 3), BACKGROUND, np.uint8)
    for column, text in enumerate(strips.columns):
        drawn = words(text)
        paste(canvas, drawn, MARGIN, left + column * (size + GAP) + max(0, (size - drawn.shape[1]) // 2))
    for row, top in zip(strips.rows, tops, strict=True):
        paste(canvas, words(row.label), top + (size - LINE) // 2, MARGIN)
    for top, place, frame in places(strips):
        paste(canvas, frame, top, place)
    return canvas
