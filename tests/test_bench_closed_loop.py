"""``bench closed-loop``: what it tells of episodes, by hand; and that it takes a dot towards its goal."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pvdr_bench.algorithms.pvdr.alignment import Labels
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.diagnostics import closed_loop
from pvdr_bench.diagnostics.closed_loop import Track
from pvdr_bench.errors import UsageError
from pvdr_bench.rl.rollout import Rollout
from pvdr_bench.suites.base import EnvConfig, VectorStep
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from pvdr_bench.training.online import Pieces
from pvdr_bench.training.stages import Stages
from tests.dummies import make_protocol
from tests.learning import above, learns
from tests.test_ppo_learner import GRID, Dots, IdentityTokenizer, context, image_of
from tests.test_pvdr_online import GUIDED, build, config, pretrained


class Room:
    """Dots that move in x and y, with a third action that moves nothing; it tells where dot and goal are."""

    action_space, observation_space = BoxSpace(3), ImageSpace(GRID, GRID)

    def __init__(self, n: int) -> None:
        self.n, self.dots = n, Dots(n)
        self.dots.limit = 16

    def goal_image(self) -> np.ndarray:
        return image_of(Dots.goal)

    def close(self) -> None:
        self.closed = True

    def reset(self, seeds: list[int]) -> np.ndarray:
        assert len(seeds) == self.n
        self.dots.position[:], self.dots.age[:] = Dots.start, 0
        return self.dots.images()

    def step(self, action: np.ndarray) -> VectorStep:
        dots = self.dots
        dots.position = np.clip(dots.position + 0.6 * np.clip(action[:, :2], -1, 1), 0, 3)
        dots.age += 1
        hand, final, over = dots.position.copy(), dots.images(), dots.age >= dots.limit
        dots.position[over], dots.age[over] = Dots.start, 0
        truth = {"hand_x": hand[:, 0], "hand_y": hand[:, 1], "hand_z": np.zeros(self.n),
                 "goal_x": np.full(self.n, Dots.goal[0]), "goal_y": np.full(self.n, Dots.goal[1]),
                 "goal_z": np.zeros(self.n)}
        success = np.linalg.norm(hand - Dots.goal, axis=1) < 0.6
        return VectorStep(image=dots.images(), final_image=final, dense_reward=np.zeros(self.n, np.float32),
                          success=success, terminated=np.zeros(self.n, np.bool_), truncated=over,
                          env_steps=np.ones(self.n, np.int64),
                          truth={name: value.astype(np.float32) for name, value in truth.items()})


def followed(seed: int, candidates: int, at_goal: bool = False) -> tuple[Track, dict[str, float]]:
    online = GUIDED | {"e1_first": 1200, "lact_e1_epochs": 30, "e1_play": "noise",
                       "lact_target": "plan_mean", "eval_std": 0.0}
    made = context(config(online, planner={"candidates": candidates, "metric": "code_l1_blur", "goal_frames": "last"}),
                   16, seed)
    made = dataclasses.replace(made, task=dataclasses.replace(made.task, action=BoxSpace(3)),
                               artefacts={"pretrain": pretrained(seed)})
    learner, room = PVDRLearner(made, IdentityTokenizer()), Room(16)  # type: ignore[arg-type]
    play, held, _ = closed_loop.collect(learner, room, list(range(16)))  # type: ignore[arg-type]
    assert len(play) > 3 * len(held) > 0
    learner.aligner.learn(play)
    found = learner.aligner.on(held).metrics()
    if at_goal:
        learner.planner = closed_loop.GoalPlanner(learner.model, learner.config.planner, learner.distance)
    return closed_loop.follow(learner, room, 20, 0, seed), found  # type: ignore[arg-type]


@learns(explained=above(0.1), cosine=above(0.3), nearer=above(0.8))
def test_plans_are_followed_towards_the_goal(seed: int) -> dict[str, float]:
    """The best of four plans of a small model, in a world of two dimensions; the goal is 3.6 away at the start."""
    track, found = followed(seed, 4)
    assert track.success.shape == (20,) and track.distance.shape == (16, 20) and track.cosine.shape == (15, 20)
    return {"explained": 1 - found["l_act"] / found["l_act_constant"], "cosine": track.cosine[:5].mean(),
            "nearer": np.linalg.norm(Dots.goal - Dots.start) - track.distance.min(0).mean()}


def test_a_track_holds_what_the_simulator_told_in_each_decision() -> None:
    track, _ = followed(0, 2)
    far = float(np.linalg.norm(Dots.goal - Dots.start))
    assert (track.distance[0] <= far + 0.9).all() and np.array_equal(track.before, track.distance[:-1])
    assert np.array_equal(track.success, (track.distance < 0.6).any(0))
    assert (np.abs(track.cosine) <= 1 + 1e-9).all()


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_whole_measurement_plays_learns_and_follows(rounds: int) -> None:
    """Labels of every round but the held-out ones are learned from, and the environments are closed."""
    online = GUIDED | {"e1_first": 320, "e1_decisions": 320, "lact_replay": 2000, "lact_e1_epochs": 2, "eval_std": 0.0}
    cfg, rooms, made = config(online, planner={"candidates": 2}), [], []
    protocol = make_protocol(env_steps=1024, action_repeat=1, episode_steps=16, num_envs=16, sync_every=256,
                             eval_every=256, success_bonus=1.0, terminate_on_success=False)

    def learner(facts: Any) -> PVDRLearner:
        made.append(PVDRLearner(facts, IdentityTokenizer()))  # type: ignore[arg-type]
        return made[-1]

    def room(_: Any, n: int) -> Room:
        rooms.append(Room(n))
        return rooms[-1]

    spec = SimpleNamespace(protocol=protocol, seed=0, env_config=lambda: EnvConfig("dummy", "dot"))
    pieces = Pieces(room, learner, cfg, torch.device("cpu"), artefacts={"pretrain": pretrained(0)})  # type: ignore[arg-type]
    found = closed_loop.closed_loop(spec, pieces, rounds, 20, (1, 3), True)  # type: ignore[arg-type]
    assert rooms[0].closed and set(found) == {"explained", "explained_other_z", "learned", "held_out", "n_1", "n_3",
                                              "at_goal"}
    # the last buffer's 20 decisions are an episode of 16 and 4 of another; the last two of each see no whole plan
    assert (found["learned"], found["held_out"]) == (16 * 14, 16 * 2)
    assert "success_gain" in found["n_3"] and "success_gain" not in found["n_1"] and "success_gain" in found["at_goal"]
    kept = made[0].aligner.kept
    # of 20 decisions 16 are early, an episode; the last two of it do not see three frames more
    assert kept is not None and len(kept) == rounds * 16 * 14


def test_no_label_s_future_is_held_out_and_too_little_play_is_refused() -> None:
    """Of 15 decisions the first 12 are learned from, without the two whose plan's frames are of the last three."""
    def played(decisions: int) -> tuple[Labels, Labels, Rollout]:
        learner = build(config(GUIDED | {"e1_first": 16 * decisions, "e1_decisions": 16 * decisions}), 16)
        return closed_loop.collect(learner, Room(16), list(range(16)))  # type: ignore[arg-type]

    learned, held, _ = played(15)
    assert (len(learned), len(held)) == (16 * 10, 16 * 1)
    with pytest.raises(UsageError, match="10 decisions in each of 16 .* none sees all 3"):
        played(10)


