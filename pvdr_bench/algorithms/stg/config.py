"""Every hyperparameter of STG with its meaning and source. Imports no torch.

Defaults are those of the code that its authors released (``zhoubohan0/STG-Transformer``, folder ``atari``); the part
``ppo`` is the benchmark's own PPO, so that ``stg`` and ``ppo`` differ in their rewards alone. "departure" marks what
this benchmark adds.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pvdr_bench.algorithms.ppo.config import PPOConfig
from pvdr_bench.rl.config import AlgorithmConfig, EpisodeRules, Schedule, Section, check_pictures, key, schedule_from

CODE = "STG code, atari"
README = "STG code, README's command"


class ModelConfig(Section):
    """The state-to-go transformer, its critic and its regressor of temporal distance."""

    input_size: int = key(84, "side of the pictures that the encoder sees; larger ones are averaged down",
                          f"{CODE}: 84, four grey frames; here one RGB frame, as in its Minecraft half", ge=4)
    cnn_channels: tuple[int, ...] = key((32, 64, 64), "channels of the encoder's convolutions", CODE, min_length=1)
    cnn_kernels: tuple[int, ...] = key((8, 4, 3), "their kernels", CODE, min_length=1)
    cnn_strides: tuple[int, ...] = key((4, 2, 1), "their strides", CODE, min_length=1)
    cnn_form: Literal["atari", "minecraft"] = key(
        "atari", "atari: ReLU after every layer, the embedding too; minecraft: batch norm and leaky ReLU after every "
        "convolution, and embeddings that may be negative",
        "STG code's two halves; the second without its residual blocks")
    width: int = key(512, "d, width of embeddings and transformer", CODE, ge=4)
    layers: int = key(3, "transformer blocks", CODE, ge=1)
    heads: int = key(4, "attention heads", CODE, ge=1)
    context: int = key(128, "L, transitions in a clip and frames that a prediction can look back on; a clip has one "
                       "frame more, so a corpus of shorter episodes needs a smaller one", CODE, ge=1)
    max_timestep: int = key(10_000, "entries of the table of global positions: the number of a clip's first frame in "
                            "its episode, the last entry from there on", CODE, ge=1)
    init_std: float = key(0.02, "standard deviation of the first weights of dense layers, but for the critic's normed "
                          "ones; narrow networks need a larger one", CODE, gt=0)
    dropout: float = key(0.1, "dropout of embeddings, attention and residual branches", CODE, ge=0, lt=1)
    critic_widths: tuple[int, ...] = key((512, 256, 128, 64, 32), "hidden units of the critic", CODE, min_length=1)
    critic_norm_first: bool = key(False, "spectral norm on the critic's first layer too, which bounds its slope "
                                  "without a clip of its weights",
                                  f"{CODE}: on all layers but the first; departure: all")

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if not len(self.cnn_channels) == len(self.cnn_kernels) == len(self.cnn_strides):
            raise ValueError("cnn_channels, cnn_kernels and cnn_strides have one entry per convolution")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.map_size < 1:
            raise ValueError(f"cnn_kernels {self.cnn_kernels} leave nothing of {self.input_size} pixels")
        return self

    @property
    def map_size(self) -> int:
        """Side of the last convolution's map."""
        size = self.input_size
        for kernel, stride in zip(self.cnn_kernels, self.cnn_strides, strict=True):
            size = (size - kernel) // stride + 1 if size >= kernel else 0
        return size


