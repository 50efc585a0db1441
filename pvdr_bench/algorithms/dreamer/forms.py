"""What the config's keys of form stand for: styles of layers, encoders and decoders, RSSMs and heads."""

from __future__ import annotations

from functools import partial

from torch import nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig, ModelConfig
from pvdr_bench.nets.conv import MLP, ConvDecoder, ConvEncoder
from pvdr_bench.nets.cross_attention import MaskedCrossAttention
from pvdr_bench.nets.layers import Style
from pvdr_bench.nets.pooled_conv import PooledEncoder, UpsampledDecoder
from pvdr_bench.nets.resnet import Norm, ResNetDecoder, ResNetEncoder
from pvdr_bench.nets.rssm import RSSM, RSSMForm
from pvdr_bench.nets.twohot import ScalarHead
from pvdr_bench.tokenizer.shared import SharedBatchNorm

Encoder = ConvEncoder | ResNetEncoder | PooledEncoder
Decoder = ConvDecoder | ResNetDecoder | UpsampledDecoder


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


def _norm(config: ModelConfig) -> Norm:
    return partial(SharedBatchNorm, running=True) if config.res_norm == "batch" else lambda width: nn.Identity()


def residual_encoder(config: ModelConfig, channels: int = 3) -> ResNetEncoder:
    """Of the config's sizes, for images of so many channels."""
    return ResNetEncoder(channels, config.input_size, config.cnn_depth, config.res_stages, config.res_blocks,
                         _norm(config))


def residual_decoder(config: ModelConfig, feature_dim: int) -> ResNetDecoder:
    """Of the config's sizes; with a context its stages of small maps attend to it."""
    own = config.context

    def attention(width: int, side: int) -> MaskedCrossAttention | None:
        if own.frame == "none" or side > own.largest_map:
            return None
        return MaskedCrossAttention(width, side, own.heads, own.mask, own.dropout, _norm(config))

    return ResNetDecoder(feature_dim, config.input_size, config.cnn_depth, config.res_stages, config.res_blocks,
                         _norm(config), attention)


def make_encoder(config: ModelConfig) -> Encoder:
    """The one of the config's backbone."""
    if config.backbone == "resnet":
        return residual_encoder(config)
    if config.backbone == "pooled":
        return pooled_encoder(config)
    return ConvEncoder(config.input_size, config.cnn_depth, config.encoder_kernels)


def make_decoder(config: ModelConfig, feature_dim: int) -> Decoder:
    """The one of the config's backbone."""
    if config.backbone == "resnet":
        return residual_decoder(config, feature_dim)
    if config.backbone == "pooled":
        return upsampled_decoder(config)
    return ConvDecoder(feature_dim, config.cnn_depth, config.decoder_kernels)


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
