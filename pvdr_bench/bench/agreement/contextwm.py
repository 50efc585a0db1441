"""ContextWM against thuml/ContextWM: pre-training, fine-tuning with and without the bonus, and the behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.pretrain import Noise, VideoPretrainer
from pvdr_bench.algorithms.dreamer.video_model import learning
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.bench.agreement import wmlib
from pvdr_bench.bench.agreement.checkout import Layout, Settings
from pvdr_bench.bench.agreement.draws import Draws, replayed
from pvdr_bench.bench.agreement.report import compare_values
from pvdr_bench.bench.agreement.weights import Rule, state, stir
from pvdr_bench.nets.context import Augment, ContextNoise
from pvdr_bench.rl.process_group import ALONE

LAYOUT = Layout(
    "thuml/ContextWM", "3a8bca8012f7b04a559a1165fcfbdfb639d08d37",
    ("wmlib.core.dists", "wmlib.core.torch_utils", "wmlib.core.other", "wmlib.nets.modules", "wmlib.nets.encoder.base",
     "wmlib.nets.encoder.ctx_resnet", "wmlib.nets.decoder.base", "wmlib.nets.decoder.ctx_resnet",
     "wmlib.nets.dynamics.base", "wmlib.nets.dynamics.rssm", "wmlib.agents.expl", "wmlib.agents.actor_critic",
     "wmlib.agents.base", "wmlib.agents.apv_pretrain", "wmlib.agents.apv_finetune"),
    {"ENABLE_FP16": False, "DEBUG_METRICS": False},
    ("torchtyping", "typeguard", "kornia", "torchvision", "torchvision.transforms"))
OFF = {"loss.reward_head": "mse", "loss.predict_discount": "no", "loss.context_augment": "none"}
THERE = wmlib.THERE


def rules(config: Any) -> list[Rule]:
    """Our names -> theirs."""
    found: list[Rule] = []
    for ours, first, stages in (("encoder", "convin", "res"), ("context", "cond_convin", "cond_res")):
        found += wmlib.layer_rules({rf"{ours}\.first": f"encoder.{first}"})
        found += wmlib.block_rules(rf"{ours}\.stages\.(\d+)\.(\d+)", rf"encoder.{stages}\1.stack.\2")
    there = r"heads.decoder.res\1.stack"
    found += wmlib.layer_rules({r"decoder\.dense": "heads.decoder.convin", r"decoder\.last": "heads.decoder.convout"})
    found += wmlib.block_rules(r"decoder\.stages\.(\d+)\.first", rf"{there}.0")
    for k in range(config.model.res_blocks - 1):
        found += wmlib.block_rules(rf"decoder\.stages\.(\d+)\.rest\.{k}", rf"{there}.{k + 1}")
    attention = r"decoder\.stages\.(\d+)\.first\.attention"
    found += [(rf"{attention}\.{name}\.(weight|bias)", rf"{there}.0.cross_attention.att.in_proj_\2#{k}")
              for k, name in enumerate(("query", "key", "value"))]
    found += [(rf"{attention}\.out\.(weight|bias)", rf"{there}.0.cross_attention.att.out_proj.\2"),
              (rf"{attention}\.norm\.(.*)", rf"{there}.0.norm_cross_att.\2"),
              (rf"{attention}\.query_positions", rf"{there}.0.q_pos_emb"),
              (rf"{attention}\.key_positions", rf"{there}.0.kv_pos_emb")]
    rssm = {r"img_in\.0": "img_in", r"cell\.gates": "_cell._layer", r"cell\.norm": "_cell._norm",
            r"img_out\.0": "img_out_0", r"img_out\.2": "img_dist_0", r"obs_out\.0": "obs_out",
            r"obs_out\.2": "obs_dist"}
    found += [(rf"((?:af_)?rssm)\.{ours}\.(weight|bias)", rf"\1.{theirs}.\2") for ours, theirs in rssm.items()]
    found += wmlib.head_rules(config.model.head_layers, ".dense{}", ".out.out", ".out.std")
    return [*found, *wmlib.BONUS_RULES]


def settings(config: Any, online: bool) -> Settings:
    """Theirs for our config: their files' values at our sizes, with aux_reward as their README's command has it."""
    model = config.model
    rssm = {"fill_action": model.action_width, "ensemble": 1, "hidden": model.hidden, "deter": model.deter,
            "stoch": model.stoch, "discrete": model.classes, "act": "elu", "norm": "none"}
    pictures = {"mlp_keys": "$^", "cnn_keys": "image", "act": "elu", "cnn_depth": model.cnn_depth, "res_norm": "batch",
                "res_depth": model.res_stages, "res_layers": model.res_blocks}
    head = {"layers": model.head_layers, "units": model.head_units, **wmlib.HEAD_OUT}
    own = config.behaviour
    return Settings({
        "rssm": {**rssm, "action_free": False}, "af_rssm": {**rssm, "action_free": True}, "encoder": pictures,
        "encoder_type": "ctx_resnet", "decoder_type": "ctx_resnet", "decoder": pictures,
        "encoder_ctx": {"ctx_res_layers": model.res_blocks, "ctx_cnn_depth": model.cnn_depth,
                        "ctx_cond_choice": "trand", "ctx_aug": "none"},
        "decoder_ctx": {"ctx_attmask": model.context.mask, "ctx_attmaskwarmup": -1}, "kl": wmlib.KL,
        "grad_heads": ["decoder", "reward"] if online else ["decoder"],
        "reward_head": head, "critic": head, "actor": {**head, "dist": "trunc_normal", "min_std": own.min_std},
        **wmlib.online_settings(config)})


def compare(root: Path, seed: int) -> Mapping[str, Any]:
    """By name of a comparison: values, gradients by module, buffers by module."""
    return wmlib.compare_stages(root, LAYOUT, "wmlib.agents.apv_pretrain", _pretrain, _online, seed)


def _pretrain(module: ModuleType, generator: torch.Generator) -> dict[str, Any]:
    config = wmlib.small("contextwm")
    learner = VideoPretrainer(config, 0, torch.device("cpu"))
    stir(learner.model, generator)
    there = module.WorldModel(settings(config, online=False), wmlib.IMAGE_SPACE, 0)
    image, names = wmlib.clips(generator), rules(config)
    there.loss(wmlib.batch_there(image))  # its layers come with their first use
    wmlib.hand_over(state(learner.model), there, names)
    uniform = torch.rand(*image.shape[:2], config.model.stoch, generator=generator)
    noise = learner.model.context_noise(wmlib.BATCH, wmlib.LENGTH, generator)
    with learning(learner.model):
        terms, _ = learner.terms(image, Noise(uniform, noise), ALONE)
    torch.autograd.backward(terms["loss"])
    there.train()
    with replayed(Draws(latent=wmlib.latents(uniform), **wmlib.context_draws(noise, image.shape[1]))):
        total, _, _, metrics = there.loss(wmlib.batch_there(image))
    total.backward()
    values = compare_values({"loss": terms["loss"], "image": terms["image_loss"], "kl": terms["kl"]},
                            {"loss": total, "image": metrics["image_loss"], "kl": metrics["model_kl"]})
    return {"values": values, **wmlib.compare_module(learner.model, there, names)}


def _one_context(model: WorldModel, feature: Tensor, image: Tensor, noise: ContextNoise, augment: Augment,
                 is_first: Tensor) -> Tensor:
    """Pictures beside one frame of each sequence, as there, where every sequence is of one episode; ours has resets."""
    return WorldModel.draw(model, feature, image, noise, augment)


def _online(name: str, modules: Mapping[str, ModuleType], bonus: float, resets: bool,
            generator: torch.Generator) -> dict[str, Any]:
    config = wmlib.small("contextwm", bonus={"weight": bonus}, loss={"context_augment": "none"})
    model = WorldModel(config, wmlib.ACTIONS, two_hot=False, discount=False)
    stir(model, generator)
    own = settings(config, online=True)
    there = modules["wmlib.agents.apv_finetune"].WorldModel(own, wmlib.IMAGE_SPACE, 0)
    data, names = wmlib.sequences(generator, resets), rules(config)
    with torch.no_grad():
        there.loss(wmlib.batch_there(data.image, data))
    wmlib.fill_bonus(model, there, names, generator)
    uniform = torch.rand(2, *data.reward.shape, config.model.stoch, generator=generator)
    noise = model.context_noise(wmlib.BATCH, wmlib.LENGTH, generator)
    model.draw = partial(_one_context, model)  # type: ignore[method-assign]
    draws = Draws(latent=[*wmlib.latents(uniform[1]), *wmlib.latents(uniform[0])],
                  **wmlib.context_draws(noise, data.reward.shape[1]))
    found, here, states = wmlib.compare_online(model, there, names, data, draws, uniform, noise)
    critic = modules["wmlib.agents.actor_critic"].ActorCritic(own, SimpleNamespace(shape=(wmlib.ACTIONS,)), 0)
    return {name: found, f"{name}_behaviour": wmlib.compare_behaviour(
        config, model, there, critic, names, (here, states), generator)}
