"""What an algorithm can show of what its models think, as plain arrays: the pictures of ``pvdr-bench inspect``.

An algorithm names its views where it declares itself: ``views`` of its :class:`~pvdr_bench.algorithms.registry.Stage`
for an artefact, ``views`` of its :class:`~pvdr_bench.algorithms.registry.AlgorithmInfo` for a run. Each is
``module:NAME`` of a mapping from a word that the user types to a :class:`View`: a function of what is looked at, which
gives exhibits by the name of their file. Nothing here draws: ``inspection/`` does, and it knows no algorithm.

Shapes: T decisions, H = W image size, A action dimensions, n samples, d numbers of a representation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pvdr_bench.rl.contract import Learner

Frame = NDArray[np.uint8]  # [H, W, 3]
Frames = NDArray[np.uint8]  # [..., H, W, 3]
Values = NDArray[np.floating[Any]]
LEVELS = 255.0


class NothingToShow(UsageError):
    """A view has nothing to show of this target, for the reason told; the others may have."""


@dataclass(frozen=True)
class Exhibit:
    """What is shown.

    Attributes:
        title: a few words. about: what one sees, in a sentence or two, as a caption has it.
        numbers: what was measured beside it, as JSON types; units are in the names or in ``about``.
    """

    title: str
    about: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of :class:`Strips`; ``apart`` leaves more room above it. A cell may be empty."""

    label: str
    cells: tuple[Frame | None, ...]
    apart: bool = False


@dataclass(frozen=True)
class Strips(Exhibit):
    """Frames in rows, pixel by pixel, under the columns' labels."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Panel:
    """Representations z [n, d] of one observation, each with the action [n, A] in [-1, 1] that it is read as.

    Attributes:
        actions: by the way in which they were read; each way gives a picture. The first one is the paper's.
        frame: the observation, or None where there is not one for all.
        group: [n], of samples that resemble one another, such as clips of one episode: a probe is never judged on one
            of a group that it was fitted to. None where they were drawn one by one.
    """

    label: str
    z: Values
    actions: Mapping[str, Values]
    frame: Frame | None = None
    group: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Cloud(Exhibit):
    """Representations in the plane (t-SNE), coloured by their actions; ``columns`` panels side by side."""

    panels: tuple[Panel, ...]
    columns: int = 2


@dataclass(frozen=True)
class Line:
    """A curve [n]; those with the same ``ylabel`` share their axes."""

    label: str
    ylabel: str
    x: Values
    y: Values


@dataclass(frozen=True)
class Curves(Exhibit):
    """Curves over one axis, a panel for each ``ylabel``; ``marks`` are places on it, with words."""

    xlabel: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Picture(Exhibit):
    """One picture [h, w, 3], as it is."""

    picture: Frame


@dataclass(frozen=True)
class Film(Exhibit):
    """Pictures [T, h, w, 3] one after the other."""

    pictures: Frames
    fps: float = 10.0


@dataclass(frozen=True)
class Clips:
    """Held-out clips: frames uint8 [B, T, H, W, 3], the mean action [B, T - 1, A] between each frame and the next,
    which only the corpus' maker knows (None where nobody does), and the number [B] of the episode that each is of."""

    frames: Frames
    action: Values | None
    episode: NDArray[np.int64]


@dataclass(frozen=True)
class Amounts:
    """How much is looked at: cases in a picture, samples of a representation or frames of a measurement, and the seed
    of all that is drawn."""

    cases: int = 3
    samples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """An artefact that is looked at.

    Attributes:
        config: the algorithm's, as far as the artefact's recipe tells it. weights: by name.
        inputs: what the stages that it needs made, as :class:`~pvdr_bench.rl.contract.StageContext` has it.
        clips: (B, T, stride) -> held-out clips of its corpus, drawn by the seed.
    """

    config: Any
    weights: Mapping[str, Tensor]
    device: torch.device
    image_size: int
    inputs: Mapping[str, Any]
    clips: Callable[[int, int, int], Clips]
    amounts: Amounts


@dataclass(frozen=True)
class Played:
    """A run's policy that is looked at, and an evaluation episode that it played.

    Attributes:
        start: makes the learner as it was before the first decision of the run.
        images: [T + 1, H, W, 3]. actions: [T, A]. rewards, success: [T]. goal: [H, W, 3], or None.
        extras: what the learner told with each decision, tensors [1, ...].
        train: rows of the run's ``train.jsonl``. env_steps: of the checkpoint.
    """

    learner: Learner
    start: Callable[[], Learner]
    images: Frames
    actions: Values
    rewards: Values
    success: NDArray[np.bool_]
    goal: Frame | None
    extras: Sequence[Mapping[str, Tensor]]
    train: Sequence[Mapping[str, Any]]
    env_steps: int
    amounts: Amounts = field(default_factory=Amounts)


Exhibits = Iterator[tuple[str, Exhibit]]  # the name of the file without its ending, and what is in it


@dataclass(frozen=True)
class View:
    """What shows something of a :class:`Trained` or a :class:`Played`.

    Attributes:
        show: makes the exhibits. reads: which fields of :class:`Amounts` change them; others are refused where the user
            gives them for this view alone.
    """

    show: Callable[[Any], Exhibits]
    reads: tuple[str, ...]

    def __call__(self, of: Trained | Played) -> Exhibits:
        """What it shows of it."""
        return self.show(of)


Views = Mapping[str, View]


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module its weights.

    Raises:
        DataError: they are of other networks.
    """
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise DataError(f"the weights do not fit the recipe's networks: {str(error).splitlines()[0]}",
                        hint="make the artefact again with this version: pvdr-bench pretrain --fresh") from error


def psnr(drawn: Frames, true: Frames) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 255] against true ones; 99 at most, where all are alike."""
    error = float(np.square((drawn.astype(np.float64) - true) / LEVELS).mean())
    return 99.0 if error < 10**-9.9 else -10.0 * float(np.log10(error))


def difference(drawn: Frames, true: Frames, gain: float = 2.0) -> Frames:
    """Where pictures differ: ``gain`` times the largest difference over colours, black where there is none."""
    largest = np.abs(drawn.astype(np.float64) - true).max(-1, keepdims=True) * gain
    return np.broadcast_to(largest.clip(0, LEVELS), true.shape).astype(np.uint8)


def spread_out(length: int, count: int) -> list[int]:
    """At most ``count`` different places of 0 .. length - 1, evenly spread, neither at the very start nor the end."""
    places = (np.arange(count) + 0.5) / count * length
    return sorted({int(place) for place in places if place < length})
