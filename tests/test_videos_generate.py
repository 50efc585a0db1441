"""Making corpora in worker processes: deterministic, independent of the workers, continued after any death."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from pvdr_bench.errors import ChangedError, SetupError, TrainingError, UsageError
from pvdr_bench.suites.corpora import Clip, CorpusSource, Generator
from pvdr_bench.videos import generate as module
from pvdr_bench.videos import sources
from pvdr_bench.videos.generate import check_frames, corpus_path, generate, plan_parts, recipe_of

ENTRY = CorpusSource("fake", "moving gradients", "generated", f"{__name__}:Fake", 6)


class Fake(Generator):
    """Smooth gradients; keeps a counter, as simulators keep state from one episode to the next."""

    version = 1
    sources = ("a", "b", "c")
    truth_columns: ClassVar[dict[str, int]] = {"hand": 1}
    fps = 10.0
    packages = ("numpy",)

    def __init__(self, source: str, image_size: int) -> None:
        self.size, self.made, self.source = image_size, 0, source

    def episode(self, rng: np.random.Generator) -> Clip:
        if Path(os.environ.get("FAKE_KILLS", "/nowhere")).exists() and self.source == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("FAKE_SLEEP", "0")))
        self.made += 1
        length = int(rng.integers(4, 8))
        base = np.add.outer(np.arange(self.size), np.arange(self.size)) * (100.0 / self.size) + 10.0 * rng.random()
        frames = np.stack([np.repeat((base + t + self.made)[..., None], 3, -1) for t in range(length)])
        return Clip(frames.astype(np.uint8), {"hand": rng.random((length, 1))})

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sources._ADDED, "fake", ENTRY)
    yield


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    one = generate("fake", 16, tmp_path / "1", 7, 1, 0, lambda *p: seen.append(p))
    three = generate("fake", 16, tmp_path / "3", 7, 3, 0)
    assert contents(one.path) == contents(three.path)
    one.verify()
    assert [e.source for e in one.episodes] == ["a", "a", "a", "b", "b", "c", "c"]
    assert seen == sorted(seen) and seen[-1] == (7, 7)
    other = generate("fake", 16, tmp_path / "other", 7, 3, seed=1)
    assert other.hash != one.hash
    assert not list(one.path.parent.glob("*.parts"))


def test_every_episode_has_its_own_randomness(tmp_path: Path) -> None:
    store = generate("fake", 16, tmp_path, 7, 3)
    assert store.truth is not None
    firsts = [store.truth["hand"][e.start, 0] for e in store.episodes]
    assert len(set(firsts)) == 7


def test_a_finished_corpus_is_opened_and_a_changed_recipe_refused(tmp_path: Path) -> None:
    first = generate("fake", 16, tmp_path, 3, 1)
    stamp = (first.path / "frames.u8").stat().st_mtime_ns
    assert generate("fake", 16, tmp_path, 3, 2).hash == first.hash
    assert (first.path / "frames.u8").stat().st_mtime_ns == stamp
    with pytest.raises(ChangedError, match=r"seed: 0 \(there\) -> 5 \(asked for\)"):
        generate("fake", 16, tmp_path, 3, 1, seed=5)


def test_a_dead_worker_fails_clearly_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_KILLS", str(tmp_path))
    with pytest.raises(TrainingError, match="worker died"):
        generate("fake", 16, tmp_path / "x", 6, 1)
    part = next((tmp_path / "x").rglob("part-0000"))  # source a was made before b died
    stamp = part.stat().st_mtime_ns
    with pytest.raises(ChangedError, match="interrupted corpus with another recipe"):
        generate("fake", 16, tmp_path / "x", 7, 1)
    assert part.stat().st_mtime_ns == stamp
    monkeypatch.delenv("FAKE_KILLS")
    assert contents(generate("fake", 16, tmp_path / "x", 6, 2).path) == contents(
        generate("fake", 16, tmp_path / "y", 6, 2).path)


def test_kill_9_of_the_parent_leaves_no_worker_and_continues(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom tests import test_videos_generate as t\nfrom pvdr_bench.videos import sources\n"
        "if __name__ == '__main__':\n    sources.register(t.ENTRY)\n"
        "    t.generate('fake', 16, sys.argv[1], 9, 2)\n"
    )
    (tmp_path / "run.py").write_text(script)
    env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "FAKE_SLEEP": "0.4"}
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(tmp_path / "x")], env=env)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "x").rglob("part-*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = _descendants(process.pid)
    process.kill()
    process.wait()
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)
    assert contents(generate("fake", 16, tmp_path / "x", 9, 2).path) == contents(
        generate("fake", 16, tmp_path / "y", 9, 1).path)


def test_ctrl_c_ends_with_75_and_the_same_command_continues(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(
        "import sys\nfrom tests import test_videos_generate as t\nfrom pvdr_bench.videos import sources\n"
        "from pvdr_bench.cli.main import main\n"
        "if __name__ == '__main__':\n    sources.register(t.ENTRY)\n    main(sys.argv[1:])\n")
    words = [sys.executable, str(tmp_path / "run.py"), "videos", "generate", "fake", "--image-size", "16",
             "--episodes", "9", "--jobs", "2"]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "PVDR_BENCH_DATA": str(tmp_path / "x")}
    process = subprocess.Popen(words, env={**env, "FAKE_SLEEP": "0.4"}, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "x").rglob("part-*.partial")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    told = process.communicate(timeout=90)[1]
    assert process.returncode == 75 and "error: stopped\n  -> the same command goes on" in told
    assert subprocess.run(words, env=env, capture_output=True).returncode == 0
    assert contents(corpus_path("fake", 16, tmp_path / "x")) == contents(
        generate("fake", 16, tmp_path / "y", 9, 1).path)


def _descendants(pid: int) -> list[int]:
    found = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    assert found
    return found + [grandchild for child in found for grandchild in _children_if_any(child)]


def _children_if_any(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_unknown_names_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'metaworld'"):
        generate("metawrld", 16, tmp_path)
    with pytest.raises(UsageError, match="at least 1"):
        generate("fake", 16, tmp_path, 0)
    with pytest.raises(UsageError, match="a seed is not negative"):
        generate("fake", 16, tmp_path, 2, seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_parts_cover_all_episodes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_EPISODES", 4)
    parts = plan_parts(ENTRY, 16, 29, 0, tmp_path)
    numbers = [i for p in parts for i in range(p.first, p.first + p.episodes)]
    assert numbers == list(range(29))
    assert max(p.episodes for p in parts) == 4
    per_source = {s: sum(p.episodes for p in parts if p.source == s) for s in "abc"}
    assert per_source == {"a": 10, "b": 10, "c": 9}


def _picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    row = np.repeat(np.linspace(20, 220, 32)[None, :, None], 32, 0)
    return np.repeat(np.repeat(row, 3, -1)[None], 8, 0).astype(np.uint8)


def test_garbage_frames_are_caught() -> None:
    check_frames(_picture(), "x")
    stripes = _picture()
    stripes[:, ::2] = np.random.default_rng(0).integers(0, 256, stripes[:, ::2].shape)
    for garbage in (np.zeros_like(stripes), stripes, np.random.default_rng(0).integers(0, 256, stripes.shape)):
        with pytest.raises(SetupError, match="garbage"):
            check_frames(garbage.astype(np.uint8), "x")


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.cli.videos import app

    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    result = CliRunner().invoke(app, ["generate", "fake", "--image-size", "16", "--episodes", "3", "--json"])
    assert result.exit_code == 0, result.output
    entry = json.loads(result.stdout)
    assert entry["path"] == str(corpus_path("fake", 16, tmp_path)) and entry["episodes"] == 3
    listed = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)}
    assert listed["fake"]["made"][0]["hash"] == entry["hash"]
    assert listed["metaworld"]["made"] == []
    assert "not made yet: pvdr-bench videos generate metaworld" in CliRunner().invoke(app, ["list"]).stdout


def test_a_missing_package_is_said_before_a_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe needs none of them: an artefact made of it is found where the corpus could not be made."""
    lacking = dataclasses.replace(ENTRY, name="lacking", needs=("numpy", "no-such-package"))
    monkeypatch.setitem(sources._ADDED, "lacking", lacking)
    assert recipe_of(lacking, 16, 3, 0)["generator"] == ENTRY.maker
    with pytest.raises(SetupError, match="the corpus lacking needs no-such-package\n  -> pip install no-such-package"):
        generate("lacking", 16, tmp_path, 3)
    assert not list(tmp_path.iterdir())


def test_a_recipe_keeps_its_hash_when_the_code_moves() -> None:
    moved = dataclasses.replace(ENTRY, maker=f"{__name__}:Moved", recipe_name=ENTRY.maker)
    assert recipe_of(moved, 16, 3, 0) == recipe_of(ENTRY, 16, 3, 0)


class Moved(Fake):
    """The same generator at another place."""


def test_a_corpus_of_files_is_not_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources._ADDED, "mine", dataclasses.replace(ENTRY, name="mine", kind="files"))
    with pytest.raises(UsageError, match="read from files"):
        generate("mine", 16, tmp_path, 3)
