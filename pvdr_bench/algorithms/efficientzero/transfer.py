"""What FICC takes from videos into a task: networks to start from, and latent actions to tell the dynamics.

Shapes: K boxes of actions, S frames of a stack, n entries of a stretch of replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.efficientzero import pictures
from pvdr_bench.algorithms.efficientzero.actions import ActionInput
from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.latent_tree import Reward
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.algorithms.efficientzero.targets import Batch
from pvdr_bench.algorithms.efficientzero.video_model import VideoModel, excess
from pvdr_bench.errors import CatalogError, SetupError
from pvdr_bench.rl.contract import LearnerContext
from pvdr_bench.rl.facts import TaskFacts
from pvdr_bench.rl.replay.drawing import Positions
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.search.boxes import ActionBoxes

_CHUNK = 256  # observations that are encoded at once


def majority(counts: Tensor, unseen: Tensor) -> Tensor:
    """The latent action int64 [K] that was counted most often for each box, the first of equals.

    Args:
        counts: [K, codes]. unseen: int64 [K], what boxes without any count stand for.
    """
    table: Tensor = torch.where(counts.sum(1) > 0, counts.argmax(1), unseen)
    return table


def information(counts: Tensor) -> float:
    """Mutual information in bits between the rows and columns of counts [K, codes]."""
    share = counts.double() / counts.sum().clamp_min(1)
    entropies = [float(torch.special.entr(part).sum()) for part in (share.sum(1), share.sum(0), share)]
    return (entropies[0] + entropies[1] - entropies[2]) / float(torch.log(torch.tensor(2.0)))


class Transferred:
    """The pre-trained model beside the networks that were started from it.

    The model itself stays as it is, with all that reads latent actions; only its frame decoder goes on learning, where
    the search reads decoded frames.

    Raises:
        SetupError: there is no pre-trained model. CatalogError: see :meth:`reward`.
    """

    def __init__(self, context: LearnerContext, net: EfficientZeroNet) -> None:
        if "pretrain" not in context.artefacts:
            raise SetupError("this method starts from a pre-trained video model (stage pretrain), and there is none",
                             hint="run it with pvdr-bench run, which makes the stage first")
        self.config: EfficientZeroConfig = context.config
        self.model = VideoModel(self.config.model, self.config.pretrain)
        self.model.load_state_dict(context.artefacts["pretrain"])
        self.model.to(context.device).eval().requires_grad_(False)
        net.encoder.load_state_dict(self.model.encoder.state_dict())
        net.likeness.load_state_dict(self.model.likeness.state_dict())
        if self.config.model.dynamics_input == "code":
            net.dynamics.load_state_dict(self.model.dynamics.state_dict())
        self.decodes = self.config.search.reward == "decoded"
        if self.decodes:
            self.model.frame_decoder.requires_grad_(True)
        self.metrics: dict[str, float] = {}

    def give(self, inputs: ActionInput) -> None:
        """Let latent actions have their vectors."""
        inputs.codebook = self.model.quantiser.table.detach()

    def parameters(self) -> Iterator[nn.Parameter]:
        """What goes on learning here."""
        return (p for p in self.model.parameters() if p.requires_grad)

    def state_dict(self) -> dict[str, Any]:
        """What has changed since pre-training, and the newest metrics."""
        decoder = self.model.frame_decoder.state_dict() if self.decodes else {}
        return {"frame_decoder": decoder, "metrics": self.metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        if self.decodes:
            self.model.frame_decoder.load_state_dict(state["frame_decoder"])
        self.metrics = dict(state["metrics"])

    # Decoded frames -----------------------------------------------------------------------------------------------

    def reward(self, task: TaskFacts) -> Reward | None:
        """Minus the distance of decoded frames to the goal, in units of that of the task's first frame where the
        protocol's are, and else a mean over pixels in [0, 1]; or None.

        Raises:
            CatalogError: the protocol has no goal image.
        """
        if not self.decodes:
            return None
        goal = task.goal
        if goal is None:
            raise CatalogError("search.reward decoded reads a goal image, and the protocol has none",
                               where="key search.reward", hint="search.reward=head")
        device, model = next(self.model.parameters()).device, self.config.model
        images = torch.stack([torch.from_numpy(x.copy()) for x in (goal.image, goal.start)]).to(device)
        aim, start = pictures.frames(images, model.input_size, model.gray)
        far = (start - aim).abs().mean().clamp_min(1e-6) if task.reward.normalised else 1.0

        def minus_distance(state: Tensor) -> Tensor:
            decoded: Tensor = self.model.frame_decoder(state)
            distance: Tensor = (decoded.sigmoid() - aim).abs().flatten(1).mean(1) / far
            return -distance

        return minus_distance

    def decoder_loss(self, states: list[Tensor], batch: Batch) -> Tensor:
        """Mean loss per pixel of the frames decoded from unrolled states [B, C, g, g]."""
        planes = self.config.model.planes
        frames = batch.observation[:, :, -planes:].flatten(0, 1)
        loss = excess(self.model.frame_decoder(torch.stack(states, 1).flatten(0, 1)), frames) / frames[0].numel()
        seen = batch.inside.flatten().float()
        return (loss * seen).sum() / seen.sum()

    # The action adapter -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def recount(self, replay: EpisodeReplay, current: nn.Module, boxes: ActionBoxes, generator: torch.Generator,
                ) -> Tensor:
        """Count latent actions against boxes in the newest decisions, and return the majority's of each box int64 [K].

        A box that was not seen gets an evenly drawn one. Metrics tell how many those are, how many latent actions the
        boxes have, in what share of decisions the majority's was seen, and what boxes and latent actions tell of one
        another, in bits.
        """
        adapter, codes = self.config.adapter, self.config.model.codes
        encoder = self.model.encoder if adapter.encoder == "pretrained" else current
        counts = torch.zeros(boxes.count, codes)
        for i, stream in enumerate(replay.streams):
            size = min(stream.length, adapter.window // len(replay.streams) + 1)
            box, code = self._pairs(replay, Positions(torch.tensor([i]), torch.tensor([stream.length - size])), size,
                                    encoder, boxes)
            counts += torch.zeros(boxes.count * codes).index_add(
                0, box * codes + code, torch.ones(len(box))).view_as(counts)
        drawn = torch.randint(codes, (boxes.count,), generator=generator)
        table = majority(counts, drawn)
        agreed = counts.gather(1, table[:, None]).sum() / counts.sum().clamp_min(1)
        self.metrics = {"adapter_unseen": float((counts.sum(1) == 0).sum()), "adapter_agreement": float(agreed),
                        "adapter_codes": float(len(set(table.tolist()))), "adapter_bits": information(counts)}
        return table.to(next(self.model.parameters()).device)

    def _pairs(self, replay: EpisodeReplay, start: Positions, size: int, encoder: nn.Module, boxes: ActionBoxes,
               ) -> tuple[Tensor, Tensor]:
        """Boxes and latent actions int64 [n] of the decisions in ``size`` entries from a position [1] on."""
        model = self.config.model
        data = replay.read(start, size, columns=())
        images = data["image"][0].to(next(self.model.parameters()).device)
        planes = pictures.frames(images, model.input_size, model.gray)
        entry = torch.arange(size)
        first = torch.where(data["is_first"][0], entry, 0).cummax(0).values  # of each entry's episode
        stacked = [torch.maximum(entry - back, first) for back in reversed(range(model.stack))]
        observation = torch.cat([planes[index] for index in stacked], 1)
        states = torch.cat([encoder(part) for part in torch.split(observation, _CHUNK)])
        decided = ~data["is_last"][0][:-1]
        before, after = states[:-1][decided.to(states.device)], states[1:][decided.to(states.device)]
        if not len(before):
            return torch.zeros(2, 0, dtype=torch.int64).unbind()  # type: ignore[return-value]
        return boxes.of(data["action"][0][:-1][decided]), self.model.codes_between(before, after).cpu()
