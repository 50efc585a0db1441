"""FICC's networks of videos (Ye et al., ICLR 2023; ``video_networks: released`` as its code has them) and their loss.

Shapes: B clips, T frames of an unroll, S frames of a stack, q numbers of a latent action, w side of a picture.
The inverse model reads two encoded observations and says which of a few codes lies between them; the forward model
follows the codes alone, from the first observation on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.algorithms.efficientzero.config import ModelConfig, PretrainConfig
from pvdr_bench.algorithms.efficientzero.networks import (
    Dynamics,
    Encoder,
    Likeness,
    ResBlock,
    blocks,
    conv,
    normal,
    reduce,
)
from pvdr_bench.nets.quantizer import Quantised, VectorQuantizer


class LatentActions(nn.Module):
    """The latent action generator: what happened between two latent states, as a vector without mean or scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, momentum = config.channels, config.momentum
        self.before, self.after = conv(channels, channels), conv(channels, channels)
        released = config.video_networks == "released"
        planes = config.code_dim if released else config.head_channels
        self.body = nn.Sequential(*blocks(config, channels, momentum),
                                  *([conv(channels, planes), nn.Flatten()] if released else reduce(config)),
                                  nn.Linear(planes * config.grid**2, config.code_dim),
                                  normal(config.code_dim, momentum, affine=False))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """States [M, C, g, g] twice -> [M, q]."""
        out: Tensor = self.body(torch.relu(self.before(before) + self.after(after)))
        return out


class FrameDecoder(nn.Module):
    """Latent states [M, C, g, g] -> logits of pictures [M, c, w, w]; a residual block, then transposed convolutions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.refine = ResBlock(config.channels, config.channels, config.momentum)
        self.ups = nn.ModuleList(up(config, i) for i in range(config.downsamplings))
        self.last = nn.Conv2d(decoder_width(config, config.downsamplings), config.planes, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        """Logits of brightness in [0, 1]."""
        x = self.refine(state)
        for layer in self.ups:
            x = layer(x)
        out: Tensor = self.last(x)
        return out


class ChangeDecoder(nn.Module):
    """Latent states [M, C, g, g] -> logits [M, 2, w', w'] of what grew brighter and darker, at resolutions above."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        levels = range(config.downsamplings)
        self.released = config.video_networks == "released"
        self.ups = nn.ModuleList(up(config, i) for i in levels[:-1 if self.released else None])
        self.heads = nn.ModuleList(nn.Sequential(up(config, i), change_head(config, i)) if self.released
                                   else change_head(config, i) for i in levels)

    def forward(self, state: Tensor) -> list[Tensor]:
        """The coarsest first."""
        if self.released:  # each resolution has a doubling of its own, beside the one that leads to the next
            below = [state]
            for layer in self.ups:
                below.append(layer(below[-1]))
            return [head(x) for head, x in zip(self.heads, below, strict=True)]
        out, x = [], state
        for layer, last in zip(self.ups, self.heads, strict=True):
            x = layer(x)
            out.append(last(x))
        return out


def change_head(config: ModelConfig, level: int) -> nn.Conv2d:
    """What was doubled from ``level`` -> logits of what grew brighter and darker."""
    return nn.Conv2d(decoder_width(config, level + 1), 2, 3, padding=1)


def decoder_width(config: ModelConfig, level: int) -> int:
    """Channels after ``level`` doublings of the side."""
    if config.video_networks == "released":
        return config.channels
    return max(4, config.channels >> max(0, level - 1))


def up(config: ModelConfig, level: int) -> nn.Sequential:
    """A transposed convolution that doubles the side."""
    inputs, outputs = decoder_width(config, level), decoder_width(config, level + 1)
    double = (nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False)
              if config.video_networks == "released" else nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False))
    return nn.Sequential(double, normal(outputs, config.encoder_momentum), nn.ReLU())


def excess(logits: Tensor, target: Tensor) -> Tensor:
    """B(p, q) = BCE(p, q) - BCE(q, q) [M], summed over all but the first dimension: zero where p is q."""
    least = torch.special.entr(target) + torch.special.entr(1 - target)
    total: Tensor = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") - least).flatten(1).sum(1)
    return total


@dataclass
class Unrolled:
    """What a clip gave."""

    actions: Quantised  # of the T - 1 transitions of each clip, [B * (T - 1), q], clip after clip
    encoded: Tensor  # z before quantisation, of the same shape
    states: Tensor  # [B, T, C, g, g], rolled out
    frame: Tensor  # [B, T], losses of frames, of a picture of ``pixels`` pixels
    change: Tensor  # [B, T - 1], of changes, all resolutions
    consistency: Tensor  # [B, T - 1]


