"""Replay on a node's own disk: what is in it, in which folder, and after which checkpoint."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from pvdr_bench.errors import DataError, SetupError, StorageError
from pvdr_bench.rl.replay import scratch as module
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.replay.records import RecordFile
from pvdr_bench.rl.replay.scratch import SCRATCH, copy_bytes
from tests.test_training_parts import filled, transition

FILES = ("env-000.u8", "env-000.f32", "env-001.u8", "env-001.f32")


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's disk."""
    monkeypatch.setenv(SCRATCH, str(tmp_path / "disk"))
    return tmp_path / "disk"


def test_entries_reach_the_run_at_a_checkpoint(disk: Path, tmp_path: Path) -> None:
    home = tmp_path / "run"
    replay = filled(home, 4)
    (place,) = disk.iterdir()
    assert contents(home) == [b""] * 4 and all(contents(place))
    replay.state_dict()
    assert contents(home) == contents(place)
    for t in range(4, 7):
        replay.add(transition(t))
    assert len(contents(home)[0]) < len(contents(place)[0])
    replay.state_dict()
    assert contents(home) == contents(place)  # also what came after the first one, at its place
    replay.close()
    assert not list(disk.iterdir())


def test_another_node_goes_on_from_what_was_saved(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "run"
    replay = filled(home, 4)
    state = replay.state_dict()
    for t in range(4, 9):
        replay.add(transition(t))
    for stream in replay.streams:  # a later checkpoint that was never published
        stream.sync()
    shutil.rmtree(disk)  # and the node dies
    monkeypatch.setenv(SCRATCH, str(tmp_path / "other-disk"))
    again = EpisodeReplay(home, 2, 4, 2)
    again.load_state_dict(state)
    for t in range(4, 6):
        again.add(transition(t))
    later = again.state_dict()
    monkeypatch.delenv(SCRATCH)
    straight = filled(tmp_path / "plain", 6)
    assert str(straight.state_dict()) == str(later) and contents(home) == contents(tmp_path / "plain")
    for length in (3, 5):
        a, b = (each.sample(torch.Generator().manual_seed(1), 6, length) for each in (again, straight))
        assert all(torch.equal(a[key], b[key]) for key in b)
    again.close()
    plain = EpisodeReplay(home, 2, 4, 2)  # and without a scratch folder it goes on as well
    plain.load_state_dict(later)
    assert len(plain) == len(straight)


def test_what_a_killed_process_left_on_the_disk_is_not_believed(disk: Path, tmp_path: Path) -> None:
    replay = filled(tmp_path / "run", 4)
    state = replay.state_dict()
    (place,) = disk.iterdir()
    for name in FILES:
        (place / name).write_bytes(b"\1" * 5000)
    again = EpisodeReplay(tmp_path / "run", 2, 4, 2)
    again.load_state_dict(state)
    assert contents(place) == contents(tmp_path / "run")


def test_two_runs_on_one_node_have_folders_of_their_own(disk: Path, tmp_path: Path) -> None:
    filled(tmp_path / "a", 4)
    filled(tmp_path / "b", 5)
    assert len(list(disk.iterdir())) == 2


def test_a_run_whose_replay_is_too_short_says_so(disk: Path, tmp_path: Path) -> None:
    replay = filled(tmp_path / "run", 4)
    state = replay.state_dict()
    replay.close()
    with (tmp_path / "run" / "env-001.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match="ends at byte 100"):
        EpisodeReplay(tmp_path / "run", 2, 4, 2).load_state_dict(state)


def test_an_empty_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCRATCH, "")
    with pytest.raises(SetupError, match="empty on this node") as caught:
        EpisodeReplay(tmp_path / "run", 2, 4, 2)
    assert "profile's `scratch`" in str(caught.value)


def test_a_full_disk_at_the_copy(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = filled(tmp_path / "run", 4)
    monkeypatch.setattr(module.os, "pwrite", lambda *_: 0)
    with pytest.raises(StorageError, match="cannot write"):
        replay.state_dict()
    monkeypatch.undo()
    replay.state_dict()
    assert len(contents(tmp_path / "run")[0]) == 5 * 4 * 4 * 3


@pytest.mark.parametrize("scratch", [False, True])
def test_a_network_disk_that_says_only_at_the_sync_that_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   scratch: bool) -> None:
    if scratch:
        monkeypatch.setenv(SCRATCH, str(tmp_path / "disk"))
    replay = filled(tmp_path / "run", 4)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="quota is used up") as caught:
            replay.state_dict()
    assert caught.value.where == str(tmp_path / "run" / "env-000.u8")
    replay.state_dict()


def test_a_network_disk_that_says_so_at_the_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, close = RecordFile(tmp_path, "a", 4), os.close

    def late(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", late)
        with pytest.raises(StorageError, match="the disk is full"):
            file.close()


def test_copies_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COPY_BYTES", 7)
    (tmp_path / "a").write_bytes(bytes(range(100)))
    (tmp_path / "b").write_bytes(b"x" * 100)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("r+b") as target:
        copy_bytes(source.fileno(), target.fileno(), 10, 90)
    assert (tmp_path / "b").read_bytes() == b"x" * 10 + bytes(range(10, 90)) + b"x" * 10
