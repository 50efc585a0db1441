"""Rank agreement with the published tables, and that the published numbers are complete and labelled."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pvdr_bench.catalog import load_catalog
from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.results.agreement import Agreement, agree, tau_b, tau_interval
from pvdr_bench.results.collect import collect
from pvdr_bench.results.paper import COLUMNS, paper_folder, published
from tests.results_runs import make_run
from tests.test_results_compare import run

FOLDER = Path(__file__).resolve().parent.parent / "results" / "paper"
few = st.integers(0, 4).map(lambda n: n / 4)


def make_rows(root: Path, rates: dict[tuple[str, str], float], *, spread: float = 0.05, seeds: int = 4,
              points: int = 2) -> None:
    for (variant, corpus), rate in rates.items():
        for seed in range(seeds):
            make_run(root, [0.0] * (points - 1) + [rate], final=rate + spread * (seed - (seeds - 1) / 2),
                     variant=variant, corpus=corpus, seed=seed, algorithm=variant)


def one(found: list[Agreement], table: str, task: str = "reach", corpus: str = "") -> Agreement:
    (match,) = (a for a in found if (a.paper, a.table, a.task, a.corpus) == ("pvdr", table, task, corpus))
    return match


@settings(deadline=None)
@given(st.lists(st.tuples(few, few), min_size=2, max_size=8))
def test_tau_equals_scipys(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(pairs).T
    if np.ptp(theirs) == 0:
        return
    assert float(tau_b(ours, theirs)) == pytest.approx(scipy.stats.kendalltau(ours, theirs).statistic, nan_ok=True)


@settings(deadline=None)
@given(st.permutations(range(4)), st.lists(few, min_size=4, max_size=4))
def test_tau_does_not_depend_on_the_order_of_rows(order: list[int], ours: list[float]) -> None:
    theirs = np.array([0.9, 0.5, 0.5, 0.1])
    both = tau_b(np.array(ours)[order], theirs[order]), tau_b(ours, theirs)
    assert float(both[0]) == pytest.approx(float(both[1]), nan_ok=True)


def test_interval_equals_enumeration() -> None:
    """Three rows of two seeds: all 4 x 4 x 4 resamples; one in which all rows tie counts as 0."""
    ours, theirs = [[0.1, 0.5], [0.3, 0.5], [0.2, 0.5]], [3.0, 2.0, 1.0]
    taus = []
    for sample in itertools.product(*[list(itertools.product(row, repeat=2)) for row in ours]):
        tau = scipy.stats.kendalltau(np.round(np.mean(sample, axis=1), 9), theirs).statistic
        taus.append(0.0 if np.isnan(tau) else tau)
    assert len(taus) == 64
    for confidence in (0.5, 0.8, 0.95):
        found = tau_interval(ours, theirs, confidence=confidence, repetitions=20_000)
        near = [np.percentile(taus, 50 * (1 - confidence) + shift) for shift in (-1, 1)]
        assert near[0] - 1e-9 <= found.low <= near[1] + 1e-9  # type: ignore[operator]
    assert found.value == pytest.approx(scipy.stats.kendalltau([0.3, 0.4, 0.35], theirs).statistic)
    assert not tau_interval([[0.1], [0.2, 0.3], [0.4, 0.5]], theirs, repetitions=10).known


def test_same_and_reversed_orders(tmp_path: Path) -> None:
    """Table 6 on reach: pvdr 45, pvdr-context 31, contextwm 26."""
    names = [("pvdr", "bair"), ("pvdr-context", "bair"), ("contextwm", "bair")]
    make_rows(tmp_path / "same", dict(zip(names, (0.9, 0.5, 0.1), strict=True)))
    make_rows(tmp_path / "reversed", dict(zip(names, (0.1, 0.5, 0.9), strict=True)))
    for folder, tau in (("same", 1.0), ("reversed", -1.0)):
        found = one(agree(collect(tmp_path / folder), repetitions=200), "Table 6")
        assert found.tau is not None and (found.tau.value, found.tau.low, found.tau.high) == (tau, tau, tau)
        assert found.common == tuple(":".join(name) for name in names) and found.theirs == (45.0, 31.0, 26.0)
        assert found.missing == () and found.reason == ""


def test_too_few_common_rows_say_which_are_missing(tmp_path: Path) -> None:
    make_rows(tmp_path, {("pvdr", "metaworld"): 0.9, ("apv", "metaworld"): 0.6, ("apv", "bair"): 0.3})
    found = agree(collect(tmp_path), repetitions=100)
    whole, part = one(found, "Table 5"), one(found, "Table 5", corpus="metaworld")
    assert whole.tau is not None and whole.tau.value == 1.0 and "ficc:metaworld" in whole.missing
    assert len(whole.common) == 3 and len(whole.missing) == 9
    assert part.tau is None and part.reason == "2 rows in common, 3 are needed; not run: ficc:metaworld"
    assert all(a.tau is None and a.reason.startswith("2 rows are published") for a in found if a.paper == "apv")
    assert not any(a.paper == "prelar" for a in found)  # disputed numbers order nothing


def test_stand_ins_are_asked_for_and_horizons_are_methods(tmp_path: Path) -> None:
    horizons = load_catalog().experiment("table4").grid[0].methods
    make_rows(tmp_path, {(name, "fetch-push"): rate for name, rate in zip(horizons, (0.9, 0.2, 0.5), strict=True)})
    results = collect(tmp_path)
    assert one(agree(results, repetitions=10), "Table 4").tau is None
    found = one(agree(results, stand_ins={"bair": "fetch-push"}, repetitions=100), "Table 4")
    assert found.tau is not None and found.tau.value == 1.0 and found.theirs == (45.0, 11.0, 7.8)
    with pytest.raises(UsageError, match="no published corpus bear"):
        agree(results, stand_ins={"bear": "fetch-push"})
    with pytest.raises(UsageError, match="no published task hammer"):
        agree(results, tasks=["hammer"])


def test_ties_and_budgets_leave_no_order(tmp_path: Path) -> None:
    names = [("pvdr", "bair"), ("pvdr-context", "bair"), ("contextwm", "bair")]
    make_rows(tmp_path / "tied", dict.fromkeys(names, 0.5))
    assert one(agree(collect(tmp_path / "tied")), "Table 6").reason == "all our rows tie"
    make_rows(tmp_path / "short", dict(zip(names[:2], (0.9, 0.5), strict=True)))
    make_rows(tmp_path / "short", {names[2]: 0.1}, points=3)
    results = collect(tmp_path / "short")
    assert "16000 to 24000 env_steps; --env-steps 16000" in one(agree(results), "Table 6").reason
    assert one(agree(results, env_steps=16000, repetitions=50), "Table 6").tau is not None
    make_run(tmp_path / "short", [0.5], goal_blur=5)
    with pytest.raises(UsageError, match="never mix"):
        agree(collect(tmp_path / "short"))


def test_the_command(tmp_path: Path) -> None:
    make_rows(tmp_path, {("pvdr", "fetch-push"): 0.9, ("pvdr-context", "fetch-push"): 0.1,
                         ("contextwm", "fetch-push"): 0.5})
    words = ("agreement", "--results", str(tmp_path), "--task", "reach", "--as", "bair=fetch-push")
    text = run(*words)
    assert "pvdr Table 6, reach: tau = 0.33, 95 % interval [0.33, 0.33], 3 rows: pvdr:fetch-push" in text
    assert "published ordering is fixed" in text and "plate-slide" not in text
    told = {(one["table"], one["corpus"]): one for one in json.loads(run(*words, "--json"))}
    assert told["Table 6", ""]["tau"]["value"] == pytest.approx(1 / 3) and told["Table 5", ""]["tau"] is None
    with pytest.raises(UsageError, match="THEIRS=OURS"):
        run(*words, "--as", "bair")


def test_all_published_numbers_are_there_and_labelled() -> None:
    whole = published(FOLDER, paper=None)
    assert set(whole.columns) == set(COLUMNS) and paper_folder() == FOLDER
    assert whole.groupby("paper").size().to_dict() == {"apv": 6 * 2 * 5 + 4 + 9, "prelar": 5 * 3 + 5, "pvdr": 48}
    assert set(whole.loc[whole["paper"].eq("prelar"), "standing"]) == {"secondary, disputed"}
    assert set(whole.loc[whole["paper"].ne("prelar"), "standing"]) == {"primary"}
    assert whole.loc[whole["paper"].eq("prelar"), "seeds"].isna().all()  # the summary does not say
    for column in ("task", "method", "variant", "table", "source", "protocol", "note"):
        assert (whole[column] != "").all()
    with pytest.raises(UsageError, match="there is: apv, prelar, pvdr"):
        published(FOLDER, paper="stg")


def test_apvs_means_over_tasks_are_those_of_its_curves() -> None:
    """The means over the six tasks were computed from the raw results: the tasks' rounded numbers must give them."""
    apv = published(FOLDER, paper="apv")
    last = apv[apv["env_steps"].eq(245_000)]
    for method, group in last.groupby("method"):
        tasks = group[~group["task"].eq("all six")]
        printed = group[group["task"].eq("all six") & group["statistic"].eq("mean")]["success"].item()
        assert len(tasks) == 6 and tasks["success"].mean() == pytest.approx(printed, abs=0.06), method
    assert apv["return"].notna().sum() == 9 and (apv["seeds"] == 8).all()


@pytest.mark.parametrize(("column", "value", "words"), [("return", "5", "either"), ("env_steps", "x", "env_steps"),
                                                        ("success", "", "either"), ("seeds", "2.5", "seeds")])
def test_broken_rows_are_refused(tmp_path: Path, column: str, value: str, words: str) -> None:
    frame = pd.read_csv(FOLDER / "apv_curves.csv", dtype=str, keep_default_na=False)
    frame.loc[3, column] = value
    frame.to_csv(tmp_path / "apv.csv", index=False)
    with pytest.raises(DataError, match=words):
        published(tmp_path, paper=None)
