"""Artefacts: made once, shared, checked; provenance and places."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pvdr_bench.errors import DataError, Interrupted
from pvdr_bench.runs import faults, paths, provenance
from pvdr_bench.runs.artefacts import ArtefactStore, artefact_dir
from pvdr_bench.runs.cleaning import own_artefacts
from pvdr_bench.runs.files import content_hash, to_json

FORK = multiprocessing.get_context("fork")
RECIPE = {"stage": "tokenize", "config": {"codes": 64}, "version": 1}


def maker(value=1.0, calls=None, pause=0.0):
    def make(work: Path, check=None):
        if calls is not None:
            with calls.open("a") as file:
                file.write("x")
        time.sleep(pause)
        safetensors.numpy.save_file({"w": np.full(3, value, np.float32)}, work / "model.safetensors")
        (work / "train.jsonl").write_text('{"step": 1}\n')
        (work / "checkpoints").mkdir(exist_ok=True)
        return {"loss": value}
    return make


def test_build_then_find_with_everything_a_reader_needs(tmp_path):
    store = ArtefactStore(tmp_path, [])
    assert store.find("tokenize", "tok", RECIPE) is None
    made = store.build("tokenize", "tok", RECIPE, maker(2.0))
    found = store.find("tokenize", "tok", dict(reversed(RECIPE.items())))
    assert made == found and found.hash == content_hash(RECIPE) and found.recipe == RECIPE
    assert found.path == artefact_dir("tokenize", "tok", found.hash, tmp_path)
    assert found.weights()["w"].tolist() == [2.0] * 3 and found.metrics() == {"loss": 2.0}
    assert sorted(path.name for path in found.path.iterdir()) == [
        "manifest.json", "metrics.json", "model.safetensors", "provenance.json", "recipe.json", "train.jsonl"]
    assert "host" not in found.provenance() and "python" in found.provenance()
    assert store.find("tokenize", "tok", {**RECIPE, "version": 2}) is None
    assert store.all() == [found]
    assert store.build("tokenize", "tok", RECIPE, None) == found  # nothing is made again


def test_shipped_goes_first_and_fresh_goes_before_shipped(tmp_path):
    ArtefactStore(tmp_path / "shipped", []).build("tokenize", "tok", RECIPE, maker(1.0))
    store = ArtefactStore(tmp_path / "own", [tmp_path / "shipped"])
    assert store.build("tokenize", "tok", RECIPE, maker(9.0)).metrics() == {"loss": 1.0}
    assert not store.path("tokenize", "tok", RECIPE).exists()
    for value in (2.0, 3.0):
        fresh = store.build("tokenize", "tok", RECIPE, maker(value), fresh=True)
        assert fresh.metrics() == {"loss": value} and fresh.path.is_relative_to(tmp_path / "own")
        assert store.find("tokenize", "tok", RECIPE) == fresh


def test_one_recipe_is_one_artefact_whatever_the_scale_in_its_name(tmp_path):
    ArtefactStore(tmp_path / "shipped", []).build("tokenize", "tok-cpu", RECIPE, maker(1.0))
    store = ArtefactStore(tmp_path / "own", [tmp_path / "shipped"])
    found = store.find("tokenize", "tok-quick", RECIPE)
    assert found is not None and found.name == "tok-cpu" and found.metrics() == {"loss": 1.0}
    assert store.find("pretrain", "tok-cpu", RECIPE) is None
    first = store.build("tokenize", "tok-quick", RECIPE, maker(2.0), fresh=True)
    second = store.build("tokenize", "tok-cpu", RECIPE, maker(3.0), fresh=True)
    assert first.path == second.path and [path.name for path in own_artefacts(store)] == [first.path.name]
    assert {store.find("tokenize", name, RECIPE).metrics()["loss"] for name in ("tok-cpu", "tok-quick")} == {3.0}


def test_two_scales_that_want_one_recipe_at_the_same_time_make_it_once(tmp_path):
    calls = tmp_path / "calls"
    both = [FORK.Process(target=lambda name=name: ArtefactStore(tmp_path / "own", []).build(
        "tokenize", name, RECIPE, maker(calls=calls, pause=0.3), poll_seconds=0.05))
        for name in ("tok-cpu", "tok-quick")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0] and calls.read_text() == "x"


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "manifest", "recipe"])
def test_broken_artefact_is_named(tmp_path, damage):
    store = ArtefactStore(tmp_path, [])
    model = store.build("tokenize", "tok", RECIPE, maker()).model
    data = model.read_bytes()
    if damage == "flip":
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncate":
        model.write_bytes(data[:-1])
    elif damage == "missing":
        model.unlink()
    elif damage == "manifest":
        (model.parent / "manifest.json").unlink()
    else:
        (model.parent / "recipe.json").write_text(json.dumps({**RECIPE, "version": 7}))
    with pytest.raises(DataError, match=model.parent.name):
        store.find("tokenize", "tok", RECIPE)


def test_a_stage_that_leaves_no_model_or_fails_publishes_nothing(tmp_path):
    store = ArtefactStore(tmp_path, [])
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        store.build("tokenize", "tok", RECIPE, lambda work, check: {})

    def fail(work, check):
        (work / "checkpoints").mkdir()
        raise RuntimeError("stopped")
    with pytest.raises(RuntimeError):
        store.build("tokenize", "tok", RECIPE, fail)
    assert store.find("tokenize", "tok", RECIPE) is None and store.all() == []
    kept = []

    def goes_on(work, check):
        kept.append((work / "checkpoints").is_dir())
        return maker()(work, check)
    store.build("tokenize", "tok", RECIPE, goes_on)
    assert kept == [True]  # the next start goes on in the same work folder


def _build(root, calls, fresh, results):
    waits: list[str] = []

    def wait(text):
        waits.append(text)
        calls.with_name(f"waits-{os.getpid()}").touch()

    def make(work, check):  # until the other three wait: one that came later would rightly make it anew
        deadline = time.monotonic() + 60
        while len(list(calls.parent.glob("waits-*"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return maker(1.0, calls)(work, check)

    artefact = ArtefactStore(root, []).build("tokenize", "tok", RECIPE, make, fresh=fresh, on_wait=wait,
                                             poll_seconds=0.02)
    results.put((artefact.weights_sha256, waits))


@pytest.mark.parametrize("fresh", [False, True])
def test_one_builds_while_the_others_wait(tmp_path, fresh):
    calls, results = tmp_path / "calls", FORK.Queue()
    children = [FORK.Process(target=_build, args=(tmp_path / "root", calls, fresh, results)) for _ in range(4)]
    for child in children:
        child.start()
    answers = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert calls.read_text() == "x"
    assert len({digest for digest, _ in answers}) == 1
    waits = [wait for _, waits in answers for wait in waits]
    assert len(waits) == 3 and all("waiting for tokenize artefact tok-" in wait for wait in waits)


def test_a_stop_ends_the_wait(tmp_path, monkeypatch):
    store, told = ArtefactStore(tmp_path, []), []
    lock = store.building_lock(store.path("tokenize", "tok", RECIPE))
    lock.path.parent.mkdir(parents=True)
    monkeypatch.setattr("pvdr_bench.runs.locks.time.sleep", lambda seconds: lock.release())  # or it never ends
    with lock:
        with pytest.raises(Interrupted, match="stopped while it waited for tokenize artefact tok-"):
            store.build("tokenize", "tok", RECIPE, maker(), stop=lambda: bool(told), on_wait=told.append)
        assert lock.held and store.find("tokenize", "tok", RECIPE) is None
    assert store.build("tokenize", "tok", RECIPE, maker(), stop=lambda: True).metrics() == {"loss": 1.0}  # no wait


def test_a_killed_builder_is_replaced_at_every_write(tmp_path):
    trace = tmp_path / "trace"

    def child(root, **environment):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.environ.update(environment)
                ArtefactStore(root, []).build("tokenize", "tok", RECIPE, maker(), poll_seconds=0.01)
                code = 0
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert child(tmp_path / "traced", **{faults.TRACE: str(trace)}) == 0
    names = list(dict.fromkeys(trace.read_text().splitlines()))
    assert {"artefact/ready", "artefact/published", "write/metrics.json/torn"} <= set(names)
    for number, name in enumerate(names):
        root = tmp_path / str(number)
        assert child(root, **{faults.CRASH_AT: name}) == faults.CRASH_CODE
        found = ArtefactStore(root, []).find("tokenize", "tok", RECIPE)  # whole, or not there
        assert child(root) == 0
        again = ArtefactStore(root, []).find("tokenize", "tok", RECIPE)
        assert again is not None and (found is None or found == again)


def test_places(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path / "d"))
    monkeypatch.setenv(paths.RESULTS_VARIABLE, str(tmp_path / "r"))
    assert paths.data_root() == tmp_path / "d" and paths.results_root() == tmp_path / "r"
    assert paths.results_root(tmp_path / "o") == tmp_path / "o"
    monkeypatch.delenv(paths.DATA_VARIABLE)
    monkeypatch.delenv(paths.RESULTS_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert paths.data_root() == tmp_path / "pvdr-bench" and paths.results_root() == tmp_path / "results"


def test_provenance_says_what_and_keeps_secrets(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-value")
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    monkeypatch.setattr(sys, "argv", ["/x/pvdr-bench", "run", "--api-key", "s3cret-value", "--token=s3cret-value",
                                      "--seeds", "5", "https://me:s3cret-value@host/x"])
    found = provenance.collect()
    text = to_json(found)
    assert "s3cret-value" not in text
    assert found["command"][:2] == ["/x/pvdr-bench", "run"] and found["command"][5:7] == ["--seeds", "5"]
    assert found["slurm"]["SLURM_JOB_ID"] == "4242" and found["packages"]["numpy"] == np.__version__
    assert found["cores"] >= 1 and found["cpu"] and found["python"] == sys.version.split()[0]
    shared = provenance.shareable(found)
    assert "host" not in shared and shared["command"][0] == "pvdr-bench" and "4242" not in to_json(shared)


def test_a_worker_records_what_the_user_typed(monkeypatch):
    monkeypatch.setenv(provenance.COMMAND, '["/x/pvdr-bench", "run", "--token=abc"]')
    assert provenance.collect()["command"] == ["/x/pvdr-bench", "run", "--token=***"]


def test_reading_needs_no_torch():
    code = ("import sys, pvdr_bench.runs.directory, pvdr_bench.runs.artefacts, pvdr_bench.runs.checkpoints;"
            "pvdr_bench.runs.provenance.collect(); print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
