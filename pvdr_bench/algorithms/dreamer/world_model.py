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
from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.forms import discount_head, make_rssm, reward_head
from pvdr_bench.algorithms.dreamer.video_model import Pictures, VideoModel, image_loss
from pvdr_bench.nets.context import ContextNoise
from pvdr_bench.nets.conv import MLP, preprocess
from pvdr_bench.nets.rssm import RSSM, State, balanced_kl, categorical_entropy, scaled_kl
from pvdr_bench.nets.twohot import ScalarHead


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


class WorldModel(Pictures):
    """Encoder -> [action-free RSSM ->] RSSM -> decoder, reward and discount.

    Args:
        two_hot: the reward head's form. discount: whether there is a discount head.
    """

    def __init__(self, config: DreamerConfig, action_dim: int, two_hot: bool, discount: bool) -> None:
        super().__init__()
        self.config, model = config, config.model
        self.action_dim, self.two_hot = action_dim, two_hot
        video = VideoModel(model)
        self.settings, self.encoder, self.decoder, self.context = model, video.encoder, video.decoder, video.context
        self.af_rssm = video.rssm if config.stacked else None
        self.rssm = make_rssm(model, video.rssm.feature_dim) if config.stacked else video.rssm
        feature_dim = self.rssm.feature_dim
        self.reward = reward_head(config, feature_dim, two_hot)
        self.discount = discount_head(model, feature_dim) if discount else None
        of = self.encoder.embed_dim if config.bonus.of == "embeddings" else video.rssm.feature_dim
        self.bonus = VideoBonus(config.bonus, of) if config.bonus.weight else None
        self.plain_reward = reward_head(config, feature_dim, two_hot) if config.loss.plain_reward_weight else None
        self.action_encoder = MLP(action_dim, model.action_width, 1, model.latent_action.units
                                  ) if config.action_encoder else None

    def transferred(self) -> list[nn.Module]:
        """The modules that pre-training gives."""
        context = [] if self.context is None else [self.context]
        return [self.encoder, self.af_rssm if self.af_rssm is not None else self.rssm, *context]

    def load_video_model(self, weights: dict[str, Tensor]) -> None:
        """Take encoder, decoder, context encoder and the RSSM of videos from the stage ``pretrain``."""
        target = self.af_rssm if self.af_rssm is not None else self.rssm
        parts = {"encoder": self.encoder, "decoder": self.decoder, "rssm": target, "context": self.context}
        for name, module in parts.items():
            if module is None:
                continue
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
        out["rssm"] = self.rssm.observe(states["rssm"], self.code(action), embed, is_first, uniform[0])
        return out

    def code(self, action: Tensor) -> Tensor:
        """What the RSSM takes real actions [..., A] for: themselves, or latent ones [..., action_width]."""
        return action if self.action_encoder is None else self.action_encoder(action)

    def imagine(self, state: State, action: Tensor, uniform: Tensor) -> State:
        """One step of the RSSM with real actions [N, A] and no observation; uniform [N, S]."""
        return self.rssm.imagine(state, self.code(action), uniform)

    # Learning -----------------------------------------------------------------------------------------------------

    def loss(self, data: Sequences, uniform: Tensor,
             noise: ContextNoise | None = None) -> tuple[Tensor, State, dict[str, Tensor]]:
        """The online stage's loss, posterior states [B, T, ...] with their gradient, and metrics.

        Args:
            uniform: [2, B, T, S], of the RSSM and of the action-free one. noise: of :meth:`context_noise`.
        """
        loss_config = self.config.loss
        image = preprocess(data.image, self.config.model.input_size)
        embed = pictured = self.embed(image)
        metrics, total = dict[str, Tensor](), image.new_zeros(())
        if self.af_rssm is not None:
            still = torch.zeros_like(data.action)
            af, af_prior = self.af_rssm.scan(embed, still, data.is_first, uniform[1])
            af_kl, metrics["af_kl"] = self._kl(af["logits"], af_prior)
            if loss_config.af_kl_weight:
                total = total + loss_config.af_kl_weight * af_kl
            embed = RSSM.feature(af)
        of = pictured if self.config.bonus.of == "embeddings" else embed
        reward, known = self._paid(data, of.detach(), metrics)
        post, prior = self.rssm.scan(embed, self.code(data.action), data.is_first, uniform[0])
        kl, metrics["kl"] = self._kl(post["logits"], prior)
        feature = RSSM.feature(post)
        drawn = self.draw(feature, image, noise, loss_config.context_augment, data.is_first)
        image_term = image_loss(drawn, image.flatten(0, 1), loss_config.image_scale)
        paid = feature[:, :reward.shape[1]]
        reward_term, metrics["reward_error"] = self._reward_loss(self.reward, paid, reward, known)
        total = total + (loss_config.kl_weight * kl if loss_config.kl == "balanced" else kl) + image_term + reward_term
        if self.plain_reward is not None:
            every = torch.ones_like(data.is_first)
            plain, metrics["plain_reward_error"] = self._reward_loss(self.plain_reward, feature, data.reward, every)
            total = total + loss_config.plain_reward_weight * plain
        if self.discount is not None:
            alive = (~data.is_terminal).float() * (self.config.behaviour.gamma if self._discounted else 1.0)
            term = F.binary_cross_entropy_with_logits(self.discount(feature)[..., 0].float(), alive)
            total = total + loss_config.discount_weight * term
            metrics["discount_loss"] = term.detach()
        metrics |= {"loss": total.detach(), "image_loss": image_term.detach(), "reward_loss": reward_term.detach(),
                    "posterior_entropy": categorical_entropy(post["logits"].detach()).mean()}
        return total, post, metrics

    def _kl(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """The KL loss of logits [B, T, S, C] in the config's form, and the plain KL; scalars."""
        own = self.config.loss
        if own.kl == "scaled":
            return scaled_kl(posterior, prior, own.dyn_scale, own.rep_scale, own.free_nats)
        return balanced_kl(posterior, prior, own.kl_balance, own.free_nats)

    def _paid(self, data: Sequences, feature: Tensor, metrics: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Rewards [B, <= T] with the bonus of features [B, T, F], and which of them are known; adds to the metrics."""
        if self.bonus is None:
            return data.reward, torch.ones_like(data.is_first)
        extra, known, metrics["bonus_raw"] = self.bonus(feature, data.is_first)
        metrics["bonus"] = extra.sum() / known.sum().clamp_min(1)
        return data.reward[:, :extra.shape[1]] + self.config.bonus.weight * extra, known

    @property
    def _discounted(self) -> bool:
        return self.config.loss.discount_target == "product"

    def _reward_loss(self, head: ScalarHead, feature: Tensor, reward: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood and absolute error of its prediction (scalars): means over the ``known`` rewards."""
        out = head(feature)
        predicted, loss = head.mean(out), head.loss(out, reward)
        error, count = (predicted - reward).abs().detach(), known.sum().clamp_min(1)
        return (loss * known).sum() / count, (error * known).sum() / count

    def predict_reward(self, feature: Tensor) -> Tensor:
        """Rewards [...] on arriving at states with features [..., F]."""
        return self.reward.mean(self.reward(feature))

    def predict_discount(self, feature: Tensor, gamma: float) -> Tensor:
        """gamma times the probability [...] that the episode goes on from states with features [..., F]."""
        if self.discount is None:
            return feature.new_full(feature.shape[:-1], gamma)
        found = torch.sigmoid(self.discount(feature)[..., 0].float())
        return found if self._discounted else gamma * found
