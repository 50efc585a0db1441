"""EfficientZero's networks (arXiv 2111.00210, appendix A.1, as its code has them), on latent states [B, C, g, g].

Shapes: B batch, K boxes of actions, Z numbers of an action's input, H units of the value prefix's LSTM, P projection.
Scalars are distributions over atoms, evenly spaced on the scale of :func:`transform`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.efficientzero.config import ModelConfig
from pvdr_bench.nets.twohot import two_hot_loss, two_hot_mean
from pvdr_bench.tokenizer.shared import SharedBatchNorm

Hidden = tuple[Tensor, Tensor]  # of an LSTM, each [B, H]
_EPSILON = 0.001
_WIDTH = 0.25  # standard deviation, on the scale of the atoms, of a distribution that says a scalar before it learns


def transform(x: Tensor) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x (Pohlen et al., arXiv 1805.11593)."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + _EPSILON * x


def inverse_transform(y: Tensor) -> Tensor:
    """x of y = h(x)."""
    root = ((1 + 4 * _EPSILON * (y.abs() + 1 + _EPSILON)).sqrt() - 1) / (2 * _EPSILON)
    return y.sign() * (root.square() - 1)


class Scalars(nn.Module):
    """Distributions over atoms as scalars, and the loss of them."""

    atoms: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count = round(2 * config.support / config.bin_width) + 1
        self.register_buffer("atoms", torch.linspace(-config.support, config.support, count), persistent=False)

    def mean(self, logits: Tensor) -> Tensor:
        """Scalars [...] of logits [..., atoms]."""
        return inverse_transform(two_hot_mean(logits, self.atoms))

    def beyond(self, target: Tensor) -> Tensor:
        """Share of scalars [...] beyond the outermost atoms, which :meth:`loss` takes for those; 0 of none."""
        return (transform(target).abs() > self.atoms[-1]).float().sum() / max(1, target.numel())

    def around(self, scalar: float) -> Tensor:
        """Logits [atoms] of a normal distribution about a scalar."""
        width = max(_WIDTH, float(self.atoms[1] - self.atoms[0]))
        return -0.5 * ((self.atoms - transform(self.atoms.new_tensor(scalar))) / width).square()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy [...] against scalars [...]."""
        return two_hot_loss(logits, transform(target), self.atoms)


def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    """A convolution without bias, padded so that the side is kept or divided by the stride."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def normal(channels: int, momentum: float, affine: bool = True) -> SharedBatchNorm:
    """Batch normalisation of [N, C, h, w] or [N, C], by the batch of all processes that train together."""
    return SharedBatchNorm(channels, running=True, momentum=momentum, affine=affine)


class ResBlock(nn.Module):
    """Two normalised convolutions beside the identity, or beside a convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, momentum: float, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, stride), normal(outputs, momentum), nn.ReLU(),
                                  conv(outputs, outputs), normal(outputs, momentum))
        self.side = nn.Identity() if stride == 1 and inputs == outputs else conv(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, g, g] -> [B, outputs, g / stride, g / stride]."""
        out: Tensor = torch.relu(self.body(x) + self.side(x))
        return out


def blocks(config: ModelConfig, channels: int, momentum: float) -> list[nn.Module]:
    """``config.blocks`` residual blocks."""
    return [ResBlock(channels, channels, momentum) for _ in range(config.blocks)]


class Encoder(nn.Module):
    """Observations [B, S * c, h, w] -> latent states [B, C, g, g]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        half, momentum = config.channels // 2, config.encoder_momentum
        layers: list[nn.Module] = [conv(config.stack * config.planes, half, 2),
                                   normal(half, momentum), nn.ReLU(), *blocks(config, half, momentum),
                                   ResBlock(half, config.channels, momentum, 2),
                                   *blocks(config, config.channels, momentum)]
        for _ in range(config.downsamplings - 2):
            layers += [nn.AvgPool2d(3, 2, 1), *blocks(config, config.channels, momentum)]
        self.layers = nn.Sequential(*layers)

    def forward(self, observation: Tensor) -> Tensor:
        """Latent states."""
        out: Tensor = self.layers(observation)
        return out