class VideoModel(nn.Module):
    """Encoder, latent action generator, both dynamics, both decoders, SimSiam's projections."""

    def __init__(self, config: ModelConfig, own: PretrainConfig) -> None:
        super().__init__()
        self.config, self.pixels = config, own.pixels
        self.encoder, self.latent_actions = Encoder(config), LatentActions(config)
        self.quantiser = VectorQuantizer(config.codes, config.code_dim, own.codebook == "ema")
        momentum = config.encoder_momentum if config.video_networks == "released" else None
        self.dynamics, self.change_dynamics = (Dynamics(config, config.code_dim, momentum) for _ in range(2))
        self.frame_decoder, self.change_decoder = FrameDecoder(config), ChangeDecoder(config)
        self.likeness = Likeness(config)

    def clipped(self) -> list[list[nn.Parameter]]:
        """Parameters in the groups whose gradients are clipped each on their own."""
        groups = [[child] for child in self.children()]
        if self.config.video_networks == "released":
            draw, alike = self.frame_decoder, self.likeness
            groups = [[self.encoder], [self.latent_actions, self.quantiser], [self.dynamics], [self.change_dynamics],
                      [draw.refine], [draw.ups, draw.last], [self.change_decoder], [alike.projector], [alike.predictor]]
        found = [[p for module in group for p in module.parameters()] for group in groups]
        return [parameters for parameters in found if parameters]  # codes that are moving averages have none

    def forward(self, observation: Tensor, first: Tensor, frames: Tensor) -> Unrolled:
        """Unroll clips.

        Args:
            observation: [B, T, S * c, w, w], augmented. first: [B, S * c, w, w], the first ones augmented otherwise.
            frames: [B, T, c, w, w], the newest frame of each, not augmented.
        """
        count, steps = observation.shape[:2]
        real = self.encoder(observation.flatten(0, 1)).unflatten(0, (count, steps))
        encoded = self.latent_actions(real[:, :-1].flatten(0, 1), real[:, 1:].flatten(0, 1))
        actions = self.quantiser(encoded)
        codes = actions.z.unflatten(0, (count, steps - 1))
        state, states, changed = self.encoder(first), [], []
        states.append(state)
        for t in range(steps - 1):
            changed.append(self.change_dynamics(state, codes[:, t]))
            state = self.dynamics(state, codes[:, t])
            states.append(state)
        rolled = torch.stack(states, 1)
        frame = self.frame_loss(rolled.flatten(0, 1), frames.flatten(0, 1)).view(count, steps)
        change = self.change_loss(torch.stack(changed, 1).flatten(0, 1), frames).view(count, steps - 1)
        target = self.likeness.target(real[:, 1:].flatten(0, 1))
        consistency = self.likeness.loss(rolled[:, 1:].flatten(0, 1), target).view(count, steps - 1)
        return Unrolled(actions, encoded, rolled, frame, change, consistency)

    def frame_loss(self, state: Tensor, frame: Tensor) -> Tensor:
        """Losses [M] of the frames decoded from states, of a picture of ``pixels`` pixels."""
        return excess(self.frame_decoder(state), frame) * (self.pixels / frame[0].numel())

    def change_loss(self, state: Tensor, frames: Tensor) -> Tensor:
        """Losses [B * (T - 1)] of the changes decoded from states; frames [B, T, c, w, w]."""
        gray = frames.mean(2, keepdim=True)
        step = (gray[:, 1:] - gray[:, :-1]).flatten(0, 1)
        change = torch.cat([step.clamp_min(0), (-step).clamp_min(0)], 1)  # brighter, darker
        side, total = change.shape[-1], change.new_zeros(len(change))
        for logits in self.change_decoder(state):
            factor = side // logits.shape[-1]
            total = total + excess(logits, F.max_pool2d(change, factor) if factor > 1 else change)
        return total * (self.pixels / side**2)

    @torch.no_grad()
    def codes_between(self, before: Tensor, after: Tensor) -> Tensor:
        """Latent actions int64 [M] between states [M, C, g, g]; in evaluation mode."""
        codes: Tensor = self.quantiser(self.latent_actions(before, after)).codes
        return codes


def ficc_loss(found: Unrolled, own: PretrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of section 3.1 of the released code, a mean over clips, and its parts."""
    steps = found.frame.shape[1]
    frame, change = found.frame.sum(1).mean() / steps, found.change.sum(1).mean() / steps
    consistency = found.consistency.sum(1).mean() / steps
    # the codes' terms are sums over transitions of means over the numbers of a vector
    codebook, commitment = found.actions.codebook * (steps - 1), found.actions.commitment * (steps - 1)
    size = 0.5 * (found.states[:, 0].abs().mean() + found.states[:, 1:].abs().mean())
    total = (frame + own.difference * change + own.consistency * consistency + own.commitment * commitment
             + own.l1 * size)
    if own.codebook == "gradient":
        total = total + codebook
    return total, {"loss": total, "frame_loss": frame, "change_loss": change, "consistency_loss": consistency,
                   "codebook_loss": codebook, "commitment_loss": commitment, "state_size": size}
