"""DreamerV3 against NM512/r2dreamer, a port of the present DreamerV3 to PyTorch (its ``rep_loss: dreamer``).

One comparison: all losses of an update, and the gradient of their sum.
Shapes: B sequences, T steps, H horizon, S latents, A action dimensions, N = B * T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.behaviour import Behaviour, Replayed
from pvdr_bench.algorithms.dreamer.behaviour import Path as Imagined
from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.bench.agreement import wmlib
from pvdr_bench.bench.agreement.checkout import Layout, Settings, borrowed
from pvdr_bench.bench.agreement.draws import Draws, replayed
from pvdr_bench.bench.agreement.report import compare_tensors, compare_values
from pvdr_bench.bench.agreement.weights import Rule, give, gradients, state, stir, translate
from pvdr_bench.bench.dreamer import recipe
from pvdr_bench.nets.rssm import RSSM, State

LAYOUT = Layout("NM512/r2dreamer", "29c30d4d2ecab7aaaf3fdaa1cc95bacda8a9a0ce",
                ("tools", "distributions", "networks", "rssm", "optim.agc", "optim.laprop", "dreamer"),
                stubs=("tensordict",))
OFF = {"loss.discount_target": "alive", "behaviour.gamma": "1 - 1 / 333, to the last digit"}
THERE = {"samples": "straight through the probabilities, as the authors' code has them, for a Gumbel softmax",
         "kl": "of logits with the uniform share, as the authors' code has it, for those without",
         "start": "ours takes the head's word that the episode goes on at a path's start, as the code there does"}
SIDE, BATCH, LENGTH, ACTIONS, HORIZON = 16, 3, 6, 3, 4
MODEL = {"input_size": SIDE, "deter": 16, "hidden": 10, "stoch": 4, "classes": 5, "cnn_depth": 4,
         "cnn_multipliers": (2, 4), "blocks": 4, "head_layers": 2, "head_units": 12, "action_width": ACTIONS}
LEAVE = (r"^_frozen_", r"^return_ema\.range")


def small() -> DreamerConfig:
    """As published, but small; small states have small divergences, of which fewer free nats leave some above."""
    return wmlib.changed(recipe("dreamerv3", "paper")[0], {
        "model": MODEL, "loss": {"discount_target": "alive", "free_nats": 0.5}, "train": {"dtype": "float32"},
        "behaviour": {"horizon": HORIZON, "gamma": 1 - 1 / 333}})


# Names ------------------------------------------------------------------------------------------------------------


def rules(config: Any) -> list[Rule]:
    """Our names -> theirs."""
    both = wmlib.layer_rules
    found = both({r"encoder\.layers\.(\d+)": r"encoder.encoders.0.layers.\1",
                  r"decoder\.from_deter": "decoder._cnn.sp0", r"decoder\.from_stoch\.([01])": r"decoder._cnn.sp1.\1",
                  r"decoder\.from_stoch\.3": "decoder._cnn.sp2", r"decoder\.layers\.0": "decoder._cnn.sp_norm.0"})
    for k in range(4 * len(config.model.cnn_multipliers)):
        found += both({rf"decoder\.layers\.{k + 2}": f"decoder._cnn.layers.{k}"})
    cell, there = r"rssm\.cell", "rssm._deter_net"
    found += both({rf"{cell}\.inputs\.(\d)\.(\d)": rf"{there}._dyn_in\1.\2", rf"{cell}\.gates": f"{there}._dyn_gru",
                   rf"{cell}\.hidden\.0": f"{there}._dyn_hid.dyn_hid_0",
                   rf"{cell}\.hidden\.1": f"{there}._dyn_hid.norm_0"})
    for net, layers in (("img", config.model.prior_layers), ("obs", 1)):
        theirs = f"rssm._{net}_net"
        found += _stack_rules(rf"rssm\.{net}_out", theirs, f"{net}_net_{{}}", f"{net}_net_n_{{}}",
                              f"{theirs}.{net}_net_logit", layers)
    heads = {"reward": ("reward", "reward"), "discount": ("cont", "cont"), "critic": ("value", "value"),
             "slow_critic": ("_slow_value", "value"), r"actor\.net": ("actor", "actor")}
    for ours, (theirs, name) in heads.items():
        layers = config.model.predictor_layers if ours in ("reward", "discount") else config.model.head_layers
        found += _stack_rules(rf"{ours}\.layers", f"{theirs}.mlp.layers", name + "_linear{}", name + "_norm{}",
                              f"{theirs}.last", layers)
    return [*found, (r"return_scale\.bounds", "return_ema.ema_vals")]


def _stack_rules(ours: str, theirs: str, dense: str, norm: str, last: str, layers: int) -> list[Rule]:
    """Of dense layers, each with a norm and an activation, and an output."""
    found = dict[str, str]()
    for k in range(layers):
        found |= {rf"{ours}\.{3 * k}": f"{theirs}.{dense.format(k)}",
                  rf"{ours}\.{3 * k + 1}": f"{theirs}.{norm.format(k)}"}
    return wmlib.layer_rules({**found, rf"{ours}\.{3 * layers}": last})


def laid_out(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Our tensors in the layout there: blocks last in block-diagonal weights, channels last in the decoder's map."""
    width = config.model.cnn_depth * config.model.cnn_multipliers[-1]
    found = dict(tensors)
    for name, value in tensors.items():
        if value.dim() == 3:  # [G, I / G, O / G]
            found[name] = value.permute(2, 1, 0)
        elif name.startswith("decoder.from_stoch.3."):
            found[name] = value.reshape(width, -1, *value.shape[1:]).transpose(0, 1).flatten(0, 1)
    return found


