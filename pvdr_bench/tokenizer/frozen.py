"""The frozen tokenizer that runs stand on: uint8 pictures <-> grids of codes.

Shapes: H = W image size, h = w token grid, K codes of dimension n_q; pictures are uint8 [..., H, W, 3].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pvdr_bench.errors import DataError
from pvdr_bench.tokenizer.config import VQGANConfig
from pvdr_bench.tokenizer.layers import to_float, to_uint8
from pvdr_bench.tokenizer.networks import VQGAN

SIZE_KEY = "image_size"  # an int64 scalar beside the weights of an artefact


class Tokenizer:
    """A trained VQGAN, frozen: uint8 images <-> grids of codes.

    Tensors are moved to the tokenizer's device and stay there. Work is done in batches of ``batch`` images.

    Attributes:
        image_size: H. grid: h. codebook_size: K. code_dim: n_q. codebook: float32 [K, n_q].
    """

    def __init__(self, net: VQGAN, batch: int = 256) -> None:
        self.net = net.eval().requires_grad_(False)
        self.batch, self.image_size, self.grid = batch, net.image_size, net.grid
        self.codebook_size, self.code_dim = net.quantizer.size, net.quantizer.dim

    @property
    def codebook(self) -> Tensor:
        """The code vectors [K, n_q]."""
        return self.net.quantizer.table.detach()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.codebook.device

    def to(self, device: torch.device | str) -> Tokenizer:
        """Move the weights; returns self."""
        self.net.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes int64 [..., h, w] of uint8 images [..., H, W, 3].

        Raises:
            DataError: not uint8, or of another image size.
        """
        size = (self.image_size, self.image_size, 3)
        if images.dtype != torch.uint8 or tuple(images.shape[-3:]) != size:
            raise DataError(f"the tokenizer takes uint8 images {size}, not {images.dtype} {tuple(images.shape[-3:])}",
                            hint="use the tokenizer of this protocol's image size")
        flat = images.reshape(-1, *size)
        out = torch.empty((len(flat), self.grid, self.grid), dtype=torch.int64, device=self.device)
        for i in range(0, len(flat), self.batch):
            z = self.net.features(to_float(flat[i : i + self.batch].to(self.device)))
            out[i : i + self.batch] = self.net.quantizer(z).codes
        return out.view(*images.shape[:-3], self.grid, self.grid)

    def embed(self, codes: Tensor) -> Tensor:
        """Code vectors float32 [..., h, w, n_q] of integer codes [..., h, w]."""
        return F.embedding(codes.to(self.device).long(), self.codebook)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images uint8 [..., H, W, 3] of integer codes [..., h, w]."""
        flat = codes.reshape(-1, self.grid, self.grid)
        out = torch.empty((len(flat), self.image_size, self.image_size, 3), dtype=torch.uint8, device=self.device)
        for i in range(0, len(flat), self.batch):
            out[i : i + self.batch] = to_uint8(self.net.render(self.embed(flat[i : i + self.batch])))
        return out.view(*codes.shape[:-2], *out.shape[1:])


def load_tokenizer(weights: Mapping[str, Tensor], config: VQGANConfig | Mapping[str, Any],
                   device: torch.device | str = "cpu") -> Tokenizer:
    """The frozen tokenizer of an artefact.

    Args:
        weights: what ``VQGANLearner.export`` gave.
        config: the config that made them, typed or as plain data.

    Raises:
        DataError: weights and config do not belong together.
    """
    typed = config if isinstance(config, VQGANConfig) else VQGANConfig.model_validate(dict(config))
    rest = dict(weights)
    size = rest.pop(SIZE_KEY, None)
    if size is None:
        raise DataError(f"tokenizer weights without {SIZE_KEY}", hint="build the tokenizer's artefact again")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and thrown away
        net = VQGAN(typed, int(size))
    try:
        net.load_state_dict(rest)
    except RuntimeError as error:
        raise DataError(f"tokenizer weights do not fit their config: {error}",
                        hint="build the tokenizer's artefact again") from error
    return Tokenizer(net.to(memory_format=torch.channels_last).to(device))  # type: ignore[call-overload]
