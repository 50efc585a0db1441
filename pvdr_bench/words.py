"""Small matters of English in what people read: plurals, and the name that somebody may have meant."""

from __future__ import annotations

import math
from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``, ``1,000 runs``; for nouns that take an s."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def significant(value: float, digits: int = 3) -> str:
    """A number to so many digits, never with an exponent: ``0.0123``, ``4.56``, ``12,300``."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    value = float(f"{value:.{digits - 1}e}")
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def disk_size(size: float) -> str:
    """Bytes as ``3.4 MiB`` or ``1,234.5 GiB``."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The most similar allowed name, or None if nothing is close."""
    import difflib  # for errors alone

    return next(iter(difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)), None)


def did_you_mean(close: str | None) -> str:
    """``did you mean 'reach'? ``, with which a hint begins; empty if nothing is close."""
    return f"did you mean {close!r}? " if close else ""
