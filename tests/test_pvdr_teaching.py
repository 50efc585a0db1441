"""The guide's word on all candidates, and its lessons for the action module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr import online
from pvdr_bench.algorithms.pvdr.config import OnlineConfig, PVDRConfig
from pvdr_bench.algorithms.pvdr.guide import Guide, trend
from pvdr_bench.algorithms.pvdr.planner import Plans
from pvdr_bench.algorithms.pvdr.teaching import lesson, lesson_weight, teach
from pvdr_bench.rl.rollout import Batch, Rollout, State
from tests.learning import above, below, learns
from tests.pvdr_ablations import learner_of, led, small
from tests.test_ppo_learner import Dots, Player
from tests.test_pvdr_online import build, config

TAUGHT = {"pi_form": "taught", "guide_reads": "plan", "guide_action": "trend", "guide_gain": 2.0, "lact_lr": 5e-3,
          "lact_target": "plan_mean", "e1_decisions": 0, "e1_first": 1200, "e2_decisions": 160, "e1_correlation": 0.7,
          "e1_play": "noise", "lact_e1_epochs": 20, "teach_epochs": 15, "teach_lr": 3e-3}


def test_the_trend_is_the_least_squares_line_at_the_best_distance() -> None:
    rng = np.random.default_rng(0)
    action, distance = rng.normal(size=(5, 7, 3)), rng.uniform(size=(5, 7))
    want = np.empty((5, 3))
    for b in range(5):
        for a in range(3):
            slope, _ = np.polyfit(distance[b], action[b, :, a], 1)
            want[b, a] = slope * (distance[b].min() - distance[b].mean())
    got = trend(torch.from_numpy(action), torch.from_numpy(distance))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9)


def test_the_trend_leaves_out_what_all_candidates_do_and_the_unit_of_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    action, distance = torch.randn((4, 6, 2), generator=generator), torch.rand((4, 6), generator=generator)
    want = trend(action, distance)
    torch.testing.assert_close(trend(action + torch.tensor([3.0, -1.0]), 5 * distance + 2), want)
    assert torch.equal(trend(action[:, :1], distance[:, :1]), torch.zeros(4, 2))
    assert torch.equal(trend(action, torch.ones(4, 6)), torch.zeros(4, 2))
    nearer = torch.tensor([[1.0, 0.0]]), torch.tensor([[[-1.0], [1.0]]])  # the second candidate is better, and goes up
    assert trend(nearer[1], nearer[0]) == pytest.approx(1.0)


class Difference(nn.Module):
    """Says as action the first code of a plan's last frame less that of the context's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        return self.scale * (state["plan"][:, -1, 0, :2] - state["tokens"][:, -1, 0, :2]).float()


@pytest.mark.parametrize("kind", ["best", "trend"])
def test_a_guide_is_asked_about_the_best_plan_or_about_all_ends(kind: str) -> None:
    guide = Guide(Difference(), OnlineConfig(pi_form="taught", guide_reads="plan", guide_action=kind, guide_gain=3.0))
    generator = torch.Generator().manual_seed(1)
    tokens, ends = (torch.randint(9, shape, generator=generator) for shape in ((4, 2, 3, 3), (4, 5, 3, 3)))
    distances = torch.rand((4, 5), generator=generator)
    chosen = ends[torch.arange(4), distances.argmin(1)]
    state = {"tokens": tokens, "plan": torch.stack([tokens[:, -1], chosen], 1), "ends": ends, "distances": distances}
    each = (ends[:, :, 0, :2] - tokens[:, -1:, 0, :2]).float()
    want = trend(each, distances) if kind == "trend" else each[torch.arange(4), distances.argmin(1)]
    torch.testing.assert_close(guide.action(state), 3 * want)
    assert set(guide.kept) == ({"ends", "distances"} if kind == "trend" else set())


