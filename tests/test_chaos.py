"""Two hundred deaths at random writes of logs, checkpoints, locks and artefacts: nothing lost, twice, or torn.

The order of deaths is drawn from a fixed seed. After each, what a reader sees is checked; every run that comes through
is compared with one that nobody touched.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from pvdr_bench.runs import faults
from pvdr_bench.runs.artefacts import ArtefactStore
from tests.processes import call
from tests.test_runs_artefacts import RECIPE, maker
from tests.test_training_exact import KINDS, results_of, run, run_dir

pytestmark = pytest.mark.long
RUN_KILLS, ARTEFACT_KILLS = 80, 40  # of each kind of run, and of artefacts: 200 in all


def death(rng: random.Random, trace: list[str]) -> str:
    """One of all writes of an undisturbed run, each as likely as any other: its name and the how-manieth it was."""
    at = rng.randrange(len(trace))
    return f"{trace[at]}:{Counter(trace[:at + 1])[trace[at]]}"


def look(results: Path, kind: str) -> int:
    """What a reader sees of a run that just died; the number of its evaluation episodes."""
    folder = run_dir(results, kind)
    rows = folder.read_episodes()
    keys = [(row["env_steps"], row["point"], row["eval_seed"]) for row in rows]
    assert len(keys) == len(set(keys)), "an evaluation episode stands twice"
    folder.checkpoints.latest()  # raises where none of them is whole
    folder.read_train()
    assert folder.status() in ("new", "stopped", "done")
    return len(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_die_again_and_again(kind: str, tmp_path: Path) -> None:
    rng, trace = random.Random(kind), tmp_path / "trace"
    assert run(tmp_path / "whole", kind, **{faults.TRACE: str(trace)}) == 0
    writes, whole = trace.read_text().split(), results_of(tmp_path / "whole", kind)
    kills = finished = 0
    while kills < RUN_KILLS:
        folder = tmp_path / str(finished)
        code = run(folder, kind, **{faults.CRASH_AT: death(rng, writes)})
        assert code in (0, faults.CRASH_CODE)
        kills += code == faults.CRASH_CODE
        if folder.exists():
            look(folder, kind)
        if code == 0:
            assert results_of(folder, kind) == whole
            finished += 1
    assert run(tmp_path / str(finished), kind) == 0
    assert results_of(tmp_path / str(finished), kind) == whole and finished > 0


def build(root: str) -> int:
    """Make the artefact, or find it."""
    ArtefactStore(root, []).build("tokenize", "tok", RECIPE, maker(), poll_seconds=0.01)
    return 0


def test_artefacts_whose_makers_die_again_and_again(tmp_path: Path) -> None:
    rng, trace = random.Random("artefact"), tmp_path / "trace"
    assert call(build, str(tmp_path / "whole"), **{faults.TRACE: str(trace)}) == 0
    writes = trace.read_text().split()
    expected = ArtefactStore(tmp_path / "whole", []).find("tokenize", "tok", RECIPE)
    assert expected is not None
    kills = finished = 0
    while kills < ARTEFACT_KILLS:
        root = tmp_path / str(finished)
        code = call(build, str(root), **{faults.CRASH_AT: death(rng, writes)})
        assert code in (0, faults.CRASH_CODE)
        kills += code == faults.CRASH_CODE
        found = ArtefactStore(root, []).find("tokenize", "tok", RECIPE)  # raises where a torn one is taken for whole
        if code == 0:
            assert found is not None
        if found is not None:
            assert found.weights_sha256 == expected.weights_sha256
            finished += 1
    assert finished > 0
