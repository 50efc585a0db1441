"""The grammar of ``--videos``: corpora, of which each is a run's own, and mixtures of them.

=============================== =====================================================================================
``jaco-play,bair``              two runs, one on each
``bair+jaco-play``              one run on both, as many clips of one as of the other
``bair,jaco-play:0.5``          one run on both, one clip of jaco-play for two of bair: where a weight stands, commas
                                join; the same as ``bair+jaco-play:0.5``
``jaco-play@bair``              as many training frames of Jaco Play as BAIR has, or all of them where it has fewer
``jaco-play@50000``             as many as that
=============================== =====================================================================================

A mixture's own name, in paths and tables, is ``bair+jaco-play=0.5``: by name, the largest weight 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pvdr_bench.catalog.seeds import Texts
from pvdr_bench.errors import UsageError

_SHARE = re.compile(r"(?P<corpus>[^@:=+,\s]+)(?:@(?P<size>[^@:=+,\s]+))?(?:[:=](?P<weight>[^@:=+,\s]+))?$")
_SMALLEST, _LARGEST = 1e-6, 1e6  # weights; also the smallest once the largest is 1, which a name has to hold
_HINT = "--videos bair,jaco-play:0.5 mixes two; --videos jaco-play,bair are two runs; jaco-play@bair matches a size"


@dataclass(frozen=True)
class Share:
    """A corpus of a mixture.

    Attributes:
        size: the corpus whose number of training frames is matched, or a number; empty: all frames.
        weight: clips are drawn from corpora in proportion to it; None: in proportion to the clips that they have.
    """

    corpus: str
    size: str = ""
    weight: float | None = None

    @property
    def name(self) -> str:
        """Without its weight."""
        return f"{self.corpus}@{self.size}" if self.size else self.corpus


def split_videos(texts: Texts | None) -> tuple[str, ...]:
    """What ``--videos`` says, one canonical text for each run, each once.

    Raises:
        UsageError: it is not of the grammar.
    """
    found: dict[str, None] = {}
    for text in (texts,) if isinstance(texts, str) else texts or ():
        parts = [part.strip() for part in text.split(",")]
        if "" in parts:
            raise UsageError(f"an empty name in {text!r}", where="--videos", hint=_HINT)
        weighted = any((":" in part or "=" in part) and "+" not in part for part in parts)
        if weighted and len(parts) > 1:
            parts = ["+".join(parts)]
        found |= dict.fromkeys(mixture_name(parse_mixture(part)) for part in parts)
    return tuple(found)


def parse_mixture(text: str) -> tuple[Share, ...]:
    """The shares of one text, by name, their weights such that the largest is 1; a single one has none.

    Raises:
        UsageError: it is not of the grammar.
    """
    shares: dict[str, Share] = {}
    for part in text.split("+"):
        match = _SHARE.match(part.strip())
        if match is None:
            raise UsageError(f"{text!r} names no videos", where="--videos", hint=_HINT)
        share = Share(match["corpus"], match["size"] or "", _weight(match["weight"], text))
        if share.corpus in shares:
            raise UsageError(f"{share.corpus} comes twice in {text!r}", where="--videos", hint=_HINT)
        shares[share.corpus] = share
    if len(shares) == 1:
        share = next(iter(shares.values()))
        if "=" in text or ":" in text:
            raise UsageError(f"a weight of a single corpus in {text!r}", where="--videos", hint=_HINT)
        return (Share(share.corpus, share.size),)
    largest = max(share.weight or 1.0 for share in shares.values())
    found = tuple(Share(share.corpus, share.size, float(f"{(share.weight or 1.0) / largest:.6g}"))
                  for _, share in sorted(shares.items()))
    for share in found:
        if share.weight is not None and share.weight < _SMALLEST:
            raise UsageError(f"the weight of {share.corpus} in {text!r} is less than a millionth of the largest",
                             where="--videos", hint=f"leave {share.corpus} out, or give it more")
    return found


def _weight(text: str | None, whole: str) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not _SMALLEST <= weight <= _LARGEST:
        raise UsageError(f"the weight {text!r} in {whole!r} is no number from {_SMALLEST:f} to {_LARGEST:.0f}",
                         where="--videos", hint=_HINT)
    return weight


def mixture_name(shares: Sequence[Share]) -> str:
    """The text of shares, which is part of paths: a weight of 1 is not written."""
    if len(shares) == 1:
        return shares[0].name
    return "+".join(share.name if share.weight == 1 else f"{share.name}={share.weight:g}" for share in shares)
