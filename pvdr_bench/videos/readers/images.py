"""One picture from its bytes: PNG, JPEG or whatever Pillow reads, told apart by their first bytes.

PNG carries checksums, and Pillow does not compare those of the pixels: they are compared here. JPEG has none: what is
damaged may decode to other pixels, unless the file around it has a checksum, as a TFRecord has.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np

from pvdr_bench.errors import DataError
from pvdr_bench.needed import need
from pvdr_bench.videos.readers.base import Frames, check_frame

PNG, JPEG, GIF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"GIF87a", b"GIF89a")
FORMATS = ("PNG", "JPEG")


def is_picture(data: bytes | memoryview) -> bool:
    """Whether bytes begin as a PNG or a JPEG does."""
    head = bytes(data[:8])
    return head == PNG or head[:3] == JPEG


def decode(data: bytes | memoryview, where: str) -> Frames:
    """A picture as RGB: uint8 [H, W, 3]. What is transparent lies on black; grey becomes three equal channels.

    Raises:
        DataError: neither PNG nor JPEG, damaged, or larger than any picture should be.
    """
    raw = bytes(data)
    if not is_picture(raw):
        raise DataError(f"neither PNG nor JPEG (begins with {raw[:8].hex(' ') or 'nothing'})", where=where)
    if raw.startswith(PNG):
        _check_png(raw, where)
    module: Any = need("PIL.Image", "decoding pictures", "pip install pillow")
    try:
        with warnings.catch_warnings(), module.open(io.BytesIO(raw), formats=FORMATS) as image:
            warnings.simplefilter("ignore", module.DecompressionBombWarning)  # our own limit is lower
            check_frame(image.height, image.width, where)
            return rgb(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they meet: OSError, SyntaxError, ValueError, ...
        raise DataError(f"cannot be decoded: {type(error).__name__}: {error}", where=where) from error


def rgb(image: Any) -> Frames:
    """A Pillow image as uint8 [H, W, 3]."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16 bits a pixel: the upper eight, and not Pillow's clipping
        deep = np.asarray(image).astype(np.uint32) >> 8
        return np.repeat(np.minimum(deep, 255).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        solid = image.convert("RGBA")
        black: Any = need("PIL.Image", "decoding pictures").new("RGBA", solid.size, (0, 0, 0, 255))
        black.alpha_composite(solid)
        image = black
    return np.array(image.convert("RGB"), np.uint8)


def _check_png(raw: bytes, where: str) -> None:
    """Walk the chunks and compare their checksums."""
    at = len(PNG)
    while at < len(raw):
        if at + 12 > len(raw):
            break
        length, = struct.unpack(">I", raw[at:at + 4])
        end = at + 8 + length
        if end + 4 > len(raw):
            break
        if zlib.crc32(raw[at + 4:end]) != struct.unpack(">I", raw[end:end + 4])[0]:
            raise DataError("a PNG with a wrong checksum", where=f"{where}, byte {at} of the picture")
        if raw[at + 4:at + 8] == b"IEND":
            return
        at = end + 4
    raise DataError("a PNG that is cut off", where=f"{where}, byte {min(at, len(raw))} of the picture")
