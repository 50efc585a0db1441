"""The committed results: every archive is whole, and gives the frame that stands beside it, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pvdr_bench.results.collect import collect, write_frame
from pvdr_bench.runs.archive import open_archive
from pvdr_bench.runs.folders import loose_runs

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
ARCHIVES = sorted(REFERENCE.glob("*/runs.zip"))


def test_all_runs_are_packed() -> None:
    assert list(loose_runs(REFERENCE)) == []
    assert {path.parent.name for path in ARCHIVES} == {path.parent.name for path in REFERENCE.glob("*/runs.csv")}


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.parent.name)
def test_an_archive_is_whole_and_gives_its_frame(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    archive = open_archive(path)
    assert len(list(archive.contents())) == len(archive.members)
    files = write_frame(collect(path.parent, cached=False), tmp_path)
    assert set(pd.read_csv(files["runs"])["path"]) == set(archive.runs())
    if path.parent.name == "l-act-cpu":  # its frame tells of two runs that were stopped, and are not published
        assert set(archive.runs()) < set(pd.read_csv(path.parent / "runs.csv")["path"])
        return
    for name in ("points.csv", "runs.csv", "problems.csv"):
        assert (tmp_path / name).read_bytes() == (path.parent / name).read_bytes(), name