class Dynamics(nn.Module):
    """The latent state that an action leads to: a normalised convolution beside the identity, then residual blocks.

    Args:
        momentum: of the first normalisation; None: as elsewhere.
    """

    def __init__(self, config: ModelConfig, inputs: int, momentum: float | None = None) -> None:
        super().__init__()
        self.mix = nn.Sequential(conv(config.channels + inputs, config.channels),
                                 normal(config.channels, config.momentum if momentum is None else momentum))
        self.blocks = nn.Sequential(*blocks(config, config.channels, config.momentum))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """States [B, C, g, g] and what is told of actions [B, Z] -> states [B, C, g, g]."""
        plane = action[:, :, None, None].expand(-1, -1, *state.shape[-2:])
        out: Tensor = self.blocks(torch.relu(self.mix(torch.cat([state, plane], 1)) + state))
        return out


def head(inputs: int, config: ModelConfig, outputs: int) -> nn.Sequential:
    """A dense layer and a last one that starts at zero."""
    last = nn.Linear(config.head_units, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, config.head_units), normal(config.head_units,
                         config.momentum), nn.ReLU(), last)


def reduce(config: ModelConfig) -> nn.Sequential:
    """States [B, C, g, g] -> [B, head_channels * g * g]."""
    return nn.Sequential(conv(config.channels, config.head_channels, size=1),
                         normal(config.head_channels, config.momentum), nn.ReLU(), nn.Flatten())


def dense(widths: list[int], momentum: float, last_norm: bool) -> nn.Sequential:
    """Dense layers with batch normalisation and ReLU between them; the last has at most the normalisation."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        final = i == len(widths) - 2
        layers.append(nn.Linear(inputs, outputs))
        if not final or last_norm:
            layers.append(normal(outputs, momentum))
        if not final:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Likeness(nn.Module):
    """SimSiam's projector and predictor (arXiv 2011.10566) on latent states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.projection
        self.projector = dense([config.channels * config.grid**2, width, width, width], config.momentum, True)
        self.predictor = dense([width, config.predictor, width], config.momentum, False)

    def target(self, state: Tensor) -> Tensor:
        """Projections [B, P] without gradient."""
        with torch.no_grad():
            out: Tensor = self.projector(state.flatten(1))
        return out

    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        """One minus the cosine [B] between what is predicted of states and the projections that are meant."""
        return 1 - torch.cosine_similarity(self.predictor(self.projector(state.flatten(1))), target, -1)


class EfficientZeroNet(nn.Module):
    """All networks of the online learner.

    Args:
        boxes: K. action_inputs: Z.
    """

    def __init__(self, config: ModelConfig, boxes: int, action_inputs: int) -> None:
        super().__init__()
        flat = config.head_channels * config.grid**2
        self.config, self.scalars = config, Scalars(config)
        atoms = len(self.scalars.atoms)
        self.encoder, self.dynamics, self.likeness = Encoder(config), Dynamics(config, action_inputs), Likeness(config)
        self.trunk = nn.Sequential(*blocks(config, config.channels, config.momentum))
        self.policy = nn.Sequential(reduce(config), head(flat, config, boxes))
        self.value = nn.Sequential(reduce(config), head(flat, config, atoms))
        self.prefix_input, self.lstm = reduce(config), nn.LSTMCell(flat, config.prefix_units)
        self.prefix = nn.Sequential(normal(config.prefix_units, config.momentum), nn.ReLU(),
                                    head(config.prefix_units, config, atoms))

    def hidden(self, count: int) -> Hidden:
        """The value prefix's LSTM at its start."""
        zero = self.scalars.atoms.new_zeros(count, self.config.prefix_units)
        return zero, zero

    def predict(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the policy [B, K] and of the value [B, atoms] at states."""
        shared = self.trunk(state)
        return self.policy(shared), self.value(shared)

    @torch.no_grad()
    def start_value(self, scalar: float) -> None:
        """Let the value head, which has learned nothing yet, say ``scalar`` of every state."""
        *_, last = self.value.modules()
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
        last.bias.copy_(self.scalars.around(scalar))

    def advance(self, state: Tensor, action: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """The next states, and the next state of the value prefix's LSTM; ``prefix`` reads what it puts out [B, H].

        In training ``prefix`` is asked once for all steps of an unroll: normalised by the batch of one step, its input
        would not tell how many rewards are summed, which the search reads by averages over all steps.
        """
        after = self.dynamics(state, action)
        return after, self.lstm(self.prefix_input(after), hidden)

    def step(self, state: Tensor, action: Tensor, hidden: Hidden) -> tuple[Tensor, Tensor, Hidden]:
        """The next states, logits [B, atoms] of the rewards' sum since the LSTM started, and its next state."""
        after, hidden = self.advance(state, action, hidden)
        return after, self.prefix(hidden[0]), hidden
