"""The synthetic folder of ``bench aggregate`` is like a real one, and what is measured is what is said."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from pvdr_bench.bench import aggregate
from pvdr_bench.cli.main import app
from pvdr_bench.results.collect import collect
from pvdr_bench.runs.directory import RunDir

SIZE = {"tasks": 2, "methods": 3, "seeds": 2, "evaluations": 4, "episodes": 5}


def test_files_are_as_the_real_writers_make_them(tmp_path: Path) -> None:
    spec = next(aggregate._specs(**SIZE))
    aggregate._write_run(tmp_path / "synthetic", spec, np.random.default_rng(0))
    made = RunDir(spec.path(tmp_path / "synthetic"))
    real = RunDir(spec.path(tmp_path / "real"))
    with real.lock():
        real.open(spec)
        for row in made.read_episodes():
            real.episodes.append(row)
        real.mark_done(env_steps=spec.protocol.env_steps)
    assert made.episodes.path.read_bytes() == real.episodes.path.read_bytes()
    described = [yaml.safe_load((run.path / "run.yaml").read_text()) for run in (made, real)]
    assert described[0] == described[1]
    assert made.is_done(spec.protocol.env_steps) and made.done().keys() == real.done().keys()
    results = [collect(tmp_path / name) for name in ("synthetic", "real")]
    assert results[0].problems == results[1].problems == []
    assert results[0].points.equals(results[1].points) and len(results[0].points) == 5


def test_the_seed_decides_the_numbers(tmp_path: Path) -> None:
    spec = next(aggregate._specs(**SIZE))
    logs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        aggregate._write_run(tmp_path / name, spec, np.random.default_rng(seed))
        logs.append((spec.path(tmp_path / name) / "episodes.jsonl").read_bytes())
    assert logs[0] == logs[1] != logs[2]


def test_it_measures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words = ["bench", "aggregate", "--json", *(f"-o{key}={value}" for key, value in SIZE.items())]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    told = json.loads(result.stdout)
    assert told["runs"] == 2 * 3 * 2 + 1 and told["points"] == 13 * 5
    assert told["rows"] == 13 * (4 * 5 + 100) and told["again_read"] == 1
    for name in ("aggregate", "again", "again_command", "figures", "written"):
        assert told[f"{name}_s"] > 0.0 and told[f"{name}_cpu_s"] >= 0.0
    assert 0.05 < told["peak_gib"] < 4.0 and list(tmp_path.iterdir()) == []
