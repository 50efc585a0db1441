"""Importing: the same bytes however it is interrupted, split or placed; sizes, splits, pieces."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pvdr_bench.cli.videos import app
from pvdr_bench.errors import ChangedError, DataError, Interrupted, UsageError
from pvdr_bench.runs.faults import CRASH_CODE
from pvdr_bench.suites.resize import area_resize, fitted
from pvdr_bench.videos.fetching import downloads_path
from pvdr_bench.videos.importing import ImportOptions, _make_part, import_videos, pieces
from pvdr_bench.videos.joining import ImportPart
from pvdr_bench.videos.layout import HELDOUT, TRAIN, split_of
from pvdr_bench.videos.readers.base import ReadOptions
from pvdr_bench.videos.readers.detect import open_source
from pvdr_bench.videos.store import ClipStore
from tests import video_files as made

SHARDS = {"train/traj_0_to_1": (0, 1), "train/traj_2_to_4": (2, 3, 4), "train/traj_5_to_5": (5,),
          "test/traj_0_to_0": (6,)}


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.fixture
def bair(tmp_path: Path) -> Path:
    return made.write_bair(tmp_path / "bair", SHARDS, 4)


def test_bair_becomes_a_store_with_its_own_split(bair: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = import_videos("bair", bair, 64, tmp_path / "data", progress=lambda *p: seen.append(p))
    assert store.path == tmp_path / "data" / "videos" / "bair" / "64"
    assert [e.split for e in store.episodes] == [TRAIN] * 6 + [HELDOUT]
    assert store.episodes[3].source == "train/traj_2_to_4.tfrecords#1"
    for number, episode in enumerate(store.episodes):
        assert np.array_equal(store.read(episode.start, episode.start + 4), made.bair_episode(number, 4))
    store.verify()
    size = sum(path.stat().st_size for path in bair.rglob("*.tfrecords"))
    assert seen == sorted(seen) and seen[-1] == (size, size)
    assert [path.name for path in store.path.parent.iterdir() if not path.name.startswith(".")] == ["64"]
    assert import_videos("bair", bair, 64, tmp_path / "data").hash == store.hash
    with pytest.raises(ChangedError, match=r"camera: 'image_aux1' \(there\) -> 'image_main' \(asked for\)"):
        import_videos("bair", bair, 64, tmp_path / "data", ImportOptions(camera="main"))


def test_bytes_do_not_depend_on_processes_or_places(bair: Path, tmp_path: Path) -> None:
    one = import_videos("bair", bair, 32, tmp_path / "1", workers=1)
    three = import_videos("bair", bair.rename(tmp_path / "elsewhere"), 32, tmp_path / "3", workers=3)
    assert contents(one.path) == contents(three.path)


RUN = ("import sys; from pathlib import Path; from pvdr_bench.videos.importing import *\n"
       "if __name__ == '__main__':\n"
       "    import_videos('bair', Path(sys.argv[1]), 32, sys.argv[2], ImportOptions(cut=3), workers=2)\n")
POINTS = ["videos.frames:1", "videos.journal:2", "videos.publish:1", "videos.joined:2", "videos.published:1"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_write_it_goes_on_to_the_same_bytes(bair: Path, tmp_path: Path, point: str) -> None:
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(bair), str(tmp_path / "data")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, check=False, env={**env, "PVDR_BENCH_CRASH_AT": point}, capture_output=True)
    assert killed.returncode in (CRASH_CODE, 1)  # of the parent, or of a worker, which the parent tells of
    again = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    whole = import_videos("bair", bair, 32, tmp_path / "whole", ImportOptions(cut=3))
    assert contents(tmp_path / "data" / "videos" / "bair" / "32") == contents(whole.path)
    assert [episode.length for episode in whole.episodes] == [3, 1] * 7


def test_a_part_may_be_joined_and_deleted_as_soon_as_it_has_its_name(bair: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_source(bair, ReadOptions(), "")
    taken: list[Path] = []
    rename = Path.replace

    def rename_and_take(self: Path, target: str | Path) -> Path:
        named = rename(self, target)
        if named.is_dir():  # the joiner, another process, is faster than the next line of the worker
            taken.append(named)
            shutil.rmtree(named)
        return named

    monkeypatch.setattr(Path, "replace", rename_and_take)
    _make_part(ImportPart(str(tmp_path / "part-00000"), str(reader.root), "bair", reader.options, 32, "crop", 0,
                          reader.units()[0]))
    assert taken == [tmp_path / "part-00000"]


def test_a_worker_that_still_takes_files_out_of_its_part_does_not_end_the_joining(
        bair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its journal away once the part has its name, as the joiner may be deleting the part."""
    unlink, taken = os.unlink, []

    def taken_before(name: str, *, dir_fd: int | None = None) -> None:
        unlink(name, dir_fd=dir_fd)
        if dir_fd is not None and len(taken) < 2:
            taken.append(name)
            raise FileNotFoundError(name)

    whole = import_videos("bair", bair, 32, tmp_path / "whole")
    monkeypatch.setattr(os, "unlink", taken_before)
    store = import_videos("bair", bair, 32, tmp_path / "data")
    assert len(taken) == 2 and contents(store.path) == contents(whole.path)
    assert not store.path.with_name("32.parts").exists()


