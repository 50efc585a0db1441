"""Tables, figures and published numbers: what is shown equals what was measured, and says so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.results.aggregate_table import build_aggregate_table
from pvdr_bench.results.collect import collect
from pvdr_bench.results.curve import all_tasks_curve, task_curve
from pvdr_bench.results.figures import plot_curves, save
from pvdr_bench.results.latex import escape_latex
from pvdr_bench.results.paper import published, reported
from pvdr_bench.results.series import curve_values, final_values, rows_of
from pvdr_bench.results.tables import build_table, to_csv, to_frame, to_latex, to_markdown
from tests.results_runs import make_grid, make_run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grid")
    make_grid(root, seeds=5, tasks=("reach", "drawer-open"))
    return root


def test_cells_equal_an_independent_computation(grid: Path) -> None:
    results = collect(grid)
    frame = to_frame(build_table(results, repetitions=500))
    final = results.points[results.points["point"] == "final"]
    for record in frame[frame["interval"] == "t"].to_dict("records"):
        values = final[(final["variant"] == record["variant"]) & (final["corpus"] == record["corpus"])
                       & (final["task"] == record["task"])]["success"].to_numpy()
        assert record["n"] == 5 and record["value"] == pytest.approx(values.mean())
        if values.std() > 0:
            low, high = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
            assert (record["low"], record["high"]) == pytest.approx((max(low, 0), min(high, 1)))
    both = frame[frame["task"] == "all tasks"]
    assert set(both["interval"]) == {"bootstrap"} and set(both["n"]) == {10}


def test_markdown_latex_and_csv_show_the_same_numbers(grid: Path) -> None:
    table = build_table(collect(grid), repetitions=500)
    frame, markdown, latex = to_frame(table), to_markdown(table), to_latex(table)
    for record in frame.to_dict("records"):
        text = f"[{100 * record['low']:.1f}, {100 * record['high']:.1f}]"
        assert text in markdown and text in latex
    assert to_csv(table).count("\n") == len(frame) + 1
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{"):
        assert rule in latex
    body = latex[latex.index(r"\toprule"):latex.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines() if "&" in line} == {len(table.columns)}
    assert "env_steps" not in latex and r"env\_steps" in latex


def test_the_caption_says_statistic_seeds_episodes_and_protocol(grid: Path) -> None:
    results = collect(grid)
    for caption in (build_table(results, repetitions=100).caption, plot_curves(results, repetitions=100).caption):
        for words in ("95 % Student t interval over seeds", "stratified bootstrap", "Training seeds per row: 5.",
                      "Pre-training seeds: 1", "20 at a point of the curve, 100 at the end", "Protocol pvdr, scale cpu",
                      results.runs["protocol_hash"].iloc[0], "action repeat 4"):
            assert words in caption


def test_rows_of_the_old_protocol_stay_readable_as_rows_of_another(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9], env_steps=8000)
    make_run(tmp_path, [0.1], env_steps=8000, seed=1, terminate_on_success=False)
    table = build_table(collect(tmp_path), allow_mixed=True, repetitions=100)
    assert len(table.rows) == 2 and {cell.interval.n for cell in table.cells.values() if cell} == {1}
    captions = table.caption.split("Protocol pvdr")[1:]
    assert len(captions) == 2 and sum("training episodes end at success" in text for text in captions) == 1


def bold(root: Path, **options: bool) -> list[str]:
    frame = to_frame(build_table(collect(root), repetitions=100, **options))
    return list(frame.loc[frame["bold"], "variant"])


def test_bold_only_where_intervals_say_so(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / "clear", [0.88 + 0.02 * seed], seed=seed, env_steps=8000)
        make_run(tmp_path / "close", [0.5 + 0.2 * seed], seed=seed, env_steps=8000)
        make_run(tmp_path / "budget", [0.9], seed=seed, env_steps=8000)
        for name, rate in (("clear", 0.3), ("close", 0.4), ("budget", 0.1)):
            steps = 16000 if name == "budget" else 8000
            make_run(tmp_path / name, [rate] * (steps // 8000), variant="pvdr", corpus="metaworld", seed=seed,
                     env_steps=steps)
        make_run(tmp_path / "clear", [1.0], variant="scripted", seed=seed, env_steps=8000)
    assert bold(tmp_path / "clear") == ["ppo"]  # the ceiling is no competitor
    assert bold(tmp_path / "close") == []
    assert bold(tmp_path / "budget") == []
    assert "the budgets differ" in build_table(collect(tmp_path / "budget")).caption


def test_one_seed_has_no_interval_and_is_never_bold(tmp_path: Path) -> None:
    make_run(tmp_path, [1.0], env_steps=8000)
    make_run(tmp_path, [0.0], env_steps=8000, variant="pvdr", corpus="metaworld")
    text = to_markdown(build_table(collect(tmp_path)))
    assert "100.0 no interval (n = 1)" in text and "**" not in text


def test_runs_left_out_are_listed_under_the_table(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5] * 5, seed=0)
    make_run(tmp_path, [0.5] * 5, seed=1)
    make_run(tmp_path, [0.5] * 2, seed=2)
    make_run(tmp_path, [0.5], seed=3, done=False, failed="worker died")
    make_run(tmp_path, [0.9], variant="pvdr", corpus="metaworld", seed=0, done=False)
    table = build_table(collect(tmp_path))
    text = to_markdown(table)
    for words in ("seed-3: failed, worker died", "seed-2: short, 16000 of 40000",
                  "no final evaluation at 40000 env_steps, so left out: seeds 2",
                  "pvdr/reach/metaworld/cpu/seed-0: stopped"):
        assert words in text and words in to_latex(table)
    assert "| pvdr (metaworld) | - |" in text and "(n = 2)" in text


def test_mixed_protocols_need_permission_and_rows_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9], env_steps=8000)
    make_run(tmp_path, [0.1], env_steps=8000, scale="gpu", image_size=128)
    results = collect(tmp_path)
    for build in (build_table, plot_curves):
        with pytest.raises(UsageError, match="never mix"):
            build(results)
    with pytest.raises(UsageError, match=r"never mix(.*\n)*.*--protocol [0-9a-f]{12}, or give --allow-mixed"):
        results.require_one_protocol(allow_mixed=False)
    with pytest.raises(UsageError, match=r"never mix(.*\n)*.*--protocol [0-9a-f]{12}$"):  # compare has no other way
        results.require_one_protocol()
    table = build_table(results, allow_mixed=True)
    assert len(table.rows) == 2 and all(row.protocol_hash in row.label for row in table.rows)
    assert {cell.interval.n for cell in table.cells.values() if cell} == {1}


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        build_table(collect(tmp_path))
    path = make_run(tmp_path, [], done=False)
    with pytest.raises(UsageError, match="no run has an evaluation"):
        plot_curves(collect(tmp_path))
    (path / "run.yaml").write_text("[")
    with pytest.raises(UsageError, match="seed-0: broken, .*not a YAML file"):
        plot_curves(collect(tmp_path))
    make_run(tmp_path, [0.1] * 5, seed=1)
    for build in (build_table, plot_curves):
        with pytest.raises(UsageError, match="success_any"):
            build(collect(tmp_path), "speed")


def test_final_values_are_taken_where_most_seeds_are(tmp_path: Path) -> None:
    for seed, points in enumerate((2, 2, 3)):
        make_run(tmp_path, [0.5] * points, seed=seed, env_steps=8000 * points)
    results = collect(tmp_path)
    final = final_values(rows_of(results)[0], results.points, "reach")
    assert final.env_steps == 16000 and final.seeds == (0, 1)


def test_a_curve_prefers_the_final_evaluation_and_shows_who_is_missing(tmp_path: Path) -> None:
    make_run(tmp_path, [0.1, 0.2, 0.3], final=0.9, seed=0, env_steps=24000)
    make_run(tmp_path, [0.3, 0.4], seed=1, done=False, env_steps=24000)
    results = collect(tmp_path)
    values = curve_values(rows_of(results)[0], results.points, "reach")
    assert values.loc[24000, 0] == 0.9 and np.isnan(values.loc[24000, 1]) and values.loc[8000, 1] == pytest.approx(0.3)
    curve = task_curve(values)
    assert list(curve.n) == [2, 2, 1] and curve.whole == 2 and np.isnan(curve.low[2])
    assert curve.y == pytest.approx([0.2, 0.3, 0.9])
    assert "Thinner and paler: not all seeds" in plot_curves(results).caption


def test_the_curve_over_tasks_uses_points_that_all_seeds_have() -> None:
    first = pd.DataFrame({0: [0.0, 0.2, 0.4], 1: [0.0, 0.4, 0.8]}, index=[0, 8, 16])
    second = pd.DataFrame({0: [0.2, 0.6, np.nan], 1: [0.2, 1.0, 1.0]}, index=[0, 8, 16])
    curve = all_tasks_curve([first, second], repetitions=200)
    assert curve is not None and list(curve.x) == [0, 8] and curve.y == pytest.approx([0.1, 0.55])
    assert curve.low[0] == curve.high[0] == pytest.approx(0.1) and curve.low[1] < 0.55 < curve.high[1]
    assert all_tasks_curve([first, second.iloc[:0]]) is None


def test_figures_repeat_byte_for_byte_in_other_processes(tmp_path: Path) -> None:
    make_grid(tmp_path / "runs", seeds=2)
    code = ("import sys; from pathlib import Path; from pvdr_bench.results import collect, figures, paper;"
            "r = collect.collect(Path(sys.argv[1]));"
            "figures.save(figures.plot_curves(r, repetitions=200, individual=True), Path(sys.argv[2]))")
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "runs"), str(tmp_path / name)], check=True)
    for kind in ("pdf", "png", "txt"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf and b"/FontFile2" in pdf
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_lines_of_a_figure_are_the_numbers(grid: Path) -> None:
    results = collect(grid)
    plot = plot_curves(results, repetitions=100)
    axes = {ax.get_title(): ax for ax in plot.figure.axes}
    assert set(axes) == {"drawer-open", "reach", "all tasks"}
    line = next(line for line in axes["reach"].lines if line.get_label() == "PPO")
    mine = results.points[(results.points["variant"] == "ppo") & (results.points["task"] == "reach")]
    grid_means = mine[mine["point"] == "grid"].groupby("env_steps")["success"].mean()
    final = mine[mine["point"] == "final"]["success"].mean()
    assert list(line.get_xdata()) == list(grid_means.index)
    assert list(line.get_ydata()) == pytest.approx([*grid_means.iloc[:-1], final])


def test_few_seeds_are_named_beside_the_line_and_in_the_legend(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, [0.5, 0.6], seed=seed, env_steps=16000)
    assert [text.get_text() for text in plot_curves(collect(tmp_path)).figure.axes[0].texts] == ["ppo, n = 3"]
    legend = plot_curves(collect(tmp_path), width="single").figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["ppo, n = 3"]


def test_a_return_may_be_negative_and_is_not_clipped(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path, [0.5], seed=seed, env_steps=8000)
    frame = to_frame(build_table(collect(tmp_path), "return"))
    assert frame["value"].iloc[0] == pytest.approx(-49.5)
    save(plot_curves(collect(tmp_path), "return"), tmp_path / "out" / "return")
    assert (tmp_path / "out" / "return.png").stat().st_size > 5000


def test_published_numbers_are_as_printed() -> None:
    frame = published(ROOT / "results" / "paper")
    assert frame.groupby("table").size().to_dict() == {"Table 4": 6, "Table 5": 36, "Table 6": 6}
    assert ((frame["success"] * 10).round().astype(int) % 2 == 0).all()  # every mean is a multiple of 0.2
    assert (frame["seeds"] == 5).all() and (frame["protocol"] != "").all() and (frame["source"] != "").all()
    cell = frame[(frame["table"] == "Table 5") & (frame["task"] == "hand-insert") & (frame["method"] == "apv")]
    assert list(zip(cell["corpus"], cell["success"], cell["spread"], strict=True)) == [
        ("metaworld", 43.6, 2.4), ("bair", 27.6, 1.4), ("jaco-play", 26.0, 0.6), ("cable-routing", 12.6, 6.1)]


def test_published_numbers_repeated_by_several_tables_agree_and_are_shown_once() -> None:
    frame = published(ROOT / "results" / "paper")
    same = frame[(frame["method"] == "pvdr") & (frame["corpus"] == "bair") & (frame["horizon"] == "2+6")]
    assert same.groupby("task")["success"].nunique().max() == 1 and len(same) == 2 + 3 + 2
    shown = reported(["reach"], ["pvdr"], ROOT / "results" / "paper")
    assert len(shown) == 6 and not shown.duplicated(["corpus", "horizon"]).any()


def test_published_numbers_enter_no_statistic(grid: Path) -> None:
    numbers = reported(["reach"], ["pvdr"], ROOT / "results" / "paper")
    results = collect(grid)
    plain, beside = build_table(results, repetitions=100), build_table(results, repetitions=100, reported=numbers)
    assert plain.cells == beside.cells and plain.caption == beside.caption
    text = to_markdown(beside)
    assert "not comparable" in text and "45.0 +- 1.3, 5 seeds, Table 4" in text
    assert (to_frame(beside)["kind"] == "reported").sum() == len(numbers)
    plot = plot_curves(results, repetitions=100, reported=numbers)
    labels = [text.get_text() for ax in plot.figure.axes for text in ax.texts]
    assert sorted(labels) == [str(i + 1) for i in range(len(numbers))]  # the caption says what each number is
    assert "pvdr (bair, 2+6) 45.0 (reach)" in plot.caption and "not comparable" in plot.caption


@pytest.mark.parametrize(("column", "value", "words"), [
    ("success", "many", "not a number"), ("success", "145.0", "between 0 and 100"), (None, "", "columns are missing")])
def test_broken_published_numbers_are_refused(tmp_path: Path, column: str | None, value: str, words: str) -> None:
    frame = pd.read_csv(ROOT / "results" / "paper" / "pvdr_table4.csv", dtype=str)
    if column is None:
        frame = frame.drop(columns="seeds")
    else:
        frame.loc[0, column] = value
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=words):
        published(tmp_path)


def test_aggregates_equal_hand_computed_ones(tmp_path: Path) -> None:
    for task, shift in (("reach", 0.0), ("window-open", 0.1)):
        for seed, top in enumerate((0.4, 0.6, 0.8)):
            make_run(tmp_path, [0.0, top / 2 + shift, top + shift], variant="ppo", task=task, seed=seed)
            make_run(tmp_path, [0.0, 0.1, 0.1], variant="pvdr", corpus="metaworld", task=task, seed=seed)
    make_run(tmp_path, [0.0, 0.1, 0.1], variant="pvdr-scratch", task="reach")
    table = build_aggregate_table(collect(tmp_path), threshold=0.5, repetitions=400)
    frame = to_frame(table).set_index(["variant", "statistic"])
    ppo = frame.loc["ppo"]["value"]
    finals = np.array([0.4, 0.6, 0.8, 0.5, 0.7, 0.9])
    assert ppo["mean"] == pytest.approx(finals.mean()) and ppo["optimality gap"] == pytest.approx(1 - finals.mean())
    assert ppo["IQM"] == pytest.approx(np.sort(finals)[1:5].mean())
    areas = [(0.0 + m) / 4 + (m + f) / 4 for m, f in
             ((0.2, 0.4), (0.3, 0.6), (0.4, 0.8), (0.3, 0.5), (0.4, 0.7), (0.5, 0.9))]  # two trapezoids, equally wide
    assert ppo["area under the curve"] == pytest.approx(np.mean(areas))
    assert ppo["runs that reach 50 %"] == pytest.approx(5 / 6) and ppo["env_steps to 50 %"] == 24000
    assert set(frame["task"]) == {"all tasks"} and np.isinf(frame.loc[("pvdr", "env_steps to 50 %"), "value"])
    text = to_markdown(table)
    assert "| **60.0" not in text and "**65.0**" in text and "never" in text  # bold where nothing overlaps
    assert "pvdr-scratch: no final evaluation in every task" in " ".join(table.notes).lower()
    bold = frame["bold"]
    assert bold[("ppo", "optimality gap")] and not bold[("pvdr", "optimality gap")]  # less is better
    with pytest.raises(UsageError, match="no aggregates"):
        build_aggregate_table(collect(tmp_path), "return")


def test_aggregates_of_one_task_are_never_bold(tmp_path: Path) -> None:
    """The bootstrap over the seeds of one task holds the truth less often than it says."""
    for seed in range(3):
        make_run(tmp_path, [0.5, 0.8 + 0.05 * seed], variant="ppo", seed=seed)
        make_run(tmp_path, [0.1, 0.3 + 0.05 * seed], variant="pvdr", corpus="metaworld", seed=seed)
    table = build_aggregate_table(collect(tmp_path), repetitions=200)
    assert not to_frame(table)["bold"].any() and "too short" in table.caption and "Bold" not in table.caption
    assert "over 1 task (reach)" in table.caption


def test_latex_sets_minus_and_makes_wide_tables_as_narrow_as_the_page(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / "narrow", [0.5], seed=seed)
        for task in ("reach", "window-open", "door-lock", "drawer-open"):
            make_run(tmp_path / "wide", [0.5], seed=seed, task=task)
    narrow = to_latex(build_table(collect(tmp_path / "narrow"), "return"))
    assert r"$-$49.50 {\scriptsize [$-$49.50, $-$49.50], $n = 2$}" in narrow and " -4" not in narrow
    assert r"\begin{table}" in narrow and "resizebox" not in narrow and "graphicx" not in narrow
    wide = to_latex(build_table(collect(tmp_path / "wide"), "return", repetitions=50)).splitlines()
    assert wide[0] == r"% needs \usepackage{booktabs} and \usepackage{graphicx}"
    assert wide[wide.index(r"\resizebox{\textwidth}{!}{%") + 1] == r"\begin{tabular}{lrrrrr}"
    assert [line for line in wide if not line.startswith("%")][-2:] == [r"\end{tabular}}", r"\end{table*}"]


def test_latex_is_escaped() -> None:
    assert escape_latex("1 ± 2 — 3") == r"1 $\pm$ 2 --- 3"
    assert escape_latex("a_b & 5 % {x}") == r"a\_b \& 5 \% \{x\}"
    assert not re.search(r"(?<!\\)[&%#_]", escape_latex("a&b%c#d_e"))


def test_rows_of_different_budgets_are_compared_at_one(tmp_path: Path) -> None:
    """PPO ends at 16,000 env_steps with a final evaluation there; PVDR goes on, and its grid point counts."""
    make_run(tmp_path, [0.1, 0.3], final=0.5, variant="ppo", env_steps=16000)
    make_run(tmp_path, [0.2, 0.4, 0.9], final=1.0, variant="pvdr", env_steps=24000)
    make_run(tmp_path, [0.2], final=0.6, variant="random", env_steps=8000)
    found = collect(tmp_path)
    assert "the budgets differ" in build_table(found).caption
    cut = found.cut_at(16000)
    table = build_table(cut)
    shown = to_frame(table).set_index("variant")["value"].dropna().to_dict()
    assert shown == pytest.approx({"ppo": 0.5, "pvdr": 0.4})
    assert "Success rate in percent after 16000 env_steps" in table.caption and "budgets differ" not in table.caption
    assert "20 to 100 at the point shown" in table.caption
    assert cut.points["env_steps"].max() == 16000 and len(found.points) == 9
    with pytest.raises(UsageError, match="no run was evaluated after 9000") as caught:
        found.cut_at(9000)
    assert "8000, 16000, 24000" in str(caught.value.hint)


def test_captions_say_whose_evaluation_is_not_sampled_as_trained(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5], variant="ppo")
    make_run(tmp_path, [0.5], variant="ppo@eval_std=0.1")
    told = "sampled actions (but where eval_std says otherwise), full length"
    results = collect(tmp_path)
    assert told in build_table(results, repetitions=100).caption
    alone = build_table(results.select(variant=["ppo"]), repetitions=100).caption
    assert "; sampled actions, full length" in alone and "otherwise" not in alone
