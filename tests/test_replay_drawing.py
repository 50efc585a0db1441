"""Which entries replay draws: uniformly as ever, inside episodes, by priority; against enumerations by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from pvdr_bench.errors import TrainingError, UsageError
from pvdr_bench.rl.replay.columns import Column
from pvdr_bench.rl.replay.drawing import Positions
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.replay.priorities import PRIORITY, Priorities, choose_by_weight
from pvdr_bench.rl.transition import Transition

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def play(replay: EpisodeReplay, episodes: list[int], unfinished: int = 0) -> list[tuple[int, int, bool]]:
    """Play episodes of so many decisions in both environments; (first, last, over) of each."""
    n, bounds, at = len(replay.streams), [], 0
    for length, over in [*((x, True) for x in episodes), *([(unfinished, False)] if unfinished else [])]:
        for t in range(length):
            ends = torch.full((n,), over and t == length - 1)
            image = torch.full((n, 1, 1, 3), (at + t) % 256, dtype=torch.uint8)
            replay.add(Transition(image, torch.full((n,), t == 0), torch.full((n, 1), float(at + t)),
                                  torch.arange(n) + 10.0 * t, torch.zeros(n, dtype=torch.bool), ends, image + 100, {}))
        bounds.append((at, at + length - (not over), over))
        at += length + over
    return bounds


def fresh(folder: Path, n: int = 2, **declared: Any) -> EpisodeReplay:
    replay = EpisodeReplay(folder, n, 1, 1)
    if declared:
        replay.declare(**declared)
    replay.clear()
    return replay


def allowed(bounds: list[tuple[int, int, bool]], low: int, length: int, window: str) -> list[int]:
    """By enumeration: entries where a stretch may begin."""
    total, found = bounds[-1][1] + 1, []
    for first, last, over in bounds:
        for start in range(max(first, low), last + 1):
            stop = start + length - 1
            if {"any": stop < total, "inside": stop <= last, "padded": start < last or not over}[window]:
                found.append(start)
    return found


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(0, 3), st.integers(1, 5), st.sampled_from([0, 8, 20]),
       st.sampled_from(["any", "inside", "padded"]))
def test_every_stretch_and_no_other_is_drawn_with_the_picks_of_one_randint(
        tmp_path_factory: pytest.TempPathFactory, episodes: list[int], unfinished: int, length: int, capacity: int,
        window: Any) -> None:
    replay = fresh(tmp_path_factory.mktemp("replay"), capacity=capacity)
    bounds = play(replay, episodes, unfinished)
    total = bounds[-1][1] + 1
    low = max(0, total - max(capacity // 2 or total, length))
    starts = [(i, start) for i in range(2) for start in allowed(bounds, low, length, window)]
    if not starts:
        with pytest.raises(UsageError, match="no sequence"):
            replay.draw(generator(), 1, length, window)
        return
    draw = replay.draw(generator(3), 40, length, window)
    picks = torch.randint(len(starts), (40,), generator=generator(3)).tolist()
    assert list(zip(draw.positions.stream.tolist(), draw.positions.index.tolist(), strict=True)) == [
        starts[pick] for pick in picks]
    assert draw.count == len(starts) and set(draw.probability.tolist()) == {1 / len(starts)}
    if window == "any":
        sampled = replay.sample(generator(3), 40, length)
        assert sampled["image"][:, :, 0, 0, 0].shape == (40, length)
    replay.close()


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 3), st.integers(0, 3), st.integers(1, 5), st.data())
def test_padded_stretches_repeat_the_episodes_ends(
        tmp_path_factory: pytest.TempPathFactory, episodes: list[int], unfinished: int, before: int, length: int,
        data: Any) -> None:
    replay = fresh(tmp_path_factory.mktemp("replay"))
    bounds = play(replay, episodes, unfinished)
    index = data.draw(st.lists(st.integers(0, bounds[-1][1]), min_size=1, max_size=6))
    rows = replay.streams[1].read(0, replay.streams[1].length)[1]
    out = replay.read(Positions(torch.ones(len(index), dtype=torch.long), torch.tensor(index)), length, before, True)
    for b, at in enumerate(index):
        first, last, _ = next(one for one in bounds if one[0] <= at <= one[1])
        wanted = range(at - before, at + length)
        taken = [min(max(x, first), last) for x in wanted]
        assert out["inside"][b].tolist() == [first <= x <= last for x in wanted]
        assert out["action"][b, :, 0].tolist() == rows[taken, 0].tolist()
        assert out["reward"][b].tolist() == rows[taken, 1].tolist()
    replay.close()


def test_frequencies_follow_the_priorities(tmp_path: Path) -> None:
    replay = fresh(tmp_path, priorities=Priorities(exponent=0.5))
    play(replay, [3, 2])  # 7 entries each; decisions at 0, 1, 2, 4, 5
    index = torch.tensor([0, 1, 2, 4, 5])
    priorities = torch.tensor([[1.0, 4.0, 0.0, 9.0, 16.0], [25.0, 0.0, 36.0, 1.0, 4.0]])
    for i in range(2):
        replay.write(Positions(torch.full((5,), i), index), PRIORITY, priorities[i])
    draws = 20_000
    draw = replay.draw(generator(1), draws, 2, "padded", prioritised=True)
    weight = priorities.sqrt()
    share = (weight / weight.sum()).numpy()
    seen = np.zeros((2, 7))
    np.add.at(seen, (draw.positions.stream.numpy(), draw.positions.index.numpy()), 1)
    assert seen[:, [3, 6]].sum() == 0  # an episode's last entry is no decision
    got, expected = seen[:, index].ravel(), draws * share.ravel()
    assert (got[expected == 0] == 0).all()
    assert chisquare(got[expected > 0], expected[expected > 0]).pvalue > 1e-3
    assert chisquare(got[expected > 0], np.full(8, draws / 8)).pvalue < 1e-9  # and it could tell
    by_hand = {(i, int(index[j])): share[i, j] for i in range(2) for j in range(5)}
    assert all(float(p) == pytest.approx(by_hand[int(s), int(x)], rel=1e-12) for s, x, p in zip(
        draw.positions.stream, draw.positions.index, draw.probability, strict=True))
    assert draw.count == 10


def test_importance_weights_by_hand(tmp_path: Path) -> None:
    replay = fresh(tmp_path, 1, priorities=Priorities(exponent=1.0))
    play(replay, [3])
    replay.write(Positions(torch.zeros(3, dtype=torch.long), torch.arange(3)), PRIORITY, torch.tensor([1.0, 2.0, 5.0]))
    draw = replay.draw(generator(), 50, 1, "padded", prioritised=True)
    raw = [(3 * {0: 1 / 8, 1: 2 / 8, 2: 5 / 8}[int(x)]) ** -0.4 for x in draw.positions.index]
    torch.testing.assert_close(draw.weights(0.4), torch.tensor([x / max(raw) for x in raw]))
    assert torch.equal(draw.weights(0.0), torch.ones(50))
    assert torch.equal(replay.draw(generator(), 9, 1).weights(0.7), torch.ones(9))  # uniform draws need none


def test_new_entries_have_the_largest_priority_so_far_and_old_ones_are_looked_past(tmp_path: Path) -> None:
    replay = fresh(tmp_path, 1, priorities=Priorities(exponent=1.0, initial=2.0), capacity=6)
    play(replay, [3])
    draw = replay.draw(generator(), 20, 1, "padded", prioritised=True)
    assert set(draw.probability.tolist()) == {1 / 3}
    replay.write(Positions(torch.tensor([0]), torch.tensor([0])), PRIORITY, torch.tensor([6.0]))
    replay.write(Positions(torch.tensor([0]), torch.tensor([0])), PRIORITY, torch.tensor([1.0]))
    play(replay, [3])  # of the 6 newest entries, 2 .. 7, those at 2, 4, 5, 6 are decisions
    draw = replay.draw(generator(), 200, 1, "padded", prioritised=True)
    found = dict(zip(draw.positions.index.tolist(), draw.probability.tolist(), strict=True))
    assert found == pytest.approx({2: 2 / 20, 4: 6 / 20, 5: 6 / 20, 6: 6 / 20})


def test_a_number_that_rounds_up_to_the_sum_finds_the_last_entry_that_weighs_something(
        monkeypatch: pytest.MonkeyPatch) -> None:
    weights, streams = [np.array([0.3, 0.1, 0.0])], [(np.array([0]), np.array([3]))]
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([1.0], dtype=torch.float64))
    draw = choose_by_weight(streams, weights, generator(), 1)
    assert draw is not None and draw.positions.index.tolist() == [1]


def test_positions_ahead_and_selected() -> None:
    positions = Positions(torch.tensor([0, 1]), torch.tensor([5, 7]))
    ahead = positions.ahead(3)
    assert ahead.index.tolist() == [[5, 6, 7], [7, 8, 9]] and ahead.stream.tolist() == [[0] * 3, [1] * 3]
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert ahead.select(mask).index.tolist() == [5, 6, 7] and ahead.select(mask).stream.tolist() == [0, 0, 1]
    assert len(positions) == 2


def test_what_is_refused(tmp_path: Path) -> None:
    replay = fresh(tmp_path / "a", priorities=Priorities())
    with pytest.raises(UsageError, match="no sequence of 1 entries yet with a priority above 0"):
        replay.draw(generator(), 1, 1, "padded", prioritised=True)
    play(replay, [2])
    here = Positions(torch.tensor([0]), torch.tensor([1]))
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(TrainingError, match="priority"):
            replay.write(here, PRIORITY, torch.tensor([bad]))
    with pytest.raises(UsageError, match="over the end or the beginning"):
        replay.read(here, 5)
    with pytest.raises(UsageError, match="no rewritable column 'value'"):
        replay.write(here, "value", torch.zeros(1))
    for stream, index in ((0, 3), (2, 0), (0, -1), (-1, 0)):
        with pytest.raises(UsageError, match="not in the replay"):
            replay.write(Positions(torch.tensor([stream]), torch.tensor([index])), PRIORITY, torch.ones(1))
    with pytest.raises(UsageError, match="for positions"):
        replay.write(here, PRIORITY, torch.ones(2))
    plain = fresh(tmp_path / "b")
    play(plain, [2])
    with pytest.raises(UsageError, match="no priorities"):
        plain.draw(generator(), 1, 1, prioritised=True)
    with pytest.raises(UsageError, match="declared once, before"):
        plain.declare([Column("value")])
    for name in ("image", "priority", "u8", "Value", "a/b", ""):
        with pytest.raises(UsageError, match="no column"):
            EpisodeReplay(tmp_path / "c", 1, 1, 1).declare([Column(name)])
    with pytest.raises(UsageError, match="two columns"):
        EpisodeReplay(tmp_path / "c", 1, 1, 1).declare([Column("a"), Column("a")])
