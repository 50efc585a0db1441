"""The coverage simulation: its promise, its truths, and that it would notice a wrong interval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pvdr_bench.cli.bench import bench
from pvdr_bench.diagnostics import coverage
from pvdr_bench.diagnostics.coverage import DISTRIBUTIONS, measure
from pvdr_bench.results.stats import Values, t_interval

ROOT = Path(__file__).resolve().parent.parent


def test_the_docs_say_what_was_measured() -> None:
    told = json.loads((ROOT / "results" / "reference" / "bench-coverage.json").read_text())
    assert 0.93 <= told["coverage_5_seeds"] <= 0.97 and set(told["cells"]) == set(DISTRIBUTIONS)
    assert told["cpu_s"] < 30
    text = (ROOT / "docs" / "statistics.md").read_text()
    for cell in told["cells"].values():
        numbers = [cell[f"{n}_seeds"][kind] for kind in ("t", "bootstrap") for n in (3, 5, 10)]
        assert f"| {cell['meaning']} | " + " | ".join(f"{100 * number:.0f} %" for number in numbers) + " |" in text


def test_five_even_seeds_are_covered_as_promised() -> None:
    found = measure(seeds=(5,), simulations=4000, bootstrap_simulations=400, repetitions=200)
    assert 0.93 <= found["coverage_5_seeds"] <= 0.97
    cells = {name: cell["5_seeds"] for name, cell in found["cells"].items()}
    assert found["coverage_5_seeds"] == cells["beta_2_2"]["t"]
    assert cells["beta_2_2"]["bootstrap"] < 0.91  # the reason why one task has a t interval
    assert cells["skewed_strongly"]["t"] < 0.85 and cells["bimodal_uneven"]["t"] < 0.85
    assert all(0.0 < cell["t_width"] <= 1.0 for cell in cells.values())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_truths_are_the_means_of_what_is_drawn(name: str) -> None:
    draw, mean, _ = DISTRIBUTIONS[name]
    values = draw(np.random.default_rng(1), (100_000, 2))
    assert ((values >= 0) & (values <= 1)).all()
    assert abs(values.mean() - mean) < 5 * values.std() / np.sqrt(values.size)


def test_same_seed_same_numbers_and_one_by_one_the_same_coverage() -> None:
    small = {"seeds": (3,), "simulations": 300, "bootstrap_simulations": 50, "repetitions": 50}
    first, second, other = measure(**small), measure(**small), measure(**small, seed=1)
    assert first["cells"] == second["cells"] != other["cells"]
    rng = np.random.default_rng(0)  # the first cell, drawn again
    values = rng.binomial(100, rng.beta(2.0, 2.0, size=(300, 3))) / 100
    hits = [interval.low <= 0.5 <= interval.high for interval in map(t_interval, values)]  # type: ignore[operator]
    assert first["cells"]["beta_2_2"]["3_seeds"]["t"] == np.mean(hits)


def test_a_wrong_interval_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def standard_error(values: Values, confidence: float) -> tuple[Values, Values, Values]:
        mean, half = values.mean(axis=-1), values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
        return mean, mean - half, mean + half

    monkeypatch.setattr(coverage, "t_bounds", standard_error)
    found = measure(seeds=(5,), simulations=2000, bootstrap_simulations=50, repetitions=50)
    assert found["coverage_5_seeds"] < 0.75


def test_the_command() -> None:
    app = typer.Typer()
    app.command()(bench)
    small = [word for setting in ("simulations=200", "bootstrap_simulations=50", "repetitions=50")
             for word in ("-o", setting)]
    result = CliRunner().invoke(app, ["coverage", "--json", *small], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and told["simulations"] == 200
    assert {"coverage_3_seeds", "coverage_5_seeds", "coverage_10_seeds"} <= set(told)
