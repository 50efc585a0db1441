"""Hyperparameters of PVDR with context representation (arXiv 2411.03169, appendix B.3 and Table 6). Imports no torch.

All that the paper says: ContextWM's mechanism "can be incorporated in PVDR by adding an extra condition (context
representation) during the video prediction". So the parts are ContextWM's (arXiv 2305.18499; thuml/ContextWM at
3a8bca80), and where they meet PVDR's decoder each choice is a key, or stands in docs/departures.md.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.rl.config import Section, key

CONTEXT = "PVDR silent; ContextWM code"


class ContextConfig(Section):
    """The picture that the decoder sees beside x and z, and nothing else does."""

    frame: Literal["random", "seen", "now"] = key(
        "random", "which frame of a clip is its context while the model learns: any of its m + l, any of x, or "
        "the last of x", f"{CONTEXT}: any frame of the sequence (trand), those that are predicted too")
    mask: float = key(0.75, "share of the context's positions that a grid of tokens does not see, each time others, in "
                      "planning too", CONTEXT, ge=0, lt=1)
    heads: int = key(4, "attention heads", CONTEXT, ge=1)
    dropout: float = key(0.0, "of attention weights and of outputs while the model learns",
                         "PVDR's transformers list none; ContextWM code: 0.1", ge=0, lt=1)
    depth: int = key(48, "channels of the encoder's first residual stage; they double by stage", CONTEXT, ge=1)
    blocks: int = key(2, "residual blocks of a stage; there are as many stages as a token's cell can be halved",
                      f"{CONTEXT}: three stages, as a cell of 8 pixels has", ge=1)


class ContextOnlineConfig(Section):
    """The context in the task."""

    frame: Literal["now", "first"] = key(
        "now", "which frame of x is the context of a plan, and of the plan in Eq. 4: the last, or the first",
        "PVDR silent; ContextWM needs none to act, for it acts without its decoder")
    augment: Literal["none", "erasing"] = key(
        "erasing", "what is done to the context in fine-tuning (Eq. 3): nothing, or half of the pictures have a "
        "rectangle erased", f"{CONTEXT}: erasing in Meta-World's tasks but drawer-open")


class PVDRContextConfig(PVDRConfig):
    """PVDR with context representation (arXiv 2411.03169, Table 6)."""

    context: ContextConfig = ContextConfig()
    context_online: ContextOnlineConfig = ContextOnlineConfig()

    @model_validator(mode="after")
    def _heads_fit(self) -> PVDRContextConfig:
        if self.model.d_model % self.context.heads:
            raise ValueError(f"model.d_model {self.model.d_model} is not a multiple of context.heads "
                             f"{self.context.heads}")
        return self
