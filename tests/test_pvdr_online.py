"""Algorithm 1 as a learner: rounds, exact resume, action noise, and that it learns a small pixel task."""

from __future__ import annotations

import dataclasses
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.metrics import varies
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer
from tests.learning import above, below, learns
from tests.test_ppo_learner import GRID, IdentityTokenizer, Player, assert_equal, context

SIZES = {"context_frames": 2, "future_frames": 3, "d_model": 16, "ff": 32, "heads": 2, "token_dim": 8,
         "encoder_depth": 1, "prior_depth": 1, "decoder_depth": 1, "window": 2, "z_grid": 2, "z_dim": 2,
         "z_every_slot": True, "copy_gate": True, "init_logvar": -3.0}
PI = {"pi_depth": 1, "pi_d_model": 16, "pi_heads": 2, "pi_ff": 32, "readout": "flatten", "readout_channels": 8,
      "minibatch": 64, "entropy_coef": 1e-3, "actor_lr": 1e-3, "normalise_distance": True, "value_scale": 3.0}


def config(online: dict[str, Any] | None = None, **changes: Any) -> PVDRConfig:
    pretrain = {"steps": 400, "batch": 32, "lr": 5e-3, "max_grad_norm": 10.0, "lambda1": 0.01, "lambda1_start": 1e-4,
                "lambda1_anneal": 400, "prior_kl": "posterior_prior", "encoder_prior_weight": 0.01}
    return PVDRConfig.model_validate({
        "model": SIZES, "pretrain": pretrain, "planner": {"candidates": 4, "metric": "code_l1_blur"},
        "online": PI | (online or {}), **changes})


def play(steps: int, n: int, seed: int) -> np.ndarray:
    """Random play of dots that keep their direction for a while, as codes [n, steps, 4, 4]; anywhere, no goal."""
    rng = np.random.default_rng(seed)
    position, velocity, frames = rng.uniform(0, 3, (n, 2)), rng.normal(0, 1, (n, 2)), []
    for _ in range(steps):
        grid = np.zeros((n, GRID, GRID), np.int64)
        cells = np.round(position).astype(int)
        grid[np.arange(n), cells[:, 0], cells[:, 1]] = 1
        frames.append(grid)
        velocity = 0.7 * velocity + 0.7 * rng.normal(0, 1, (n, 2))
        position = np.clip(position + np.clip(velocity, -0.6, 0.6), 0, 3)
    return np.stack(frames, 1)


@cache
def pretrained(seed: int = 0) -> dict[str, Tensor]:
    """The model pre-trained on play, once for all tests."""
    learner, steps = PVDRPretrainer(config(), seed, torch.device("cpu"), 2, GRID), config().pretrain.steps
    for step in range(steps):
        learner.update(torch.from_numpy(play(5, 32, seed * steps + step)))
    return learner.export()


def build(cfg: PVDRConfig, n: int, seed: int = 0, pretrain_seed: int = 0) -> PVDRLearner:
    artefacts = {"pretrain": pretrained(pretrain_seed)} if cfg.pretrained else {}
    return PVDRLearner(dataclasses.replace(context(cfg, n, seed), artefacts=artefacts), IdentityTokenizer())  # type: ignore[arg-type]


def trained(online: dict[str, Any], decisions: int, seed: int) -> Player:
    """After so many decisions of 16 environments, on a model of its own."""
    player = Player(build(config(online), 16, seed, pretrain_seed=seed), 16, seed)  # type: ignore[arg-type]
    for _ in range(decisions):
        player.decide()
    assert all(np.isfinite(list(m.values())).all() for m in player.metrics)
    return player


@learns(early=below(0.4), late=above(0.5))
def test_it_learns_to_move_the_dot_to_the_goal(seed: int) -> dict[str, float]:
    online = {"e1_decisions": 64, "e2_decisions": 192, "e1_correlation": 0.7, "lact_e1_epochs": 4,
              "lact_weight": 0.1, "lambda3": 0.1}
    successes = trained(online, 400, seed).successes  # 16 environments: two episodes of each are early
    return {"early": np.mean(successes[:32]), "late": np.mean(successes[-150:])}


@learns(explained=above(0.1), reads_z=above(0.3))
def test_alignment_learns_which_action_makes_a_plan_come_true(seed: int) -> dict[str, float]:
    """Without PPO, which pulls the action module away: a cell of the grid tells little of one action, and what L_act
    explains of it beside PPO is a few percent, as much as its scatter."""
    online = {"e1_decisions": 192, "e2_decisions": 64, "e1_correlation": 0.7, "lact_e1_epochs": 12, "rl_weight": 0.0}
    rows = [m for m in trained(online, 100, seed).metrics if "e1_l_act" in m][3:]
    assert len(rows) == 3
    return {"explained": np.mean([1 - m["e1_l_act"] / m["e1_l_act_constant"] for m in rows]),
            "reads_z": np.mean([m["e1_l_act_other_z"] / m["e1_l_act"] - 1 for m in rows])}


