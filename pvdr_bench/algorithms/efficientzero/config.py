"""Every hyperparameter of EfficientZero and FICC with its meaning and source. Imports no torch.

Defaults are those of the released configurations (YeWR/EfficientZero for Atari, YeWR/FICC for the pre-training), or
PVDR's adaptation to continuous actions (arXiv 2411.03169, appendix A.1). FICC's online half was never released: what
stands there as "reading" is ours; "departure" marks what other pictures, rewards or a small scale need.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from pvdr_bench.rl.config import (
    AlgorithmConfig,
    EpisodeRules,
    Schedule,
    Section,
    check_pictures,
    key,
    schedule_from,
)

EZ = "EfficientZero code"
FICC = "FICC code"
LARGE_REWARD = 10.0  # of a decision; no protocol bounds a suite's own rewards, and this is the order of large ones


class ModelConfig(Section):
    """Networks."""

    input_size: int = key(96, "side of the pictures that the networks see; larger ones are averaged down",
                          f"{EZ}: 96; {FICC}: 84, padded to 96", ge=8)
    gray: bool = key(True, "pictures are gray; else their three colours", f"{FICC}: gray; {EZ}: RGB")
    stack: int = key(4, "newest frames that make one observation; an episode's first is repeated",
                     f"{EZ}, {FICC}", ge=1)
    downsamplings: int = key(4, "halvings of the picture's side in the encoder: two by strides, then mean pooling",
                             EZ, ge=2)
    channels: int = key(64, "channels of latent states", EZ, ge=4)
    blocks: int = key(1, "residual blocks at each resolution, in the dynamics and before the heads", EZ, ge=1)
    encoder_momentum: float = key(0.01, "momentum of batch normalisation in encoder and decoders",
                                  f"{FICC}; {EZ}: 0.1", gt=0, le=1)
    momentum: float = key(0.1, "momentum of batch normalisation elsewhere", FICC, gt=0, le=1)
    head_channels: int = key(16, "channels that heads reduce a latent state to", EZ, ge=1)
    head_units: int = key(32, "units of their dense layer", EZ, ge=1)
    prefix_units: int = key(512, "units of the value prefix's LSTM", EZ, ge=1)
    projection: int = key(512, "width of the projections whose likeness is the consistency loss",
                          f"{FICC}; {EZ}: 1024", ge=1)
    predictor: int = key(256, "units of the layer that predicts one projection from the other",
                         f"{FICC}; {EZ}: 512", ge=1)
    support: float = key(300.0, "largest magnitude of transformed values and value prefixes; targets beyond it are "
                         "taken for it, and train.jsonl has their shares, value_beyond and prefix_beyond", EZ, gt=0)
    bin_width: float = key(1.0, "between the atoms that their distributions stand on",
                           f"{EZ}: 1; departure: finer, distances to a goal differ by less than Atari's scores", gt=0)
    dynamics_input: Literal["code", "action", "box"] = key(
        "action", "what the dynamics are told of an action: the adapter's code for its box (FICC), the drawn "
        "action itself, or its box", f"reading; {EZ}: a discrete action's number")
    codes: int = key(20, "latent actions", FICC, ge=2)
    code_dim: int = key(5, "numbers of a latent action's vector", FICC, ge=1)
    video_networks: Literal["narrow", "released"] = key(
        "narrow", "form of FICC's inverse model and decoders; released: a convolution to code_dim channels before the "
        "dense layer, without normalisation or ReLU, and decoders of as many channels as states, the changes' with a "
        "branch for each resolution; narrow: what other heads have before their dense layers, and decoders whose "
        "channels are halved from the second doubling on. With the first, codes are clipped with the inverse model, "
        "and the parts of the frame decoder and of the projections each alone",
        f"{FICC}: released (ficc at paper scale); departure: narrow", added=True)

    @property
    def grid(self) -> int:
        """Side of a latent state."""
        size = self.input_size
        for _ in range(self.downsamplings):
            size = (size + 1) // 2
        return size

    @property
    def reach(self) -> float:
        """The largest magnitude of a value or value prefix: x of ``sqrt(x + 1) - 1 + 0.001 x = support``."""
        root = (math.sqrt(1 + 4e-3 * (self.support + 1 + 1e-3)) - 1) / 2e-3
        return root**2 - 1

    @property
    def planes(self) -> int:
        """Channels of a frame."""
        return 1 if self.gray else 3

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        atoms = 2 * self.support / self.bin_width
        if abs(atoms - round(atoms)) > 1e-6 or round(atoms) % 2:
            raise ValueError(f"model.support {self.support:g} is no multiple of model.bin_width {self.bin_width:g}")
        return self


class PretrainConfig(Section):
    """Stage ``pretrain`` of FICC: forward-inverse cycle consistency on videos."""

    steps: int = key(51_000, "optimiser steps", f"{FICC}: 51 stages of 1000", ge=1)
    batch: int = key(128, "clips in a batch", FICC, ge=2)
    length: int = key(6, "frames of an unroll; those before the first that fill its stack come on top", FICC, ge=2)
    frame_stride: int = key(1, "frames of video from one frame of a clip to the next; online, a code stands for one "
                            "decision. Generated corpora have a frame every 4 simulator steps: as long as a decision "
                            "where action_repeat is 4, and two decisions at paper scale, where it is 2",
                            "reading: 1", ge=1)
    optimiser: Literal["sgd", "adam"] = key("sgd", "SGD with momentum 0.9, or Adam",
                                            f"{FICC}: sgd; departure: adam learns in a short training")
    lr: float = key(0.02, "largest learning rate", FICC, gt=0)
    lr_start: float = key(1e-5, "learning rate of the first stage; it rises geometrically over warmup_stages", FICC,
                          gt=0)
    lr_final: float = key(2e-4, "learning rate of the last stage; it falls geometrically", FICC, gt=0)
    stage_steps: int = key(1000, "steps of a stage, in which the learning rate stays", FICC, ge=1)
    warmup_stages: int = key(4, "stages until the largest learning rate", FICC, ge=0)
    fresh_optimiser: bool = key(True, "momentum is forgotten at the start of each stage", f"{FICC}: so it is")
    weight_decay: float = key(0.01, "L2 penalty in the gradient", f"{FICC}, pretrain.sh; its default: 1e-4", ge=0)
    max_grad_norm: float = key(10.0, "clip of the gradient norm of each module", FICC, ge=0)
    pixels: float = key(7056.0, "losses summed over pixels are scaled as if a picture had so many",
                        f"{FICC}: 84 x 84 gray; reading: the weights hold for that size alone", gt=0)
    consistency: float = key(1.0, "weight of the SimSiam loss", FICC, ge=0)
    difference: float = key(1.0, "weight of the decoded changes", FICC, ge=0)
    l1: float = key(0.01, "weight of the mean magnitude of latent states", f"{FICC}, pretrain.sh; its default: 0", ge=0)
    commitment: float = key(1.0, "weight of the commitment to codes", FICC, ge=0)
    codebook: Literal["gradient", "ema"] = key("gradient", "how codes move: by gradient, or as moving averages of what "
                                               "they stand for, with restarts of dead ones",
                                               f"{FICC}: gradient; departure: ema, codes stay alive in few steps")
    ema_decay: float = key(0.99, "of the moving averages", "ours", gt=0, lt=1)
    restart_below: float = key(0.1, "codes used less than this share of the mean are dead", "ours", ge=0)
    restart_every: int = key(50, "steps between restarts of dead codes, from vectors of the batch", "ours", ge=1)
    restart_until: float = key(0.5, "share of the steps after which none is restarted", "ours", ge=0, le=1)
    shift: int = key(4, "augmentation: largest random shift in pixels of the network's pictures, of each observation",
                     f"{FICC}; departure: 0 where motions are of a pixel or two", ge=0)
    intensity: float = key(0.05, "augmentation: standard deviation of a random brightness factor", FICC, ge=0)
    validate_every: int = key(1000, "steps between validations", f"{FICC} silent", ge=1)
    validation_clips: int = key(128, "held-out clips in a validation", f"{FICC} silent", ge=2)


class SearchConfig(Section):
    """The tree search."""

    simulations: int = key(50, "nodes that a search adds to its root", EZ, ge=1)
    discount: float = key(0.997**4, "per decision", f"{EZ}: 0.997 ^ 4", ge=0, le=1)
    pb_c_init: float = key(1.25, "weight of the prior in PUCT", EZ, ge=0)
    pb_c_base: float = key(19652.0, "visits at which that weight has risen by log 2", EZ, gt=0)
    value_delta_max: float = key(0.01, "ranges of Q in a tree that are smaller are not stretched to [0, 1]", EZ, gt=0)
    noise_alpha: float = key(0.3, "of the Dirichlet noise at the root, in training only", EZ, gt=0)
    noise_fraction: float = key(0.25, "share of that noise in the root's prior", EZ, ge=0, le=1)
    temperatures: tuple[float, float, float] = key(
        (1.0, 0.5, 0.25), "of the choice by visit counts: in the first half of the budget, to three quarters, then",
        EZ)
    eval_temperature: float = key(0.25, "of the choice in evaluation; 0: the most visited",
                                  f"{EZ}: 0; benchmark: sampled, as at the end of training", ge=0)
    halved: int = key(4, "action dimensions that are halved into boxes, at most; others are drawn from their whole "
                      "range", "PVDR A.1: 16 boxes of four dimensions; reading for other numbers", ge=1, le=8)
    reward: Literal["head", "decoded"] = key(
        "head", "reward in the tree: differences of the value prefix, or minus the decoded frame's distance to the "
        "goal, over that of the first one where the protocol has normalise_distance (pre-trained models only)",
        "reading: head; PVDR A.1 replaces the reward function by the distance during inference")


class TrainConfig(Section):
    """Updates from replay, in decisions of all environments together."""

    prefill: int = key(2000, "decisions in evenly drawn boxes before the first update", EZ, ge=1)
    every: float = key(1.0, "decisions per update from then on", f"{EZ}: 100k updates in 100k", gt=0)
    batch: int = key(256, "positions in a batch", EZ, ge=1)
    unroll: int = key(5, "steps that the dynamics are unrolled, after which the value prefix starts again, in training "
                      "and in search", EZ, ge=1)
    td_steps: int = key(5, "rewards in a value target", EZ, ge=1)
    stale_share: float = key(0.3, "share of the budget by which experience has to be old to lose one of them", EZ, gt=0)
    reanalyse: float = key(1.0, "share of a batch whose policy targets are searched again by the target network; the "
                           "others have those of their last search, or none before it", f"{EZ}: 0.99", ge=0, le=1)
    reanalyse_noise: bool = key(True, "root noise in those searches too", EZ)
    reanalyse_simulations: int = key(0, "of those searches; 0: search.simulations",
                                     f"{EZ}: the same; departure: fewer, most of an update without a GPU", ge=0)
    value_start: Literal["zero", "mean_reward"] = key(
        "zero", "what the value head says of all states at the first update; mean_reward: what the prefill's mean "
        "reward m is worth for ever, m / (1 - discount)", f"{EZ}: zero; departure: where all rewards are negative, "
        "values fall for a whole run, and a tree takes each level for worse than the one above")
    search_after: int = key(
        0, "updates before the first search: until then boxes are drawn evenly and no search is a policy's target",
        f"{EZ}: 0; departure: rewards that are not learned yet make a tree follow its first branch, and the policy it "
        "teaches makes the next tree do so", ge=0)
    target_every: int = key(200, "updates between copies of the network into the target network", EZ, ge=1)
    capacity: int = key(100_000, "entries of replay that are drawn from, the newest", EZ, ge=1)
    priority_exponent: float = key(0.6, "alpha of prioritised replay; a priority is a value's error", EZ, ge=0)
    priority_beta: float = key(0.4, "exponent of the importance weights, rising to 1 over the budget", EZ, ge=0, le=1)
    policy_weight: float = key(1.0, "weight of the policy's cross-entropy", EZ, ge=0)
    value_weight: float = key(0.25, "weight of the value's", EZ, ge=0)
    prefix_weight: float = key(1.0, "weight of the value prefix's", EZ, ge=0)
    consistency_weight: float = key(2.0, "weight of the SimSiam loss between unrolled and encoded states", EZ, ge=0)
    decoder_weight: float = key(1.0, "weight of the decoded frames' loss, per pixel, where search.reward reads them",
                                "reading: a frozen decoder would not know the states of a fine-tuned encoder", ge=0)
    optimiser: Literal["sgd", "adam"] = key("sgd", "SGD with momentum 0.9, or Adam",
                                            f"{EZ}: sgd; departure: adam learns in few updates")
    lr: float = key(0.2, "learning rate", EZ, gt=0)
    warmup: float = key(0.01, "share of the updates in which it rises from 0", EZ, ge=0, le=1)
    lr_decay_at: int = key(100_000, "updates after which it is a tenth", EZ, ge=1)
    weight_decay: float = key(1e-4, "L2 penalty in the gradient", EZ, ge=0)
    max_grad_norm: float = key(5.0, "clip of the global gradient norm", EZ, ge=0)
    shift: int = key(4, "augmentation: largest random shift in pixels of the network's pictures",
                     f"{EZ}; departure: 0 where a hand's place is of a pixel or two", ge=0)
    intensity: float = key(0.05, "augmentation: standard deviation of a random brightness factor", EZ, ge=0)


class AdapterConfig(Section):
    """FICC's action adapter: which latent action each box of actions stands for."""

    every: int = key(500, "decisions between recomputations of counts and majorities", "reading: FICC silent", ge=1)
    window: int = key(2000, "newest decisions that are counted", "reading: FICC silent", ge=2)
    encoder: Literal["pretrained", "current"] = key(
        "pretrained", "whose states the latent action generator reads: the frozen pre-trained encoder's, for which "
        "it was made, or the fine-tuned one's", "reading: FICC silent")


