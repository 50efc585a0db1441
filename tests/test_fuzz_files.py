"""Any damage to any file of one run: no command loses its mind, hangs, or shows another number without a word.

Each case draws a file, a kind of damage and some commands from its number. Either the other runs' numbers are what they
were and the damaged run is named, or nothing changed at all.
"""

from __future__ import annotations

import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pvdr_bench import api
from pvdr_bench.cli.main import app
from pvdr_bench.errors import BenchError
from pvdr_bench.launch.records import RunRecord, write_end
from pvdr_bench.results.collect import Results, collect
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import write_json
from tests.damage import KINDS, damage, refusing
from tests.results_runs import make_run, resealed

CASES, LONG = 40, 2400
SECONDS = 30  # that one command may take on a busy machine
SMALL: dict[str, Any] = {"eval_episodes": 2, "eval_final_episodes": 4, "env_steps": 16000}
BASE = "ppo/reach/none/cpu"
DONE, STOPPED, FAILED, JOB = (f"{BASE}/seed-{seed}" for seed in (1, 2, 3, 4))
SUBMISSION = ".slurm/20260101-000000-abcd"
OF_RUN = ("run.yaml", "done.json", "failed.json", "heartbeat.json", "provenance.json", "artefacts.json", "lock",
          "episodes.jsonl", "train.jsonl", "timing.jsonl", "job.json", "job_end.json", "worker.log", "videos/a.gif",
          "videos", "checkpoints", "checkpoints/step-000000008000/manifest.json",
          "checkpoints/step-000000008000/state.json", "checkpoints/step-000000008000/state.safetensors")
OF_ALL = (f"{SUBMISSION}/submission.json", f"{SUBMISSION}/stage-0/stage.json", f"{SUBMISSION}/stage-0/heartbeat.json",
          f"{SUBMISSION}/stage-0/job_end.json", ".aggregate/contents.parquet", ".aggregate/intact.json", ".aggregate",
          ".slurm")


def commands(root: Path, run: Path) -> dict[str, list[str]]:
    """Every command that reads a results folder, or the damaged run."""
    out, here = str(root.parent / "out"), ["--results", str(root)]
    return {
        "status": ["status", "--json", *here], "list": ["list", "runs", "--json", *here],
        "table": ["table", "--json", *here], "aggregate": ["aggregate", "--json", "--out", out, *here],
        "verify": ["verify", str(root), "--json"], "verify one": ["verify", str(run)],
        "logs": ["logs", str(run)], "csv": ["export", "--format", "csv", "--out", f"{out}/a.csv", *here],
        "json": ["export", "--format", "json", "--out", f"{out}/a.json", *here],
        "rliable": ["export", "--format", "rliable", "--out", f"{out}/a.npz", *here],
        "compare": ["compare", "ppo", "random", "--json", *here], "retry": ["retry", "--dry-run", "--json", *here],
        "clean": ["clean", "--dry-run", "--json", *here], "agreement": ["agreement", "--json", *here],
        "aggregates": ["table", "--aggregates", *here], "status of one": ["status", "--method", "ppo", *here],
        "sweep": ["plot", "--kind", "sweep", "--key", "lr", *here, "--out", f"{out}/sweep"],
        "publish": ["aggregate", "--out", out, "--publish", f"{out}/public", *here],
        "plot": ["plot", *here, "--out", f"{out}/plot"], "report": ["report", *here, "--out", f"{out}/report.html"],
        "evaluate": ["evaluate", str(run)], "video": ["video", str(run), "--out", f"{out}/a.gif"],
    }


