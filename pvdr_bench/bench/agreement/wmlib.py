"""What ContextWM's and PreLAR's code have in common (a package ``wmlib``): batches, losses, and the actor-critic.

Shapes: B sequences, T steps, H horizon, S latents, A action dimensions, W = H image size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour
from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.video_model import learning
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.bench.agreement.checkout import Layout, borrowed
from pvdr_bench.bench.agreement.draws import Draws, replayed
from pvdr_bench.bench.agreement.report import compare_tensors, compare_values
from pvdr_bench.bench.agreement.weights import Rule, give, gradients, state, stir, translate
from pvdr_bench.bench.dreamer import recipe
from pvdr_bench.nets.context import ContextNoise
from pvdr_bench.nets.rssm import RSSM, State

BATCH, LENGTH, ACTIONS, SIDE = 3, 8, 3, 64  # the decoders there draw 64 pixels, whatever they are asked for
MODEL = {"deter": 20, "hidden": 18, "stoch": 5, "classes": 6, "cnn_depth": 8, "head_layers": 2, "head_units": 14,
         "action_width": 7}
LEAVE = ("num_batches_tracked", r"^rewnorm\.mag")
HEAD_OUT = {"dist": "mse", "act": "elu", "norm": "none"}
THERE = {"reward_norm.eps": "0, for 1e-8", "returns": "the entropy is not added to them in place"}
KL = {"free": 0.0, "forward": False, "balance": 0.8, "free_avg": True}
IMAGE_SPACE = {"image": SimpleNamespace(shape=(SIDE, SIDE, 3))}


def small(method: str, **changes: dict[str, Any]) -> DreamerConfig:
    """A method as published, but small; sections given replace the keys they name."""
    fixed = {"model": MODEL, "behaviour": {"horizon": 4}, "bonus": {"projection": 6, "queue": 16, "neighbours": 4}}
    return changed(changed(recipe(method, "paper")[0], fixed), changes)


def changed(config: DreamerConfig, sections: Mapping[str, Mapping[str, Any]]) -> DreamerConfig:
    """A config with other values of the keys that sections name."""
    found = config.model_dump()
    for section, keys in sections.items():
        found[section] = {**found[section], **keys}
    return type(config).model_validate(found)


# Batches and draws ------------------------------------------------------------------------------------------------


def clips(generator: torch.Generator) -> Tensor:
    """uint8 [B, T, W, W, 3]."""
    return torch.randint(0, 256, (BATCH, LENGTH, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)


def sequences(generator: torch.Generator, resets: bool) -> Sequences:
    """Of one episode each, or with ``resets`` also of two."""
    first = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    first[:, 0] = True
    if resets:
        first[0, 3] = first[2, 5] = True
    action = (2 * torch.rand(BATCH, LENGTH, ACTIONS, generator=generator) - 1) * ~first[..., None]
    reward = torch.randn(BATCH, LENGTH, generator=generator)
    return Sequences(clips(generator), action, reward, first, torch.zeros_like(first))


def batch_there(image: Tensor, data: Sequences | None = None) -> dict[str, Tensor]:
    """The same under the names there, with channels before pixels."""
    first = torch.zeros(image.shape[:2])
    first[:, 0] = 1.0
    if data is None:
        return {"image": image.movedim(-1, -3), "is_first": first}
    return {"image": image.movedim(-1, -3), "is_first": data.is_first.float(), "action": data.action,
            "reward": data.reward, "is_terminal": data.is_terminal.float()}


def latents(uniform: Tensor) -> list[Tensor | None]:
    """What a scan there draws of uniform [B, T, S]: at every step a prior, which plays no part, and a posterior."""
    return [one for t in range(uniform.shape[1]) for one in (None, uniform[:, t])]


def context_draws(noise: ContextNoise | None, length: int) -> dict[str, Sequence[Tensor]]:
    """What the context encoder and the decoder draw there."""
    if noise is None:
        return {}
    dropout = [~part for _, one in sorted(noise.attention.items()) for part in (one.weights, one.output)
               if part is not None]  # ours say what is taken away
    return {"frame": [(noise.frame * length).long().clamp_max(length - 1)],
            "order": [one.order for _, one in sorted(noise.attention.items())], "dropout": dropout}


# Names ------------------------------------------------------------------------------------------------------------


def block_rules(ours: str, theirs: str) -> list[Rule]:
    """Of residual blocks; ``ours`` is a pattern, ``theirs`` may refer to its groups."""
    return [(rf"{ours}\.shortcut\.(?P<rest>.*)", rf"{theirs}.identity.\g<rest>"),
            (rf"{ours}\.body\.(?P<rest>.*)", rf"{theirs}.res_block.\g<rest>")]


def layer_rules(pairs: dict[str, str]) -> list[Rule]:
    """Of layers: patterns of ours -> theirs, weight and bias alike."""
    return [(rf"{ours}\.(?P<rest>weight|bias)", rf"{theirs}.\g<rest>") for ours, theirs in pairs.items()]


def head_rules(layers: int, dense: str, last: str, deviation: str) -> list[Rule]:
    """Of rewards, critics and actor: how the layers, of number {}, and the last one are called there.

    The actor's last layer is two there: means, and standard deviations before they are squashed.
    """
    heads = {"reward": "heads.reward", "plain_reward": "heads.aux_reward", "critic": "critic",
             "slow_critic": "_target_critic", r"actor\.net": "actor"}
    found: list[Rule] = [(rf"actor\.net\.layers\.{2 * layers}\.(?P<rest>weight|bias)",
                          (rf"actor{last}.\g<rest>", rf"actor{deviation}.\g<rest>"))]
    for ours, theirs in heads.items():
        names = {rf"{ours}\.layers\.{2 * k}": theirs + dense.format(k) for k in range(layers)}
        found += layer_rules({**names, rf"{ours}\.layers\.{2 * layers}": theirs + last})
    return found


BONUS_RULES: list[Rule] = [
    (r"bonus\.projection", "intr_bonus.random_projection_matrix"), (r"bonus\.queue", "intr_bonus.queue"),
    (r"bonus\.scale", "intr_bonus.intr_rewnorm.mag")]


# What is compared -------------------------------------------------------------------------------------------------


class Kept:
    """Stands for an optimiser there: it sends gradients, keeps the loss, and moves nothing."""

    def __init__(self) -> None:
        self.loss = torch.zeros(())

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Send gradients."""
        self.loss = loss.detach()
        torch.autograd.backward(loss, retain_graph=retain_graph)

    def step(self, loss: Tensor) -> dict[str, float]:
        """Nothing."""
        return {}