def test_parts_that_a_power_cut_took_bytes_from_are_made_again(bair: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def parts() -> list[Path]:
        return sorted((tmp_path / "videos" / "bair" / "32.parts").glob("part-*[0-9]"))

    def cut(*_: int) -> None:
        if len(parts()) >= 2:
            raise Interrupted("cut")

    whole = import_videos("bair", bair, 32, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("pvdr_bench.videos.joining.Join.advance", lambda self: None)
        import_videos("bair", bair, 32, tmp_path, progress=cut)
    (parts()[0] / "frames.u8").write_bytes(bytes((parts()[0] / "frames.u8").stat().st_size))
    (parts()[1] / "manifest.json").write_bytes(b"")
    assert contents(import_videos("bair", bair, 32, tmp_path).path) == contents(whole.path)


def test_kill_9_of_the_parent_leaves_no_worker_and_goes_on(tmp_path: Path) -> None:
    source = made.write_bair(tmp_path / "bair", {f"train/traj_{n}_to_{n}": (n,) for n in range(12)}, 30)
    (tmp_path / "run.py").write_text(RUN)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(source), str(tmp_path / "data")], env=env)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "data").rglob("part-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = [int(child) for thread in Path(f"/proc/{process.pid}/task").iterdir()
               for child in (thread / "children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    store = import_videos("bair", source, 32, tmp_path / "data", ImportOptions(cut=3), workers=2)
    whole = import_videos("bair", source, 32, tmp_path / "whole", ImportOptions(cut=3))
    assert contents(store.path) == contents(whole.path)


def test_a_damaged_shard_stops_the_import_and_publishes_nothing(bair: Path, tmp_path: Path) -> None:
    path = bair / "softmotion30_44k" / "train" / "traj_2_to_4.tfrecords"
    data = path.read_bytes()
    path.write_bytes(data[:70_000] + b"?" + data[70_001:])
    with pytest.raises(DataError, match=r"traj_2_to_4\.tfrecords, byte 12: the checksum of a record is wrong"):
        import_videos("bair", bair, 32, tmp_path / "data")
    assert not (tmp_path / "data" / "videos" / "bair" / "32").exists()
    path.write_bytes(data)
    assert len(import_videos("bair", bair, 32, tmp_path / "data").episodes) == 7


def test_a_handful_of_films_has_both_splits_and_one_long_film_too(tmp_path: Path) -> None:
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", frames=made.moving(number, 9, 24))
    store = import_videos("mine", tmp_path, 24, tmp_path / "data")
    splits = {e.source: e.split for e in store.episodes}
    assert sorted(splits.values()).count(HELDOUT) >= 1 and TRAIN in splits.values()
    pieces_of_one = import_videos("one", tmp_path / "0.npz", 24, tmp_path / "data", ImportOptions(cut=4))
    assert [(e.length, e.split) for e in pieces_of_one.episodes] == [(4, TRAIN), (4, HELDOUT), (1, TRAIN)]


@pytest.mark.parametrize("kind", ["bair", "tfds"])
def test_a_source_that_only_trains_holds_out_one_in_ten(tmp_path: Path, kind: str) -> None:
    if kind == "bair":
        shards = {f"train/traj_{first}_to_{first + 9}": range(first, first + 10) for first in range(0, 40, 10)}
        source = made.write_bair(tmp_path / "x", shards, 2)
    else:
        source = made.write_rlds(tmp_path, "x", {"train": [made.moving(n, 2, 16) for n in range(40)]}, shards=4)
    store = import_videos("mine", source, 16, tmp_path / "data")
    splits = {episode.source: episode.split for episode in store.episodes}
    assert len(splits) == 40 and splits == {name: split_of(name) for name in splits}
    assert 2 <= list(splits.values()).count(HELDOUT) <= 8


def test_bair_is_imported_from_where_it_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    folder = downloads_path("bair", tmp_path)
    folder.mkdir(parents=True)
    tar = made.write_bair(folder, SHARDS, 4, tar=True)
    said = CliRunner().invoke(app, ["import", "bair", "--image-size", "32", "--json"])
    assert said.exit_code == 0, said.exception
    assert json.loads(said.output)["episodes"] == 7
    assert import_videos("bair", tar, 32, tmp_path / "named", ImportOptions(camera="aux1")).hash == json.loads(
        said.output)["hash"]
    shutil.copy(tar, folder / "copy.tar")
    with pytest.raises(DataError, match="2 archives here"):
        open_source(folder, ReadOptions())


def test_a_tar_of_something_else_beside_films_changes_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", frames=made.moving(0, 4, 16))
    for data in (b"", b"no tar"):
        (tmp_path / "other.tar").write_bytes(data)
        assert open_source(tmp_path, ReadOptions()).format == "folder"
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "0.npz", "0.npz")
    assert open_source(tmp_path, ReadOptions()).format == "folder"


def test_fewer_frames_a_second_where_they_can_be_told(bair: Path, tmp_path: Path) -> None:
    """Of video files; what keeps every frame refuses them, and no store says that it has fewer."""
    films = tmp_path / "films"
    for number in range(2):
        made.write_video(films / f"{number}.mp4", made.moving(number, 30, 32), fps=30)
    store = import_videos("films", films, 32, tmp_path, ImportOptions(fps=10.0))
    assert store.fps == 10.0 and [episode.length for episode in store.episodes] == [10, 10]
    rlds = made.write_rlds(tmp_path, "thing", {"train": [made.moving(0, 4, 32)]})
    lerobot = made.write_lerobot(tmp_path / "lerobot", [made.moving(0, 4, 32)], dtype="image")
    for source in (bair, rlds, lerobot):
        with pytest.raises(UsageError, match="--fps thins video files, and every frame of the format .* is kept") as no:
            import_videos("mine", source, 32, tmp_path, ImportOptions(fps=5.0))
        assert "leave --fps out" in (no.value.hint or "")
    np.savez(films / "2.npz", frames=made.moving(2, 30, 32))
    with pytest.raises(UsageError, match=r"1 of the episodes here are none, such as 2\.npz"):
        import_videos("mixed", films, 32, tmp_path, ImportOptions(fps=10.0))
    assert not (tmp_path / "videos" / "mine").exists() and not (tmp_path / "videos" / "mixed").exists()


@pytest.mark.parametrize("change", ["lengths", "name", "pictures"])
def test_another_file_in_the_middle_of_a_folder_is_another_source(tmp_path: Path, change: str) -> None:
    """Its number of files, first name and bytes in all stay as they were."""
    source = tmp_path / "source"
    source.mkdir()
    for number, length in enumerate((4, 5, 6)):
        if change == "pictures":
            (source / f"{number}").mkdir()
            for t in range(length):
                (source / f"{number}" / f"{t}.png").write_bytes(made.encoded(made.moving(number, 1, 16)[0]))
        else:
            np.savez(source / f"{number}.npz", frames=made.moving(number, length, 16))
    first = import_videos("mine", source, 16, tmp_path)
    assert import_videos("mine", source, 16, tmp_path).hash == first.hash
    if change == "pictures":
        (source / "1" / "4.png").rename(source / "1" / "9.png")
    elif change == "name":
        (source / "1.npz").rename(source / "1b.npz")
    else:
        (source / "1.npz").rename(tmp_path / "kept")
        (source / "2.npz").rename(source / "1.npz")
        (tmp_path / "kept").rename(source / "2.npz")
    with pytest.raises(ChangedError, match="hash"):
        import_videos("mine", source, 16, tmp_path)


def test_pieces_hold_every_frame_once() -> None:
    frames = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1)
    for sizes in ([23], [1] * 23, [5, 6, 7, 5], [10, 13]):
        for cut in (0, 1, 4, 5, 22, 23, 24):
            chunks = np.split(frames, np.cumsum(sizes)[:-1])
            got = [np.concatenate(list(piece)).ravel().tolist() for piece in pieces(chunks, cut)]
            assert sum(got, []) == list(range(23))
            assert all(len(piece) == cut for piece in got[:-1]) or not cut


