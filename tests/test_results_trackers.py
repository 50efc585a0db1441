"""Runs in trackers: what a sink gets is what the logs hold, and nothing of the machine goes with it."""

from __future__ import annotations

import getpass
import importlib.util
import json
import math
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench import needed
from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.results import trackers
from pvdr_bench.results.collect import collect
from pvdr_bench.results.problems import Problem
from pvdr_bench.results.trackers import Label, flat, replay, tracker
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import make_run, resealed

SMALL = {"eval_episodes": 4, "eval_final_episodes": 5, "env_steps": 16000}
NAME = "ppo/reach/none/cpu/seed-0"


class Memory:
    """A sink that remembers."""

    def __init__(self, label: Label) -> None:
        self.label, self.given, self.rows, self.closed = label, {}, [], False

    def config(self, values: Mapping[str, Any]) -> None:
        assert not self.rows and not self.closed
        self.given = dict(values)

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        assert not self.closed and all(math.isfinite(value) for value in values.values())
        self.rows.append((env_steps, dict(values)))

    def close(self) -> None:
        self.closed = True


def train(path: Path, rows: list[dict[str, Any]]) -> None:
    log = RunDir(path).train
    for row in rows:
        log.append(row)
    log.close()
    resealed(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"lr": 3e-4, "net": {"width": 64, "norm": None}, "videos": "/home/someone/secret/videos.zarr",
              "layers": [1, 2], "compile": False}
    path = make_run(tmp_path, [0.25, 0.5], config=config, **SMALL)
    train(path, [{"env_steps": 800, "decisions": 200, "loss": 1.5, "note": "text", "entropy": float("nan")},
                 {"env_steps": 8000, "decisions": 2000, "loss": 0.5}])
    make_run(tmp_path, [0.25], seed=1, done=False, **SMALL)
    return tmp_path


def sent(folder: Path) -> list[Memory]:
    sinks: list[Memory] = []

    def open_sink(label: Label) -> Memory:
        sinks.append(Memory(label))
        return sinks[-1]

    assert replay(collect(folder), open_sink) == [sink.label.name for sink in sinks]
    return sinks


def test_a_sink_gets_recipe_training_and_evaluations(folder: Path) -> None:
    (sink,) = sent(folder)  # the other run is not finished
    assert sink.closed and sink.label.name == NAME and sink.label.group == "ppo/reach/none/cpu"
    assert sink.given["config.lr"] == 3e-4 and sink.given["config.net.width"] == 64
    assert sink.given["config.net.norm"] == "none" and sink.given["config.layers"] == "1, 2"
    assert sink.given["config.compile"] is False and sink.given["seed"] == 0 and sink.given["task.name"] == "reach"
    assert sink.given["config.videos"] == "videos.zarr"
    rows = dict(sink.rows)
    assert [steps for steps, _ in sink.rows] == [800, 8000, 16000]
    assert rows[800] == {"train/decisions": 200.0, "train/loss": 1.5}
    assert rows[8000]["train/loss"] == 0.5 and rows[8000]["eval/success"] == 0.25
    assert rows[16000]["eval/success"] == 0.5 and rows[16000]["final/episodes"] == 5.0
    lines = map(json.loads, (folder / NAME / "episodes.jsonl").read_text().splitlines())
    final = [line["return"] for line in lines if line["point"] == "final"]
    assert rows[16000]["final/return"] == sum(final) / len(final)


def test_nothing_of_the_machine_goes_out(folder: Path) -> None:
    (sink,) = sent(folder)
    text = repr((sink.label, sink.given, sink.rows))
    provenance = RunDir(folder / NAME).read_provenance()
    assert provenance is not None
    for word in (str(folder), socket.gethostname() + "'", provenance["executable"], "someone", "packages"):
        assert word not in text


def test_ids_are_stable_and_differ_by_recipe(folder: Path) -> None:
    assert sent(folder)[0].label.id == sent(folder)[0].label.id
    make_run(folder, [0.5, 0.5], seed=2, **SMALL)
    assert len({sink.label.id for sink in sent(folder)}) == 2


def test_a_sink_is_closed_when_a_run_cannot_be_sent(folder: Path) -> None:
    class Full(Memory):
        def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
            raise RuntimeError("no room")

    sinks: list[Full] = []
    with pytest.raises(RuntimeError, match="no room"):
        replay(collect(folder), lambda label: sinks.append(Full(label)) or sinks[-1])
    assert sinks[0].closed


