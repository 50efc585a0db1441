"""Small matters of English in what people read."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``, ``1,000 runs``; for nouns that take an s."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
