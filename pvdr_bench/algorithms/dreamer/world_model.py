"""The world model: RSSM (or APV's stack of two), decoder, reward and discount heads, and its loss.

Shapes: B sequences, T steps, N = B * T states, H = W input size, S latents of C classes, A action dimensions.
Sources: DreamerV2, arXiv 2010.02193, Eq. 2; APV, arXiv 2203.13880, section 3, and their released codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.bonus import VideoBonus
from pvdr_bench.algorithms.dreamer.config import DreamerConfig, ModelConfig
from pvdr_bench.nets.conv import MLP, ConvDecoder, ConvEncoder, preprocess
from pvdr_bench.nets.rssm import RSSM, State, balanced_kl, categorical_entropy
from pvdr_bench.nets.twohot import two_hot_bins, two_hot_loss, two_hot_mean


@dataclass(frozen=True)
class Sequences:
    """A batch of replay in the order that the RSSM wants."""

    image: Tensor  # uint8 [B, T, H, W, 3]
    action: Tensor  # float [B, T, A], the action that led to the image; zeros at a first
    reward: Tensor  # float [B, T], received on arriving at the image
    is_first: Tensor  # bool [B, T]; always true at step 0, where the state before is not known
    is_terminal: Tensor  # bool [B, T]

    @classmethod
    def from_replay(cls, batch: dict[str, Tensor], device: torch.device) -> Sequences:
        """Of :meth:`EpisodeReplay.sample`, whose actions are those taken *at* an image: they move on by one step."""
        moved = {name: x.to(device, non_blocking=True) for name, x in batch.items()}
        is_first = moved["is_first"].clone()
        is_first[:, 0] = True
        action = torch.cat([torch.zeros_like(moved["action"][:, :1]), moved["action"][:, :-1]], 1)
        action = action.clamp(-1, 1) * (~is_first)[..., None]  # what the simulator saw
        return cls(moved["image"], action, moved["reward"], is_first, moved["is_terminal"])


def make_rssm(config: ModelConfig, embed_dim: int) -> RSSM:
    """An RSSM of the config's sizes."""
    return RSSM(config.action_width, embed_dim, config.deter, config.hidden, config.stoch, config.classes)


def image_loss(mean: Tensor, image: Tensor) -> Tensor:
    """-log N(image; mean, 1) without its constant: half the squared error, summed over pixels, mean over images."""
    return 0.5 * (mean.float() - image).square().flatten(1).sum(1).mean()


