"""What only the simulator knows: no tensor, no array, no part of a state, a batch or the replay; and still a metric."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pvdr_bench import algorithms
from pvdr_bench.algorithms.pvdr.metrics import planning_metrics
from pvdr_bench.rl.contract import Learner, LearnerContext
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.rollout import RolloutBuffer
from pvdr_bench.rl.truth import Diagnostics
from pvdr_bench.runs.state import pack, unpack
from pvdr_bench.training.execute import execute
from tests.dummies import make_pieces, make_spec
from tests.test_ppo_core import fill
from tests.test_training_parts import transition

TRUTH = Diagnostics({"goal_distance": np.array([0.25, 0.5])})


@pytest.mark.parametrize("convert", [
    torch.as_tensor, torch.tensor, torch.Tensor, torch.FloatTensor, np.asarray, np.stack, list, tuple, len, float,
    lambda d: torch.zeros(2) + d, lambda d: d * torch.ones(2), lambda d: d + 1.0, lambda d: d[0],
    lambda d: torch.stack([d]), lambda d: torch.nn.Linear(2, 1)(d), lambda d: d["goal_distance"], lambda d: np.mean(d),
])
def test_it_is_refused_as_an_input(convert: Any) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        convert(TRUTH)


def test_the_conversions_say_why() -> None:
    for convert in (torch.as_tensor, torch.tensor, np.asarray):
        with pytest.raises(TypeError, match="diagnostics are no input"):
            convert(TRUTH)


def test_its_numbers_are_for_reading() -> None:
    given = np.array([1.0, 2.0], np.float32)
    one = Diagnostics({"a": given})
    given[0] = 5
    metric = one.metric("a")
    assert metric is not None and metric.tolist() == [1, 2] and metric.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        metric[0] = 3
    assert one.metric("b") is None and one.names == ("a",) and Diagnostics().names == ()


def test_a_stack_has_what_all_decisions_have() -> None:
    stack = Diagnostics.stack([Diagnostics({"a": [t, t], "b": [0]} if t else {"a": [t, t]}) for t in range(3)])
    assert stack.names == ("a",)
    np.testing.assert_array_equal(stack.metric("a"), [[0, 0], [1, 1], [2, 2]])
    assert Diagnostics.stack([]).names == ()


def filled(steps: int) -> RolloutBuffer:
    buffer = RolloutBuffer()
    for t in range(steps):
        fill(buffer, 1, t)
        buffer._diagnostics[-1] = Diagnostics({"goal_distance": [t + 0.1, t + 0.2]})
    return buffer


def test_a_rollout_has_it_apart_from_state_and_batch_and_so_does_its_checkpoint() -> None:
    buffer = filled(4)
    tree, data = pack(buffer.state_dict())
    other = RolloutBuffer()
    other.load_state_dict(unpack(tree, data))
    for rollout in (buffer.rollout(), other.rollout()):
        np.testing.assert_array_equal(rollout.diagnostics.metric("goal_distance"),
                                      [[np.float32(t + 0.1), np.float32(t + 0.2)] for t in range(4)])
        assert not any("distance" in name for name in rollout.state)
        batch = rollout.batch(0.9, 0.9)
        held = [*vars(batch).values(), *batch.state.values()]
        assert not any(isinstance(x, Diagnostics) for x in held)
        assert all(isinstance(x, torch.Tensor | dict) for x in held)


def test_a_checkpoint_from_before_there_were_any_is_read() -> None:
    state = filled(3).state_dict()
    del state["diagnostics"]
    buffer = RolloutBuffer()
    buffer.load_state_dict(state)
    assert buffer.rollout().diagnostics.names == () and len(buffer) == 3


def test_replay_stores_none_of_it(tmp_path: Path) -> None:
    kinds = [transition(t) for t in range(4)]
    told = [dataclasses.replace(one, diagnostics=TRUTH) for one in kinds]
    for name, steps in (("plain", kinds), ("told", told)):
        replay = EpisodeReplay(tmp_path / name, 2, 4, 2)
        for one in steps:
            replay.add(one)
        replay.state_dict()
    plain, with_truth = ({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())}
                         for name in ("plain", "told"))
    assert plain == with_truth


def test_the_loop_hands_over_what_the_simulator_knows(tmp_path: Path) -> None:
    spec, seen = make_spec(), []
    pieces = make_pieces(spec)

    def make_learner(context: LearnerContext) -> Learner:
        learner = pieces.make_learner(context)
        inner = learner.observe
        learner.observe = lambda given: (seen.append(given.diagnostics), inner(given))[1]  # type: ignore[method-assign]
        return learner

    execute(spec, tmp_path, lambda: (dataclasses.replace(pieces, make_learner=make_learner), {}), lambda: False)
    metrics = [one.metric("goal_distance") for one in seen]
    assert all(x is not None and x.shape == (2,) and (x >= 0).all() for x in metrics) and len(metrics) > 4


def test_no_algorithm_reads_them_but_for_its_metrics() -> None:
    """``planner.metric`` and the like are no calls; whoever calls ``.metric(...)`` is in a file of metrics."""
    files = sorted(Path(algorithms.__path__[0]).rglob("*.py"))
    calls = {file.name for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "metric"}
    assert len(files) > 15 and calls == {"metrics.py"}


def test_pvdrs_metric_is_the_rank_correlation_with_the_truth_of_the_next_decision() -> None:
    buffer, steps = RolloutBuffer(), 6
    generator = np.random.default_rng(0)
    metric, truth = generator.random((2, steps, 2)).astype(np.float32)
    ended = np.zeros((steps, 2), np.bool_)
    ended[2, 1] = True
    never = torch.zeros(2, dtype=torch.bool)
    for t in range(steps):
        state = {name: torch.zeros(2) for name in ("plan_distance", "plan_gain", "plan_diversity", "pixel_distance")}
        number, state["plan_age"] = torch.zeros(2), torch.zeros(2, dtype=torch.long)
        buffer.add({**state, "metric_distance": torch.from_numpy(metric[t])}, action=torch.zeros(2, 2), log_prob=number,
                   value=number, reward=number, terminated=never, truncated=torch.from_numpy(ended[t]),
                   bootstrap=number, diagnostics=Diagnostics({"goal_distance": truth[t]}))
    pairs = [(metric[t + 1, i], truth[t, i]) for t in range(steps - 1) for i in range(2) if not ended[t, i]]
    found = planning_metrics(buffer.rollout())
    assert found["rank_metric_true_distance"] == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    assert "rank_metric_pixel_distance" not in found  # all the same: no ranks
