"""What the config's keys of form stand for: styles of layers, RSSMs and heads."""

from __future__ import annotations

from pvdr_bench.algorithms.dreamer.config import DreamerConfig, ModelConfig
from pvdr_bench.nets.conv import MLP
from pvdr_bench.nets.layers import Style
from pvdr_bench.nets.pooled_conv import PooledEncoder, UpsampledDecoder
from pvdr_bench.nets.rssm import RSSM, RSSMForm
from pvdr_bench.nets.twohot import ScalarHead


def style_of(config: ModelConfig) -> Style:
    """Of dense layers and, in the backbone ``pooled``, of convolutions."""
    return Style(config.norm, config.activation, config.init)


def make_rssm(config: ModelConfig, embed_dim: int) -> RSSM:
    """An RSSM of the config's sizes and form."""
    form = RSSMForm(config.cell, config.blocks, config.prior_layers, config.unimix, style_of(config))
    return RSSM(config.action_width, embed_dim, config.deter, config.hidden, config.stoch, config.classes, form)


def pooled_encoder(config: ModelConfig) -> PooledEncoder:
    """Of the config's sizes."""
    return PooledEncoder(config.input_size, config.cnn_depth, config.cnn_multipliers, config.cnn_kernel,
                         style_of(config))


def upsampled_decoder(config: ModelConfig) -> UpsampledDecoder:
    """Of the config's sizes."""
    return UpsampledDecoder(config.stoch * config.classes, config.deter, config.input_size, config.cnn_depth,
                            config.cnn_multipliers, config.cnn_kernel, config.head_units, config.blocks,
                            style_of(config))


def _predictor_layers(config: ModelConfig) -> int:
    return config.head_layers if config.predictor_layers is None else config.predictor_layers


def reward_head(config: DreamerConfig, feature_dim: int, two_hot: bool) -> ScalarHead:
    """Predicts rewards."""
    model = config.model
    return ScalarHead(feature_dim, _predictor_layers(model), model.head_units, two_hot, config.loss.bin_limit,
                      style_of(model))


def discount_head(config: ModelConfig, feature_dim: int) -> MLP:
    """Predicts, as a logit, that the episode goes on."""
    return MLP(feature_dim, 1, _predictor_layers(config), config.head_units, style=style_of(config))
