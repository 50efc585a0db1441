"""DreamerV3's hyperparameters (arXiv 2301.04104, and its code's ``configs.yaml``): the Dreamer's keys with its values.

Sizes are those of ``size12m``; the code's default is ``size200m``. Imports no torch.
"""

from __future__ import annotations

from typing import Literal

from pvdr_bench.algorithms.dreamer.config import (
    V3,
    BehaviourConfig,
    DreamerConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
)
from pvdr_bench.rl.config import key

SIZE = "DreamerV3 code, size12m"


class V3ModelConfig(ModelConfig):
    """Networks of the world model, actor and critic."""

    input_size: int = key(64, "side of the pictures that the networks see; larger observations are averaged down", V3,
                          ge=8)
    deter: int = key(2048, "width of the deterministic state", f"{SIZE}; size200m: 8192", ge=8)
    hidden: int = key(256, "units of the RSSM's dense layers", f"{SIZE}; size200m: 1024", ge=8)
    stoch: int = key(32, "latent categoricals", V3, ge=1)
    classes: int = key(16, "classes of each", f"{SIZE}; size200m: 64", ge=2)
    cnn_depth: int = key(16, "channels that cnn_multipliers are of", f"{SIZE}; size200m: 64", ge=4)
    head_layers: int = key(3, "dense layers of actor and critic", V3, ge=1)
    predictor_layers: int | None = key(1, "dense layers of reward and discount; null: head_layers", V3, ge=1)
    head_units: int = key(256, "units of each, and half those of the decoder's dense layer", f"{SIZE}; size200m: 1024",
                          ge=8)
    action_width: int = key(8, "width that actions are padded to with zeros", f"{V3}: an action's own; behind a norm, "
                            "zeros beside it change nothing", ge=1)
    backbone: Literal["cnn", "resnet", "pooled"] = key("pooled", "encoder and decoder: strided convolutions, residual "
                                                       "stages, or convolutions that keep the size with pooling", V3)
    cell: Literal["gru", "block_gru"] = key("block_gru", "recurrent cell: one layer-normed GRU, or block-diagonal", V3)
    prior_layers: int = key(2, "dense layers of the prior", V3, ge=1)
    unimix: float = key(0.01, "share of the uniform distribution in prior and posterior", V3, ge=0, lt=1)
    norm: Literal["none", "rms"] = key("rms", "normalisation before activations", V3)
    activation: Literal["elu", "silu"] = key("silu", "of all layers", V3)
    init: Literal["glorot", "truncated"] = key("truncated", "weights at first: Glorot-uniform, or a truncated normal "
                                               "of the fan-in", f"{V3}: trunc_normal_in")


class V3LossConfig(LossConfig):
    """World model losses of the online stage."""

    kl: Literal["balanced", "scaled"] = key(
        "scaled", "balanced: kl_weight and kl_balance; scaled: dyn_scale and rep_scale", f"{V3}, Eq. 5")
    free_nats: float = key(1.0, "every state's KL costs nothing more below this", V3, ge=0)
    image_scale: float = key(1.0, "weight of the squared error, summed over pixels", f"{V3}: rec 1, an error without "
                             "the half", ge=0)
    reward_head: Literal["auto", "mse", "two_hot"] = key("two_hot", "regression of rewards", V3)
    bin_limit: float = key(20.0, "two-hot bins are symexp of an even grid between minus this and this", V3, gt=0)
    predict_discount: Literal["auto", "yes", "no"] = key("yes", "learn where episodes end", V3)
    discount_weight: float = key(1.0, "weight of the discount head's cross-entropy", f"{V3}: con", ge=0)
    discount_target: Literal["alive", "product"] = key(
        "product", "the discount head learns whether the episode goes on, or that times gamma", f"{V3}: contdisc")