def test_broken_logs_and_nothing_finished_are_refused(folder: Path, tmp_path: Path) -> None:
    train(folder / NAME, [{"loss": 1.0}])
    make_run(folder, [0.25, 0.5], seed=2, **SMALL)
    left_out: list[Problem] = []
    assert replay(collect(folder), Memory, left_out) == ["ppo/reach/none/cpu/seed-2"]
    assert [(p.run, p.kind, "lacks env_steps" in p.detail) for p in left_out] == [(NAME, "broken", True)]
    with pytest.raises(UsageError, match="no finished run"):
        replay(collect(folder).select(seed=[1]), Memory)
    assert dict(flat({"a": {"b": "~/x/y", "c": "reach-v3"}})) == {"a.b": "y", "a.c": "reach-v3"}


@pytest.mark.parametrize("kind", trackers.TRACKERS)
def test_a_missing_package_is_named_with_its_command(kind: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> Any:
        raise ModuleNotFoundError(module, name=module)

    monkeypatch.setattr(needed, "import_module", absent)
    for name in ("WANDB_ERROR_REPORTING", "TRACKIO_DIR", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")  # put back afterwards
    with pytest.raises(SetupError, match=rf"needs the package {kind}(.|\n)*pip install {kind}"):
        tracker(kind, tmp_path)(Label(NAME, "group", "id"))


# The real trackers ----------------------------------------------------------------------------------------------------

def needs(package: str) -> Any:
    """In a process of its own, so importing it here is not needed."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None,
                              reason=f"{package} is not installed: pip install {package}")


def command(folder: Path, kind: str, out: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "pvdr_bench.cli.main", "export", "--to", kind, "--results", str(folder), "--out",
             str(out), "--json"]
    for _ in range(2):  # the second replaces the first
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300, cwd=folder)
        assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["runs"] == [NAME]
    return told


def assert_silent(out: Path, folder: Path) -> None:
    """No file, and no file's name, tells where it was made."""
    words = [str(folder), str(out), sys.executable, f"{socket.gethostname()}.", "someone"]
    if getpass.getuser() != "root":
        words.append(getpass.getuser())
    for path in out.rglob("*"):
        assert not any(word in str(path.relative_to(out)) for word in (socket.gethostname() + ".", "someone"))
        if path.is_file():
            data = path.read_bytes()
            assert [word for word in words if word.encode() in data] == [], path


@needs("tensorboard")
def test_tensorboard_reads_it_back(folder: Path, tmp_path_factory: Any) -> None:
    out = tmp_path_factory.mktemp("tensorboard")
    command(folder, "tensorboard", out)
    assert [path.name for path in (out / NAME).iterdir()] == ["events.out.tfevents.pvdr-bench"]
    code = ("import json, sys\n"
            "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
            "log = EventAccumulator(sys.argv[1]); log.Reload()\n"
            "from tensorboard.plugins.hparams import plugin_data_pb2\n"
            "data = log.PluginTagToContent('hparams')['_hparams_/session_start_info']\n"
            "start = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info\n"
            "print(json.dumps({'scalars': {tag: [[e.step, e.value] for e in log.Scalars(tag)]"
            " for tag in log.Tags()['scalars']}, 'lr': start.hparams['config.lr'].number_value,"
            " 'videos': start.hparams['config.videos'].string_value}))")
    done = subprocess.run([sys.executable, "-c", code, str(out / NAME)], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    (sink,) = sent(folder)
    wanted: dict[str, list[list[float]]] = {}
    for steps, values in sink.rows:
        for name, value in values.items():
            wanted.setdefault(name, []).append([steps, value])
    assert told["scalars"].keys() == wanted.keys()
    for name, rows in wanted.items():
        assert told["scalars"][name] == [[steps, pytest.approx(value, rel=1e-6)] for steps, value in rows]
    assert told["lr"] == 3e-4 and told["videos"] == "videos.zarr"
    assert_silent(out, folder)


@needs("wandb")
def test_wandb_keeps_it_offline_and_silent(folder: Path, tmp_path_factory: Any) -> None:
    out = tmp_path_factory.mktemp("wandb")
    command(folder, "wandb", out)
    (kept,) = [path for path in (out / "wandb").iterdir() if path.is_dir() and not path.is_symlink()]
    assert kept.name.startswith("offline-run-")
    data = next(kept.glob("*.wandb")).read_bytes()
    for word in (b"train/loss", b"final/success", b"config.net.width", NAME.encode(), b"videos.zarr"):
        assert word in data
    assert_silent(out, folder)


@needs("trackio")
def test_trackio_reads_it_back(folder: Path, tmp_path_factory: Any) -> None:
    import sqlite3

    out = tmp_path_factory.mktemp("trackio")
    command(folder, "trackio", out)
    with sqlite3.connect(out / "pvdr-bench.db") as base:
        rows = base.execute("select run_name, step, metrics from metrics order by step").fetchall()
    (sink,) = sent(folder)
    assert [(name, step, json.loads(values)) for name, step, values in rows] == [
        (NAME, steps, values) for steps, values in sink.rows]
    assert_silent(out, folder)
