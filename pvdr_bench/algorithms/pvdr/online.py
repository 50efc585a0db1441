"""PVDR's online stage: Algorithm 1 of the paper, driven by the shared loop.

A round is two buffers. E1 is collected with the planner and fine-tunes encoder head, decoder and prior (Eqs. 3, 4);
E2 is collected with the fine-tuned planner, labelled with Eq. 6, and trains the action module by L_act (Eq. 5) and PPO.

Shapes: N environments, T decisions in time, m context and l future frames, h x w token grid, s x s x c the shape of z.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.alignment import Aligner, in_minibatches
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.finetuning import FineTuner, pieces
from pvdr_bench.algorithms.pvdr.following import SMALL, Followed, followed, new_plans, plan_in, read_of
from pvdr_bench.algorithms.pvdr.metrics import planning_metrics
from pvdr_bench.algorithms.pvdr.modules import build
from pvdr_bench.algorithms.pvdr.planner import GoalDistance, Planner
from pvdr_bench.algorithms.pvdr.rounds import (
    decision_of_plan,
    future_frames,
    plan_error,
)
from pvdr_bench.algorithms.pvdr.teaching import ASKED, lesson, lesson_weight, teach
from pvdr_bench.errors import CatalogError
from pvdr_bench.nets.distributions import DiagonalGaussian
from pvdr_bench.rl.contract import Carry, Learner, LearnerContext, Mode, Transition
from pvdr_bench.rl.rollout import Rollout, RolloutBuffer, State, needs_bootstrap
from pvdr_bench.rl.token_history import push_frame
from pvdr_bench.tokenizer.frozen import Tokenizer, load_tokenizer


class PVDRLearner(Learner):
    """Algorithm 1. Acts by planning (Eq. 2) and Pi(a | z*, x); learns when a buffer is full."""

    def __init__(self, context: LearnerContext, tokenizer: Tokenizer | None = None) -> None:
        config: PVDRConfig = context.config
        task = context.task
        if task.goal is None:
            raise CatalogError("PVDR plans towards a goal image, and this protocol has none", hint="--protocol pvdr")
        self.config, self.device, self.num_envs = config, context.device, task.num_envs
        self.action_dim, self.stopwatch = task.action.dim, context.stopwatch
        self.tokenizer = tokenizer or load_tokenizer(
            context.artefacts["tokenize"], context.artefact_config["tokenize"]).to(self.device)
        self.render_plans = False  # act also returns plan_image, for videos
        self.generator = torch.Generator().manual_seed(context.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            parts = build(config, self.tokenizer, self.action_dim, self.device, context.seed,
                          context.artefacts["pretrain"] if config.pretrained else None)
        self.model, self.ppo, self.guide = parts.model, parts.ppo, parts.guide
        goal, start = (self.encode(torch.as_tensor(image)[None])[0]
                       for image in (task.goal.image, task.goal.start))
        self.goal_pixels = torch.as_tensor(task.goal.image).to(self.device).float()
        self.distance = GoalDistance(config.planner, self.tokenizer, goal)
        self.code_table = self.tokenizer.embed(torch.arange(self.tokenizer.codebook_size, device=self.device))
        self.planner = Planner(self.model, config.planner, self.distance)
        self.scale, soft_scale = (
            config.online.distance_scale / (between if config.online.normalise_distance else 1.0)
            for between in (self.distance.of_frame(start), self.distance.soft_of_frame(start)))  # of Eq. 6, of Eq. 4
        self.finetuner = FineTuner(self.model, config, self.distance, self.code_table, soft_scale, self.generator)
        step = self.ppo.step_actor if self.guide is None else self.guide.step
        self.aligner = Aligner(self.model, config, self._aligned, step, self.generator)
        self.buffer = RolloutBuffer()
        self.rounds = 0
        self.phase = "e1" if self._needs_e1 else "e2"

    def _aligned(self, state: State) -> Tensor:
        """The mean action [B, A] that L_act trains: the action module's, or its guide's."""
        mean: Tensor = self.ppo.actor(state).mean if self.guide is None else self.guide.network(state)
        return mean

    def policy(self, context: Tensor, z: Tensor, plan: Tensor) -> DiagonalGaussian:
        """Pi(a | z*, x), as it acts, for contexts [B, m, h, w] and z* [B, s, s, c] of plans [B, l, h, w] made in them.

        Raises:
            NothingToShow: it acts by more than one plan (``guide_action`` trend with ``pi_form`` guided).
        """
        state = {"tokens": context, "extra": z, "plan": plan}
        if self.guide is not None and self.config.online.pi_form == "guided":
            state["guide"] = self.guide.of_plan(state)
        policy: DiagonalGaussian = self.ppo.actor(state)
        return policy

    @property
    def _needs_e1(self) -> bool:
        online = self.config.online
        return online.e1_decisions > 0 or (self.rounds == 0 and online.e1_first > 0)

    def phase_length(self) -> int:
        """Decisions in time of the current phase's buffer."""
        online = self.config.online
        first = max(online.e1_first, online.e1_decisions) if self.rounds == 0 else online.e1_decisions
        return math.ceil((first if self.phase == "e1" else online.e2_decisions) / self.num_envs)

    def encode(self, image: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> codes int64 [N, h, w]."""
        with self.stopwatch("tokenize", len(image)):
            return self.tokenizer.encode(image.to(self.device))

    def initial(self, n: int) -> Carry:
        """The last (m - 1) * stride + 1 token grids of every environment, its action noise, and no plan yet."""
        depth = (self.config.model.context_frames - 1) * self.config.model.frame_stride + 1
        shape = (n, depth, self.tokenizer.grid, self.tokenizer.grid)
        return {"codes": torch.zeros(shape, dtype=torch.long, device=self.device),
                "noise": torch.zeros((n, self.action_dim), device=self.device), "plan": {}}

    def _noise(self, previous: Tensor, is_first: Tensor, mode: Mode, generator: torch.Generator) -> Tensor:
        """Standard normal action noise [N, A], correlated in time within an episode while a buffer asks for it."""
        online = self.config.online
        fresh = torch.randn(previous.shape, generator=generator).to(self.device)
        rho = 0.0 if mode != "train" else online.e1_correlation if self.phase == "e1" else online.e2_correlation
        running = rho * previous + math.sqrt(1 - rho**2) * fresh
        return torch.where(is_first.to(self.device)[:, None], fresh, running)

    def _context(self, history: Tensor) -> Tensor:
        """History -> x_t [N, m, h, w]."""
        return history[:, ::self.config.model.frame_stride]

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Carry, dict[str, Tensor]]:
        """Plan where a plan is due, then sample Pi(a | z*, x).

        Extras: context tokens, z*, plan and its age in decisions, log-probability, value, plan metrics.
        """
        history = push_frame(carry["codes"], self.encode(image), is_first.to(self.device))
        context = self._context(history)
        plan = self._followed(context, is_first.to(self.device), carry["plan"], mode, generator)
        state = {"tokens": context, **read_of(plan)}
        policy: DiagonalGaussian = self.ppo.actor(state)
        if mode == "train" and self.phase == "e1":
            policy = self._played(policy)
        noise = self._noise(carry["noise"], is_first, mode, generator)
        action = policy.at(noise, self.config.online.eval_std if mode == "eval" else None)
        extras = {"tokens": context.to(SMALL), "history": history.to(SMALL), **plan,
                  "log_prob": policy.log_prob(action)}
        if mode == "train":
            extras["value"] = self.ppo.critic(state)
        if self.render_plans:
            extras["plan_image"] = self.tokenizer.decode(plan["plan"].long())
        return action, {"codes": history, "noise": noise, "plan": plan}, extras

    def _played(self, policy: DiagonalGaussian) -> DiagonalGaussian:
        """What E1 is played with (``e1_play``, ``e1_log_std``)."""
        online = self.config.online
        if online.e1_play == "noise":
            policy = dataclasses.replace(policy, mean=torch.zeros_like(policy.mean))
        if online.e1_log_std is not None:
            policy = dataclasses.replace(policy, log_std=torch.full_like(policy.log_std, online.e1_log_std))
        return policy

    def _followed(self, context: Tensor, is_first: Tensor, before: Followed, mode: Mode,
                  generator: torch.Generator) -> Followed:
        """As ``followed``; in training, a plan ends with its buffer: E2 is collected with what E1 has tuned."""
        stands = {} if mode == "train" and not len(self.buffer) else before
        return followed(self.planner, self.guide, self.config, context, is_first, stands, generator, self.stopwatch)

    @torch.no_grad()
    def observe(self, transition: Transition) -> None:
        """Store a decision with the frame it led to, where that is not the next decision's frame anyway."""
        extras, last = transition.extras, len(self.buffer) + 1 == self.phase_length()
        terminated, truncated = transition.terminated.to(self.device), transition.truncated.to(self.device)
        ended = terminated | truncated
        codes, rows = extras["tokens"][:, -1], torch.ones_like(ended) if last else ended
        next_codes = torch.zeros_like(codes)
        if rows.any():
            next_codes[rows] = self.encode(transition.next_image[rows.to(transition.next_image.device)]).to(SMALL)
        bootstrap = torch.zeros_like(extras["value"])
        valued = needs_bootstrap(terminated, truncated, last)
        if self.phase == "e2" and valued.any():
            age = extras["plan_age"][valued] + 1
            due = (age >= self.config.planner.replan_every) | last  # as the next decision's would be: see _followed
            bootstrap[valued] = self._value(extras["history"][valued].long(), next_codes[valued].long(),
                                            extras["z"][valued], due)
        pixels = (transition.image.to(self.device).float() - self.goal_pixels).abs().mean((1, 2, 3)) / 255
        metric = (self.distance.features(codes.long()) - self.distance.goal).abs().flatten(1).mean(1)
        state = {"tokens": extras["tokens"], **read_of(extras), "plan": extras["plan"], "next": next_codes,
                 "pixel_distance": pixels, "metric_distance": metric,
                 **{name: extras[name] for name in ("plan_age", "plan_distance", "plan_gain", "plan_diversity")}}
        if self.guide is not None and self.phase == "e1":
            state |= {name: extras[name] for name in self.guide.kept}
        self.buffer.add(state, action=transition.action.to(self.device), log_prob=extras["log_prob"],
                        value=extras["value"], reward=transition.reward.to(self.device), terminated=terminated,
                        truncated=truncated, bootstrap=bootstrap, diagnostics=transition.diagnostics)

    def _value(self, history: Tensor, next_codes: Tensor, z: Tensor, due: Tensor) -> Tensor:
        """Value of the true next observation, under ``z`` or, where one is ``due``, a plan of its own."""
        none_first = torch.zeros(len(history), dtype=torch.bool, device=self.device)
        context = self._context(push_frame(history, next_codes, none_first))
        if due.any():
            z = z.clone()
            z[due] = plan_in(self.planner, self.config, context[due], self.generator, self.stopwatch).z
        value: Tensor = self.ppo.critic({"tokens": context, "extra": z})
        return value

    def learn(self) -> dict[str, float]:
        """Fine-tune after E1, update the policy after E2; nothing in between."""
        if len(self.buffer) < self.phase_length():
            return {}
        rollout = self.buffer.rollout()
        self.buffer.clear()
        metrics = planning_metrics(rollout)
        future, valid = self.futures(rollout)
        if self.phase == "e1":
            self.phase = "e2"
            clips = int(valid.sum())  # the first E1 may be longer than the others
            with self.stopwatch("finetune", clips):
                metrics |= self.finetuner.learn(torch.cat([rollout.state["tokens"].long(), future], 2)[valid])
            if self.config.online.lact_e1_epochs:
                with self.stopwatch("align", clips):
                    metrics |= self.aligner.learn(self.aligner.labels(rollout, future, valid))
            with self.stopwatch("teach"):
                return metrics | self.taught(rollout)
        self.rounds += 1
        self.phase = "e1" if self._needs_e1 else "e2"
        with self.stopwatch("policy"):
            return metrics | self._update_policy(rollout, future, valid)

    def taught(self, rollout: Rollout) -> dict[str, float]:
        """The guide's lessons for the action module in the states of E1 in which plans were made (``pi_form`` taught);
        their metrics."""
        online = self.config.online
        if self.guide is None or not online.teach_epochs:
            return {}
        made = rollout.state["plan_age"] == 0
        state = {name: x[made] for name, x in rollout.state.items()}
        if online.teach_plans == "tuned":
            parts = [new_plans(self.planner, self.guide, self.config, context.long(), self.generator, self.stopwatch)
                     for context in torch.split(state["tokens"], ASKED)]
            state |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            state["extra"] = state["z"]
        return teach(self.ppo.actor, self.guide, state, online, self.generator, self.config.pretrain.micro_batch)

    def futures(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """True frames [T, N, l, h, w] after each decision, and whether all were seen, bool [T, N]."""
        stride, length = self.config.model.frame_stride, self.config.model.future_frames
        codes = rollout.state["tokens"][:, :, -1].long()
        return future_frames(codes, rollout.state["next"].long(), rollout.terminated | rollout.truncated,
                             [stride * (k + 1) for k in range(length)])

    def _update_policy(self, rollout: Rollout, future: Tensor, valid: Tensor) -> dict[str, float]:
        """Eq. 6 labels E2; PPO and L_act train the action module together (``pi_form`` guided: PPO its correction)."""
        online = self.config.online
        with torch.no_grad():
            plan, true = rollout.state["plan"].long().flatten(0, 1), future.flatten(0, 1)
            rows = pieces(len(plan), self.config.pretrain.micro_batch)
            parts = [plan_error(self.distance, plan[piece], true[piece]) for piece in rows]
            error = self.scale * torch.cat(parts).view_as(rollout.reward)
            error = error.gather(0, decision_of_plan(rollout.state["plan_age"]))
        batch = rollout.batch(online.gamma, online.gae_lambda, rollout.reward - online.lambda3 * error)
        alignment = self.aligner.on(self.aligner.labels(rollout, future, valid))
        together = self.guide is None and online.lact_weight > 0 and bool(valid.any())
        loss = in_minibatches(alignment, valid.flatten(), online.lact_weight) if together else None
        weight = lesson_weight(online, self.rounds - 1)
        loss = lesson(self.ppo.actor, weight) if weight else loss
        metrics = self.ppo.update(batch, loss, policy_weight=online.rl_weight)
        metrics |= alignment.metrics()
        if online.lact_e2_epochs:
            with self.stopwatch("align", int(valid.sum())):
                metrics |= self.aligner.learn(alignment.labels, "e2")
        return {**metrics, "plan_error": float(error.mean()), "reward_mean": float(rollout.reward.mean())}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        guide = {} if self.guide is None else {"guide": self.guide.state_dict()}
        return {"model": self.model.state_dict(), "ppo": self.ppo.state_dict(), "buffer": self.buffer.state_dict(),
                "finetuner": self.finetuner.state_dict(), "aligner": self.aligner.state_dict(), **guide,
                "generator": self.generator.get_state(), "phase": self.phase, "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.ppo.load_state_dict(state["ppo"])
        self.buffer.load_state_dict(state["buffer"], self.device)
        self.finetuner.load_state_dict(state["finetuner"])
        self.aligner.load_state_dict(state["aligner"], self.device)
        if self.guide is not None:
            self.guide.load_state_dict(state["guide"])
        self.generator.set_state(state["generator"].cpu())
        self.phase, self.rounds = state["phase"], int(state["rounds"])

    def policy_state(self) -> dict[str, Any]:
        """The fine-tuned model, which plans, and the action module."""
        guide = {} if self.guide is None else {"guide": dict(self.guide.network.state_dict())}
        return {"model": self.model.state_dict(), "actor": dict(self.ppo.actor.state_dict()), **guide}

    def load_policy_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`policy_state` gave."""
        self.model.load_state_dict(state["model"])
        self.ppo.actor.load_state_dict(state["actor"])
        if self.guide is not None:
            self.guide.network.load_state_dict(state["guide"])
