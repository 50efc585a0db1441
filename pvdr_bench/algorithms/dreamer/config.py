"""Every hyperparameter of DreamerV2, APV, ContextWM and PreLAR with its meaning and source. Imports no torch.

Defaults are those of APV's released configuration for Meta-World (``apv_finetuning/configs.yaml``, which is
DreamerV2's with other sizes), or, where it is silent, DreamerV2's; "departure" marks what PVDR's protocol needs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pvdr_bench.algorithms.dreamer.video_config import (
    CONTEXT,
    PRELAR,
    ContextConfig,
    LatentActionConfig,
    PretrainConfig,
)
from pvdr_bench.rl.config import AlgorithmConfig, EpisodeRules, Schedule, Section, check_pictures, key, schedule_from

APV = "APV code, metaworld"
V2 = "DreamerV2 code"
V3 = "DreamerV3 code"


class ModelConfig(Section):
    """Networks of the world model."""

    input_size: int = key(64, "side of the pictures that the networks see; larger observations are averaged down",
                          "APV, DreamerV2: 64", ge=8)
    deter: int = key(1024, "width of the deterministic state", APV, ge=8)
    hidden: int = key(1024, "units of the RSSM's dense layers", APV, ge=8)
    stoch: int = key(32, "latent categoricals", APV, ge=1)
    classes: int = key(32, "classes of each", APV, ge=2)
    cnn_depth: int = key(48, "channels of the first convolution; doubled at each", APV, ge=4)
    encoder_kernels: tuple[int, ...] = key((4, 4, 4, 4), "kernels of the encoder, stride 2", APV, min_length=1)
    decoder_kernels: tuple[int, ...] = key((5, 5, 6, 6), "kernels of the decoder, stride 2", APV, min_length=2)
    head_layers: int = key(4, "dense layers of reward, discount, actor and critic", APV, ge=1)
    head_units: int = key(400, "units of each", APV, ge=8)
    action_width: int = key(50, "width that actions are padded to with zeros; videos are all zeros, or have a latent "
                            "action of this width", f"{APV}; PreLAR: 64", ge=1)
    backbone: Literal["cnn", "resnet", "pooled"] = key(
        "cnn", "encoder and decoder: strided convolutions, residual stages, or convolutions that keep the size, with "
        "pooling and upsampling", "APV: cnn; ContextWM, PreLAR: resnet; DreamerV3: pooled")
    cnn_multipliers: tuple[int, ...] = key((2, 3, 4, 4), "widths of the backbone pooled, in multiples of cnn_depth; "
                                           "each halves the side", V3, min_length=1)
    cnn_kernel: int = key(5, "its kernels, odd", V3, ge=1)
    cell: Literal["gru", "block_gru"] = key("gru", "recurrent cell: one layer-normed GRU, or block-diagonal",
                                            f"{APV}; DreamerV3: block_gru")
    blocks: int = key(8, "blocks of block_gru, and of the backbone pooled's decoder", V3, ge=1)
    prior_layers: int = key(1, "dense layers of the prior", f"{APV}; DreamerV3: 2", ge=1)
    unimix: float = key(0.0, "share of the uniform distribution in prior and posterior", f"{APV}; DreamerV3: 0.01",
                        ge=0, lt=1)
    norm: Literal["none", "rms"] = key("none", "normalisation before activations", f"{APV}; DreamerV3: rms")
    activation: Literal["elu", "silu"] = key("elu", "of dense layers, and of the backbone pooled",
                                             f"{APV}; DreamerV3: silu")
    init: Literal["glorot", "truncated"] = key("glorot", "weights at first: Glorot-uniform, or a truncated normal of "
                                               "the fan-in", f"{APV}; DreamerV3: truncated")
    predictor_layers: int | None = key(None, "dense layers of reward and discount; null: head_layers",
                                       f"{APV}; DreamerV3: 1", ge=1)
    res_stages: int = key(3, "residual stages, each of half the side and twice the width of the one before", CONTEXT,
                          ge=1)
    res_blocks: int = key(2, "residual blocks of two convolutions in a stage", CONTEXT, ge=1)
    res_norm: Literal["batch", "none"] = key("batch", "normalisation after each convolution of a block", CONTEXT)
    context: ContextConfig = ContextConfig()
    latent_action: LatentActionConfig = LatentActionConfig()

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        own = self.latent_action
        if self.backbone == "resnet" or own.reads == "frames" and own.kind in ("gaussian", "deterministic"):
            self._fits_stages()
        if self.cell == "block_gru" and self.deter % self.blocks:
            raise ValueError(f"blocks {self.blocks} do not divide deter {self.deter}")
        if self.backbone == "resnet":
            return self
        if self.context.frame != "none":
            raise ValueError("context.frame needs the backbone resnet, whose decoder attends to it")
        if self.backbone == "pooled":
            return self._fits_pooling()
        size, pixels = self.input_size, 1
        for kernel in self.encoder_kernels:
            size = (size - kernel) // 2 + 1
        for kernel in self.decoder_kernels:
            pixels = 2 * (pixels - 1) + kernel
        if size < 1:
            raise ValueError(f"encoder_kernels {self.encoder_kernels} leave nothing of {self.input_size} pixels")
        if pixels != self.input_size:
            raise ValueError(f"decoder_kernels {self.decoder_kernels} draw {pixels} pixels, not {self.input_size}")
        return self

    def _fits_pooling(self) -> ModelConfig:
        halvings, last = len(self.cnn_multipliers), self.cnn_depth * self.cnn_multipliers[-1]
        if self.input_size % 2**halvings:
            raise ValueError(f"input_size {self.input_size} cannot be halved {halvings} times, as often as there are "
                             f"cnn_multipliers")
        if self.cnn_kernel % 2 == 0:
            raise ValueError(f"cnn_kernel {self.cnn_kernel} must be odd, to keep the size")
        if self.deter % self.blocks or last % self.blocks:
            raise ValueError(f"blocks {self.blocks} do not divide deter {self.deter} and the {last} channels of the "
                             "smallest map")
        return self

    def _fits_stages(self) -> None:
        if self.input_size % 2 ** (self.res_stages + 1):
            raise ValueError(f"input_size {self.input_size} cannot be halved {self.res_stages + 1} times, as "
                             f"res_stages {self.res_stages} do")
        if self.context.frame != "none" and self.cnn_depth % self.context.heads:
            raise ValueError(f"context.heads {self.context.heads} do not divide cnn_depth {self.cnn_depth}")


class LossConfig(Section):
    """World model losses of the online stage."""

    kl_weight: float = key(1.0, "weight of the balanced KL of the RSSM with actions", APV, ge=0)
    af_kl_weight: float = key(0.0, "weight of the KL of the action-free RSSM below it (stacked only)", APV, ge=0)
    kl_balance: float = key(0.8, "share of the KL that moves the prior", APV, ge=0, le=1)
    kl: Literal["balanced", "scaled"] = key(
        "balanced", "balanced: kl_weight and kl_balance; scaled: dyn_scale and rep_scale", f"{APV}; DreamerV3: scaled")
    dyn_scale: float = key(1.0, "scaled: weight of the KL that moves the prior", V3, ge=0)
    rep_scale: float = key(0.1, "scaled: weight of the KL that moves the posterior", V3, ge=0)
    free_nats: float = key(0.0, "balanced: the mean KL costs nothing more below this; scaled: every state's",
                           f"{APV}; DMC, DreamerV3: 1", ge=0)
    image_scale: float = key(0.5, "weight of the squared error of pictures, summed over pixels",
                             f"{APV}: a normal of variance 1; DreamerV3: 1", ge=0)
    bin_limit: float = key(7.0, "two-hot bins are symexp of an even grid between minus this and this",
                           "DreamerV3: 20; departure: 7 reaches to 1096, enough for the rewards here", gt=0)
    plain_reward_weight: float = key(
        0.0, "weight of a second reward head, which regresses the task's reward without the bonus and shapes the "
        "state; the first one is what the behaviour learns from", "APV: none; ContextWM, PreLAR: 1 (aux_reward)", ge=0)
    context_augment: Literal["none", "erasing"] = key(
        "none", "what is done to context frames; erasing: every other one has a random rectangle made grey",
        "ContextWM's README: erasing, but none for drawer-open")
    reward_head: Literal["auto", "mse", "two_hot"] = key(
        "auto", "regression of rewards; auto: two_hot where the protocol adds a success bonus, else mse",
        "APV: mse; departure: two_hot (DreamerV3), whose bins resolve distances of 0.01 beside a bonus of 60")
    predict_discount: Literal["auto", "yes", "no"] = key(
        "auto", "learn where episodes end; auto: where the protocol ends them on success",
        "APV: no, its episodes never end; departure: a discount head (DreamerV2's)")
    discount_target: Literal["alive", "product"] = key(
        "alive", "the discount head learns whether the episode goes on, or that times gamma",
        "DreamerV2, DreamerV3: product; alive is the same where it is exact")
    discount_weight: float = key(1.0, "weight of the discount head's cross-entropy", V2, ge=0)


class TrainConfig(Section):
    """Updates from replay, in decisions of all environments together."""

    prefill: int = key(5000, "decisions before the first update", APV, ge=1)
    prefill_policy: Literal["uniform", "actor"] = key("uniform", "who acts until then", f"{APV}; DreamerV3: the actor")
    initial_updates: int = key(100, "updates on them", APV, ge=0)
    every: int = key(5, "decisions per update from then on", APV, ge=1)
    ratio: float = key(0.0, "replayed steps per decision, so ratio / (batch * length) updates per decision; 0: every "
                       "holds", V3, ge=0)
    batch: int = key(50, "sequences in a batch", APV, ge=1)
    length: int = key(50, "steps of a sequence", APV, ge=2)
    capacity: int = key(1_000_000, "steps of replay that are sampled from, the newest", "APV code, fine-tuning: 1e6",
                        ge=1)
    joint: bool = key(False, "one optimiser steps down the sum of all losses, at model_lr; no: world model first, "
                      "then actor and critic, in the imagination of the new model", f"{APV}; DreamerV3: yes")
    optimiser: Literal["adam", "laprop"] = key("adam", "adam behind a clip of the global norm (max_grad_norm), or "
                                               "laprop behind adaptive clipping (agc)", f"{APV}; DreamerV3: laprop")
    agc: float = key(0.3, "laprop: each tensor's gradient has at most this share of the tensor's norm; 0: no clip", V3,
                     ge=0)
    warmup: int = key(0, "updates over which learning rates rise from zero", f"{APV}; DreamerV3: 1000", ge=0)
    model_lr: float = key(3e-4, "Adam's learning rate of the world model", APV, gt=0)
    frozen_updates: int = key(100, "updates during which pre-trained modules keep their weights (learning rate 0)",
                              "APV code, enc_lr_type no_pretrain", ge=0)
    adam_eps: float = key(1e-5, "Adam's epsilon, all optimisers", APV, gt=0)
    max_grad_norm: float = key(100.0, "clip of the global gradient norm of each optimiser; where the RSSM is stacked, "
                               "encoder and action-free RSSM are clipped apart from the rest of the world model", APV,
                               ge=0)
    weight_decay: float = key(1e-6, "weights are multiplied by one minus this before each step, whatever the learning "
                              "rate", "APV code, tfutils.py", ge=0)
    dtype: Literal["float32", "bfloat16"] = key("float32", "autocast precision; APV: float16", "hardware")
    compile: bool = key(False, "torch.compile the scan over time", "hardware")


class BehaviourConfig(Section):
    """Actor and critic, learned in imagination."""

    horizon: int = key(15, "H, imagined steps", APV, ge=2)
    gamma: float = key(0.99, "discount per decision", APV, ge=0, le=1)
    gae_lambda: float = key(0.95, "lambda of the returns", APV, ge=0, le=1)
    entropy_coef: float = key(1e-4, "weight of the actor's entropy", APV, ge=0)
    actor_lr: float = key(8e-5, "Adam's learning rate of the actor", APV, gt=0)
    critic_lr: float = key(8e-5, "Adam's learning rate of the critic", APV, gt=0)
    objective: Literal["dynamics", "reinforce"] = key(
        "dynamics", "what moves the actor: the returns' gradient through the model, or the score function of its own "
        "actions times scaled advantages", f"{APV}; DreamerV3: reinforce")
    actor: Literal["truncated_normal", "bounded_normal"] = key("truncated_normal", "the policy's distribution",
                                                               f"{APV}; DreamerV3: bounded_normal")
    actor_scale: float = key(1.0, "of the first weights of the actor's output", f"{APV}; DreamerV3: 0.01", ge=0)
    min_std: float = key(0.1, "least standard deviation of the actor", V2, gt=0)
    max_std: float = key(1.0, "greatest standard deviation of a bounded_normal", V3, gt=0)
    critic_head: Literal["mse", "two_hot"] = key("mse", "regression of values", f"{APV}; DreamerV3: two_hot")
    targets: Literal["slow", "fast"] = key("slow", "the critic that makes targets of reinforce; those of dynamics are "
                                           "the slow one's", "DreamerV3 code: fast (slowtar off)")
    slow_every: int = key(100, "updates between moves of the slow critic", APV, ge=1)
    slow_rate: float = key(1.0, "share of the critic in a move of the slow one; 1: a copy", f"{APV}; DreamerV3: 0.02",
                           gt=0, le=1)
    slow_regulariser: float = key(0.0, "reinforce: weight of the critic's loss against what the slow one says",
                                  f"{V3}: 1", ge=0)
    replay_value: float = key(0.0, "reinforce: weight of the critic's loss on replayed rewards", f"{V3}: 0.3", ge=0)
    replay_value_grad: bool = key(True, "that loss also moves the representation", f"{V3}: yes (repval_grad)")
    return_low: float = key(5.0, "reinforce: lower percentile of returns, in percent", V3, ge=0, le=100)
    return_high: float = key(95.0, "upper percentile of returns; their distance scales advantages", V3, ge=0, le=100)
    return_rate: float = key(0.01, "share of a batch in the running percentiles", V3, gt=0, le=1)
    return_floor: float = key(1.0, "the scale is at least this", f"{V3}: limit", gt=0)
    mean_policy_in_eval: bool = key(False, "evaluate the actor's mean in place of a sampled action",
                                    "APV: mean; benchmark: sampled, a frozen task under it is one episode repeated")


class BonusConfig(Section):
    """APV's video-based intrinsic bonus."""

    weight: float = key(1.0, "beta, weight of the bonus in the regressed reward; 0: none", f"{APV}; DMC: 0.1", ge=0)
    window: int = key(5, "tau, steps of a forward window whose features are averaged", APV, ge=1)
    projection: int = key(128, "dimensions of the fixed random projection", APV, ge=1)
    queue: int = key(4096, "newest windows that neighbours are looked for in, the batch's own included", APV, ge=1)
    neighbours: int = key(16, "k", APV, ge=1)
    distance: Literal["mean", "kth"] = key("mean", "mean distance to the k nearest, itself included, or distance to "
                                           "the k-th", "APV code: mean; its slides print kth")
    of: Literal["states", "embeddings"] = key(
        "states", "features that windows are of: the action-free RSSM's, or the encoder's",
        f"{APV}, ContextWM: states; PreLAR: embeddings (use_feat off)")
    momentum: float = key(0.99, "of the running scale that bonuses are divided by", APV, ge=0, lt=1)
    at_end: Literal["left_out", "cut"] = key(
        "left_out", "a window that would cross an end of an episode: left out, and with it the reward of its first "
        "step, so that the reward head never sees the last window - 1 rewards of an episode; or cut at the end, the "
        "mean of the features before it", f"{APV} code: left out, of episodes that no success ends; departure: cut",
        added=True)