@pytest.mark.parametrize(("height", "width", "size"),
                         [(5, 5, 3), (7, 4, 5), (6, 6, 2), (3, 3, 6), (2, 5, 7), (64, 64, 128)])
def test_area_resize_is_the_mean_over_each_pixels_area(height: int, width: int, size: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    got = area_resize(frames, size)

    def shares(length: int) -> list[list[Fraction]]:
        step = Fraction(length, size)
        return [[max(Fraction(0), min((i + 1) * step, Fraction(j + 1)) - max(i * step, Fraction(j)))
                 for j in range(length)] for i in range(size)]

    rows, columns = shares(height), shares(width)
    for y, x, channel in [(0, 0, 0), (size - 1, size - 1, 2), (size // 2, 1, 1), (1, size // 2, 0)]:
        total = sum(rows[y][j] * columns[x][i] * int(frames[1, j, i, channel])
                    for j in range(height) for i in range(width) if rows[y][j] and columns[x][i])
        mean = total * size * size / (height * width)
        assert got[1, y, x, channel] == int(mean + Fraction(1, 2))
    assert np.array_equal(area_resize(np.full((1, height, width, 3), 255, np.uint8), size),
                          np.full((1, size, size, 3), 255, np.uint8))


def test_frames_that_are_not_square_are_cropped_squashed_or_padded() -> None:
    frames = np.zeros((1, 4, 8, 3), np.uint8)
    frames[:, :, 2:6] = 100
    assert (fitted(frames, 4) == 100).all()
    assert fitted(frames, 4, "squash")[0, :, :, 0].tolist() == [[0, 100, 100, 0]] * 4
    assert fitted(frames, 8, "pad")[0, :, 4, 0].tolist() == [0, 0, 100, 100, 100, 100, 0, 0]


def test_numbers_that_make_no_sense(bair: Path, tmp_path: Path) -> None:
    for options in (ImportOptions(cut=-1), ImportOptions(fps=-2.0), ImportOptions(fit="zoom")):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            import_videos("bair", bair, 32, tmp_path, options)


MEMORY = """
import resource, sys
from pathlib import Path
from pvdr_bench.videos.importing import import_videos
if __name__ == "__main__":
    import_videos("mine", Path(sys.argv[1]), 32, sys.argv[2])
    print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def test_memory_does_not_grow_with_an_episode(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(MEMORY)
    peaks = []
    for frames in (40, 500):
        source = tmp_path / str(frames)
        source.mkdir()
        np.savez(source / "x.npz", frames=np.zeros((frames, 256, 256, 3), np.uint8))
        answer = subprocess.run([sys.executable, str(tmp_path / "run.py"), str(source), str(tmp_path / f"d{frames}")],
                                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, capture_output=True,
                                text=True, check=True)
        peaks.append(int(answer.stdout) / 1024)
    assert peaks[1] < peaks[0] + 30, peaks  # MiB; the longer film has 98 MB


def test_a_store_of_another_writer_is_read_as_before(bair: Path, tmp_path: Path) -> None:
    store = import_videos("bair", bair, 32, tmp_path / "data",
                          ImportOptions(about={"license": "ours"}, stated_fps=10.0))
    assert ClipStore(store.path).manifest["about"] == {"license": "ours"} and store.fps == 10.0
    batch = store.draw(np.random.default_rng(0), 8, 2, 2).frames
    windows = store.windows(TRAIN, 2, 2)
    assert {clip.tobytes() for clip in batch} <= {store._data[[s, s + 2]].tobytes() for s in windows}
