"""Algorithm 1 as a learner: rounds, exact resume, action noise, and that it learns a small pixel task."""

from __future__ import annotations

import copy
import dataclasses
import math
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.alignment import Labels
from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.guide import GuidedActor
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.pretrain import PVDRPretrainer
from pvdr_bench.rl.contract import Mode
from pvdr_bench.rl.views import NothingToShow
from tests.learning import above, below, learns
from tests.test_ppo_learner import GRID, Dots, IdentityTokenizer, Player, assert_equal, context, image_of

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
def pretrained(seed: int) -> dict[str, Tensor]:
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


GUIDED = {"pi_form": "guided", "guide_reads": "plan", "lact_lr": 5e-3, "lact_replay": 300, "e1_first": 128,
          "e1_decisions": 64, "e2_decisions": 64, "e1_correlation": 0.7, "lact_e1_epochs": 12}


@learns(explained=above(0.1), reads_plan=above(0.3), new=above(0.05))
def test_a_guide_learns_from_kept_labels_beside_ppo(seed: int) -> dict[str, float]:
    """PPO goes on beside it and takes nothing from it; of a buffer's labels none has been learned from before."""
    rows = [m for m in trained(GUIDED, 90, seed).metrics if "e1_l_act" in m][3:]
    assert len(rows) >= 3
    return {"explained": np.mean([1 - m["e1_l_act"] / m["e1_l_act_constant"] for m in rows]),
            "reads_plan": np.mean([m["e1_l_act_other_z"] / m["e1_l_act"] - 1 for m in rows]),
            "new": np.mean([1 - m["e1_l_act_before"] / m["e1_l_act_constant"] for m in rows])}


@pytest.mark.parametrize("reads", ["z", "plan"])
def test_a_guides_action_stands_as_long_as_its_plan_and_ppo_gates_and_corrects_it(reads: str) -> None:
    gain = 3.0
    learner = build(config(GUIDED | {"guide_reads": reads, "guide_gain": gain},
                           planner={"candidates": 3, "replan_every": 3}), 4)
    assert learner.guide is not None and isinstance(learner.ppo.actor, GuidedActor)
    with torch.no_grad():
        learner.ppo.actor.net.head.bias.copy_(torch.arange(4.0))
    player = Player(learner, 4)  # type: ignore[arg-type]
    for _ in range(7):
        player.decide()
    state = learner.buffer.rollout().state
    age, guide = state["plan_age"], state["guide"]
    assert age[:4, 0].tolist() == [0, 1, 2, 0] and torch.equal(guide[1], guide[0]) and torch.equal(guide[2], guide[0])
    assert not torch.equal(guide[3], guide[0])
    seen = {"tokens": state["tokens"][3].long(), "extra": state["extra"][3], "plan": state["plan"][3].long()}
    with torch.no_grad():
        torch.testing.assert_close(gain * learner.guide.network(seen), guide[3])
        out = learner.ppo.actor.net({"tokens": seen["tokens"], "extra": seen["extra"]})
        want = 2 * torch.sigmoid(out[:, 2:]) * guide[3] + out[:, :2]
        torch.testing.assert_close(learner.policy(seen["tokens"], seen["extra"], seen["plan"]).mean, want)


@pytest.mark.parametrize("form", ["guided", "taught"])
def test_a_policy_of_all_candidates_is_not_asked_about_one_plan(form: str) -> None:
    """What was taught acts by itself, whatever its guide said of all candidates."""
    learner = build(config(GUIDED | {"pi_form": form, "guide_action": "trend"}), 1)
    context, plan = (torch.from_numpy(play(frames, 1, 0)) for frames in (2, 3))
    z = torch.zeros(1, *learner.model.z_shape)
    if form == "taught":
        assert learner.policy(context, z, plan).mean.shape == (1, 2)
    else:
        with pytest.raises(NothingToShow, match="all candidates"):
            learner.policy(context, z, plan)


def test_the_guide_is_l_acts_alone() -> None:
    """PPO's updates leave it as it is, and L_act leaves PPO's networks: neither undoes what the other has learned."""
    learner = build(config(GUIDED | {"e1_first": 64}), 4)
    assert learner.guide is not None
    networks = (learner.guide.network, learner.ppo.actor)
    player, found = Player(learner, 4), []  # type: ignore[arg-type]
    for _ in range(2 * 16):
        before, count = [copy.deepcopy(net.state_dict()) for net in networks], len(player.metrics)
        player.decide()
        if len(player.metrics) > count:
            after = [net.state_dict() for net in networks]
            found.append([all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(before, after, strict=True)])
    assert found == [[False, True], [True, False]]