class PretrainConfig(Section):
    """Stage ``pretrain``: transformer, critic and regressor on videos."""

    steps: int = key(60_000, "updates of the generator and of the critic", "STG code: checkpoints of 18,160 to 60,000",
                     ge=1)
    batch: int = key(16, "clips in a batch", CODE, ge=1)
    frame_stride: int = key(1, "frames between neighbouring frames of a clip", CODE, ge=1)
    lr: float = key(1e-4, "learning rate of AdamW (generator) and of RMSprop (critic)", CODE, gt=0)
    beta1: float = key(0.9, "AdamW's first beta", CODE, ge=0, lt=1)
    beta2: float = key(0.95, "AdamW's second beta", CODE, ge=0, lt=1)
    weight_decay: float = key(0.1, "AdamW's decay of the weights of linear layers and convolutions", CODE, ge=0)
    prediction_weight: float = key(0.5, "weight of the squared error of the predicted step, l2_coff", CODE, ge=0)
    adversarial_weight: float = key(0.3, "weight of the critic's opinion of predictions, g_coff", README, ge=0)
    adversarial_moves: Literal["encoder", "step"] = key(
        "encoder", "what the critic's opinion of predictions moves: the embeddings that they start from too, or the "
        "predicted step alone", f"{CODE}: encoder; departure: step, where no clip of its weights keeps the critic flat "
        "and embeddings run away to where it likes them")
    critic_weight: float = key(0.5, "weight of the critic's own loss, d_coff", CODE, ge=0)
    distance_weight: float = key(0.1, "weight of the temporal-distance regression, tdr_coff; STG-: 0", CODE, ge=0)
    critic_clip: float = key(0.01, "every weight and bias of the critic is cut to this range after a step; 0: none",
                             f"{CODE}; departure: none, with critic_norm_first", ge=0)
    shuffled_weight: float = key(0.0, "share of the critic's negatives that are true frames of other moments, half of "
                                 "the same clip and half of any, in place of predictions",
                                 f"{CODE}: predictions alone; departure: some", ge=0, le=1)
    generator_owns: Literal["generator", "released"] = key(
        "generator", "what the generator's AdamW moves; released: also all biases of the critic, and its first weight "
        "unless model.critic_norm_first, towards a high opinion of predictions",
        "meant: generator; STG code: released (method stg-released)")
    validate_every: int = key(5000, "steps between validations", "STG silent", ge=1)
    validation_clips: int = key(64, "held-out clips in a validation", "STG silent", ge=1)


class RewardConfig(Section):
    """The reward of a decision: the task's, plus beta times how much likelier than predicted the critic finds the step,
    plus nu times the progress that the prediction promises."""

    task_weight: float = key(1.0, "weight of the task's own reward", "PVDR's protocol: added; STG: 0", ge=0)
    beta: float = key(0.6, "weight of the critic's opinion of the step less that of the prediction, in units of `unit`",
                      f"{README}: ds_coef -0.6 with the sign turned", ge=0)
    nu: float = key(0.0, "weight of the temporal distance to the predicted frame, in frames", "STG: 0; STG*: 0.01, "
                    "README's ps_coef", ge=0)
    unit: Literal["none", "corpus", "running"] = key(
        "corpus", "what the critic's difference is divided by; corpus: its standard deviation on the videos, running: "
        "its standard deviation so far in this run",
        "STG: none, where nothing is added to it; departure: its raw values are of the order of 1e-3")


class STGConfig(AlgorithmConfig):
    """STG (Zhou, Li, Jiang, Lu: Learning from Visual Observation via Offline Pretrained State-to-Go Transformer,
    NeurIPS 2023, arXiv 2306.12860)."""

    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()

    def schedule(self, stage: str) -> Schedule:
        """Clips of ``model.context`` transitions."""
        if stage != "pretrain":
            return super().schedule(stage)
        return schedule_from(self.pretrain, self.model.context + 1, self.pretrain.frame_stride,
                             length_key="model.context", beside=1)

    def check_image(self, size: int) -> None:
        """Refuse pictures of a side that the encoder's input would have to be blown up from.

        Raises:
            CatalogError: smaller than ``model.input_size``.
        """
        check_pictures(size, self.model.input_size)

    def check_grid(self, grid: int) -> None:
        """Refuse what PPO's networks cannot work on.

        Raises:
            CatalogError: with the sizes that would do.
        """
        self.ppo.check_grid(grid)

    def warning(self, protocol: EpisodeRules) -> str | None:
        """Tell of a protocol whose episodes end at a success that is worth less than going on to be rewarded."""
        success = protocol.success_bonus or 0.0
        intrinsic = self.reward.beta + self.reward.nu
        if not protocol.terminate_on_success or intrinsic <= self.reward.task_weight * success * (1 - self.ppo.gamma):
            return None
        return (f"the intrinsic reward is about {intrinsic:g} at every decision, and protocol {protocol.name} ends "
                f"training episodes at success for a bonus of {success:g}: not to succeed can be worth more. "
                "protocol.terminate_on_success=false, the default, has no such end")