def compare_stages(root: Path, layout: Layout, pretraining: str, pretrain: Callable[..., dict[str, Any]],
                   online: Callable[..., dict[str, Any]], seed: int) -> Mapping[str, Any]:
    """Pre-training, then fine-tuning with the bonus and, with resets inside sequences, without it.

    Args:
        pretraining: name of the module there that ``pretrain`` is given.
    """
    generator = torch.Generator().manual_seed(seed)
    with borrowed(root, layout) as modules:
        found = {"pretrain": pretrain(modules[pretraining], generator)}
        for name, bonus, resets in (("online", 1.0, False), ("online_without_bonus", 0.0, True)):
            found |= online(name, modules, bonus, resets, generator)
    return found


def online_settings(config: DreamerConfig) -> dict[str, Any]:
    """Theirs of the online stage, for our config."""
    own, intrinsic = config.behaviour, config.bonus
    return {"concat_embed": False, "clip_rewards": "identity", "discount": own.gamma, "discount_lambda": own.gae_lambda,
            "pred_discount": False, "imag_horizon": own.horizon, "imag_batch": -1, "actor_grad": "dynamics",
            "actor_ent": own.entropy_coef, "slow_target": True, "slow_target_update": 100, "slow_target_fraction": 1,
            "reward_norm": {"momentum": 1.0, "scale": 1.0, "eps": 0.0}, "beta": intrinsic.weight, "beta_type": "abs",
            "k": intrinsic.neighbours, "intr_seq_length": intrinsic.window, "queue_size": intrinsic.queue,
            "queue_dim": intrinsic.projection, "intr_reward_norm": {"momentum": intrinsic.momentum, "scale": 1.0,
                                                                    "eps": 1e-8, "init": 1.0},
            "loss_scales": {"kl": config.loss.kl_weight, "af_kl": config.loss.af_kl_weight,
                            "aux_reward": config.loss.plain_reward_weight}}


def fill_bonus(model: WorldModel, there: Any, rules: Sequence[Rule], generator: torch.Generator) -> None:
    """A queue that is not empty, and will be too short; then all weights and buffers to the model there."""
    if model.bonus is not None:
        used = model.config.bonus.queue - 6
        model.bonus.queue[:used] = 0.1 * torch.randn(used, model.config.bonus.projection, generator=generator)
        model.bonus.filled.fill_(used)
        there.intr_bonus.tf_queue_step = used
    own = state(model)
    own.pop("bonus.filled", None)
    hand_over(own, there, rules)


def hand_over(ours: dict[str, Tensor], theirs: nn.Module, rules: Sequence[Rule]) -> None:
    """Our weights and buffers to a model there."""
    give(theirs, translate(ours, rules), LEAVE)


def compare_module(ours: nn.Module, theirs: nn.Module, rules: Sequence[Rule], skip: Sequence[str] = (),
                   depth: int = 2) -> dict[str, Any]:
    """Gradients and, where there are any, buffers of two modules after their losses."""
    found: dict[str, Any] = {"gradients": compare_tensors(
        translate(gradients(ours), rules), gradients(theirs), depth)}
    buffers = {name for name, _ in ours.named_buffers()}
    own = {name: value for name, value in state(ours).items() if name in buffers and name not in skip}
    if own:
        there = dict(theirs.named_buffers())
        named = translate(own, rules)
        found["buffers"] = compare_tensors(named, {name: there[name].float() for name in named}, depth)
    return found