def test_buffers_alternate_and_resume_in_the_middle_of_one_is_exact() -> None:
    cfg = config({"e1_decisions": 24, "e2_decisions": 32, "e1_correlation": 0.5, "e2_correlation": 0.5,
                  "e1_first": 40, "lact_e1_epochs": 1, "lact_target": "stride_mean"})

    def player(seed: int = 0) -> Player:
        return Player(build(cfg, 4, seed), 4)  # type: ignore[arg-type]

    through, first = player(), player()
    phases = []
    for _ in range(24):
        phases.append(through.learner.phase)  # type: ignore[attr-defined]
        through.decide()
    assert phases == ["e1"] * 10 + ["e2"] * 8 + ["e1"] * 6
    assert ["e1_l_act" in m for m in through.metrics] == [True, False, True]
    for _ in range(13):
        first.decide()
    restored = build(cfg, 4, seed=1)  # another seed: everything has to come from the state
    restored.load_state_dict(first.learner.state_dict())
    first.learner = restored  # type: ignore[assignment]
    for _ in range(11):
        first.decide()
    assert_equal(through.learner.state_dict(), first.learner.state_dict())


def test_without_e1_there_is_no_fine_tuning() -> None:
    learner = build(config({"e1_decisions": 0, "e2_decisions": 16}), 4)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    player = Player(learner, 4)  # type: ignore[arg-type]
    for _ in range(8):
        player.decide()
    assert len(player.metrics) == 2 and all("policy_loss" in m and "e1_clips" not in m for m in player.metrics)
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())


def test_fine_tuning_leaves_the_encoder_body_and_moves_the_rest() -> None:
    learner = build(config({"e1_decisions": 48, "e2_decisions": 16, "finetune_lr": 1e-3}), 4)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    player = Player(learner, 4)  # type: ignore[arg-type]
    for _ in range(12):
        player.decide()
    moved = {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.split(".")[0] + "." + name.split(".")[1] for name in moved}
    assert "encoder.body" not in parts and "encoder.embed" not in parts
    assert {"encoder.head", "prior.head", "prior.body", "decoder.body", "decoder.head"} <= parts
    assert player.metrics[0]["e1_clips"] > 0


def test_micro_batches_change_nothing_but_rounding() -> None:
    """Plain gradient steps show the gradients themselves; Adam would turn rounding errors into steps."""
    found = []
    for size in (0, 7):
        cfg = config({"e1_decisions": 48, "e2_decisions": 64, "epochs": 1, "lact_e1_epochs": 1})
        cfg = cfg.model_copy(update={"pretrain": cfg.pretrain.model_copy(update={"micro_batch": size})})
        learner = build(cfg, 4)
        model = learner.model
        for owner, name, modules in ((learner, "dynamics_optimizer", [model.encoder.head, model.decoder]),
                                     (learner, "prior_optimizer", [model.prior]),
                                     (learner.ppo, "actor_optimizer", [learner.ppo.actor]),
                                     (learner.ppo, "critic_optimizer", [learner.ppo.critic])):
            setattr(owner, name, torch.optim.SGD([p for m in modules for p in m.parameters()], lr=1e-3))
        player = Player(learner, 4)  # type: ignore[arg-type]
        for _ in range(28):
            player.decide()
        networks = (learner.model, learner.ppo.actor, learner.ppo.critic)
        found.append(([p for net in networks for p in net.parameters()], player.metrics))
    (whole, told), (cut, told_cut) = found
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(whole, cut, strict=True))
    assert len(told) == 2 and [m.keys() for m in told] == [m.keys() for m in told_cut]
    assert all(m[name] == pytest.approx(value, rel=1e-3, abs=1e-5)
               for n, m in zip(told, told_cut, strict=True) for name, value in n.items())


@pytest.mark.parametrize(("phase", "mode", "rho"), [("e1", "train", 0.8), ("e2", "train", 0.3), ("e1", "eval", 0.0)])
def test_action_noise_is_normal_with_the_asked_correlation(phase: str, mode: Any, rho: float) -> None:
    online = SimpleNamespace(e1_correlation=0.8, e2_correlation=0.3)
    learner = SimpleNamespace(config=SimpleNamespace(online=online), phase=phase, device=torch.device("cpu"))
    generator, noise = torch.Generator().manual_seed(0), torch.zeros(4000, 2)
    first, steps = torch.ones(4000, dtype=torch.bool), []
    for _ in range(4):
        noise = PVDRLearner._noise(learner, noise, first, mode, generator)  # type: ignore[arg-type]
        steps.append(noise)
        first = torch.zeros(4000, dtype=torch.bool)
    assert all(abs(float(x.std()) - 1) < 0.03 and abs(float(x.mean())) < 0.03 for x in steps)
    for gap in (1, 2):
        correlation = float((steps[3] * steps[3 - gap]).mean())
        assert correlation == pytest.approx(rho**gap, abs=0.04)


def test_equal_numbers_have_no_ranks_whatever_their_standard_deviation_rounds_to() -> None:
    equal = np.full(20, 0.1, np.float32)
    assert not varies(equal) and not varies(np.array([1.0, np.nan])) and not varies(np.zeros(0))
    assert varies(np.array([1.0, 1.0, 1.5]))