class VideoModel(nn.Module):
    """What is learned from videos, and transferred: encoder, action-free RSSM, decoder.

    The RSSM's action is always zero; see ``action_width``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = ConvEncoder(config.input_size, config.cnn_depth, config.encoder_kernels)
        self.rssm = make_rssm(config, self.encoder.embed_dim)
        self.decoder = ConvDecoder(self.rssm.feature_dim, config.cnn_depth, config.decoder_kernels)


class WorldModel(nn.Module):
    """Encoder -> [action-free RSSM ->] RSSM -> decoder, reward and discount.

    Args:
        two_hot: the reward head's form. discount: whether there is a discount head.
    """

    bins: Tensor

    def __init__(self, config: DreamerConfig, action_dim: int, two_hot: bool, discount: bool) -> None:
        super().__init__()
        self.config, model = config, config.model
        self.action_dim, self.two_hot = action_dim, two_hot
        video = VideoModel(model)
        self.encoder, self.decoder = video.encoder, video.decoder
        self.af_rssm = video.rssm if config.stacked else None
        self.rssm = make_rssm(model, video.rssm.feature_dim) if config.stacked else video.rssm
        heads = (model.head_layers, model.head_units)
        self.register_buffer("bins", two_hot_bins(), persistent=False)
        self.reward = MLP(self.rssm.feature_dim, len(self.bins) if two_hot else 1, *heads,
                          output_scale=float(not two_hot))
        self.discount = MLP(self.rssm.feature_dim, 1, *heads) if discount else None
        self.bonus = VideoBonus(config.bonus, video.rssm.feature_dim) if config.bonus.weight else None

    def transferred(self) -> list[nn.Module]:
        """The modules that pre-training gives."""
        return [self.encoder, self.af_rssm if self.af_rssm is not None else self.rssm]

    def load_video_model(self, weights: dict[str, Tensor]) -> None:
        """Take encoder, decoder and action-free RSSM from the stage ``pretrain``."""
        target = self.af_rssm if self.af_rssm is not None else self.rssm
        for name, module in (("encoder", self.encoder), ("decoder", self.decoder), ("rssm", target)):
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})

    # Filtering ----------------------------------------------------------------------------------------------------

    def initial(self, n: int, device: torch.device) -> dict[str, State]:
        """Zero states of both RSSMs."""
        states = {"rssm": self.rssm.initial(n, device)}
        if self.af_rssm is not None:
            states["af"] = self.af_rssm.initial(n, device)
        return states

    def step(self, states: dict[str, State], image: Tensor, action: Tensor, is_first: Tensor,
             uniform: Tensor) -> dict[str, State]:
        """Filter one observation: image uint8 [N, H, W, 3], the action [N, A] that led to it, uniform [2, N, S]."""
        embed = self.encoder(preprocess(image, self.config.model.input_size))
        out = {}
        if self.af_rssm is not None:
            still = torch.zeros_like(action)
            out["af"] = self.af_rssm.observe(states["af"], still, embed, is_first, uniform[1])
            embed = RSSM.feature(out["af"])
        out["rssm"] = self.rssm.observe(states["rssm"], action, embed, is_first, uniform[0])
        return out

    # Learning -----------------------------------------------------------------------------------------------------

    def loss(self, data: Sequences, uniform: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        """The online stage's loss, posterior states [B, T, ...] for the imagination to start from, and metrics.

        Args:
            uniform: [2, B, T, S], of the RSSM and of the action-free one.
        """
        loss_config = self.config.loss
        image = preprocess(data.image, self.config.model.input_size)
        embed = self.encoder(image.flatten(0, 1)).unflatten(0, image.shape[:2])
        reward, known, metrics, total = data.reward, torch.ones_like(data.is_first), {}, image.new_zeros(())
        if self.af_rssm is not None:
            still = torch.zeros_like(data.action)
            af, af_prior = self.af_rssm.scan(embed, still, data.is_first, uniform[1])
            af_kl, metrics["af_kl"] = balanced_kl(af["logits"], af_prior, loss_config.kl_balance, loss_config.free_nats)
            if loss_config.af_kl_weight:
                total = total + loss_config.af_kl_weight * af_kl
            embed = RSSM.feature(af)
            if self.bonus is not None:
                extra, known, metrics["bonus_raw"] = self.bonus(embed.detach(), data.is_first)
                reward = reward[:, :extra.shape[1]] + self.config.bonus.weight * extra
                metrics["bonus"] = extra.sum() / known.sum().clamp_min(1)
        post, prior = self.rssm.scan(embed, data.action, data.is_first, uniform[0])
        kl, metrics["kl"] = balanced_kl(post["logits"], prior, loss_config.kl_balance, loss_config.free_nats)
        feature = RSSM.feature(post)
        image_term = image_loss(self.decoder(feature.flatten(0, 1)), image.flatten(0, 1))
        reward_term, metrics["reward_error"] = self._reward_loss(feature[:, :reward.shape[1]], reward, known)
        total = total + loss_config.kl_weight * kl + image_term + reward_term
        if self.discount is not None:
            alive = (~data.is_terminal).float()
            term = F.binary_cross_entropy_with_logits(self.discount(feature)[..., 0].float(), alive)
            total = total + loss_config.discount_weight * term
            metrics["discount_loss"] = term.detach()
        metrics |= {"loss": total.detach(), "image_loss": image_term.detach(), "reward_loss": reward_term.detach(),
                    "posterior_entropy": categorical_entropy(post["logits"].detach()).mean()}
        return total, {name: x.detach() for name, x in post.items()}, metrics

    def _reward_loss(self, feature: Tensor, reward: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood and absolute error of its prediction (scalars): means over the ``known`` rewards."""
        out = self.reward(feature)
        if self.two_hot:
            predicted, loss = two_hot_mean(out, self.bins), two_hot_loss(out, reward, self.bins)
        else:
            predicted = out[..., 0].float()
            loss = 0.5 * (predicted - reward).square()
        error, count = (predicted - reward).abs().detach(), known.sum().clamp_min(1)
        return (loss * known).sum() / count, (error * known).sum() / count

    def predict_reward(self, feature: Tensor) -> Tensor:
        """Rewards [...] on arriving at states with features [..., F]."""
        out = self.reward(feature)
        return two_hot_mean(out, self.bins) if self.two_hot else out[..., 0].float()

    def predict_discount(self, feature: Tensor, gamma: float) -> Tensor:
        """gamma times the probability [...] that the episode goes on from states with features [..., F]."""
        if self.discount is None:
            return feature.new_full(feature.shape[:-1], gamma)
        return gamma * torch.sigmoid(self.discount(feature)[..., 0].float())
