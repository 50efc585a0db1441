"""The clip store: bytes in, the same bytes out, whatever interrupts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.errors import ChangedError, DataError, StorageError, UsageError
from pvdr_bench.runs.faults import CRASH_CODE, _passed
from pvdr_bench.runs.files import sha256_file
from pvdr_bench.videos.layout import FRAMES, HELDOUT, MANIFEST, TRAIN, partial_path, split_of
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import ClipWriter

SIZE = 8
COLUMNS = {"action": 2, "hand": 1}


def episode(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(number)
    length = 5 + number % 3
    return rng.integers(0, 256, (length, SIZE, SIZE, 3), dtype=np.uint8), {
        "action": rng.normal(size=(length, 2)).astype(np.float32), "hand": np.full((length, 1), number, np.float32),
    }


def write(path: Path, until: int) -> ClipWriter:
    writer = ClipWriter(path, SIZE, {"seed": 0}, truth_columns=COLUMNS)
    for number in range(writer.num_episodes, until):
        frames, truth = episode(number)
        writer.append(frames, f"task-{number % 2}", truth)
    return writer


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    return write(tmp_path / "s", 40).publish({"numpy": "x"})


def test_frames_and_truth_come_back(store: ClipStore) -> None:
    assert len(store.episodes) == 40
    for number, entry in enumerate(store.episodes):
        frames, truth = episode(number)
        assert np.array_equal(store.frames(entry.start, entry.start + entry.length), frames)
        assert entry.source == f"task-{number % 2}"
        assert store.truth is not None
        assert np.array_equal(store.truth["action"][entry.start : entry.start + entry.length], truth["action"])
    store.verify()
    assert not partial_path(store.path).exists()


def test_splits_are_fixed_by_the_index_alone(store: ClipStore) -> None:
    splits = [split_of(i) for i in range(20_000)]
    assert splits[:40] == [e.split for e in store.episodes]
    assert 0.09 < splits.count(HELDOUT) / len(splits) < 0.11
    assert [i for i in range(60) if splits[i] == HELDOUT] == [3, 4, 11, 19, 46]  # pinned


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (3, 1), (2, 2), (3, 2)])
def test_windows_are_all_clips_inside_one_episode(store: ClipStore, frames: int, stride: int) -> None:
    expected = []
    for entry in store.episodes:
        for start in range(entry.start, entry.start + entry.length):
            if entry.split == TRAIN and start + (frames - 1) * stride < entry.start + entry.length:
                expected.append(start)
    assert store.windows(TRAIN, frames, stride).tolist() == expected


def test_drawn_clips_are_windows_with_their_stride(store: ClipStore) -> None:
    batch, start = store.draw(np.random.default_rng(3), 64, 3, 2, HELDOUT)
    assert batch.shape == (64, 3, SIZE, SIZE, 3) and batch.dtype == np.uint8
    clips = {store.take(s + 2 * np.arange(3)).tobytes() for s in store.windows(HELDOUT, 3, 2)}
    assert {clip.tobytes() for clip in batch} <= clips
    assert np.array_equal(batch, store.draw(np.random.default_rng(3), 64, 3, 2, HELDOUT).frames)
    for clip, number in zip(batch, start, strict=True):
        of = [e for e in store.episodes if e.split == HELDOUT and number + 4 < e.length]
        assert any(np.array_equal(store.take(e.start + number + 2 * np.arange(3)), clip) for e in of)
    assert start.dtype == np.int64 and len(set(start.tolist())) > 1


def test_clips_longer_than_episodes_are_refused(store: ClipStore) -> None:
    with pytest.raises(UsageError, match="no clip of 9 frames"):
        store.windows(TRAIN, 9, 1)


def test_truncated_file_names_the_byte(store: ClipStore) -> None:
    size = (store.path / FRAMES).stat().st_size
    os.truncate(store.path / FRAMES, size - 100)
    with pytest.raises(DataError, match=f"byte {size - 100}") as error:
        ClipStore(store.path)
    assert "truncated" in str(error.value)


def test_flipped_byte_is_found_with_its_episode(store: ClipStore) -> None:
    at = store.episodes[7].start * SIZE * SIZE * 3 + 50
    with (store.path / FRAMES).open("r+b") as file:
        file.seek(at)
        old = file.read(1)[0]
        file.seek(at)
        file.write(bytes([old ^ 1]))
    with pytest.raises(DataError, match="episode 7") as error:
        ClipStore(store.path).verify()
    first, last = (int(w) for w in str(error.value).split("bytes ")[1].split(":")[0].split(" to "))
    assert first <= at < last


def test_broken_manifest_and_missing_store_are_clear(store: ClipStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip store"):
        ClipStore(tmp_path / "nothing")
    (store.path / MANIFEST).write_text('{"format": 1, ')
    with pytest.raises(DataError, match="char 14"):
        ClipStore(store.path)


def test_unfinished_store_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "s", 3).close()
    with pytest.raises(DataError, match="not finished"):
        ClipStore(tmp_path / "s")


def test_another_recipe_does_not_continue(tmp_path: Path) -> None:
    write(tmp_path / "s", 3).close()
    with pytest.raises(ChangedError, match=r"seed: 0 \(there\) -> 1 \(asked for\)"):
        ClipWriter(tmp_path / "s", SIZE, {"seed": 1}, truth_columns=COLUMNS)


@pytest.mark.parametrize("tail", [b'{"length": 5, "sou', b'{"crc32": 1, "length": 5, "source": "x"}\n', b"\x00\xff\n"])
def test_torn_or_lying_journal_lines_are_redone(tmp_path: Path, tail: bytes) -> None:
    expected = write(tmp_path / "whole", 6).publish().hash
    write(tmp_path / "s", 4).close()
    with (partial_path(tmp_path / "s") / "journal.jsonl").open("ab") as file:
        file.write(tail)
    with (partial_path(tmp_path / "s") / FRAMES).open("ab") as file:
        file.write(b"half an episode")
    writer = write(tmp_path / "s", 6)
    assert writer.publish().hash == expected


CRASHES = ["videos.truth:3", "videos.frames:1", "videos.frames:4", "videos.journal:2", "videos.publish",
           "videos.published"]


@pytest.mark.parametrize("point", CRASHES)
def test_killed_at_every_write_gives_the_same_bytes(tmp_path: Path, point: str) -> None:
    script = (
        "import sys, pathlib; from tests.test_videos_store import write; p = pathlib.Path(sys.argv[1])\n"
        "if not p.exists(): write(p, 5).publish()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s")]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    assert subprocess.run(command, check=False, env={**env, "PVDR_BENCH_CRASH_AT": point}).returncode == CRASH_CODE
    assert subprocess.run(command, check=False, env=env).returncode == 0
    whole = write(tmp_path / "whole", 5).publish()
    for name in (FRAMES, "index.json", "truth.npz", MANIFEST):
        assert (tmp_path / "s" / name).read_bytes() == (whole.path / name).read_bytes(), name
    ClipStore(tmp_path / "s").verify()


def test_a_full_disk_is_clear_and_the_rest_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write(tmp_path / "s", 2)
    frames, truth = episode(2)
    _passed.clear()
    monkeypatch.setenv("PVDR_BENCH_FULL_AT", "videos.frames:1")
    with pytest.raises(StorageError, match="No space left|disk|space"):
        writer.append(frames, "task-0", truth)
    monkeypatch.delenv("PVDR_BENCH_FULL_AT")
    writer.close()
    assert write(tmp_path / "s", 5).publish().hash == write(tmp_path / "whole", 5).publish().hash


def test_wrong_episodes_are_refused(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path / "s", SIZE, {}, truth_columns=COLUMNS)
    frames, truth = episode(0)
    with pytest.raises(DataError, match="expected uint8"):
        writer.append(frames.astype(np.float32), "x", truth)
    with pytest.raises(DataError, match="expected uint8"):
        writer.append(frames[:, :4], "x", truth)
    with pytest.raises(DataError, match="rows for"):
        writer.append(frames, "x", {**truth, "hand": truth["hand"][:-1]})
    with pytest.raises(DataError, match="truth has"):
        writer.append(frames, "x")
    assert writer.num_episodes == 0
    with pytest.raises(DataError, match="at least one episode"):
        writer.publish()


def test_index_checksums_are_plain_crc32(store: ClipStore) -> None:
    index = json.loads((store.path / "index.json").read_text())
    assert index["crc32"][3] == zlib.crc32(episode(3)[0].tobytes())


def test_what_lies_on_disk_is_fixed(tmp_path: Path) -> None:
    """Stores made years ago stay readable, and the same episodes give the same hash: their bytes are pinned."""
    made = write(tmp_path / "s", 5).publish({"numpy": "x"})
    assert made.hash == "5f287561213a"
    assert {name: sha256_file(made.path / name)[:16] for name in (FRAMES, "index.json", "truth.npz", MANIFEST)} == {
        FRAMES: "5b181b9891e66ef4", "index.json": "8ac8ae6147438683", "truth.npz": "6a10e1c586dd5f4f",
        MANIFEST: "220b33e9d2eb117d"}
