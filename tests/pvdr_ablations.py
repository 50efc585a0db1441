"""PVDR's ablations at a size of a second: their own YAML keys over a small PVDR, led through a story's E1 and E2."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.catalog.folders import builtin_root
from pvdr_bench.rl.contract import Transition
from pvdr_bench.rl.ppo import Auxiliary, PPOUpdater
from pvdr_bench.rl.rollout import Batch, Rollout
from pvdr_bench.yaml_documents import read_document
from tests import pvdr_story
from tests.pvdr_story import E1, E2, ENVS, build, picture, story
from tests.test_ppo_learner import IdentityTokenizer

BASE = {"model": {"future_frames": 3, "frame_stride": 1},
        "online": {"finetune_batch": 1000, "lambda2": 0.8, "log_std_init": -1.0}}
TAUGHT = {"planner": {"candidates": 4, "metric": "code_l1"},
          "online": {"e1_first": ENVS * E1, "lact_replay": 60, "teach_epochs": 2, "lact_e1_epochs": 2}}


def own(name: str) -> dict[str, Any]:
    """What a method's file has under ``config``, and what it extends."""
    return dict(read_document(builtin_root() / "methods" / f"{name}.yaml").data)


def small(name: str, *changes: Mapping[str, Any]) -> PVDRConfig:
    """A method's config at the story's size: its own keys, and those of what it extends, over a small PVDR."""
    base = pvdr_story.config().model_dump()
    layers: list[Mapping[str, Any]] = []
    while name != "pvdr":
        data = own(name)
        layers[:0] = [data.get("config", {}), TAUGHT] if name == "pvdr-taught" else [data.get("config", {})]
        name = data["extends"]
    for layer in (BASE, *layers, *changes):
        base = merged(base, layer)
    return PVDRConfig.model_validate(base)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of ``over`` in place of those of ``base``."""
    return {**base, **{key: merged(base[key], value) if isinstance(value, Mapping) else value
                       for key, value in over.items()}}


def learner_of(cfg: PVDRConfig, tokenizer: IdentityTokenizer | None = None) -> PVDRLearner:
    """On weights whose plans differ; action module and prior take plain gradient steps of rate 1, which show their
    gradients, and encoder and decoder none."""
    learner, sgd = build(cfg, tokenizer=tokenizer), torch.optim.SGD
    learner.finetuner.prior_optimizer = sgd(learner.model.prior.parameters(), lr=1.0)  # type: ignore[assignment]
    learner.finetuner.dynamics_optimizer = sgd(learner.model.decoder.parameters(), lr=0.0)  # type: ignore[assignment]
    return learner


@dataclass
class Led:
    """What a learner did on its way through a story."""

    learner: PVDRLearner
    extras: list[dict[str, Tensor]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)  # of E1 (where there is one) and of E2
    rows: list[int] = field(default_factory=list)  # plans decoded at once, while acting
    clips: Tensor | None = None  # that E1 fine-tuned on
    began: dict[str, nn.Module] = field(default_factory=dict)  # copies of the networks before anything
    middle: dict[str, nn.Module] = field(default_factory=dict)  # and before PPO's update
    labelled: Tensor | None = None  # the reward [E2, N] of Eq. 6 that PPO was given
    auxiliary: list[Tensor] | None = None  # gradients of the loss beside PPO's, by parameter of the action module
    surrogate: list[Tensor] = field(default_factory=list)  # gradients of PPO's own loss

    def moved(self, name: str, before: str = "middle") -> bool:
        """Whether a network is another one now than it was ``began`` or in the ``middle``."""
        now, then = networks(self.learner)[name].state_dict(), getattr(self, before)[name].state_dict()
        return any(not torch.equal(now[key], then[key]) for key in then)

    def step(self) -> list[Tensor]:
        """The action module's step in E2, by parameter."""
        pairs = zip(self.middle["actor"].parameters(), self.learner.ppo.actor.parameters(), strict=True)
        return [before.detach() - after.detach() for before, after in pairs]


def networks(learner: PVDRLearner) -> dict[str, nn.Module]:
    """What learns, by name."""
    guide = {} if learner.guide is None else {"guide": learner.guide.network}
    return {"prior": learner.model.prior, "actor": learner.ppo.actor, "critic": learner.ppo.critic, **guide}


def alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have the same weights."""
    theirs = b.state_dict()
    return all(torch.equal(x, theirs[key]) for key, x in a.state_dict().items())


def led(learner: PVDRLearner) -> Led:
    """Lead the learner through E1, where it has one, and E2."""
    out, tale = Led(learner, began=copy.deepcopy(networks(learner))), story()
    update, plan, tune, label = learner.ppo.update, learner.model.decoder.plan, learner.finetuner.learn, Rollout.batch

    def spied(batch: Batch, auxiliary: Auxiliary | None = None, policy_weight: float = 1.0) -> dict[str, float]:
        out.middle = copy.deepcopy(networks(learner))
        out.surrogate, out.auxiliary = gradients(learner.ppo, batch, auxiliary, learner.generator)
        return update(batch, auxiliary, policy_weight=policy_weight)

    def decode(x: Tensor, z: Tensor, *shown: Any) -> Tensor:
        out.rows.append(len(z))
        return plan(x, z, *shown)

    def fine_tune(clips: Tensor) -> dict[str, float]:
        out.clips = clips
        return tune(clips)

    def labels(rollout: Rollout, gamma: float, lam: float, reward: Tensor | None = None) -> Batch:
        out.labelled = reward
        return label(rollout, gamma, lam, reward)

    carry, first = learner.initial(ENVS), torch.ones(ENVS, dtype=torch.bool)
    draw, start = torch.Generator().manual_seed(1), 0 if learner.phase == "e1" else E1
    with (patch.object(learner.ppo, "update", spied), patch.object(learner.finetuner, "learn", fine_tune),
          patch.object(learner.model.decoder, "plan", decode), patch.object(Rollout, "batch", labels)):
        for t in range(start, E1 + E2):
            image = picture(tale.codes[t])
            action, carry, extras = learner.act(image, first, carry, "train", draw)
            out.extras.append(extras)
            learner.observe(Transition(image, first, action, tale.reward[t], tale.terminated[t], tale.truncated[t],
                                       picture(tale.final[t]), extras))
            if found := learner.learn():
                out.metrics.append(found)
            first = tale.ended[t]
    assert learner.rounds == 1
    return out


def gradients(ppo: PPOUpdater, batch: Batch, auxiliary: Auxiliary | None,
              generator: torch.Generator) -> tuple[list[Tensor], list[Tensor] | None]:
    """Of the surrogate with its entropy, by hand, and of the loss beside it, in the order of the coming minibatch."""
    params, actor = list(ppo.actor.parameters()), ppo.actor
    said = {"guide": batch.state["guide"]} if "guide" in batch.state else {}
    policy = actor({"tokens": batch.state["tokens"].long(), "extra": batch.state["extra"], **said})
    ratio = (policy.log_prob(batch.action) - batch.log_prob).exp()
    advantage = (batch.advantage - batch.advantage.mean()) / batch.advantage.std(correction=0)
    loss = -(ratio * advantage).mean() - pvdr_story.ENTROPY * policy.entropy().mean()
    surrogate = filled(loss, params)
    if auxiliary is None:
        return surrogate, None
    shuffle, noise = torch.Generator(), generator.get_state()
    shuffle.set_state(ppo.generator.get_state())
    part = auxiliary(batch.select(torch.randperm(len(batch), generator=shuffle)))
    beside = filled(part(torch.arange(len(batch))), params)
    generator.set_state(noise)
    return surrogate, beside


def filled(loss: Tensor, params: list[nn.Parameter]) -> list[Tensor]:
    """Gradients by parameter; zeros where a loss does not reach."""
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(params, grads, strict=True)]


def size(tensors: list[Tensor]) -> float:
    """The norm of all of them together."""
    return float(torch.stack([x.norm() for x in tensors]).norm())


def prior_step(way: Led) -> list[Tensor]:
    """What fine-tuning on E1 took off the prior's weights."""
    pairs = zip(way.began["prior"].parameters(), way.learner.model.prior.parameters(), strict=True)
    return [before.detach() - after.detach() for before, after in pairs]


def kl_step(way: Led) -> list[Tensor]:
    """The gradient of Eq. 4's first term alone, by hand; the order of clips and the draws of z have no part in it."""
    assert way.clips is not None
    model, prior = way.learner.model, way.began["prior"]
    told = prior(way.clips[:, :model.config.context_frames])
    with torch.no_grad():
        seen = model.encoder(way.clips)
    pair = [torch.distributions.Normal(g.mean, torch.exp(g.logvar / 2)) for g in (told, seen)]
    kl = torch.distributions.kl_divergence(pair[0], pair[1]).sum() / len(way.clips)
    return filled(kl, list(prior.parameters()))


class Greys(IdentityTokenizer):
    """Three codes: black, nearly black, and white."""

    codebook_size, code_dim = 3, 3

    def embed(self, codes: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(codes.long(), 3).float()

    def decode(self, codes: Tensor) -> Tensor:
        return torch.tensor([0, 20, 250], dtype=torch.uint8)[codes][..., None].expand(*codes.shape, 3)