# Theirs -----------------------------------------------------------------------------------------------------------


class Batch(dict[str, Tensor]):
    """Stands for a tensor dictionary, which has a shape."""

    shape = (BATCH, LENGTH)


def settings(config: Any) -> Settings:
    """Their ``configs/model/_base_.yaml`` at our sizes."""
    model, own, loss = config.model, config.behaviour, config.loss
    pictures = {"act": "SiLU", "norm": True, "kernel_size": model.cnn_kernel, "depth": model.cnn_depth,
                "mults": model.cnn_multipliers}
    head = {"units": model.head_units, "act": "SiLU", "norm": True, "device": "cpu", "symlog_inputs": False,
            "outscale": 1.0}
    two_hot = {"shape": (255,), "dist": {"name": "symexp_twohot", "bin_num": 255}}
    short, long = {"layers": model.predictor_layers}, {"layers": model.head_layers}
    return Settings({
        "device": "cpu", "memory_peak_tracking": False, "act_entropy": own.entropy_coef, "kl_free": loss.free_nats,
        "imag_horizon": own.horizon, "horizon": 333, "lamb": own.gae_lambda, "rep_loss": "dreamer", "log_grads": False,
        "slow_target_update": 1, "slow_target_fraction": own.slow_rate, "agc": 0.3, "pmin": 1e-3, "lr": 4e-5,
        "beta1": 0.9, "beta2": 0.999, "eps": 1e-20, "warmup": 1000, "compile": False,
        "loss_scales": {"recon": loss.image_scale, "rew": 1.0, "con": loss.discount_weight, "dyn": loss.dyn_scale,
                        "rep": loss.rep_scale, "policy": 1.0, "value": 1.0, "repval": own.replay_value},
        "rssm": {"stoch": model.stoch, "deter": model.deter, "hidden": model.hidden, "discrete": model.classes,
                 "img_layers": model.prior_layers, "obs_layers": 1, "dyn_layers": 1, "blocks": model.blocks,
                 "act": "SiLU", "unimix_ratio": model.unimix, "initial": "learned", "device": "cpu"},
        "encoder": {"mlp_keys": "$^", "cnn_keys": "image", "cnn": pictures},
        "decoder": {"mlp_keys": "$^", "cnn_keys": "image", "cnn_dist": {"name": "mse"},
                    "cnn": {**pictures, "units": model.head_units, "bspace": model.blocks}},
        "reward": {**head, **two_hot, **short, "name": "reward"},
        "critic": {**head, **two_hot, **long, "name": "value"},
        "cont": {**head, **short, "shape": (1,), "dist": {"name": "binary"}, "name": "cont"},
        "actor": {**head, **long, "shape": None, "name": "actor", "dist": {"cont": {
            "name": "bounded_normal", "min_std": own.min_std, "max_std": own.max_std}}}})


def _their_losses(agent: Any, data: Sequences, draws: Draws) -> dict[str, Tensor]:
    """All losses of an update there, whose sum has sent its gradients; ``dyn`` and ``rep`` are as released."""
    kl, released = agent.rssm.kl_loss, dict[str, Tensor]()

    def mixed(post: Tensor, prior: Tensor, free: float) -> Any:
        released.update(zip(("dyn", "rep"), (x.mean() for x in kl(post, prior, free)), strict=True))
        return kl(*(agent.rssm.get_dist(logits).base_dist.logits for logits in (post, prior)), free)

    agent.rssm.kl_loss = mixed
    batch = agent.preprocess(Batch(
        image=data.image, action=data.action, is_first=data.is_first, reward=data.reward[..., None],
        is_last=_last(data).float()[..., None], is_terminal=data.is_terminal.float()[..., None]))
    with replayed(draws):
        _, metrics = agent._cal_grad(batch, agent.rssm.initial(BATCH))
    return {name: value.detach() for name, value in {**metrics, **released}.items()}


def _last(data: Sequences) -> Tensor:
    """bool [B, T]: the next step is another episode's."""
    return torch.cat([data.is_first[:, 1:], torch.zeros_like(data.is_first[:, :1])], 1)


