"""Stage ``pretrain`` of STG: predict the next embedding, deceive a critic, regress temporal distances.

Shapes: B clips, T transitions, so T + 1 frames, H = W image size, d embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.algorithms.stg.config import PretrainConfig, STGConfig
from pvdr_bench.algorithms.stg.measures import judged
from pvdr_bench.algorithms.stg.networks import Critic, STGModel, TemporalDistance, symlog
from pvdr_bench.nets.optimizers import clip_gradients, load_optimizer_state, optimizer_state, require_finite
from pvdr_bench.rl.contract import OfflineLearner, StageContext
from pvdr_bench.tokenizer.shared import RowDropout, SharedBatchNorm

UNIT_MEMORY = 0.99  # of the running standard deviation that becomes the unit of the reward


def critic_loss(critic: Critic, before: Tensor, predicted: Tensor, after: Tensor, others: Sequence[Tensor],
                share: float) -> tuple[Tensor, Tensor]:
    """D(false) - D(true), a mean over transitions, and D(true) - D(predicted) [B, T].

    False are predictions and, by ``share``, true frames ``others`` [B, T, d] of other moments, each sort alike.
    """
    true, guess = critic(before, after), critic(before, predicted)
    loss = (guess - true).mean()
    if others:
        wrong = torch.stack([critic(before, other) for other in others]).mean()
        loss = loss + share * (wrong - guess.mean())
    return loss, (true - guess).detach()


def distance_loss(distance: TemporalDistance, frames: Tensor, order: Tensor) -> Tensor:
    """Squared error of symlog distances from each of the frames [B, T, d] to the one that ``order`` int64 [T] names."""
    ahead = symlog((order - torch.arange(len(order), device=order.device)).float())
    return F.mse_loss(distance(frames, frames[:, order]), ahead.expand(len(frames), -1))


def generator_loss(model: STGModel, config: PretrainConfig, before: Tensor, step: Tensor, after: Tensor,
                   order: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of encoder, transformer and regressor; the target of the prediction is not detached.

    Args:
        before, after: embeddings [B, T, d] of neighbouring frames. step: the predicted difference.
    """
    place = before if config.adversarial_moves == "encoder" else before.detach()
    terms = {"prediction": F.mse_loss(step, after - before),
             "adversarial": -model.critic(place, place + step).mean()}
    loss = config.prediction_weight * terms["prediction"] + config.adversarial_weight * terms["adversarial"]
    if config.distance_weight:
        terms["distance"] = distance_loss(model.distance, after, order)
        loss = loss + config.distance_weight * terms["distance"]
    return loss, terms


