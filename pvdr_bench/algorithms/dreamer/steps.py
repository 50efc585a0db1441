"""The optimisers of a Dreamer: one each for world model, actor and critic, or one for everything (DreamerV3)."""

from __future__ import annotations

from typing import Any

from torch import nn

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour
from pvdr_bench.algorithms.dreamer.config import DreamerConfig, TrainConfig
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.nets.optimizers import AdaptiveLaProp, DecayedAdam, GradientStep

Steps = dict[str, GradientStep]
ALL = "all"


def make_steps(config: DreamerConfig, model: WorldModel, behaviour: Behaviour) -> Steps:
    """By what they move: ``model``, ``actor`` and ``critic``, or ``all``. Pre-trained modules are a first group."""
    train = config.train
    transferred = [p for module in model.transferred() for p in module.parameters()]
    known = {id(p) for p in transferred}
    rest = [p for p in model.parameters() if id(p) not in known]
    actor, critic = list(behaviour.actor.parameters()), list(behaviour.critic.parameters())
    if train.joint:
        return {ALL: _step(train, [transferred, rest, actor, critic], train.model_lr)}
    # APV, and what came of it, has two optimisers of the world model, which clip apart
    apart = config.stacked or config.model.latent_action.kind != "none"
    return {"model": _step(train, [transferred, rest], train.model_lr, apart),
            "actor": _step(train, [actor], config.behaviour.actor_lr),
            "critic": _step(train, [critic], config.behaviour.critic_lr)}


def _step(train: TrainConfig, groups: list[list[nn.Parameter]], lr: float, clip_each: bool = False) -> GradientStep:
    named: list[dict[str, Any]] = [{"params": group} for group in groups]
    if train.optimiser == "laprop":
        return AdaptiveLaProp(named, lr, train.adam_eps, train.agc)
    return DecayedAdam(named, lr, train.adam_eps, train.weight_decay, train.max_grad_norm, clip_each)


def set_rates(steps: Steps, config: DreamerConfig, updates: int) -> None:
    """Learning rates of the next step, ``updates`` having been made: they warm up, and pre-trained modules may wait."""
    warmup = config.train.warmup
    for step in steps.values():
        step.set_rates(min(1.0, updates / warmup) if warmup else 1.0)
    if config.pretrained and updates < config.train.frozen_updates:
        next(iter(steps.values())).inner.param_groups[0]["lr"] = 0.0