# Ours -------------------------------------------------------------------------------------------------------------


def sequences(generator: torch.Generator) -> Sequences:
    """Noise; the second sequence ends in a terminal state, the third is cut off."""
    first, terminal = (torch.zeros(BATCH, LENGTH, dtype=torch.bool) for _ in range(2))
    first[:, 0] = first[1, 3] = first[2, 4] = terminal[1, 2] = True
    action = (2 * torch.rand(BATCH, LENGTH, ACTIONS, generator=generator) - 1) * ~first[..., None]
    image = torch.randint(0, 256, (BATCH, LENGTH, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    return Sequences(image, action, torch.randn(BATCH, LENGTH, generator=generator), first, terminal)


def _with_the_heads_start(model: WorldModel, path: Imagined, gamma: float) -> Imagined:
    discount = model.predict_discount(path.feature, gamma)
    weight = torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0)
    return replace(path, discount=discount.detach(), weight=weight.detach())


def _our_losses(config: DreamerConfig, model: WorldModel, behaviour: Behaviour, data: Sequences, latent: Tensor,
                imagined: Tensor) -> dict[str, Tensor]:
    """The same here, under the names there."""
    loss, post, metrics = model.loss(data, torch.stack([latent, latent]))
    start: State = {name: x.detach().flatten(0, 1) for name, x in post.items()}
    path = behaviour.imagine(model, start, data.is_terminal.flatten(), imagined)
    path = _with_the_heads_start(model, path, config.behaviour.gamma)
    actor_loss, critic_loss, more = behaviour.losses(path, Replayed(RSSM.feature(post), data))
    total = loss + actor_loss + critic_loss
    torch.autograd.backward(total)
    repval, scale = more["replay_value_loss"], config.behaviour.replay_value
    return {"opt/loss": total, "loss/image": metrics["image_loss"], "loss/rew": metrics["reward_loss"],
            "loss/con": metrics["discount_loss"], "loss/policy": actor_loss, "loss/repval": repval,
            "loss/value": critic_loss - scale * repval, "rew": path.reward.mean(), "adv_std": more["advantage_std"],
            "action_entropy": more["actor_entropy"], "ret_005": more["return_low"], "ret_095": more["return_high"],
            "kl": loss - metrics["image_loss"] - metrics["reward_loss"] - metrics["discount_loss"]}


def compare(root: Path, seed: int) -> Mapping[str, Any]:
    """By name of a comparison: values, gradients by module, buffers by module."""
    generator = torch.Generator().manual_seed(seed)
    with borrowed(root, LAYOUT) as modules:
        return {"update": _update(modules["dreamer"], generator)}


def _update(module: ModuleType, generator: torch.Generator) -> dict[str, Any]:
    config = small()
    model = WorldModel(config, ACTIONS, two_hot=True, discount=True)
    behaviour = Behaviour(config, model.rssm.feature_dim, ACTIONS)
    for net in (model, behaviour):
        stir(net, generator)
    assert behaviour.return_scale is not None
    behaviour.return_scale.bounds.copy_(torch.tensor([-0.5, 3.0]))
    agent, names = _agent(module, config), rules(config)
    ours = {**state(model), **state(behaviour)}
    give(agent, translate(laid_out(ours, config), names), LEAVE)
    data, count = sequences(generator), BATCH * LENGTH
    latent = torch.rand(BATCH, LENGTH, config.model.stoch, generator=generator)
    imagined = torch.rand(HORIZON, count, ACTIONS + config.model.stoch, generator=generator)
    here = _our_losses(config, model, behaviour, data, latent, imagined)
    unused = torch.zeros(count, ACTIONS)  # the last state's action leads nowhere
    draws = Draws(latent=[*latent.unbind(1), None, *imagined[..., ACTIONS:], None],
                  normal=[*torch.special.ndtri(imagined[..., :ACTIONS]), unused])
    there = _their_losses(agent, data, draws)
    scales = config.loss
    there["kl"] = scales.dyn_scale * there["loss/dyn"] + scales.rep_scale * there["loss/rep"]
    learned = nn.ModuleDict({name: getattr(agent, name) for name in (
        "encoder", "rssm", "decoder", "reward", "cont", "actor", "value")})
    sent = {**gradients(model), **gradients(behaviour)}
    return {"values": compare_values(here, {name: there[name] for name in here}),
            "kl_as_released": scales.dyn_scale * float(there["dyn"]) + scales.rep_scale * float(there["rep"]),
            "gradients": compare_tensors(translate(laid_out(sent, config), names), gradients(learned))}


def _agent(module: ModuleType, config: Any) -> Any:
    space = SimpleNamespace(spaces={"image": SimpleNamespace(shape=(SIDE, SIDE, 3))})
    return module.Dreamer(settings(config), space, SimpleNamespace(shape=(ACTIONS,)))