def test_summaries_by_hand() -> None:
    cosine = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    distance = np.array([[0.3, 0.3], [0.2, 0.1], [0.1, 0.4], [0.3, 0.3], [0.3, 0.3], [0.3, 0.3], [0.25, 0.05]])
    track = Track(cosine, distance[:-1], distance, np.array([False, True]))
    told = closed_loop.summary(track, None)
    assert told["cosine_first"][0] == pytest.approx((0.4 + 0.1) / 2)
    assert told["cosine_episode"][0] == pytest.approx((1 / 6 + 1.5 / 6) / 2, abs=1e-3)
    assert told["nearest_cm"][0] == pytest.approx(7.5) and told["last_cm"][0] == pytest.approx(15.0)
    assert told["success"] == [0.5, 0.0, 1.0]
    # at both decisions from within 15 cm of the goal: the first episode's third, the second one's second
    assert told["cosine_near"] == [pytest.approx((0.0 + 0.5) / 2), 0.0, 0.5] and told["near"] == 1.0
    alone = Track(cosine, distance[:-1] + np.array([1.0, 0.0]), distance, np.array([False, True]))
    told = closed_loop.summary(alone, None)
    assert told["cosine_near"] == [0.5, 0.5, 0.5] and told["near"] == 0.5
    assert closed_loop.summary(Track(cosine, distance[:-1] + 1, distance, alone.success), None)["cosine_near"] is None
    worse = Track(cosine - 0.5, distance[:-1], distance, np.array([False, False]))
    assert closed_loop.summary(track, worse)["cosine_first_gain"] == [0.5, 0.5, 0.5]
    assert closed_loop.summary(track, worse)["success_gain"][0] == 0.5


