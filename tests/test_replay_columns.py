"""Columns of replay: what is written is read, and a start from a checkpoint sees no write that came after it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.rl.replay.columns import KEPT, Column, runs
from pvdr_bench.rl.replay.drawing import Positions
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.replay.priorities import PRIORITY, Priorities
from pvdr_bench.rl.replay.scratch import SCRATCH
from pvdr_bench.rl.transition import Transition
from pvdr_bench.runs.state import pack, unpack

COLUMNS = [Column("value"), Column("policy", (3,), "float64", True), Column("visits", (2, 2), "int16", True),
           Column("seen", (), "bool", True)]


def opened(folder: Path) -> EpisodeReplay:
    replay = EpisodeReplay(folder, 2, 2, 1)
    replay.declare(COLUMNS, priorities=Priorities(exponent=0.7))
    return replay


def extras(number: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(number)
    return {"value": torch.rand(2, generator=rng), "policy": torch.rand(2, 3, generator=rng).double(),
            "visits": torch.randint(9, (2, 2, 2), generator=rng).to(torch.int16),
            "seen": torch.rand(2, generator=rng) > 0.5, "unused": torch.zeros(2)}


def decision(number: int, ends: bool = False, given: dict[str, Tensor] | None = None) -> Transition:
    image = torch.full((2, 2, 2, 3), number % 200, dtype=torch.uint8)
    return Transition(image, torch.tensor([False, False]), torch.zeros(2, 1), torch.zeros(2),
                      torch.tensor([False, False]), torch.tensor([ends, False]), image,
                      extras(number) if given is None else given)


def everything(replay: EpisodeReplay) -> dict[str, list[Any]]:
    """All columns as they are read, priorities as the files and the memory have them, and the newest's."""
    out: dict[str, list[Any]] = {}
    for i, stream in enumerate(replay.streams):
        if not stream.length:
            continue
        whole = replay.read(Positions(torch.tensor([i]), torch.tensor([0])), stream.length)
        for column in COLUMNS:
            out[f"{column.name}{i}"] = whole[column.name][0].tolist()
        stored = stream.columns[PRIORITY].read(0, stream.length)
        np.testing.assert_array_equal(stored, replay.weights.all[i])
        out[f"weights{i}"] = stored.tolist()
    return {**out, "largest": [replay.weights.largest]}


def die(replay: EpisodeReplay) -> None:
    """Leave as kill -9 does: nothing is synced, nothing tidied."""
    for file in [file for stream in replay.streams for file in stream.open_files()]:
        file.close()


def write_some(replay: EpisodeReplay, number: int) -> None:
    """New values of every kind at random entries, some of them drawn twice."""
    rng = torch.Generator().manual_seed(number)
    stream = torch.randint(2, (5,), generator=rng)
    lengths = torch.tensor([s.length for s in replay.streams])
    index = (torch.rand(5, generator=rng) * lengths[stream]).long()
    positions = Positions(stream, index)
    replay.write(positions, "policy", torch.rand(5, 3, generator=rng).double())
    replay.write(positions, "visits", torch.randint(9, (5, 2, 2), generator=rng).to(torch.int16))
    replay.write(positions, "seen", torch.rand(5, generator=rng) > 0.5)
    replay.write(positions, PRIORITY, 3 * torch.rand(5, generator=rng))