def compare_online(model: WorldModel, wm: Any, rules: Sequence[Rule], data: Sequences, draws: Draws,
                   uniform: Tensor, noise: ContextNoise | None) -> tuple[dict[str, Any], State, State]:
    """The world model's loss of the online stage; also the posterior states here and there."""
    with learning(model):
        loss, post, metrics = model.loss(data, uniform, noise)
    torch.autograd.backward(loss)
    wm.train()
    with replayed(draws):
        total, _, outs, there = wm.loss(batch_there(data.image, data))
    total.backward()
    wm.eval()
    assert model.plain_reward is not None
    plain = model.plain_reward.loss(model.plain_reward(RSSM.feature(post)), data.reward).mean()
    values = {"loss": (loss, total), "image": (metrics["image_loss"], there["image_loss"]),
              "kl": (metrics["kl"], there["model_kl"]), "reward": (metrics["reward_loss"], there["reward_loss"]),
              "plain_reward": (plain, there["aux_reward_loss"])}
    if "af_kl" in metrics:
        values["action_free_kl"] = (metrics["af_kl"], there["af_model_kl"])
    if "bonus_raw" in metrics:
        values["bonus_raw"] = (metrics["bonus_raw"], there["intr_mean"])
    found = {"values": compare_values(*({name: pair[side] for name, pair in values.items()} for side in (0, 1))),
             **compare_module(model, wm, rules, skip=("bonus.filled", "bonus.projection"))}
    states = outs["post"]
    return found, {name: x.detach() for name, x in post.items()}, {name: x.detach() for name, x in states.items()}


def compare_behaviour(config: DreamerConfig, model: WorldModel, wm: Any, there: Any, rules: Sequence[Rule],
                      starts: tuple[State, State], generator: torch.Generator) -> dict[str, Any]:
    """Losses of actor and critic from the same states, which are in two notations.

    The code there adds the actor's entropy in place to the returns that the critic learns from a moment later; it is
    given a copy, and ``critic_loss_as_released`` tells what it says without one.
    """
    behaviour = small_behaviour(config, model, generator)
    _fill_behaviour(behaviour, there, starts[1], rules)
    horizon, count = config.behaviour.horizon, BATCH * LENGTH
    uniform = torch.rand(horizon, count, ACTIONS + config.model.stoch, generator=generator)
    start = {name: x.flatten(0, 1) for name, x in starts[0].items()}
    path = behaviour.imagine(model, start, torch.zeros(count, dtype=torch.bool), uniform)
    actor_loss, critic_loss, _ = behaviour.losses(path)
    torch.autograd.backward(actor_loss, inputs=list(behaviour.actor.parameters()), retain_graph=True)
    torch.autograd.backward(critic_loss, inputs=list(behaviour.critic.parameters()))
    losses = {}
    for released in (True, False):  # the gradients that stay are the last ones
        there.actor_opt, there.critic_opt = Kept(), Kept()
        there.actor_loss = partial(type(there).actor_loss if released else _on_a_copy, there)
        draws = Draws(action=list(uniform[..., :ACTIONS]), latent=list(uniform[..., ACTIONS:]))
        with replayed(draws):
            there.train(wm, starts[1], torch.zeros(BATCH, LENGTH), lambda seq: wm.heads["reward"](seq["feat"]).mode)
        losses[released] = there.critic_opt.loss
    pair = compare_values({"actor_loss": actor_loss, "critic_loss": critic_loss},
                          {"actor_loss": there.actor_opt.loss, "critic_loss": losses[False]})
    nets = nn.ModuleDict({"actor": behaviour.actor, "critic": behaviour.critic})
    return {"values": pair, "critic_loss_as_released": float(losses[True]),
            "gradients": compare_tensors(translate(gradients(nets), rules),
                                         gradients(nn.ModuleDict({"actor": there.actor, "critic": there.critic})), 1)}


def _on_a_copy(there: Any, seq: dict[str, Tensor], target: Tensor) -> Any:
    """The actor's loss there, which leaves the returns as they are."""
    return type(there).actor_loss(there, seq, target.clone())


def small_behaviour(config: DreamerConfig, model: WorldModel, generator: torch.Generator) -> Behaviour:
    """With weights that are none of those it begins with, and a slow critic of its own."""
    behaviour = Behaviour(config, model.rssm.feature_dim, ACTIONS)
    stir(behaviour, generator)
    return behaviour


def _fill_behaviour(behaviour: Behaviour, there: Any, states: State, rules: Sequence[Rule]) -> None:
    """Layers there exist once they were used; their slow critic must not be made equal to the other one."""
    feature = torch.cat([states["stoch"].flatten(-2), states["deter"]], -1)
    with torch.no_grad():
        for net in (there.actor, there.critic, there._target_critic):
            net(feature)
    hand_over(state(behaviour), there, rules)
    there._updates = 1  # the slow critic moves at every hundredth
