"""``validate``: every problem of a folder of YAML, at its line, at every scale; and none in what is shipped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pvdr_bench.catalog.folders import builtin_root
from pvdr_bench.catalog.problems import Problem
from pvdr_bench.launch.validate import catalog_of, checked_files, validate
from tests.test_cli_main import call

GOOD = {
    "methods/mine.yaml": "extends: ppo\nconfig: {gamma: 0.95}\nscales:\n  cpu: {epochs: 1e1}\n",
    "tasks/near.yaml": "extends: reach\ncamera: corner\n",
    "tasks/protocols/side.yaml": "extends: pvdr\nbase: {camera: corner}\n",
    "slurm/site.yaml": "device: cpu\nscale: cpu\ncpus_per_task: 2\ntime_min: 60\n",
    "experiments/grid.yaml": "grid:\n  - methods: [mine, ppo@gamma=0.9]\n    tasks: [near, reach]\n",
    "methods/README.md": "notes\n",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def check(root: Path) -> list[Problem]:
    return validate(*catalog_of(root))


def test_what_is_shipped_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PVDR_BENCH_PATH", raising=False)
    catalog, roots = catalog_of(None)
    assert roots[-1] == builtin_root()
    assert len(checked_files(catalog, roots)) >= 30
    assert validate(catalog, roots) == []


def test_a_right_folder_has_no_problem(tmp_path: Path) -> None:
    root = write(tmp_path, GOOD)
    assert check(root) == []
    assert len(checked_files(*catalog_of(root))) == 5


def test_the_python_of_the_folder_is_loaded_though_no_variable_names_it(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PVDR_BENCH_PATH", raising=False)
    info = ('from pvdr_bench.algorithms.registry import AlgorithmInfo\n'
            'INFO = AlgorithmInfo("mine", "pvdr_bench.algorithms.floor:RandomConfig",\n'
            '                     "pvdr_bench.algorithms.random_policy:RandomLearner")\n')
    right = write(tmp_path / "right", {"algorithms/mine.py": info, "methods/a.yaml": "algorithm: mine\n"})
    assert call(capsys, "validate", str(right))[0] == 0
    assert "PVDR_BENCH_PATH" not in os.environ
    root = write(tmp_path / "wrong", {
        "algorithms/bad.py": "def (:\n", "methods/b.yaml": "algorithm: bad\n", "suites/torn.py": "1 / 0\n",
        "corpora/empty.py": "\n"})
    code, out, _ = call(capsys, "validate", str(root), "--json")
    told = {problem["file"]: problem["message"] for problem in json.loads(out)["problems"]}
    assert code == 3 and set(told) == {str(root / name) for name in ("algorithms/bad.py", "suites/torn.py",
                                                                     "corpora/empty.py")}
    assert "SyntaxError" in told[str(root / "algorithms/bad.py")] and "unknown algorithm" not in out
    assert "ZeroDivisionError" in told[str(root / "suites/torn.py")] and "no CorpusSource" in out


@pytest.mark.parametrize(("file", "text", "line", "words"), [
    ("methods/a.yaml", "extends: ppo\nscales:\n  gpu: {epoch: 3}\n", 3, "unknown key 'epoch'"),
    ("methods/a.yaml", "extends: ppo\nscales:\n  paper:\n    sets: {set1: {clip: true}}\n", 4, "must be a number"),
    ("methods/a.yaml", "extends: pppo\n", 1, "did you mean 'ppo'"),
    ("methods/a.yaml", "extends: ppo\ntokenizer: tokeniser\n", 2, "did you mean 'tokenizer'"),
    ("methods/a.yaml", "extends: ppo\nconfig:\n  window: 3\n", 3, "does not divide"),
    ("methods/a.yaml", "extends: tokenizer\nvideos: [metaworl]\n", 2, "did you mean 'metaworld'"),
    ("methods/a.yaml", "algorithm: vqgan\n", None, "names no videos"),
    ("methods/a.yaml", "extends: ppo\nscales:\n  cpu:\n    protocol: {env_steps: 'x'}\n", 4, "whole number"),
    ("methods/a.yaml", "extends: ppo\nscales:\n  cpu:\n    protocol: {sync_every: 7}\n", 4, "multiple of num_envs"),
    ("methods/a.yaml", "algorithm: [ppo\n", 2, "not valid YAML"),
    ("methods/a.yaml", "extends: &x ppo\n", 1, "anchors"),
    ("tasks/a.yaml", "suite: metaworld\nenv_id: reech-v3\n", 2, "did you mean 'reach-v3'"),
    ("tasks/a.yaml", "suite: metawrld\nenv_id: reach-v3\n", 1, "did you mean 'metaworld'"),
    ("tasks/a.yaml", "extends: reach\nset: set7\n", 2, "set1, set2, set3"),
    ("tasks/a.yaml", "extends: reach\ncamera: cornr\n", 2, "did you mean 'corner'"),
    ("tasks/protocols/a.yaml", "extends: pvdr\nscales:\n  paper: {eval_every: 7}\n", 3, "multiple of sync_every"),
    ("tasks/protocols/a.yaml", "extends: pvdr\nbase: {camera: cornr}\n", 2, "did you mean 'corner'"),
    ("tasks/protocols/a.yaml", "title: x\n", None, "has no scale"),
    ("slurm/a.yaml", "device: gpu\nscale: cpu\ncpus_per_task: 2\ntime_min: 60\n", 1, "allowed: cpu, cuda"),
    ("experiments/a.yaml", "grid:\n  - methods: [ppo]\n    tasks: [reach,\n            reech]\n", 4, "'reach'"),
    ("experiments/a.yaml", "grid:\n  - methods: [ppo@gama=1]\n    tasks: [reach]\n", 2, "did you mean 'gamma'"),
    ("experiments/a.yaml", "grid:\n  - {methods: [ppo], tasks: [reach], videos: [bairr]}\n", 2, "unknown corpus"),
    ("experiments/a.yaml", "protocol: pdvr\ngrid:\n  - {methods: [ppo], tasks: [reach]}\n", 1, "did you mean 'pvdr'"),
    ("experiments/a.yaml", "grid:\n  - methods: [ppo]\n    tasks: [reach]\n    overrides: [protocol.num_envs=7]\n", 2,
     "-o protocol.num_envs: sync_every"),
    ("methods/a.txt", "x\n", None, "names end in .yaml"),
    ("methods/old/a.yaml", "extends: ppo\n", None, "nobody reads the YAML in this folder"),
    ("method/a.yaml", "extends: ppo\n", None, "did you mean methods/"),
    ("a.yaml", "extends: ppo\n", None, "nobody reads this file"),
])
def test_each_problem_has_its_place(tmp_path: Path, file: str, text: str, line: int | None, words: str) -> None:
    found = check(write(tmp_path, {**GOOD, file: text}))
    places = [problem.where or "" for problem in found]
    assert words in " ".join(f"{problem.message} {problem.hint}" for problem in found)
    wanted = f"{tmp_path / file}:{line}" if line is not None else str(tmp_path / Path(file).parts[0])
    assert any(place.startswith(wanted) for place in places), places


def test_all_problems_are_listed_and_the_code_is_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {**GOOD, "methods/a.yaml": "extends: ppo\nconfig: {epochs: true, gama: 1}\n",
                     "tasks/b.yaml": "suite: metaworld\n", "methods/a.yml": "extends: ppo\n"})
    code, out, _ = call(capsys, "validate", str(tmp_path))
    assert code == 3
    for words in ("a.yaml:2: epochs = true", "a.yaml:2: unknown key 'gama'", "lacks the key 'env_id'",
                  "a.yml: nobody reads this file: a.yaml has the same name", "7 files", "4 problems"):
        assert words in out
    code, out, _ = call(capsys, "validate", str(tmp_path), "--json")
    told = json.loads(out)
    assert code == 3 and len(told["problems"]) == 4 and told["files"] == 7
    assert {(row["file"], row["line"]) for row in told["problems"]} >= {(str(tmp_path / "methods/a.yaml"), 2)}


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "validate", str(tmp_path / "none"))[0] == 2
    code, out, _ = call(capsys, "validate", str(tmp_path))
    assert code == 3 and "none of methods/" in out