def test_values_are_kept_with_their_entry_and_an_episodes_last_has_none(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    replay.clear()
    for t in range(3):
        replay.add(decision(t, ends=t == 1))
    found = everything(replay)
    for i in range(2):
        given = [extras(t)["policy"][i].tolist() for t in range(3)]
        assert found[f"policy{i}"] == ([*given[:2], [0.0] * 3, given[2]] if i == 0 else given)
        assert found[f"seen{i}"][0] is bool(extras(0)["seen"][i])
    some = replay.read(Positions(torch.tensor([0, 1]), torch.tensor([0, 1])), 2, columns=["visits"])
    assert some["visits"].dtype == torch.int16 and "policy" not in some
    assert some["visits"][1].tolist() == [extras(1)["visits"][1].tolist(), extras(2)["visits"][1].tolist()]


def test_of_several_values_for_one_entry_the_last_stays(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    replay.clear()
    for t in range(4):
        replay.add(decision(t))
    ahead = Positions(torch.tensor([1, 1]), torch.tensor([0, 1])).ahead(3)  # 0 1 2 and 1 2 3
    values = torch.arange(18.0).double().view(2, 3, 3)
    replay.write(ahead, "policy", values)
    assert everything(replay)["policy1"] == [values[0, 0].tolist(), *values[1].tolist()]
    assert everything(replay)["policy0"][1] == extras(1)["policy"][0].tolist()  # the other environment's stand


@dataclass
class Model:
    """A replay and what every checkpoint of it saw."""

    folder: Path
    replay: EpisodeReplay
    kept: list[tuple[Any, dict[str, list[Any]]]] = field(default_factory=list)
    spoil: bool = False

    def checkpoint(self) -> None:
        self.kept = [*self.kept, (pack(self.replay.state_dict()), everything(self.replay))][-KEPT:]

    def kill(self, back: int) -> None:
        """And start from the newest checkpoint but ``back``."""
        die(self.replay)
        self.kept = self.kept[:max(1, len(self.kept) - back)]
        self.replay = opened(self.folder)
        if not self.kept:
            self.replay.clear()
            return
        (tree, data), seen = self.kept[-1]
        self.replay.load_state_dict(unpack(tree, data))
        assert everything(self.replay) == seen


STEPS = st.lists(st.one_of(
    st.tuples(st.just("add"), st.booleans()), st.tuples(st.just("write"), st.integers(0, 10**6)),
    st.tuples(st.just("checkpoint"), st.none()), st.tuples(st.just("kill"), st.integers(0, KEPT - 1))), max_size=40)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.booleans())
def test_any_sequence_of_writes_checkpoints_and_deaths(tmp_path_factory: pytest.TempPathFactory, steps: list[Any],
                                                       scratch: bool) -> None:
    folder = tmp_path_factory.mktemp("replay")
    with pytest.MonkeyPatch.context() as patch:
        if scratch:
            patch.setenv(SCRATCH, str(folder / "disk"))
        model = Model(folder / "run", opened(folder / "run"))
        model.replay.clear()
        for number, (step, value) in enumerate([("add", False), *steps, ("kill", 0)]):
            if step == "add":
                model.replay.add(decision(number, value))
            elif step == "write" and len(model.replay):
                before, lengths = everything(model.replay), len(model.replay)
                write_some(model.replay, value)
                assert len(model.replay) == lengths and everything(model.replay)["value0"] == before["value0"]
            elif step == "checkpoint":
                model.checkpoint()
            elif step == "kill":
                model.kill(value)
        die(model.replay)


def test_no_byte_that_a_kept_checkpoint_needs_is_ever_written_again(tmp_path: Path) -> None:
    """Torn writes, and those of a machine that died, are spoiled bytes: they must all lie where no checkpoint reads."""
    replay = opened(tmp_path)
    replay.clear()
    for t in range(6):
        replay.add(decision(t))
    states = []
    for k in range(KEPT):
        write_some(replay, k)
        states.append((replay.state_dict(), everything(replay)))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for k in range(20):
        write_some(replay, 100 + k)
    replay.add(decision(6))
    die(replay)
    touched = 0
    for path in tmp_path.iterdir():
        old, new = before.get(path, b""), path.read_bytes()
        same = np.frombuffer(new[:len(old)], np.uint8) == np.frombuffer(old[:len(new)], np.uint8)
        spoiled = np.frombuffer(new, np.uint8).copy()
        spoiled[:len(same)][~same] = 0xA5
        spoiled[len(old):] = 0xA5
        touched += int((~same).sum()) + max(0, len(new) - len(old))
        path.write_bytes(spoiled.tobytes())
    assert touched > 100
    for state, seen in reversed(states):
        again = opened(tmp_path)
        again.load_state_dict(state)
        assert everything(again) == seen
        die(again)


def test_a_column_takes_no_more_places_than_checkpoints_are_kept(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    replay.clear()
    for t in range(3):
        replay.add(decision(t))
    for k in range(30):
        write_some(replay, k)
        replay.state_dict()
    assert sum(path.name.startswith("env-000.policy") for path in tmp_path.iterdir()) == KEPT + 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("env-000.value.")]


def test_the_scratch_folder_sends_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCRATCH, str(tmp_path / "disk"))
    replay = opened(tmp_path / "run")
    replay.clear()
    for t in range(50):
        replay.add(decision(t))
    replay.state_dict()
    sent: list[int] = []
    pwrite = os.pwrite
    replay.write(Positions(torch.tensor([0]), torch.tensor([7])), "policy", torch.ones(1, 3).double())
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: (sent.append(len(data)), pwrite(fd, data, at))[1])
    replay.state_dict()
    assert sent == [24]


def test_runs_are_consecutive_and_of_one_label() -> None:
    index, label = np.array([1, 2, 3, 5, 6, 9]), np.array([0, 0, 1, 1, 1, 1], np.uint8)
    assert list(runs(index, label)) == [(0, 2), (2, 3), (3, 5), (5, 6)]
    assert list(runs(index[:0], label[:0])) == []


def test_what_is_refused(tmp_path: Path) -> None:
    replay = opened(tmp_path / "a")
    replay.clear()
    with pytest.raises(UsageError, match="'policy' is not among the extras"):
        replay.add(decision(0, given={"value": torch.zeros(2)}))
    for name, wrong, text in (("value", torch.zeros(2).double(), "is of float32, not of float64"),
                              ("policy", torch.zeros(2, 4).double(), "has the shape")):
        with pytest.raises(UsageError, match=text):
            replay.add(decision(0, given={**extras(0), name: wrong}))
    assert len(replay) == 0
    replay.add(decision(0))
    here = Positions(torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(UsageError, match="no rewritable column 'value'"):
        replay.write(here, "value", torch.zeros(1))
    with pytest.raises(UsageError, match="is of float64, not of float32"):
        replay.write(here, "policy", torch.zeros(1, 3))
    state = replay.state_dict()
    with pytest.raises(DataError, match="rewritable columns"):
        EpisodeReplay(tmp_path / "a", 2, 2, 1).load_state_dict(state)
    replay.write(here, "policy", torch.ones(1, 3).double())
    state = replay.state_dict()
    with (tmp_path / "a" / "env-000.policy.1").open("r+b") as file:
        file.truncate(5)
    with pytest.raises(DataError, match="ends at byte 5, the checkpoint needs 24"):
        opened(tmp_path / "a").load_state_dict(state)
    (tmp_path / "a" / "env-000.u8").write_bytes(b"1234567")  # under a process that reads it
    with pytest.raises(DataError, match="replay ends at byte 7"):
        replay.read(here, 1)
