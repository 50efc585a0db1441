"""What `reproduce` says of a publication's ordering where the rows are ours, and where a command changed their keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.results.reproduce import draw
from tests.test_reproduce import collect, drawn, experiment, fabricate, runs_of


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.mark.parametrize(("source", "begin"), [
    ("after arXiv 2411.03169, Fig. 5", "The publication has PVDR above its rows (after arXiv 2411.03169, Fig. 5), and "
     "the rows here are ours; the mean of PVDR, taught by its plans (metaworld) is above 1 of 1, clearly"),
    ("arXiv 2411.03169, Fig. 5", "The publication has PVDR, taught by its plans (metaworld) above all other rows "
     "(arXiv 2411.03169, Fig. 5); here its mean is above 1 of 1, clearly")])
def test_of_rows_that_are_ours_nothing_is_said_to_be_published(catalog: Catalog, tmp_path: Path, source: str,
                                                               begin: str) -> None:
    one = experiment(source=source, figure={"kind": "curves"}, highest="pvdr-taught", grid=[
        {"methods": ["pvdr-taught", "pvdr-taught-no-lact"], "tasks": ["reach"], "videos": ["metaworld"]}])
    found = drawn(catalog, one, tmp_path, lambda spec: 0.8 if spec.method == "pvdr-taught" else 0.2)
    assert found.ordering.startswith(begin)
    assert found.ordering in (tmp_path / "out" / "mine.txt").read_text()


def test_no_experiment_says_that_a_row_of_ours_is_published(catalog: Catalog, tmp_path: Path) -> None:
    """Each of the built-in ones that has a highest row, of one seed at smoke scale."""
    for name in (name for name in catalog.experiments() if catalog.experiment(name).highest):
        one = catalog.experiment(name).model_copy(update={"scale": "smoke", "seeds": "1"})
        every = runs_of(catalog, one)
        specs = [spec for spec in every if spec.task.name == every[0].task.name]
        for spec in specs:
            fabricate(spec, tmp_path / name, 0.5)
        told = draw(one, specs, collect(tmp_path / name), tmp_path / name / "out").ordering
        assert told.startswith("The publication has PVDR above its rows (after arXiv" if one.source.startswith("after")
                               else "The publication has PVDR (fetch-push) above all other rows"), (name, told)
