"""What `reproduce` says of an ordering where the rows are ours, and where a command changed their keys; and in which
order published bars stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.launch.plan import experiment_runs, variants_of
from pvdr_bench.results.collect import collect
from pvdr_bench.results.reproduce import draw
from tests.test_cli_run import cli
from tests.test_reproduce import drawn, experiment, fabricate, runs_of
from tests.test_reproduce_command import folder

__all__ = ["folder"]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.mark.parametrize(("source", "begin"), [
    ("after arXiv 2411.03169, Fig. 5", "The publication has PVDR above its rows (after arXiv 2411.03169, Fig. 5), and "
     "the rows here are ours; the mean of PVDR, taught by its plans (metaworld) is above 1 of 1, clearly"),
    ("arXiv 2411.03169, Fig. 5", "The publication has PVDR above each of these rows on 4 tasks (arXiv 2411.03169, Fig. "
     "5); here the mean of PVDR, taught by its plans (metaworld) is above 1 of 1, clearly"),
    ("arXiv 2411.03169, Table 4", "The publication has PVDR, taught by its plans above all other rows (arXiv "
     "2411.03169, Table 4); here the mean of PVDR, taught by its plans (metaworld) is above 1 of 1, clearly")])
def test_of_rows_that_are_ours_nothing_is_said_to_be_published(catalog: Catalog, tmp_path: Path, source: str,
                                                               begin: str) -> None:
    one = experiment(source=source, figure={"kind": "curves"}, highest="pvdr-taught", grid=[
        {"methods": ["pvdr-taught", "pvdr-taught-no-lact"], "tasks": ["reach"], "videos": ["metaworld"]}])
    found = drawn(catalog, one, tmp_path, lambda spec: 0.8 if spec.method == "pvdr-taught" else 0.2)
    assert found.ordering.startswith(begin)
    assert found.ordering in (tmp_path / "out" / "mine.txt").read_text()


def test_what_is_clearly_above_is_so_seed_by_seed_as_in_compare(catalog: Catalog, tmp_path: Path) -> None:
    """Of these Welch's interval is above zero, and that of the pairs, which `compare` tells, is not."""
    rates = {"pvdr-taught": (0.62, 0.4, 0.48, 0.46, 0.26), "pvdr-taught-random-z": (0.02, 0.02, 0.02, 0.38, 0.3)}
    assert stats.ttest_ind(*rates.values(), equal_var=False).pvalue < 0.05 < stats.ttest_rel(*rates.values()).pvalue
    one = experiment(figure={"kind": "curves"}, highest="pvdr-taught", seeds="5", grid=[
        {"methods": list(rates), "tasks": ["reach"], "videos": ["metaworld"]}])
    told = drawn(catalog, one, tmp_path, lambda spec: rates[spec.method][spec.seed]).ordering
    assert "the mean of PVDR, taught by its plans (metaworld) is above 1 of 1" in told
    assert told.endswith("interval of the difference above zero) above none.")


def test_no_experiment_says_that_a_row_of_ours_is_published(catalog: Catalog, tmp_path: Path) -> None:
    """Each of the built-in ones that has a highest row, of one seed at smoke scale."""
    for name in (name for name in catalog.experiments() if catalog.experiment(name).highest):
        one = catalog.experiment(name).model_copy(update={"scale": "smoke", "seeds": "1"})
        every = runs_of(catalog, one)
        specs = [spec for spec in every if spec.task.name == every[0].task.name]
        for spec in specs:
            fabricate(spec, tmp_path / name, 0.5)
        told = draw(one, specs, collect(tmp_path / name), tmp_path / name / "out").ordering
        begin = {"fig4": "The publication has PVDR best on 7 of 12 tasks and APV comparable on the other 5 (arXiv",
                 "fig5": "The publication has PVDR above each of these rows on 4 tasks (arXiv",
                 "fig7": "The publication has PVDR best on all 3 tasks (arXiv"}
        assert told.startswith("The publication has PVDR above its rows (after arXiv" if one.source.startswith("after")
                               else begin[name]), (name, told)


def test_a_row_alone_on_its_corpus_is_the_highest_of_nothing(catalog: Catalog, tmp_path: Path) -> None:
    one = experiment(source="arXiv 2411.03169, Fig. 4", figure={"kind": "curves"}, highest="pvdr", grid=[
        {"methods": ["pvdr"], "tasks": ["reach", "drawer-close"], "videos": ["metaworld", "fetch-push"]},
        {"methods": ["apv"], "tasks": ["reach", "drawer-close"], "videos": ["metaworld"]}])
    told = drawn(catalog, one, tmp_path, lambda spec: 0.5).ordering
    assert "Whether PVDR (fetch-push) is above all other rows (arXiv 2411.03169, Fig. 4) cannot be said: none" in told
    assert told.count("Its mean is the highest on") == 1


def test_on_how_many_tasks_a_row_is_the_highest_is_counted(catalog: Catalog, tmp_path: Path) -> None:
    """Above both on one of three tasks, level with one on another, below on the last; a mean may hide it."""
    rates = {"reach": (0.9, 0.1, 0.2), "drawer-close": (0.8, 0.8, 0.1), "button-press": (0.6, 0.1, 0.7)}
    methods = ["pvdr", "apv", "ppo"]
    one = experiment(source="arXiv 2411.03169, Fig. 4", figure={"kind": "curves"}, highest="pvdr", grid=[
        {"methods": methods, "tasks": list(rates), "videos": ["metaworld"]}])
    told = drawn(catalog, one, tmp_path, lambda spec: rates[spec.task.name][methods.index(spec.method)]).ordering
    assert "is above 2 of 2" in told and told.endswith("Its mean is the highest on 1 of 3 tasks: reach.")


