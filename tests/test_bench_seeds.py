"""``bench seeds``: results of several seeds told together, against scipy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from pvdr_bench.cli.main import app
from pvdr_bench.diagnostics.seeds import measure
from pvdr_bench.errors import DataError, UsageError

RATES, OTHERS = [0.6, 0.9, 0.75], [0.5, 0.7, 0.2]


def result(seed: int, rate: float, **more: Any) -> dict[str, Any]:
    return {"method": "pvdr", "labels": 100, "learned": 90 + seed, "seed": seed, "explained": rate / 2,
            "n_1": {"success": [rate, 0.0, 1.0], "cosine": [-rate, -1.0, 0.0], "near": 1.0,
                    "cosine_near": None if seed else [0.1, 0, 1]}, **more}


def written(folder: Path, name: str, results: list[dict[str, Any]]) -> tuple[str, ...]:
    paths = [folder / f"{name}-{number}.json" for number, _ in enumerate(results)]
    for path, one in zip(paths, results, strict=True):
        path.write_text(json.dumps(one))
    return tuple(map(str, paths))


def rows(folder: Path, name: str, rates: list[float], seeds: list[int] | None = None, **more: Any) -> tuple[str, ...]:
    return written(folder, name, [result(s, r, **more) for s, r in zip(seeds or range(len(rates)), rates, strict=True)])


def test_means_and_intervals_over_seeds_are_scipys(tmp_path: Path) -> None:
    told = measure(rows(tmp_path, "a", RATES))
    mean, spread = np.mean(RATES), stats.sem(RATES)
    low, high = stats.t.interval(0.95, 2, mean, spread)
    assert told["n_1"]["success"] == {"mean": [pytest.approx(mean), pytest.approx(low, abs=1e-3), 1.0],  # clipped
                                      "by_seed": RATES}
    assert high > 1 and told["n_1"]["cosine"]["mean"][1] == pytest.approx(-high, abs=1e-3)  # not clipped
    assert told["explained"]["mean"][0] == pytest.approx(mean / 2)
    assert told["seeds"] == [0, 1, 2] and told["method"] == "pvdr" and told["labels"] == 100
    assert "learned" not in told and "cosine_near" not in told["n_1"] and "seed" not in told
    assert told["n_1"]["near"]["mean"] == [1.0, 1.0, 1.0]


def test_beside_others_seeds_are_paired_whatever_their_order(tmp_path: Path) -> None:
    others = rows(tmp_path, "b", OTHERS[::-1], [2, 1, 0], method="ppo")
    told = measure(rows(tmp_path, "a", RATES), others)
    test = stats.ttest_rel(RATES, OTHERS)
    found = told["less"]["n_1"]["success"]
    assert found["p"] == pytest.approx(test.pvalue, abs=1e-4)
    low, high = test.confidence_interval()
    assert found["mean"] == [pytest.approx(x, abs=1e-3) for x in (np.subtract(RATES, OTHERS).mean(), low, min(high, 1))]
    assert told["less"]["n_1"]["cosine"]["mean"] == [pytest.approx(-x, abs=1e-3) for x in (
        np.subtract(RATES, OTHERS).mean(), high, low)]
    assert told["less"]["n_1"]["near"] == {"mean": [0.0, 0.0, 0.0], "p": None}  # nothing varies
    assert told["beside"]["method"] == "ppo" and told["beside"]["n_1"]["success"]["by_seed"] == OTHERS


def test_what_evaluate_printed_is_told_together_without_its_episodes(tmp_path: Path) -> None:
    """Path and episodes are each run's own; what it was evaluated with has to be the same in all."""
    def played(seed: int, rate: float, std: float | None = None, steps: int = 16000,
               episodes: int = 2) -> dict[str, Any]:
        return {"run": f"/rows/seed-{seed}", "method": "ppo", "task": "reach", "seed": seed, "env_steps": steps,
                "episodes": episodes, "eval_std": std, "success_any": rate, "success_end": rate / 2, "return": -rate,
                "rows": [{"seed": seed, "return": -rate}, {"seed": seed, "return": -rate}]}

    mine, others = (written(tmp_path, name, [played(seed, rate, std) for seed, rate in enumerate(rates)])
                    for name, rates, std in (("a", RATES, None), ("b", OTHERS, 0.25)))
    told = measure(mine, others)
    assert told["success_any"]["by_seed"] == RATES and told["success_end"]["mean"][0] == pytest.approx(0.375)
    assert "rows" not in told and "run" not in told and told["eval_std"] == "the policy's"
    assert told["beside"]["eval_std"] == "0.25"
    test = stats.ttest_rel(RATES, OTHERS)
    assert told["less"]["success_any"]["p"] == pytest.approx(test.pvalue, abs=1e-4)
    with pytest.raises(UsageError, match="env_steps 8000 is not that of"):
        measure((mine[0], *written(tmp_path, "c", [played(1, 0.5, steps=8000)])))
    with pytest.raises(UsageError, match="eval_std '0.25' is not that of"):
        measure((mine[0], others[1]))
    for changed in ({"steps": 8000}, {"episodes": 4}):
        with pytest.raises(UsageError, match="is not that of -o files"):
            measure(mine, written(tmp_path, "d", [played(seed, 0.5, **changed) for seed in range(3)]))
    sure = measure(written(tmp_path, "e", [played(seed, rate) for seed, rate in enumerate((1.0, 0.9, 0.5))]))
    assert sure["success_any"]["mean"][2] == 1 and sure["success_end"]["mean"][2] < 1, "shares end at 1"


