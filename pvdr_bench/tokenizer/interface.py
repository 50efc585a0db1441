"""What the rest of the house needs of a frozen tokenizer; :class:`pvdr_bench.tokenizer.frozen.Tokenizer` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class FrameTokenizer(Protocol):
    """Pictures uint8 [..., H, W, 3] <-> grids of codes [..., h, w] of K codes, each a vector of n_q numbers."""

    @property
    def grid(self) -> int:
        """Side h = w of the token grid."""
        ...

    @property
    def codebook_size(self) -> int:
        """K."""
        ...

    @property
    def code_dim(self) -> int:
        """n_q."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Codes int64 [..., h, w] of images uint8 [..., H, W, 3]."""
        ...

    def embed(self, codes: Tensor) -> Tensor:
        """Code vectors float [..., h, w, n_q] of integer codes [..., h, w]."""
        ...
