"""Sweeps that `reproduce` draws: which values a grid has at each scale, and grids whose keys a command changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.catalog.experiment import Experiment
from pvdr_bench.launch.plan import experiment_runs
from pvdr_bench.results.paper import figure_called, figure_has
from pvdr_bench.results.reproduce import values_of
from tests.test_reproduce import drawn, experiment

PUBLISHED = {"fig12": ("lambda1", 1e-3), "fig13": ("lambda2", 0.8), "fig14": ("lambda3", 1.0)}  # the paper's Table 2


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_sweeps_have_its_value_a_tenth_and_ten_times_it_at_every_scale(catalog: Catalog, name: str) -> None:
    (key, value), one = PUBLISHED[name], catalog.experiment(name)
    for scale in catalog.protocol_file("pvdr").scales:
        specs = experiment_runs(catalog, one, default_scale=scale)
        found = values_of(specs, key)
        assert {f"{each:g}" for each in (value / 10, value, value * 10)} <= {f"{each:g}" for each in found.values()}
        assert "pvdr" in found, f"the method itself at scale {scale}"
        assert len(set(found.values())) == len(found), "a value that is pvdr's own is pvdr"
        assert len(specs) == len(found) * len(one.grid[0].tasks) * 5, "and is run once"


def test_a_sweep_one_of_whose_entries_is_the_method_itself_is_drawn(catalog: Catalog, tmp_path: Path) -> None:
    own = catalog.resolve("pvdr", "reach", 0, "smoke").config["online"]["lambda3"]
    one = Experiment.model_validate({
        "name": "mine", "source": "a paper, Fig. 1", "seeds": "2", "figure": {"kind": "sweep", "key": "lambda3"},
        "grid": [{"methods": ["pvdr", f"pvdr@lambda3={own}", "pvdr@lambda3=10"], "tasks": ["reach"],
                  "videos": ["metaworld"]}]})
    found = drawn(catalog, one, tmp_path, lambda spec: 0.4 if spec.variant == "pvdr" else 0.9)
    assert not found.problem and (tmp_path / "out" / "mine-final.png").exists()
    assert f"pvdr (metaworld): {own}, 10.0)" in (tmp_path / "out" / "mine-final.txt").read_text()
    assert "reach: 50 points, from lambda3 = " in found.ordering


def test_the_sentence_on_a_sweep_ends_with_the_papers_words(catalog: Catalog, tmp_path: Path) -> None:
    for number, words in ((12, "quite sensitive to lambda1"), (13, "relatively stable under lambda2"),
                          (14, "moderately influenced by lambda3")):
        told = figure_called(catalog.experiment(f"fig{number}").source)
        assert told == f"The publication calls PVDR {words} (appendix B.1)."
    assert figure_called(catalog.experiment("fig4").source) == figure_has(catalog.experiment("fig12").source) == ""
    one = experiment(source="arXiv 2411.03169, Fig. 13", figure={"kind": "sweep", "key": "lambda2"}, grid=[
        {"methods": ["pvdr", "pvdr@lambda2=8"], "tasks": ["reach"], "videos": ["metaworld"]}])
    found = drawn(catalog, one, tmp_path, lambda spec: 0.4 if spec.variant == "pvdr" else 0.5)
    assert re.match(r"Range of .* reach: 10 points, .*\. The publication calls PVDR relatively stable", found.ordering)
    assert found.ordering in (tmp_path / "out" / "mine.txt").read_text()