class V3TrainConfig(TrainConfig):
    """Updates from replay, in decisions of all environments together."""

    prefill: int = key(1024, "decisions before the first update", f"{V3}: as many as a batch has steps", ge=1)
    prefill_policy: Literal["uniform", "actor"] = key("actor", "who acts until then", f"{V3}: the new actor")
    initial_updates: int = key(1, "updates on them", V3, ge=0)
    ratio: float = key(
        256.0, "replayed steps per decision, so ratio / (batch * length) updates per decision; 0: every holds",
        f"{V3}, dmc_vision: train_ratio 256, in policy steps (issues 13 and 154), whatever the action repeat", ge=0)
    batch: int = key(16, "sequences in a batch", V3, ge=1)
    length: int = key(64, "steps of a sequence", V3, ge=2)
    capacity: int = key(5_000_000, "steps of replay that are sampled from, the newest", V3, ge=1)
    joint: bool = key(True, "one optimiser steps down the sum of all losses", V3)
    optimiser: Literal["adam", "laprop"] = key("laprop", "adam behind a clip of the global norm, or laprop behind "
                                               "adaptive clipping (agc)", V3)
    model_lr: float = key(4e-5, "learning rate of everything", V3, gt=0)
    dtype: Literal["float32", "bfloat16"] = key("bfloat16", "autocast precision; weights and losses are float32",
                                                f"{V3}: compute_dtype")
    warmup: int = key(1000, "updates over which learning rates rise from zero", V3, ge=0)
    adam_eps: float = key(1e-20, "the optimiser's epsilon", V3, gt=0)
    weight_decay: float = key(0.0, "of adam alone: weights are multiplied by one minus this before each step",
                              f"{V3}: wd 0", ge=0)


class V3BehaviourConfig(BehaviourConfig):
    """Actor and critic, learned in imagination."""

    objective: Literal["dynamics", "reinforce"] = key(
        "reinforce", "what moves the actor: the returns' gradient through the model, or the score function of its own "
        "actions times scaled advantages", f"{V3}, Eq. 6, for continuous actions too")
    actor: Literal["truncated_normal", "bounded_normal"] = key(
        "bounded_normal", "the policy's distribution", f"{V3}: policy_dist_cont")
    horizon: int = key(15, "H, imagined steps", f"{V3}: imag_length", ge=2)
    gae_lambda: float = key(0.95, "lambda of the returns", V3, ge=0, le=1)
    min_std: float = key(0.1, "least standard deviation of the actor", V3, gt=0)
    mean_policy_in_eval: bool = key(False, "evaluate the actor's mean in place of a sampled action", f"{V3}: sampled")
    actor_scale: float = key(0.01, "of the first weights of the actor's output", f"{V3}: outscale", ge=0)
    critic_head: Literal["mse", "two_hot"] = key("two_hot", "regression of values", V3)
    gamma: float = key(0.996997, "discount per decision", f"{V3}: 1 - 1 / 333 (horizon)", ge=0, le=1)
    entropy_coef: float = key(3e-4, "weight of the actor's entropy", f"{V3}: actent", ge=0)
    targets: Literal["slow", "fast"] = key("fast", "the critic that makes targets", f"{V3}: slowtar off")
    slow_every: int = key(1, "updates between moves of the slow critic", V3, ge=1)
    slow_rate: float = key(0.02, "share of the critic in a move of the slow one; 1: a copy", V3, gt=0, le=1)
    slow_regulariser: float = key(1.0, "weight of the critic's loss against what the slow one says", f"{V3}: slowreg",
                                  ge=0)
    replay_value: float = key(0.3, "weight of the critic's loss on replayed rewards", f"{V3}: repval", ge=0)


class DreamerV3Config(DreamerConfig):
    """DreamerV3 (arXiv 2301.04104)."""

    model: V3ModelConfig = V3ModelConfig()
    loss: V3LossConfig = V3LossConfig()
    train: V3TrainConfig = V3TrainConfig()
    behaviour: V3BehaviourConfig = V3BehaviourConfig()
