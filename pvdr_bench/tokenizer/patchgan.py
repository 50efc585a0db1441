"""The adversarial and perceptual parts of VQGAN's loss. Images are float [B, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.errors import DataError, SetupError
from pvdr_bench.tokenizer.shared import SharedBatchNorm


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (arXiv 1611.07004) as in taming: strided convolutions, one logit per patch [B, 1, h', w'].

    Args:
        width: base channels. layers: strided layers; the receptive field is 70 pixels for 3. norm: batch or group.
    """

    def __init__(self, width: int, layers: int, norm: str) -> None:
        def normal(channels: int) -> nn.Module:
            if norm == "batch":  # always on the statistics at hand, so there is no running state
                return SharedBatchNorm(channels)
            return nn.GroupNorm(math.gcd(32, channels), channels)

        stack: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
        for level in range(1, layers + 1):
            wider = width * min(2**level, 8)
            stack += [nn.Conv2d(channels, wider, 4, stride=2 if level < layers else 1, padding=1, bias=False),
                      normal(wider), nn.LeakyReLU(0.2)]
            channels = wider
        super().__init__(*stack, nn.Conv2d(channels, 1, 4, padding=1))
        self.apply(_taming_init)


def _taming_init(module: nn.Module) -> None:
    """Convolutions N(0, 0.02), norm scales N(1, 0.02), as in taming."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: half of mean max(0, 1 - real) + mean max(0, 1 + fake)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """Ratio of the norms of two gradients at the decoder's last layer, clamped to [0, 1e4]; a scalar.

    The reconstruction's norm over the adversarial one's plus 1e-4 (taming's epsilon).
    """
    ratio: Tensor = torch.linalg.vector_norm(reconstruction) / (torch.linalg.vector_norm(adversarial) + 1e-4)
    return ratio.clamp(0, 1e4).detach()


VGG_STAGES: tuple[tuple[tuple[int, int, int], ...], ...] = (  # (index in torchvision's features, in, out) per stage
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)


class PerceptualLoss(nn.Module):
    """LPIPS (arXiv 1801.03924) on VGG-16, frozen.

    Args:
        path: a safetensors file with ``features.I.weight`` and ``features.I.bias`` of torchvision's VGG-16 and
            ``lin0.model.1.weight`` to ``lin4.model.1.weight`` of LPIPS.

    Raises:
        SetupError: no such file. DataError: it lacks a weight.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        from safetensors.torch import load_file

        if not Path(path).is_file():
            raise SetupError("no file with perceptual weights", where=str(path),
                             hint="point loss.perceptual_weights at it, or set loss.perceptual=0")
        weights = load_file(path)
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for _, i, o in stage) for stage in VGG_STAGES)
        self.heads = nn.ModuleList(nn.Conv2d(stage[-1][2], 1, 1, bias=False) for stage in VGG_STAGES)
        names = [(f"stages.{s}.{k}.{part}", f"features.{index}.{part}") for s, stage in enumerate(VGG_STAGES)
                 for k, (index, _, _) in enumerate(stage) for part in ("weight", "bias")]
        names += [(f"heads.{s}.weight", f"lin{s}.model.1.weight") for s in range(len(VGG_STAGES))]
        missing = [theirs for _, theirs in names if theirs not in weights]
        if missing:
            raise DataError(f"perceptual weights lack {missing[0]} and {len(missing) - 1} more", where=str(path))
        self.load_state_dict({ours: weights[theirs] for ours, theirs in names})
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def _features(self, images: Tensor) -> list[Tensor]:
        x, found = (images - self.shift) / self.scale, []
        for number, stage in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if number else x
            for layer in stage:  # type: ignore[attr-defined]
                x = F.relu(layer(x))
            found.append(x)
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean distance of two batches, a scalar."""
        return self.combine(self._features(a), self._features(b))

    def combine(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Weighted squared differences of unit-length features, averaged over positions and summed over stages."""
        def unit(x: Tensor) -> Tensor:
            length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            return x / (length + 1e-10)

        terms = [head((unit(a) - unit(b)).square()).mean()
                 for head, a, b in zip(self.heads, first, second, strict=True)]
        return torch.stack(terms).sum()