class EfficientZeroConfig(AlgorithmConfig):
    """EfficientZero (arXiv 2111.00210); with ``pretrained`` FICC (Ye et al., ICLR 2023)."""

    pretrained: bool = key(False, "start from the stage pretrain", "FICC: yes; EfficientZero: no")
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    search: SearchConfig = SearchConfig()
    train: TrainConfig = TrainConfig()
    adapter: AdapterConfig = AdapterConfig()

    @model_validator(mode="after")
    def _fits(self) -> EfficientZeroConfig:
        if not self.pretrained and self.model.dynamics_input == "code":
            raise ValueError("model.dynamics_input code needs pretrained: codes are learned from videos")
        if not self.pretrained and self.search.reward == "decoded":
            raise ValueError("search.reward decoded needs pretrained: decoders are learned from videos")
        if self.train.value_start == "mean_reward" and self.search.discount == 1:
            raise ValueError("train.value_start mean_reward needs a search.discount below 1")
        if self.pretrained and self.model.input_size % 2**self.model.downsamplings:
            raise ValueError(f"model.input_size {self.model.input_size} is not a multiple of 2 ^ model.downsamplings "
                             f"({2**self.model.downsamplings}), which the decoders draw")
        return self

    def schedule(self, stage: str) -> Schedule:
        """Clips of ``pretrain.length`` observations."""
        if stage != "pretrain":
            return super().schedule(stage)
        before = self.model.stack - 1
        return schedule_from(self.pretrain, self.pretrain.length + before, self.pretrain.frame_stride, self.model.stack,
                             length_key="pretrain.length", beside=before)

    def check_image(self, size: int) -> None:
        """Refuse pictures of a side that the networks' input would have to be blown up from.

        Raises:
            CatalogError: smaller than ``model.input_size``.
        """
        check_pictures(size, self.model.input_size)

    def warning(self, protocol: EpisodeRules) -> str | None:
        """Tell of rewards that values cannot say, or that differ in the tree from those that are paid."""
        reach, dense = self.model.reach, protocol.reward == "dense"
        steady, bonus = reach * (1 - self.search.discount), protocol.success_bonus or 0.0
        if dense and self.search.reward == "decoded":
            return ("search.reward decoded is a distance to the goal in the tree, and protocol "
                    f"{protocol.name} pays the suite's own rewards")
        if dense and steady < LARGE_REWARD:
            return (f"model.support {self.model.support:g} lets values reach {reach:.3g}, so about {steady:.2g} a "
                    f"decision for ever, and protocol {protocol.name} pays the suite's own rewards, which may be "
                    "larger: targets beyond are taken for that. train.jsonl has their shares, value_beyond and "
                    "prefix_beyond; a larger model.support reaches further")
        if bonus > reach:
            return (f"model.support {self.model.support:g} lets values reach {reach:.3g}, and protocol {protocol.name} "
                    f"pays {bonus:g} at success, which is taken for that; a larger model.support reaches further")
        return None
