"""A made-up course of events that PVDR's learner is led through, and what it should have seen and done in it.

Each frame, reward and episode end is known, so that all that the learner should have learned from can be looked up.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.context import Painter
from pvdr_bench.algorithms.pvdr.model import dynamics_model
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.rl.contract import Transition
from pvdr_bench.rl.ppo import Auxiliary
from pvdr_bench.rl.rollout import Batch
from tests.test_ppo_learner import GRID, IdentityTokenizer, context

MODEL = {"context_frames": 2, "future_frames": 2, "frame_stride": 2, "d_model": 8, "ff": 8, "heads": 2, "token_dim": 4,
         "encoder_depth": 1, "prior_depth": 1, "decoder_depth": 1, "window": 2, "z_grid": 2, "z_dim": 2}
PI = {"pi_depth": 1, "pi_d_model": 8, "pi_heads": 2, "pi_ff": 8, "minibatch": 1000, "epochs": 1, "max_grad_norm": 1e6}
ENVS, E1, E2 = 3, 8, 12  # decisions in time of both buffers
SCALE, LAMBDA3, WEIGHT, ENTROPY = 1.5, 0.7, 0.3, 0.05
START_TO_GOAL = 2 / GRID**2  # two of all cells differ: where the dot is, and where it should be
CUT, OVER = [(3, 0), (11, 0), (16, 2), (19, 1)], [(6, 1), (13, 1), (19, 0)]  # episode ends: by time, by success


def config(online: dict[str, Any] | None = None, pretrain: dict[str, Any] | None = None, replan: int = 1,
           **model: Any) -> PVDRConfig:
    base = {"e1_decisions": ENVS * E1, "e2_decisions": ENVS * E2, "normalise_distance": True, "distance_scale": SCALE,
            "lambda3": LAMBDA3, "lact_weight": WEIGHT, "entropy_coef": ENTROPY, "finetune_lr": 1e-3}
    return PVDRConfig.model_validate({"model": MODEL | model, "planner": {"candidates": 4, "replan_every": replan},
                                      "pretrain": pretrain or {}, "online": PI | base | (online or {})})


def weights(cfg: PVDRConfig, codes: int, painter: Painter | None = None) -> dict[str, Tensor]:
    """A model whose plans differ: random weights, larger than initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return {name: x + 0.4 * torch.randn(x.shape) if x.is_floating_point() else x
                for name, x in dynamics_model(cfg, codes, GRID, painter).state_dict().items()}


def build(cfg: PVDRConfig, n: int = ENVS, tokenizer: IdentityTokenizer | None = None) -> PVDRLearner:
    """A learner with plain gradient steps of rate 1 for the actor: they show its gradient."""
    tokenizer = tokenizer or IdentityTokenizer()
    given = dataclasses.replace(context(cfg, n), artefacts={"pretrain": weights(cfg, tokenizer.codebook_size)})
    learner = PVDRLearner(given, tokenizer)  # type: ignore[arg-type]
    learner.ppo.actor_optimizer = torch.optim.SGD(learner.ppo.actor.parameters(), lr=1.0)  # type: ignore[assignment]
    with torch.no_grad():  # initial mean actions are all near zero
        for p in learner.ppo.actor.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    return learner


@dataclass
class Story:
    """What happens to N environments; codes are those of the images."""

    codes: Tensor  # int64 [T, N, h, w], what is acted on
    final: Tensor  # [T, N, h, w], the frame after a decision
    reward: Tensor  # [T, N]
    terminated: Tensor  # bool [T, N]
    truncated: Tensor  # bool [T, N]

    @property
    def ended(self) -> Tensor:
        return self.terminated | self.truncated

    def seen(self, t: int, n: int) -> list[Tensor]:
        """The frames of an episode up to decision t."""
        first = max((k + 1 for k in range(t) if self.ended[k, n]), default=0)
        return [self.codes[k, n] for k in range(first, t + 1)]

    def made(self, t: int, n: int, every: int) -> int:
        """The decision at which the plan of decision t was made: plans are made where an episode or a buffer begins and
        ``every`` decisions after one was."""
        first = max([0, E1 * (t >= E1), *(k + 1 for k in range(t) if self.ended[k, n])])
        return t - (t - first) % every

    def follows(self, t: int, n: int, stop: int) -> list[Tensor]:
        """The frames of an episode from decision t on, as far as a buffer that ends before ``stop`` shows them."""
        frames = []
        for k in range(t, stop):
            frames.append(self.codes[k, n])
            if self.ended[k, n]:
                break
        return [*frames, self.final[k, n]]


def story(time: int = E1 + E2, cut: list[tuple[int, int]] = CUT, over: list[tuple[int, int]] = OVER) -> Story:
    """Random frames, rewards and final frames, and episode ends at ``cut`` and ``over``."""
    draw = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 2, (time, ENVS, GRID, GRID), generator=draw)
    final = torch.randint(0, 2, (time, ENVS, GRID, GRID), generator=draw)
    terminated, truncated = (torch.zeros((time, ENVS), dtype=torch.bool) for _ in range(2))
    for marks, places in ((truncated, cut), (terminated, over)):
        for place in places:
            marks[place] = True
    goes_on = ~(terminated | truncated)[:-1]
    final[:-1][goes_on] = codes[1:][goes_on]
    return Story(codes, final, torch.randn((time, ENVS), generator=draw), terminated, truncated)


