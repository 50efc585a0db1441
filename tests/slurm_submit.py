"""Submitting to the fake scheduler of ``slurm_fakes``: profiles, runs, fixtures, and what a submitted script says."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.profile import Profile
from pvdr_bench.launch import snapshot as snapshots
from pvdr_bench.launch import submission
from pvdr_bench.launch.records import Submission
from pvdr_bench.launch.submission import submit
from tests.dummies import make_spec
from tests.slurm_fakes import ID, PROFILE, FakeSlurm

WORDS = ("-m", "random", "-t", "reach", "--scale", "smoke", "--protocol", "apv")  # no artefacts
SMALL = Profile.model_validate(PROFILE)
BIG = Profile.model_validate({
    "name": "big", "partition": "gpu", "account": "lab", "qos": "normal", "constraint": "a100_80gb",
    "exclude": ["n1", "n2"], "gpu": {"style": "gres", "type": "a100"}, "device": "cuda", "scale": "gpu",
    "cpus_per_task": 12, "mem_gb": 60, "time_min": 1440, "leave_s": 300, "array_parallelism": 2,
    "setup": ["module load cuda"], "wrapper": ["xvfb-run", "-a"], "env": {"OMP_NUM_THREADS": "1", "WORDS": "a b"},
    "scratch": "$SLURM_TMPDIR", "extra": {"comment": "pvdr"}})


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One name for all submissions."""
    monkeypatch.setattr(Submission, "new", classmethod(lambda cls, results: cls(results / ".slurm" / ID)))


@pytest.fixture
def no_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dummy runs, which no catalog knows, and no copy of the code."""
    monkeypatch.setattr(submission, "stage_needs", lambda specs, catalog: {})
    monkeypatch.setattr(submission, "claim", lambda specs, user, catalog: None)
    monkeypatch.setattr(submission, "need_of", lambda spec, needs, catalog: None)
    monkeypatch.setattr(snapshots, "take_snapshot", lambda folder: folder / "code")


def resolved(method: str, scale: str = "smoke", seeds: int = 1) -> list[Any]:
    """Runs of the catalog; ``random`` in the protocol whose reward needs no tokenizer."""
    protocol = "apv" if method == "random" else "pvdr"
    return [load_catalog().resolve(method, "reach", seed, scale, protocol) for seed in range(seeds)]


def dummies(count: int) -> list[Any]:
    return [make_spec(seed=seed) for seed in range(count)]


def go(specs: Sequence[Any], results: Path, runs: Profile = SMALL, stages: Profile | None = None) -> Any:
    return submit(specs, results, runs, stages or runs)


def script_of(call: dict[str, Any], results: Path) -> str:
    """A submitted script with placeholders for the paths."""
    text = call["script"].replace(str(results), "RESULTS").replace(sys.executable, "PYTHON")
    return re.sub(r"snapshots/[0-9a-f]{12}", "snapshots/HASH", text)


def names(fake: FakeSlurm) -> list[str]:
    return [re.findall(r"job-name=(\S+)", call["script"])[0] for call in fake.calls("sbatch")]


def flag(call: dict[str, Any], name: str) -> str | None:
    found = re.findall(rf"^#SBATCH --{name}(?:=(.*))?$", call["script"], re.M)
    return found[0] if found else None