# -o ---------------------------------------------------------------------------------------------------------------

CHANGED = "planner.candidates=3"  # 2 at smoke scale
GRIDS = {
    "figure": "figure: {kind: curves, levels: [pvdr]}\nhighest: pvdr\ngrid:\n"
              "  - {methods: [pvdr, pvdr-no-goal], tasks: [reach], videos: [metaworld]}\n",
    "sweep": "figure: {kind: sweep, key: lambda1}\ngrid:\n"
             "  - {methods: [pvdr, pvdr@lambda1=0.5], tasks: [reach], videos: [metaworld]}\n",
    "table": "table: {published: Table 4, stand_ins: {bair: metaworld}}\ngrid:\n"
             "  - {methods: [pvdr, pvdr-h1-1, pvdr-h2-2], tasks: [reach], videos: [metaworld]}\n"}


def with_changed_keys(capsys: pytest.CaptureFixture[str], folder: Path, kind: str) -> tuple[str, dict[str, str]]:
    """What `reproduce -o` says of runs that are done, and the texts that it wrote, by name."""
    (folder / "mine" / "experiments" / "mine.yaml").write_text(f"scale: smoke\nseeds: 2\n{GRIDS[kind]}")
    catalog = load_catalog()
    specs = experiment_runs(catalog, catalog.experiment("mine"), default_scale="smoke", overrides=[CHANGED])
    assert all("candidates=3" in spec.variant for spec in specs)
    for spec in specs:
        fabricate(spec, folder / "results", 0.8 if spec.variant == "pvdr@candidates=3" else 0.2)
    code, out, err = cli(capsys, "reproduce", "mine", "-o", CHANGED, "--draw-only", "--results",
                         str(folder / "results"))
    assert code == 0, err
    return out, {path.name: path.read_text() for path in (folder / "results" / "reproduce").glob("*")
                 if path.suffix in (".txt", ".md")}


def test_changed_keys_take_neither_level_nor_highest_row(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    out, texts = with_changed_keys(capsys, folder, "figure")
    assert ("The publication has PVDR above its rows, and the rows here are ours; the mean of pvdr@candidates=3 "
            "(metaworld) is above 1 of 1, clearly") in out
    assert "without marks: the mean of the final evaluations of pvdr@candidates=3 (metaworld)" in texts["mine.txt"]


def test_a_change_that_all_rows_of_a_sweep_share_is_told_and_sets_none_apart(
        capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    out, texts = with_changed_keys(capsys, folder, "sweep")
    assert "no method was run with two values" not in out and "reach: 60 points, from lambda1 = 0.5" in out
    assert "all other keys as in the method, but for candidates=3, which all rows have." in texts["mine-final.txt"]


def test_a_table_of_changed_keys_says_why_no_published_row_is_beside_it(
        capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    out, texts = with_changed_keys(capsys, folder, "table")
    assert "keys were changed in every row, so that no published row of Table 4 is the same setting" in out
    assert ("Keys were changed in pvdr@candidates=3, pvdr-h1-1@candidates=3, pvdr-h2-2@candidates=3, so that no "
            "published row is the same setting.") in texts["mine.md"]
    assert "*published*" not in texts["mine.md"]


def test_a_value_that_is_some_tasks_own_gives_a_name_two_variants(catalog: Catalog) -> None:
    own = catalog.config("pvdr", "paper", catalog.task("reach").set).value.model_dump()["online"]["clip"]
    one = experiment(scale="paper", grid=[{"methods": ["pvdr", "ppo"], "tasks": ["reach", "window-close"]}])
    change = f"online.clip={own}"
    specs = experiment_runs(catalog, one, methods=["pvdr"], default_scale="paper", overrides=[change])
    found = variants_of(catalog, one, specs, ["pvdr"], [change, "protocol.env_steps=1000000"])
    assert found == {"pvdr": ("pvdr", "pvdr@clip=0.6")} == {"pvdr": tuple(dict.fromkeys(s.variant for s in specs))}


def test_published_bars_stand_in_the_order_of_ours(catalog: Catalog, tmp_path: Path) -> None:
    """Else the third published bar of Table 4, of the longest horizon, is the counterpart of our first."""
    one = experiment(table={"published": "Table 4", "stand_ins": {"bair": "fetch-push"}}, grid=[
        {"methods": ["pvdr", "pvdr-h1-1", "pvdr-h2-2"], "tasks": ["reach", "plate-slide"], "videos": ["fetch-push"]}])
    drawn(catalog, one, tmp_path, lambda spec: 0.5)
    assert ("in percent: 1 pvdr (bair, 2+6) 45.0 (reach), 35.2 (plate-slide); 2 pvdr (bair, 1+1) 7.8 (reach), "
            "7.6 (plate-slide); 3 pvdr (bair, 2+2) 11.0 (reach)") in (tmp_path / "out" / "mine.txt").read_text()
    heads = (tmp_path / "out" / "mine.md").read_text().splitlines()[0]  # at smoke scale, as its recipe says
    model = catalog.config("pvdr", "smoke").value.model_dump()["model"]
    ahead = model["future_frames"] * model["frame_stride"]
    here = f"{model['context_frames']}+{model['future_frames']} over {ahead} decision"
    assert f"| PVDR, here {here}" in heads and ", there 2+6 |" in heads and ", there 1+1 |" in heads