@pytest.mark.parametrize("play_", ["policy", "noise"])
def test_e1_has_noise_of_its_own_where_it_is_asked_to(play_: str) -> None:
    """A spread of e^0 about the mean that e1_play says in E1, the policy's in E2 and in evaluation."""
    online = {"e1_decisions": 640, "e2_decisions": 640, "log_std_init": -3.0, "e1_log_std": 0.0, "e1_play": play_}
    learner = build(config(online), 64)
    with torch.no_grad():
        learner.ppo.actor.net.head.bias.fill_(0.8)
    image = torch.from_numpy(np.repeat(image_of(Dots.start)[None], 64, 0))
    spread, mean = {}, {}
    for phase, mode in (("e1", "train"), ("e2", "train"), ("e1", "eval")):
        learner.phase = phase  # type: ignore[assignment]
        action, _, extras = learner.act(image, torch.ones(64, dtype=torch.bool), learner.initial(64),
                                        mode, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        spread[phase, mode], mean[phase, mode] = float(action.std(0).mean()), float(action.mean())
        own = torch.distributions.Normal(action.mean(0), math.exp(0 if (phase, mode) == ("e1", "train") else -3))
        assert float(extras["log_prob"].mean()) == pytest.approx(float(own.log_prob(action).sum(1).mean()), abs=0.3)
    assert spread["e1", "train"] == pytest.approx(1.0, abs=0.2)
    assert spread["e2", "train"] == spread["e1", "eval"] == pytest.approx(math.exp(-3), abs=0.02)
    assert mean["e2", "train"] == pytest.approx(0.8, abs=0.1)
    assert mean["e1", "train"] == pytest.approx(0.8 if play_ == "policy" else 0.0, abs=0.3)


@pytest.mark.parametrize("phase", ["e1", "e2"])
def test_evaluation_may_have_a_spread_of_its_own(phase: Literal["e1", "e2"]) -> None:
    """eval_std times white noise around the mean of the same weights and plans; training has its own."""
    form = {"e1_decisions": 640, "e2_decisions": 640, "log_std_init": -1.0, "e1_correlation": 0.5,
            "e2_correlation": 0.5}
    image = torch.from_numpy(np.repeat(image_of(Dots.start)[None], 8, 0))

    def act(std: float | None, mode: Mode) -> torch.Tensor:
        learner = build(config({**form, "eval_std": std}), 8)
        learner.phase = phase
        noise = {**learner.initial(8), "noise": torch.ones(8, 2)}
        return learner.act(image, torch.zeros(8, dtype=torch.bool), noise, mode, torch.Generator().manual_seed(0))[0]

    noise = (act(None, "eval") - act(0.0, "eval")) / math.exp(-1)
    assert float(noise.std()) > 0.3
    torch.testing.assert_close(act(0.25, "eval"), act(0.0, "eval") + 0.25 * noise, rtol=0, atol=1e-5)
    assert torch.equal(act(0.25, "train"), act(None, "train"))


def test_labels_of_e2_are_learned_from_and_kept_where_asked() -> None:
    """With passes over both, of every buffer's labels; a guide moves in E2 too, and PPO's part in E2 alone."""
    online = GUIDED | {"e1_decisions": 160, "e2_decisions": 160, "lact_replay": 1000, "lact_e1_epochs": 1,
                       "lact_e2_epochs": 3}
    learner = build(config(online), 16)
    assert learner.guide is not None
    player, guides = Player(learner, 16), []  # type: ignore[arg-type]
    steps = []
    plain = learner.guide.step
    learner.guide.step = lambda parts: (steps.append(1), plain(parts))[1]  # type: ignore[method-assign]
    learner.aligner.step = learner.guide.step
    for _ in range(20):
        count = len(player.metrics)
        player.decide()
        if len(player.metrics) > count:
            guides.append((len(steps), copy.deepcopy(learner.guide.network.state_dict())))
    e1, e2 = player.metrics
    assert "e2_l_act" not in e1 and e2["e2_l_act_before"] > e2["e2_l_act"] and "e1_l_act" not in e2
    assert guides[1][0] == guides[0][0] + 3 * round(e2_labels(learner, e1) / learner.config.online.minibatch)
    assert any(not torch.equal(guides[0][1][name], value) for name, value in guides[1][1].items())


def e2_labels(learner: PVDRLearner, e1: dict[str, float]) -> int:
    """Those kept but for E1's."""
    assert learner.aligner.kept is not None
    return len(learner.aligner.kept) - int(e1["e1_clips"])


@pytest.mark.parametrize("play_", ["policy", "noise"])
def test_e1_plays_noise_alone_where_it_is_asked_to_and_only_its_labels_are_kept(play_: str) -> None:
    """A policy that goes to one side shows in E1's actions unless noise alone plays; E2 has it in either case."""
    online = {"e1_decisions": 160, "e2_decisions": 160, "e1_play": play_, "lact_replay": 1000, "lact_e1_epochs": 1,
              "log_std_init": -2.0}
    learner = build(config(online), 16)
    with torch.no_grad():
        learner.ppo.actor.net.head.bias.fill_(0.8)
    player, means = Player(learner, 16), []  # type: ignore[arg-type]
    for _ in range(20):
        if len(learner.buffer) == 9:
            means.append(learner.buffer.rollout().action.mean())
        player.decide()
    assert means[0] == pytest.approx(0.8 if play_ == "policy" else 0.0, abs=0.1)
    assert means[1] == pytest.approx(0.8, abs=0.2)
    kept = learner.aligner.kept
    assert kept is not None and len(kept) == player.metrics[0]["e1_clips"]


@pytest.mark.parametrize(("more", "kept"), [(0, None), (160, 60)])
def test_labels_are_kept_while_an_e1_may_draw_from_them_and_no_more_than_asked_for(more: int, kept: int | None) -> None:
    """Also of the first E1, which alone has more than are kept."""
    online = {"e1_first": 160, "e1_decisions": more, "e2_decisions": 160, "lact_replay": 60, "lact_e1_epochs": 1}
    player = Player(build(config(online), 16), 16)  # type: ignore[arg-type]
    while not player.metrics:
        player.decide()
    assert player.metrics[0]["e1_clips"] > 60 and "e1_l_act" in player.metrics[0]
    labels = player.learner.aligner.kept  # type: ignore[attr-defined]
    assert (labels if labels is None else len(labels)) == kept


def test_e1_is_not_read_for_labels_that_nothing_learns_from() -> None:
    learner = build(config({"e1_decisions": 160, "e2_decisions": 160}), 16)
    player = Player(learner, 16)  # type: ignore[arg-type]
    with patch.object(learner.aligner, "labels", side_effect=AssertionError):
        while not player.metrics:
            player.decide()
    assert player.metrics[0]["e1_clips"] > 0 and learner.phase == "e2"


def test_kept_labels_are_the_last_ones() -> None:
    def labels(*numbers: float) -> Labels:
        x = torch.tensor(numbers).view(-1, 1)
        return Labels(x, x + 1, x + 2, x + 3, x + 4)

    kept = labels(1, 2).followed_by(labels(3, 4, 5), 4)
    assert {name: x[:, 0].tolist() for name, x in kept.tensors().items()} == {
        "tokens": [2, 3, 4, 5], "future": [3, 4, 5, 6], "mean": [4, 5, 6, 7], "logvar": [5, 6, 7, 8],
        "action": [6, 7, 8, 9]}


def test_read_back_gives_the_action_module_what_l_act_gives_it() -> None:
    """z* is E's mean of context and plan, as L_act's z is E's mean of context and future; and no draw of either."""
    learner = build(config({"lact_e1_epochs": 1}, planner={"candidates": 3, "z_star": "read_back"}), 4)
    context = torch.from_numpy(play(2, 4, 3))
    plans = learner.planner.plan(context, torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = learner.model.encoder(torch.cat([context, plans.codes], 1)).mean
    torch.testing.assert_close(plans.z, want)
    assert torch.equal(plans.ends[torch.arange(4), plans.distance.argmin(1)], plans.codes[:, -1])
    labels = Labels(context, plans.codes, want, torch.ones_like(want), torch.zeros(4, 2))
    seen = []
    alignment = learner.aligner.on(labels)
    alignment.network = lambda state: (seen.append(state["extra"]), torch.zeros(4, 2))[1]
    list(alignment.parts(torch.arange(4)))
    assert torch.equal(seen[0], want)


@pytest.mark.parametrize("form", [{}, {"pi_form": "guided", "guide_reads": "plan", "lact_replay": 50,
                                   "lact_e2_epochs": 1},
                                  {"pi_form": "guided", "guide_reads": "plan", "lact_replay": 50,
                                   "guide_pairs": "all", "lact_target": "plan_mean", "e1_log_std": -1.0},
                                  {"pi_form": "taught", "guide_reads": "plan", "guide_action": "trend",
                                   "lact_decay": 0.1, "teach_epochs": 2, "teach_weight": 1.0, "teach_decisions": 96}])
def test_buffers_alternate_and_resume_in_the_middle_of_one_is_exact(form: dict[str, Any]) -> None:
    cfg = config({"e1_decisions": 24, "e2_decisions": 32, "e1_correlation": 0.5, "e2_correlation": 0.5,
                  "e1_first": 40, "lact_e1_epochs": 1, "lact_target": "stride_mean", **form})

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
        for owner, name, modules in ((learner.finetuner, "dynamics_optimizer", [model.encoder.head, model.decoder]),
                                     (learner.finetuner, "prior_optimizer", [model.prior]),
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