class DreamerConfig(AlgorithmConfig):
    """DreamerV2 (arXiv 2010.02193); with ``stacked`` APV (arXiv 2203.13880), with a context also ContextWM (arXiv
    2305.18499); with latent actions PreLAR (ECCV 2024)."""

    pretrained: bool = key(False, "start from the stage pretrain", "APV: yes; DreamerV2: no")
    stacked: bool = key(False, "an RSSM with actions on top of the action-free one; without it, pre-trained weights "
                        "are the RSSM's own", "APV: yes; no: its naive fine-tuning")
    action_encoder: bool = key(False, "a dense network of two layers makes latent actions of real ones, everywhere the "
                               "RSSM is given one", f"{PRELAR}: yes, deterministic; without: padded with zeros")
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    bonus: BonusConfig = BonusConfig(weight=0.0)

    @model_validator(mode="after")
    def _fits(self) -> DreamerConfig:
        if self.bonus.weight and not self.stacked and self.bonus.of == "states":
            raise ValueError("bonus.weight needs stacked: the bonus is of the action-free RSSM's features; or bonus.of "
                             "embeddings")
        if self.stacked and (self.model.latent_action.kind != "none" or self.action_encoder):
            raise ValueError("stacked has an RSSM without actions: no model.latent_action.kind drives it, and no "
                             "action_encoder stands before it")
        self._consistent()
        if self.train.joint and self.behaviour.objective == "dynamics":
            raise ValueError("train.joint needs behaviour.objective reinforce: the gradient of dynamics goes through "
                             "the model, which would learn to promise rewards")
        if self.behaviour.replay_value and not (self.train.joint and self.behaviour.objective == "reinforce"):
            raise ValueError("behaviour.replay_value needs train.joint and behaviour.objective reinforce")
        if self.bonus.weight and self.bonus.window >= self.train.length:
            raise ValueError(f"bonus.window {self.bonus.window} leaves no reward of train.length {self.train.length}")
        return self

    def _consistent(self) -> None:
        kind, form = self.model.latent_action.kind, self.pretrain.consistency
        fits = {"none": (kind,), "l2": ("gaussian", "deterministic")}.get(form, ("gaussian",))
        if kind not in fits:
            raise ValueError(f"pretrain.consistency {form} is of latent actions that are {' or '.join(fits)}, and "
                             f"model.latent_action.kind is {kind}")

    def schedule(self, stage: str) -> Schedule:
        """Clips of ``pretrain.length`` frames."""
        if stage != "pretrain":
            return super().schedule(stage)
        return schedule_from(self.pretrain, self.pretrain.length, self.pretrain.frame_stride)

    def check_image(self, size: int) -> None:
        """Refuse pictures of a side that the networks' input would have to be blown up from.

        Raises:
            CatalogError: smaller than ``model.input_size``.
        """
        check_pictures(size, self.model.input_size)

    def warning(self, protocol: EpisodeRules) -> str | None:
        """Tell of a protocol that ends episodes at a success worth less than the intrinsic bonus of going on.

        The bonus is divided by its running scale, so it stays near ``bonus.weight`` a decision: at most
        ``bonus.weight / (1 - gamma)`` for ever.
        """
        success = protocol.success_bonus or 0.0
        if not protocol.terminate_on_success or self.bonus.weight <= success * (1 - self.behaviour.gamma):
            return None
        return (f"the intrinsic bonus pays about {self.bonus.weight:g} at every decision, and protocol {protocol.name} "
                f"ends training episodes at success for a bonus of {success:g}: not to succeed can be worth more. "
                "Compare imagined_return with it; protocol.terminate_on_success=false, the default, has no such end")