SLOW = ("plot", "report", "publish", "evaluate", "video", "rliable")  # drawn less often


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that are done, stopped, failed and queued, with every kind of file there is."""
    root = tmp_path_factory.mktemp("template") / "results"
    for seed in range(5):
        done = seed in (0, 1)
        path = make_run(root, [0.0, 0.5], seed=seed, done=done, failed="boom" if seed == 3 else None, **SMALL)
        fill(path)
        if done:
            resealed(path, success_any=0.5, wall_seconds=60.0)
    for seed in range(2):
        make_run(root, [0.0, 0.25], variant="random", seed=seed, **SMALL)
    RunRecord(Path(SUBMISSION).name, "pvdr-a", 0, 16000, str(root), "pvdr-20260101-000000-abcd-s0").write(root / JOB)
    write_end(root / JOB, "requeued", "its time was out", "7")
    folder = root / SUBMISSION
    write_json(folder / "submission.json", {
        "command": ["pvdr-bench"], "snapshot": "x", "profiles": {"runs": {}, "stages": {}}, "jobs": {"pvdr-a": "7"},
        "stages": {"pvdr-20260101-000000-abcd-s0": "key"}, "arrays": {"pvdr-a": [[JOB]]}})
    write_json(folder / "stage-0" / "stage.json", {"stage": "tokenize", "label": "t", "name": "s", "spec": {}})
    write_json(folder / "stage-0" / "heartbeat.json", {"phase": "tokens", "done": 1, "total": 2})
    write_end(folder / "stage-0", "failed", "why", "7")
    collect(root)
    return root


def fill(path: Path) -> None:
    """What a real run has beside its evaluations."""
    run = RunDir(path)
    with run.lock():
        for steps in (8000, 16000):
            run.train.append({"env_steps": steps, "decisions": steps // 4, "loss": 1.5, "entropy": float("nan")})
            run.timing.append({"env_steps": steps, "point": "grid", "wall_seconds": steps / 100,
                               "evaluation_seconds": 1.0, "device": "cpu"})
        run.heartbeat(phase="train", env_steps=16000, budget=16000, rate=100.0, success=0.5)
        run.save(8000, {"w": np.zeros(3)})
    write_json(path / "artefacts.json", {"tokenize": {"stage": "tokenize", "name": "t", "hash": "aaaaaaaaaaaa",
                                                      "weights_sha256": "0" * 64}})
    (path / "worker.log").write_text("it began\n")
    (path / "videos").mkdir()
    (path / "videos" / "a.gif").write_bytes(b"GIF89a")


@contextmanager
def alarm(what: str) -> Iterator[None]:
    """Fail where something hangs."""
    def ring(signum: int, frame: object) -> None:
        raise TimeoutError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measured(results: Results) -> dict[str, pd.DataFrame]:
    """Each run's points."""
    return {str(path): group.reset_index(drop=True) for path, group in results.points.groupby("path")}


@cache
def known(template: Path) -> dict[str, pd.DataFrame]:
    """What the undamaged runs measured."""
    return measured(collect(template, cached=False))


def case(template: Path, tmp_path: Path, number: int) -> None:
    rng = random.Random(number)
    root = tmp_path / "results"
    shutil.copytree(template, root, symlinks=True)
    victim = rng.choice((DONE,) * 4 + (STOPPED, FAILED, JOB, ""))
    name, kind = rng.choice(OF_RUN if victim else OF_ALL), rng.choice(KINDS)
    path = root / victim / name
    if path.is_dir():
        kind = rng.choice(("missing", "pipe", "loop", "empty"))
        shutil.rmtree(path)
    before = known(template)
    damage(path, kind, rng)
    what = f"case {number}: {kind} {victim}/{name}"
    every = commands(root, root / (victim or DONE))
    chosen = rng.sample([key for key in every if key not in SLOW], 3) + [key for key in SLOW if rng.random() < 0.04]
    with refusing(path) if kind == "refused" else nullcontext():
        for cached in (False, True, True):
            with alarm(f"{what}: collect"):
                check(collect(root, cached=cached), before, victim, what)
        for key in chosen:
            with alarm(f"{what}: {key}"):
                found = CliRunner().invoke(app, every[key])
            error = found.exception
            if error is not None and not isinstance(error, BenchError | SystemExit):
                pytest.fail(f"{what}: {key}: {''.join(traceback.format_exception(error))}")
        with alarm(f"{what}: api"):
            use_api(root / (victim or DONE), root)


def check(results: Results, before: dict[str, pd.DataFrame], victim: str, what: str) -> None:
    """The other runs' numbers are what they were; the damaged one's too, or it is named."""
    now = measured(results)
    for path, points in before.items():
        same = path in now and now[path].equals(points)
        named = path == victim and any(problem.run == victim for problem in results.problems)
        assert same or named, f"{what}: {path} changed in silence: {results.problems}"
        if path == DONE and path in now:  # named or not: a finished run counts with its own numbers, or not at all
            mine, then = (frame.drop(columns="status") for frame in (now[path], points))
            assert mine.equals(then), f"{what}: a finished run counts with other numbers"
    assert set(now) <= set(before), what


def use_api(run: Path, root: Path) -> None:
    """The Python API raises nothing but our errors."""
    steps: list[Callable[[], Any]] = [lambda: api.results_frame(root), lambda: api.load_run(run).train(),
                                      lambda: api.load_run(run).episodes(), lambda: api.load_run(run).status]
    for step in steps:
        with suppress(BenchError):
            step()


@pytest.mark.parametrize("first", range(0, CASES, 10))
def test_damage_is_named_and_stops_nothing(template: Path, tmp_path: Path, first: int) -> None:
    for number in range(first, first + 10):
        case(template, tmp_path / str(number), number)


@pytest.mark.long
@pytest.mark.parametrize("first", range(CASES, LONG, 59))
def test_much_damage_is_named_and_stops_nothing(template: Path, tmp_path: Path, first: int) -> None:
    for number in range(first, first + 59):
        case(template, tmp_path / str(number), number)
        shutil.rmtree(tmp_path / str(number))