def every_other(frames: list[Tensor], count: int = 2, stride: int = 2) -> Tensor:
    """x_t by hand: ``count`` frames, ``stride`` apart, up to the last of ``frames``; the first stands in for those
    before it."""
    last = len(frames) - 1
    return torch.stack([frames[max(0, last - stride * back)] for back in range(count - 1, -1, -1)])


def picture(codes: Tensor) -> Tensor:
    return codes[..., None].expand(*codes.shape, 3).to(torch.uint8)


@torch.no_grad()
def value_of_plan(learner: PVDRLearner, x: Tensor, generator: torch.Generator) -> Tensor:
    """V(x, z*) by hand: z* of the candidates' plans the one with fewest tokens unlike the goal's."""
    noise = torch.randn((4, len(x), 2, 2, 2), generator=generator)
    prior = learner.model.prior(x)
    goal, best = learner.goal_pixels[..., 0].long(), []
    for b in range(len(x)):
        z = prior.mean[b] + torch.exp(prior.logvar[b] / 2) * noise[:, b]
        wrong = [int((learner.model.decoder.rollout(x[b:b + 1], one[None])[0] != goal).sum()) for one in z]
        best.append(z[wrong.index(min(wrong))])
    out: Tensor = learner.ppo.critic({"tokens": x, "extra": torch.stack(best)})
    return out


@dataclass
class Played:
    """What the learner said and did on its way through a story."""

    actions: list[Tensor] = field(default_factory=list)
    extras: list[dict[str, Tensor]] = field(default_factory=list)
    values: dict[tuple[int, int], float] = field(default_factory=dict)  # by hand, of true next frames
    kept: int = 0  # of these, those under a plan that still stood
    batch: Batch | None = None  # what PPO was given
    auxiliary: Auxiliary | None = None
    policy_weight: float = float("nan")
    noise: Tensor | None = None  # states of the generators of z and of the minibatches' order before the update
    order: Tensor | None = None
    actor: Any = None  # as it was then


def played(learner: PVDRLearner, tale: Story) -> Played:
    """Lead the learner through E1 and E2."""
    out, update = Played(), learner.ppo.update
    carry, first = learner.initial(ENVS), torch.ones(ENVS, dtype=torch.bool)
    draw = torch.Generator().manual_seed(1)

    def spy(batch: Batch, auxiliary: Auxiliary | None = None, policy_weight: float = 1.0) -> dict[str, float]:
        out.batch, out.auxiliary, out.policy_weight = batch, auxiliary, policy_weight
        out.noise, out.order = learner.generator.get_state(), learner.ppo.generator.get_state()
        out.actor = copy.deepcopy(learner.ppo.actor)
        for p in learner.model.parameters():
            p.grad = None
        return update(batch, auxiliary, policy_weight=policy_weight)

    learner.ppo.update = spy  # type: ignore[method-assign]
    for t in range(len(tale.codes)):
        action, carry, extras = learner.act(picture(tale.codes[t]), first, carry, "train", draw)
        out.actions.append(action)
        out.extras.append(extras)
        last = t == len(tale.codes) - 1
        rows = [n for n in range(ENVS) if not tale.terminated[t, n] and (tale.truncated[t, n] or last)]
        if rows and learner.phase == "e2":
            frames = torch.stack([every_other([*tale.seen(t, n), tale.final[t, n]]) for n in rows])
            same = torch.Generator()
            same.set_state(learner.generator.get_state())
            every = learner.config.planner.replan_every
            stands = [not last and t + 1 - tale.made(t, n, every) < every for n in rows]
            kept = [n for n, still in zip(rows, stands, strict=True) if still]
            new = [n for n in rows if n not in kept]
            if kept:
                state = {"tokens": frames[torch.tensor(stands)], "extra": extras["z"][kept]}
                with torch.no_grad():
                    values = learner.ppo.critic(state)
                out.values |= {(t, n): float(value) for n, value in zip(kept, values, strict=True)}
                out.kept += len(kept)
            if new:
                values = value_of_plan(learner, frames[~torch.tensor(stands)], same)
                out.values |= {(t, n): float(value) for n, value in zip(new, values, strict=True)}
        learner.observe(Transition(picture(tale.codes[t]), first, action, tale.reward[t], tale.terminated[t],
                                   tale.truncated[t], picture(tale.final[t]), extras))
        learner.learn()
        first = tale.ended[t]
    assert learner.rounds == 1 and out.batch is not None
    return out


def future(tale: Story, t: int, n: int) -> tuple[Tensor, bool]:
    """y_t of a decision, 2 and 4 decisions ahead, and whether all of it was seen in its buffer."""
    frames = tale.follows(t, n, E1 if t < E1 else E1 + E2)
    return torch.stack([frames[min(ahead, len(frames) - 1)] for ahead in (2, 4)]), len(frames) > 4