def test_a_number_that_some_seeds_lack_is_no_setting_whatever_their_order(tmp_path: Path) -> None:
    files = written(tmp_path, "a", [{**result(0, 0.5), "far": None}, {**result(1, 0.25), "far": 0.25}])
    for order in (files, files[::-1]):
        told = measure(order)
        assert "far" not in told and sorted(told["explained"]["by_seed"]) == [0.125, 0.25]


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    mine = rows(tmp_path, "a", RATES)
    with pytest.raises(UsageError, match="two files on"):
        measure(mine[:1])
    with pytest.raises(UsageError, match="has seed 0 too"):
        measure((mine[0], mine[0]))
    with pytest.raises(UsageError, match=r"\[0, 1, 2\] cannot be paired with seeds \[0, 1, 3\]"):
        measure(mine, rows(tmp_path, "b", OTHERS, [0, 1, 3]))
    with pytest.raises(UsageError, match="method 'ppo' is not that of .*a-0.json: 'pvdr'"):
        measure((mine[0], *rows(tmp_path, "c", [0.1], [5], method="ppo")))
    with pytest.raises(UsageError, match="labels 7 is not that of .*a-0.json: 100"):
        measure((mine[0], *rows(tmp_path, "e", [0.1], [5], labels=7)))
    for order in ((None, "metaworld"), ("metaworld", None)):
        with pytest.raises(UsageError, match="corpus .* is not that of"):
            measure(tuple(rows(tmp_path, f"f{seed}", [0.1], [seed], corpus=corpus)[0]
                          for seed, corpus in enumerate(order)))
    with pytest.raises(UsageError, match="-o beside: task 'push' is not that of -o files: None"):
        measure(mine, rows(tmp_path, "g", OTHERS, task="push"))
    with pytest.raises(UsageError, match="-o beside: no number of theirs"):
        measure(mine, written(tmp_path, "h", [{"seed": seed, "other": 0.5} for seed in range(3)]))
    with pytest.raises(UsageError, match="-o beside: seeds are told together"):
        measure(mine, mine[:1])
    with pytest.raises(DataError, match=r"i-0.json: explained is not finite"):
        measure((*mine[1:], *rows(tmp_path, "i", [float("nan")])))
    with pytest.raises(UsageError, match="not the same measurement"):
        measure((mine[0], *rows(tmp_path, "d", [0.1], [5], n_16={})))
    (tmp_path / "cut.json").write_text('{"seed": 1')
    (tmp_path / "list.json").write_text("[1]")
    for name, said in (("cut.json", "cannot be read"), ("none.json", "cannot be read"), ("list.json", "no result")):
        with pytest.raises(DataError, match=said):
            measure((mine[0], str(tmp_path / name)))


def test_a_numbers_own_interval_beside_it_is_no_number_of_its_own(tmp_path: Path) -> None:
    told = measure(rows(tmp_path, "a", RATES, share=0.5, share_low=0.25, share_high=0.75))
    assert told["share"]["by_seed"] == [0.5] * 3 and not {"share_low", "share_high"} & set(told)


def test_the_command_reads_what_bench_printed(tmp_path: Path) -> None:
    asked = ["bench", "seeds", "--json", "-o", f"files=[{','.join(rows(tmp_path, 'a', RATES))}]"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0 and json.loads(done.stdout)["n_1"]["success"]["by_seed"] == RATES
    refused = CliRunner().invoke(app, ["bench", "seeds"])
    assert isinstance(refused.exception, UsageError) and "two files on" in str(refused.exception)