def test_a_plan_that_ends_at_the_goal_is_another_only_there() -> None:
    learner = build(config(GUIDED, planner={"candidates": 1}), 16)
    named = closed_loop.planners(learner, (1, 3), True)
    assert list(named) == ["n_1", "n_3", "at_goal"] and [p.config.candidates for p in named.values()] == [1, 3, 1]
    assert closed_loop.planners(learner, (3, 1), True)["at_goal"].config.candidates == 3
    seen = learner.encode(torch.from_numpy(Room(16).reset(list(range(16)))))[:, None].expand(-1, 2, -1, -1)
    plain, ended = (named[name].plan(seen, torch.Generator().manual_seed(3)) for name in ("n_1", "at_goal"))
    goal = learner.encode(torch.from_numpy(image_of(Dots.goal))[None])[0]
    assert torch.equal(ended.codes[:, :-1], plain.codes[:, :-1]) and torch.equal(ended.z, plain.z)
    assert (ended.codes[:, -1] == goal).all() and (ended.ends == goal).all() and (plain.codes[:, -1] != goal).any()


def test_a_guide_that_is_shown_the_goal_itself_goes_there() -> None:
    """The control of the measurement: it comes nearer than with one plan that was drawn anyhow (by 1.0 to 2.1)."""
    drawn, shown = (followed(0, 1, at_goal)[0].distance.min(0).mean() for at_goal in (False, True))
    assert shown < drawn - 0.4


def test_directions_and_what_a_task_has_to_tell() -> None:
    a, b = np.array([[1.0, 0, 0], [0, 0, 0], [1, 1, 0]]), np.array([[2.0, 0, 0], [1, 0, 0], [-1, -1, 0]])
    assert closed_loop.cosines(a, b) == pytest.approx([1, 0, -1])
    with pytest.raises(UsageError, match="goal_x"):
        closed_loop.offsets({name: np.zeros(1) for name in ("hand_x", "hand_y", "hand_z")})


@pytest.mark.parametrize(("key", "std"), [((), 0.0), (("online.eval_std=0.25",), 0.25)])
def test_plans_are_followed_without_noise_where_none_is_asked_for(key: tuple[str, ...], std: float,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def captured(spec: RunSpec, *_: Any) -> dict[str, Any]:
        asked.append(spec.config["online"])
        assert ("eval_std" in spec.variant) == bool(key), "a result's name is of what was asked for"
        return {}

    monkeypatch.setattr(Stages, "pieces", lambda _: (None, {}))
    monkeypatch.setattr(closed_loop, "closed_loop", captured)
    closed_loop.measure(labels=400, rounds=2, scale="smoke", keys=("online.pi_form=guided", *key))
    (online,) = asked
    assert online["eval_std"] == std
    assert (online["pi_form"], online["e1_first"], online["e1_decisions"]) == ("guided", 250, 250)


def test_the_goal_as_a_plans_end_is_refused_where_no_frames_are_read() -> None:
    with pytest.raises(UsageError, match="does not read it(.|\n)*online.guide_reads=plan"):
        closed_loop.measure(at_goal=True)


@pytest.mark.parametrize("wrong", [{"labels": 0}, {"candidates": ()}, {"episodes": 0}, {"rounds": 0}])
def test_nothing_to_do_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="at least one"):
        closed_loop.measure(**wrong)
