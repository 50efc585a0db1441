"""``pvdr-bench verify``: what was changed, where, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pvdr_bench.cli.main import app
from pvdr_bench.results.verify import VERDICTS, Verifier
from pvdr_bench.runs.artefacts import ArtefactStore
from tests.results_runs import make_run, resealed, stopped, unsealed

SMALL = {"eval_episodes": 2, "eval_final_episodes": 4, "env_steps": 16000}


def verdicts(root: Path) -> dict[str, str]:
    return {each.run.rpartition("/")[2]: each.verdict for each in Verifier().folder(root)}


def test_every_run_gets_a_verdict_and_the_exit_code_tells(tmp_path: Path) -> None:
    paths = [make_run(tmp_path, [0.0, 0.5], seed=seed, **SMALL) for seed in range(3)]
    unsealed(paths[1])
    stopped(paths[2])
    assert verdicts(tmp_path) == {"seed-0": "sealed", "seed-1": "unsealed", "seed-2": "unfinished"}
    done = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert done.exit_code == 0 and "3 runs: 1 sealed, 1 unsealed, 1 unfinished" in done.output
    log = paths[0] / "episodes.jsonl"
    log.write_text(log.read_text().replace('"return": -3.0', '"return": -2.0'))
    done = CliRunner().invoke(app, ["verify", str(tmp_path), "--json"])
    told = json.loads(done.output)
    assert done.exit_code == 5 and told["counts"] == {"broken": 1, "unsealed": 1, "unfinished": 1}
    (change,) = told["runs"][0]["changes"]
    assert change["file"] == "episodes.jsonl" and "changed; the first difference is in line 8" in change["detail"]
    one = CliRunner().invoke(app, ["verify", str(paths[0])])
    assert one.exit_code == 5 and "1 run: 1 broken" in one.output


@pytest.mark.parametrize(("name", "content", "told"), [
    ("train.jsonl", '{"env_steps": -1}\n', "row 1: env_steps is -1"), ("timing.jsonl", "{}\n", "env_steps` is missing"),
    ("heartbeat.json", "[" * 100_000, "heartbeat.json cannot be read: not a JSON file: nested"),
    ("artefacts.json", '{"tokenize": {"hash": 1}}', "tokenize.stage` is missing"),
])
def test_files_that_cannot_be_read_are_named_whoever_sealed_them(tmp_path: Path, name: str, content: str,
                                                                 told: str) -> None:
    path = make_run(tmp_path, [0.0, 0.5], **SMALL)
    (path / name).write_text(content)
    (found,) = Verifier().folder(resealed(path))
    assert found.verdict == "broken" and any(told in str(change) for change in found.changes), found


def test_artefacts_are_checked_against_their_manifests(tmp_path: Path) -> None:
    def make(folder: Path, check: object) -> dict[str, float]:
        (folder / "model.safetensors").write_bytes(b"weights")
        return {"loss": 0.5}

    store = ArtefactStore(tmp_path / "data", [])
    made = store.build("tokenize", "tok", {"a": 1}, make)
    path = make_run(tmp_path / "runs", [0.0, 0.5], **SMALL)
    (path / "artefacts.json").write_text(json.dumps({"tokenize": made.reference}))
    resealed(path)
    (found,) = Verifier(store).folder(tmp_path / "runs")
    assert (found.verdict, found.notes, found.changes) == ("sealed", (), ())
    (found,) = Verifier(ArtefactStore(tmp_path / "elsewhere", [])).folder(tmp_path / "runs")
    assert found.verdict == "sealed" and "not on this machine" in found.notes[0]
    made.model.write_bytes(b"heights")
    (found,) = Verifier(store).folder(tmp_path / "runs")
    assert found.verdict == "broken" and "model.safetensors: its checksum is wrong" in str(found.changes[0])


def test_the_reference_can_be_verified() -> None:
    root = Path(__file__).parents[1] / "results/reference/reach-cpu"
    assert {each.verdict for each in Verifier().folder(root)} == {"unsealed"}


def test_the_documentation_has_these_verdicts() -> None:
    text = (Path(__file__).parents[1] / "docs/results.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`"): row[1] for row in rows if row[0].strip("`") in VERDICTS and len(row) == 2} == VERDICTS
