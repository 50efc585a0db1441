"""PreLAR against zhanglixuan0720/PreLAR: pre-training, fine-tuning with and without the bonus, and the behaviour.

The consistency loss is compared as released (``prelar-released``): its own form has no public counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from pvdr_bench.algorithms.dreamer.pretrain import Noise, VideoPretrainer
from pvdr_bench.algorithms.dreamer.video_model import learning
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.bench.agreement import wmlib
from pvdr_bench.bench.agreement.checkout import Layout, Settings
from pvdr_bench.bench.agreement.draws import Draws, replayed
from pvdr_bench.bench.agreement.report import compare_values
from pvdr_bench.bench.agreement.weights import Rule, state, stir
from pvdr_bench.rl.process_group import ALONE

LAYOUT = Layout(
    "zhanglixuan0720/PreLAR", "fb9c4d26ee09085ae50c977810a2ce4346215fe0",
    ("wmlib.core.dists", "wmlib.core.torch_utils", "wmlib.core.other", "wmlib.nets.modules", "wmlib.nets.encoder.base",
     "wmlib.nets.encoder.resnet", "wmlib.nets.encoder.va_resnet", "wmlib.nets.decoder.base",
     "wmlib.nets.decoder.resnet", "wmlib.nets.dynamics.base", "wmlib.nets.dynamics.rssm",
     "wmlib.nets.va_net.va_net", "wmlib.nets.va_net.action_encoder", "wmlib.agents.expl", "wmlib.agents.actor_critic",
     "wmlib.agents.base", "wmlib.agents.prelar_pretrain", "wmlib.agents.prelar_finetune"),
    {"ENABLE_FP16": False, "DEBUG_METRICS": False}, ("torchtyping", "typeguard"))
METHOD = "prelar-released"
PRIOR = 2 / (1 + math.exp(-0.5))  # to the last digit
OFF = {"loss.reward_head": "mse", "loss.predict_discount": "no", "pretrain.consistency": "sign"}
THERE = wmlib.THERE


def rules(config: Any) -> list[Rule]:
    """Our names -> theirs."""
    found: list[Rule] = []
    for ours, theirs in (("encoder", "encoder"), (r"implicit\.pictures", "va_encoder.va_encoder")):
        found += wmlib.layer_rules({rf"{ours}\.first": f"{theirs}._cnn_net.convin"})
        found += wmlib.block_rules(rf"{ours}\.stages\.(\d+)\.(\d+)", rf"{theirs}._cnn_net.res\1.stack.\2")
    there = r"heads.decoder._cnn_nn.res\1.stack"
    found += wmlib.block_rules(r"decoder\.stages\.(\d+)\.first", rf"{there}.0")
    for k in range(config.model.res_blocks - 1):
        found += wmlib.block_rules(rf"decoder\.stages\.(\d+)\.rest\.{k}", rf"{there}.{k + 1}")
    found += wmlib.layer_rules({
        r"decoder\.dense": "heads.decoder.convin.0", r"decoder\.last": "heads.decoder.convout",
        r"implicit\.dense\.layers\.0": "va_encoder.action_in.0",
        r"implicit\.dense\.layers\.2": "va_encoder.action_in.2",
        r"action_encoder\.layers\.0": "action_encoder._encoder.0",
        r"action_encoder\.layers\.2": "action_encoder._encoder.2",
        r"rssm\.img_in\.0": "rssm._img_in.0", r"rssm\.cell\.gates": "rssm._cell._layer",
        r"rssm\.cell\.norm": "rssm._cell._norm", r"rssm\.img_out\.0": "rssm._ensemble_out_layers.0.img_out_0",
        r"rssm\.img_out\.2": "rssm._ensemble_out_layers.0.img_out_head_0", r"rssm\.obs_out\.0": "rssm._obs_out.0",
        r"rssm\.obs_out\.2": "rssm._obs_out.obs_out_head"})
    found += wmlib.head_rules(config.model.head_layers, "._mlp_nn.dense_{}", "._out_dist._out_nn", "._out_dist._std_nn")
    return [*found, *wmlib.BONUS_RULES]


def settings(config: Any, embed_dim: int, online: bool) -> Settings:
    """Theirs for our config: their files' values at our sizes, with what their README's commands change."""
    model, own = config.model, config.behaviour
    feature = model.deter + model.stoch * model.classes
    pictures = {"mlp_keys": "$^", "cnn_keys": "image", "act": "elu", "cnn_depth": model.cnn_depth, "res_norm": "batch",
                "res_depth": model.res_stages, "res_layers": model.res_blocks}
    head = {"layers": model.head_layers, "units": model.head_units, "input_dim": feature, **wmlib.HEAD_OUT}
    action = {"hidden_dim": model.latent_action.units, "act": "elu", "stoch": model.action_width, "discrete": 0,
              "std_act": "sigmoid2", "deter": model.action_width}
    return Settings({
        "rssm": {"action_free": False, "ensemble": 1, "embed_dim": embed_dim, "hidden": model.hidden,
                 "deter": model.deter, "stoch": model.stoch, "discrete": model.classes, "act": "elu", "norm": "none"},
        "encoder": pictures, "encoder_type": "resnet", "decoder_type": "resnet",
        "decoder": {**pictures, "cnn_input_dim": feature}, "kl": wmlib.KL,
        "grad_heads": ["decoder", "reward"] if online else ["decoder"], "precision": 32, "rank_loss": "sign",
        "vanet": {**pictures, **action, "va_method": "concate", "type_": "stoch"},
        "action_encoder": {**action, "type_": "deter", "twl": 1}, "use_feat": False, "reward_head": head,
        "critic": head, "actor": {**head, "dist": "trunc_normal", "min_std": own.min_std},
        **wmlib.online_settings(config)})


def compare(root: Path, seed: int) -> Mapping[str, Any]:
    """By name of a comparison: values, gradients by module, buffers by module."""
    return wmlib.compare_stages(root, LAYOUT, "wmlib.agents.prelar_pretrain", _pretrain, _online, seed)


def _small(bonus: float) -> Any:
    return wmlib.small(METHOD, bonus={"weight": bonus}, model={
        **wmlib.MODEL, "hidden": wmlib.MODEL["deter"],  # the prior there has no other width
        "latent_action": {"kind": "gaussian", "units": 16, "prior_std": PRIOR}})


def _pretrain(module: ModuleType, generator: torch.Generator) -> dict[str, Any]:
    config = _small(1.0)
    learner = VideoPretrainer(config, 0, torch.device("cpu"))
    stir(learner.model, generator)
    there = module.WorldModel(settings(config, learner.model.encoder.embed_dim, online=False), wmlib.IMAGE_SPACE, 0)
    image, names = wmlib.clips(generator), rules(config)
    wmlib.hand_over(state(learner.model), there, names)
    uniform = torch.rand(*image.shape[:2], config.model.stoch, generator=generator)
    normal = torch.randn(len(image), image.shape[1] - 1, config.model.action_width, generator=generator)
    shuffle = torch.arange(len(image)).roll(1)  # nobody keeps its own: rounding would order what did not move
    with learning(learner.model):
        terms, _ = learner.terms(image, Noise(uniform, action=normal, shuffle=shuffle), ALONE)
    torch.autograd.backward(terms["loss"])
    there.train()
    # the last latents are those of the step under lent actions, whose sample plays no part
    with replayed(Draws(latent=[*wmlib.latents(uniform), None], normal=[normal], shuffle=[shuffle])):
        total, _, _, metrics = there.loss(wmlib.batch_there(image))
    total.backward()
    pairs = {"loss": (terms["loss"], total), "image": (terms["image_loss"], metrics["image_loss"]),
             "kl": (terms["kl"], metrics["model_kl"]), "action_kl": (terms["action_kl"], metrics["action_kl"]),
             "consistency": (terms["consistency"], metrics["rank_loss"])}
    values = compare_values(*({name: pair[side] for name, pair in pairs.items()} for side in (0, 1)))
    return {"values": values, **wmlib.compare_module(learner.model, there, names)}


def _online(name: str, modules: Mapping[str, ModuleType], bonus: float, resets: bool,
            generator: torch.Generator) -> dict[str, Any]:
    config = _small(bonus)
    model = WorldModel(config, wmlib.ACTIONS, two_hot=False, discount=False)
    stir(model, generator)
    own = settings(config, model.encoder.embed_dim, online=True)
    space = SimpleNamespace(shape=(wmlib.ACTIONS,))
    there = modules["wmlib.agents.prelar_finetune"].WorldModel(own, wmlib.IMAGE_SPACE, {"action": space}, 0)
    data, names = wmlib.sequences(generator, resets), rules(config)
    wmlib.fill_bonus(model, there, names, generator)
    uniform = torch.rand(2, *data.reward.shape, config.model.stoch, generator=generator)
    found, here, states = wmlib.compare_online(model, there, names, data, Draws(latent=wmlib.latents(uniform[0])),
                                               uniform, None)
    critic = modules["wmlib.agents.actor_critic"].ActorCritic(own, space, 0)
    return {name: found, f"{name}_behaviour": wmlib.compare_behaviour(
        config, model, there, critic, names, (here, states), generator)}