class Linear(nn.Module):
    """An actor that reads tokens and z*."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(18 + 4, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, state: dict[str, Tensor]) -> Any:
        x = torch.cat([state["tokens"].flatten(1).float() / 9, state["extra"].flatten(1)], 1)
        return SimpleNamespace(mean=self.net(x))


def states(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {"tokens": torch.randint(9, (count, 2, 3, 3), generator=generator),
            "extra": torch.randn((count, 1, 1, 4), generator=generator),
            "guide": torch.randn((count, 2), generator=generator)}


def test_the_lesson_beside_ppo_is_the_mean_squared_error_in_any_pieces() -> None:
    actor, state, zeros = Linear(), states(12), torch.zeros(12)
    batch = Batch(state, torch.zeros(12, 2), zeros, zeros, zeros, zeros, torch.arange(12))
    part = lesson(actor, 0.7)(batch)
    want = 0.7 * nn.functional.mse_loss(actor(state).mean, state["guide"])
    for pieces in ([torch.arange(12)], torch.arange(12).split(5)):
        torch.testing.assert_close(torch.stack([part(rows) for rows in pieces]).sum(), want)


def test_its_weight_falls_to_zero_and_only_taught_has_one() -> None:
    online = OnlineConfig(pi_form="taught", teach_weight=0.5, e2_decisions=100, teach_decisions=400)
    assert [lesson_weight(online, k) for k in range(6)] == pytest.approx([0.5, 0.375, 0.25, 0.125, 0, 0])
    assert lesson_weight(OnlineConfig(teach_weight=0.5), 0) == 0


def test_lessons_are_learned_and_judged_on_states_held_out() -> None:
    """A teacher that is linear in what the actor reads can be learned; the last tenth is not learned from."""
    online = OnlineConfig(pi_form="taught", guide_reads="plan", teach_epochs=60, teach_lr=5e-2, minibatch=20,
                          teach_log_std=-1.5)
    actor, state = Linear(), states(200)
    state["plan"] = state["tokens"].roll(1, 0)  # the guide says codes of it, which the actor cannot see
    state["plan"][:, -1, 0, :2] = state["tokens"][:, 0, 1, :2]  # but these it can
    found = teach(actor, Guide(Difference(), online), state, online, torch.Generator().manual_seed(0))
    action = (state["plan"][:, -1, 0, :2] - state["tokens"][:, -1, 0, :2]).float()
    constant = ((action[180:] - action[:180].mean(0)) ** 2).mean()
    assert found["lesson_constant"] == pytest.approx(float(constant), rel=1e-5)
    with torch.no_grad():
        after = ((actor(state).mean[180:] - action[180:]) ** 2).mean()
    assert found["lesson_after"] == pytest.approx(float(after), rel=1e-5)
    assert found["lesson_after"] < 0.2 * found["lesson_constant"]
    assert torch.equal(actor.log_std, torch.full((2,), -1.5)) and actor.log_std.requires_grad


def test_lessons_in_pieces_are_the_same_lessons() -> None:
    online = OnlineConfig(pi_form="taught", guide_reads="plan", teach_epochs=3, minibatch=30)
    ways = []
    for micro_batch in (0, 7):
        actor, state = Linear().double(), {name: x.double() for name, x in states(100).items()}
        state["plan"] = state["tokens"].roll(1, 0)
        found = teach(actor, Guide(Difference(), online), state, online, torch.Generator().manual_seed(0), micro_batch)
        ways.append((found, actor.net.weight.detach()))
    assert ways[0][0] == pytest.approx(ways[1][0])
    torch.testing.assert_close(ways[0][1], ways[1][1])
    assert not torch.equal(ways[0][1], Linear().double().net.weight)


def test_lessons_can_be_of_the_tuned_model_s_plans() -> None:
    """Made in the states in which E1 made its own, by what Eqs. 3 and 4 left."""
    learner = learner_of(small("pvdr-taught-adapted"))
    plan, taught = learner.planner.plan, learner.taught
    e1: list[Rollout] = []
    anew: list[tuple[Tensor, Plans]] = []
    asked: list[State] = []

    def planned(context: Tensor, generator: torch.Generator) -> Plans:
        plans = plan(context, generator)
        if e1 and not asked:
            anew.append((context, plans))
        return plans

    def tuned(rollout: Rollout) -> dict[str, float]:
        e1.append(rollout)
        return taught(rollout)

    def ask(actor: nn.Module, guide: Guide, state: State, *rest: Any) -> dict[str, float]:
        asked.append(state)
        return teach(actor, guide, state, *rest)

    with (patch.object(learner.planner, "plan", planned), patch.object(learner, "taught", tuned),
          patch.object(online, "teach", ask)):
        led(learner)
    [rollout], [(context, plans)], [state] = e1, anew, asked
    made = rollout.state["plan_age"] == 0
    assert torch.equal(context, rollout.state["tokens"][made].long()) and torch.equal(state["tokens"].long(), context)
    assert torch.equal(state["extra"], plans.z) and torch.equal(state["plan"].long(), plans.codes)
    assert torch.equal(state["ends"].long(), plans.ends) and torch.equal(state["distances"], plans.distance)
    assert not torch.equal(state["extra"], rollout.state["extra"][made])


def test_no_epochs_are_no_lessons() -> None:
    online = OnlineConfig(pi_form="taught", guide_reads="plan")
    actor, state = Linear(), states(20)
    before = actor.net.weight.clone()
    assert teach(actor, Guide(Difference(), online), state | {"plan": state["tokens"]}, online, torch.Generator()) == {}
    assert torch.equal(actor.net.weight, before)


@pytest.mark.parametrize("wrong", [{"guide_action": "trend"}, {"teach_epochs": 3}, {"teach_weight": 1.0},
                                   {"pi_form": "taught", "teach_log_std": -1.0},
                                   {"pi_form": "taught", "teach_plans": "tuned"},
                                   {"pi_form": "taught", "teach_epochs": 3},
                                   {"pi_form": "taught", "teach_weight": 1.0, "lact_e1_epochs": 1,
                                    "e1_decisions": 0}])
def test_keys_that_would_do_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need"):
        PVDRConfig.model_validate({"online": wrong})


@learns(learned=below(0.85), cosine=above(0.5))
def test_an_action_module_knows_the_way_before_any_reward(seed: int) -> dict[str, float]:
    """After E1 alone: what it learned of the lessons (1: nothing), and how its mean action at the start points to the
    goal. PPO never runs.

    The seed is that of the lessons, all on one pre-trained model: what others teach depends on how each was made, down
    to the last bits, and is no property of the lessons.
    """
    cfg = config(TAUGHT, planner={"candidates": 8, "metric": "code_l1_blur", "goal_frames": "last"})
    player = Player(build(cfg, 16, seed, pretrain_seed=1), 16, seed)  # type: ignore[arg-type]
    while not player.metrics:
        player.decide()
    found = player.metrics[0]
    return {"learned": found["lesson_after"] / found["lesson_constant"], "cosine": cosine_at_start(player)}


def cosine_at_start(player: Player) -> float:
    """Between the mean action where episodes start and the direction to the goal."""
    learner = player.learner
    player.env.position[:], player.env.age[:] = Dots.start, 0
    carry, first = learner.initial(16), torch.ones(16, dtype=torch.bool)
    image = torch.from_numpy(player.env.images())
    _, _, extras = learner.act(image, first, carry, "eval", torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = learner.ppo.actor({"tokens": extras["tokens"].long(), "extra": extras["z"]}).mean  # type: ignore[attr-defined]
    direction = torch.as_tensor(Dots.goal - Dots.start, dtype=torch.float32)
    along = mean[:, :2] @ direction / direction.norm()
    return float((along / mean[:, :2].norm(dim=1)).mean())