class STGPretrainer(OfflineLearner):
    """Trains on uint8 clips [B, T + 1, H, W, 3]: one step of the critic, then one of everything else."""

    def __init__(self, config: STGConfig, seed: int, device: torch.device) -> None:
        self.config, self.seed, self.device, self.step = config.pretrain, seed, device, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = STGModel(config.model).to(device)
        self.dropouts = [module for module in self.model.modules() if isinstance(module, RowDropout)]
        self.norms = [module for module in self.model.modules() if isinstance(module, SharedBatchNorm)]
        self.owned, decays = self._owned()
        own = config.pretrain
        self.optimiser = torch.optim.AdamW(
            [{"params": [p for p, yes in zip(self.owned, decays, strict=True) if yes is decayed],
              "weight_decay": own.weight_decay if decayed else 0.0} for decayed in (True, False)],
            lr=own.lr, betas=(own.beta1, own.beta2))
        last = self.model.critic.layers[-1].bias  # cancels in the critic's loss: rounding alone would move it
        self.critic_parameters = [p for p in self.model.critic.parameters() if p is not last]
        self.critic_optimiser = torch.optim.RMSprop(self.critic_parameters, lr=own.lr)

    @classmethod
    def for_stage(cls, context: StageContext) -> STGPretrainer:
        """On frames."""
        return cls(context.config, context.seed, context.device)

    def _owned(self) -> tuple[list[nn.Parameter], list[bool]]:
        """What the generator's optimiser moves, and whether its weight decay is on.

        The released code collects ``weight`` of linear layers and convolutions, and every ``bias``, of the whole model.
        It misses weights under a spectral norm, which have another name, and so owns the critic's biases, and its first
        weight unless ``critic_norm_first`` puts that under one too.
        """
        owned: dict[nn.Parameter, bool] = {}
        for child, module in self.model.generator_modules():
            for name, parameter in module.named_parameters(prefix=child):
                owned[parameter] = parameter.ndim > 1 and name.endswith("weight")
        owned |= {self.model.local_positions: False, self.model.global_positions: False}
        if self.config.generator_owns == "released":
            for layer in self.model.critic.layers:
                owned |= {p: name == "weight" for name, p in layer.named_parameters() if name in ("weight", "bias")}
        return list(owned), list(owned.values())

    def _generator(self) -> torch.Generator:
        """The random numbers of one step, but for dropout: a function of seed and step, so there is no state."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """One step of both optimisers.

        Raises:
            TrainingError: a loss is not finite.
        """
        rows, rank, size = len(batch), self.group.rank, self.group.size
        for dropout in self.dropouts:
            dropout.around = (rank * rows, (size - rank - 1) * rows)
        for norm in self.norms:
            norm.group = self.group
        start = torch.zeros(rows, dtype=torch.long) if start is None else start
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):  # for dropout
            torch.manual_seed(self.seed * 1_000_003 + self.step)
            frames = self.model.encoder(batch.to(self.device))
            before, after = frames[:, :-1], frames[:, 1:]
            step = self.model.steps(before, start.to(self.device))
        generator = self._generator()
        order = torch.randperm(after.shape[1], generator=generator).to(self.device)
        others = self._others(after.detach(), generator) if self.config.shuffled_weight else []
        metrics = self._step_critic(before.detach(), (before + step).detach(), after.detach(), others)
        metrics |= self._step_generator(before, step, after, order)
        self.step += 1
        spread = self._std(frames.detach().flatten(0, 1)).mean()
        metrics |= {"motion": (after - before).square().mean(), "embedding_std": spread}
        values = torch.stack([value.detach().float() for value in metrics.values()]).tolist()
        found = self.group.sum_metrics({name: x / size for name, x in zip(metrics, values, strict=True)})
        return {**found, "prediction_gain": 1 - found["prediction"] / max(found["motion"], 1e-12)}

    def _others(self, after: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Frames of other moments in place of frames [B, T, d]: of the same clip, and of any clip of all ranks."""
        rows, length = after.shape[:2]
        total = rows * self.group.size
        inside = self.group.mine(torch.rand(total, length, generator=generator)).argsort(1).to(self.device)
        anywhere = torch.randperm(total * length, generator=generator).to(self.device)
        flat = self.group.pick(after.flatten(0, 1), anywhere).view(total, length, -1)
        return [after.gather(1, inside[..., None].expand_as(after)), self.group.mine(flat)]

    def _step_critic(self, before: Tensor, predicted: Tensor, after: Tensor,
                     others: Sequence[Tensor]) -> dict[str, Tensor]:
        """One RMSprop step on D(false) - D(true), a cut of the weights, and the running unit of the reward."""
        loss, opinion = critic_loss(self.model.critic, before, predicted, after, others, self.config.shuffled_weight)
        require_finite({"critic": loss}, f"step {self.step}")
        gradients = torch.autograd.grad(self.config.critic_weight * loss / self.group.size, self.critic_parameters)
        self._move(self.critic_optimiser, self.critic_parameters, gradients)
        with torch.no_grad():
            if self.config.critic_clip:
                for parameter in self.model.critic.parameters():
                    parameter.clamp_(-self.config.critic_clip, self.config.critic_clip)
            self.model.critic_std.lerp_(self._std(opinion.flatten()), 1 - UNIT_MEMORY if self.step else 1.0)
        return {"critic": loss, "opinion": opinion.mean(), "critic_std": self.model.critic_std.clone()}

    def _std(self, rows: Tensor) -> Tensor:
        """Standard deviation [...] over the rows [M, ...] of all ranks."""
        moments = torch.stack([rows.mean(0), rows.square().mean(0)]) / self.group.size
        self.group.sum_tensors([moments])
        return (moments[1] - moments[0].square()).clamp_min(0).sqrt()

    def _step_generator(self, before: Tensor, step: Tensor, after: Tensor, order: Tensor) -> dict[str, Tensor]:
        """One AdamW step of all that it owns."""
        loss, terms = generator_loss(self.model, self.config, before, step, after, order)
        require_finite({"loss": loss}, f"step {self.step}")
        gradients = torch.autograd.grad(loss / self.group.size, self.owned, allow_unused=True)
        self._move(self.optimiser, self.owned, gradients)
        return {"loss": loss, **terms}

    def _move(self, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter],
              gradients: tuple[Tensor | None, ...]) -> None:
        self.group.sum_tensors([gradient for gradient in gradients if gradient is not None])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        # The gradient of a finite loss may be NaN.
        require_finite({"grad_norm": clip_gradients(parameters, 0.0)}, f"step {self.step}")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """What held-out clips tell, see :func:`~pvdr_bench.algorithms.stg.measures.judged`."""
        self.model.eval()
        try:
            return judged(self.model, batch, torch.zeros(len(batch), dtype=torch.long) if start is None else start,
                          self.device)
        finally:
            self.model.train()

    def export(self) -> dict[str, Tensor]:
        """All weights, and the unit of the reward."""
        return {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, both optimisers, step."""
        return {"model": self.model.state_dict(), "optimiser": optimizer_state(self.optimiser),
                "critic_optimiser": optimizer_state(self.critic_optimiser), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimiser, state["optimiser"])
        load_optimizer_state(self.critic_optimiser, state["critic_optimiser"])
        self.step = int(state["step"])
