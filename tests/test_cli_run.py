"""``run --dry-run`` and refusals before work; through the real command line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pvdr_bench.cli.main import main
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.users import ARTEFACTS


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and error output of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    out, err = capsys.readouterr()
    assert isinstance(code, int)
    return code, out, err


def run(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> tuple[int, str, str]:
    return cli(capsys, "run", "--method", "random", "--task", "reach", "--scale", "smoke", "--device", "cpu",
               "--results", str(results), "--dry-run", *arguments)


def test_dry_run_counts_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, tmp_path, "--seeds", "3", "--tasks", "reach,window-open")
    assert code == 0 and "6 runs: 6 new" in out
    # 320 steps of training; three evaluations of 4 episodes on the way and one at the end, each episode 40 steps
    assert f"{6 * 320:,} env_steps of training and {6 * 4 * 4 * 40:,} of evaluation" in out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_what_is_made_before_the_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "results").mkdir()
    reward = "made once:", "  tokenize tokenizer · smoke, for 2 runs of {}: to be made, "
    for method, told in (("pvdr", (*reward, "  pretrain pvdr on metaworld · smoke, for 2 runs of {}: to be made, ")),
                         ("random", reward)):
        code, out, _ = cli(capsys, "run", "--method", method, "--task", "reach", "--scale", "smoke", "--seeds", "2",
                           "--device", "cpu", "--results", str(tmp_path / "results"), "--dry-run")
        lines = [line for line in out.splitlines() if line.startswith("made once") or "to be made" in line]
        assert code == 0 and len(lines) == len(told) and all(
            line.startswith(words.format(method)) for line, words in zip(lines, told, strict=True)), out


def test_a_key_is_told_as_it_has_to_be_given(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for given, hint in (("protocol.env_step=3", "did you mean 'protocol.env_steps'? allowed: protocol.name, "),
                        ("env_steps=3", "did you mean 'protocol.env_steps'? allowed: "),
                        ("protocol.steps=3", "allowed: protocol.name, ")):
        code, _, err = run(capsys, tmp_path, "-o", given)
        assert code == 3 and hint in err and f"-o {given.partition('=')[0]}: unknown key" in err


def test_a_scale_whose_numbers_are_no_results_says_so_at_once(capsys: pytest.CaptureFixture[str],
                                                              tmp_path: Path) -> None:
    told = {}
    for scale in ("smoke", "quick", "cpu"):
        code, out, _ = cli(capsys, "run", "--method", "random", "--task", "reach", "--scale", scale, "--device", "cpu",
                           "--results", str(tmp_path), "--dry-run")
        assert code == 0
        told[scale] = [line for line in out.splitlines()[:3] if line.startswith(f"scale {scale}: ")]
    assert "for tests" in told["smoke"][0] and "0 %" in told["smoke"][0] and "--scale quick" in told["smoke"][0]
    assert "not for results" in told["quick"][0] and told["cpu"] == []


@pytest.mark.parametrize("protocol", ["pvdr", "apv"])
def test_every_method_runs_at_quick_scale_on_what_is_shipped(protocol: str, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.training.checks import check_runs
    from pvdr_bench.training.stages import Stages

    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    catalog = load_catalog()
    made_here: dict[str, set[str]] = {}
    for method in catalog.runnable():
        spec = catalog.resolve(method, "reach", 0, "quick", protocol)
        if protocol == "apv" and spec.info.needs_goal_image:
            continue
        check_runs([spec], catalog)
        if Stages(spec, catalog=catalog).missing():
            made_here.setdefault(spec.algorithm, set()).add(method)
    horizons = {f"{name}-h{length}" for name in ("pvdr", "pvdr-taught") for length in ("1-1", "2-2")}
    assert made_here.pop("pvdr", set()) == (horizons if protocol == "pvdr" else set())  # models of their own
    nowhere = {"dreamer", "efficientzero", "stg"} | ({"pvdr-context"} if protocol == "pvdr" else set())
    assert set(made_here) == nowhere  # what these learn from videos is shipped at no scale


def test_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, tmp_path, "-o", "protocol.env_steps=500")
    assert code == 3 and "use 480 or 640" in err
    code, _, err = run(capsys, tmp_path, "--seeds", "x")
    assert code == 2 and "--seeds" in err
    code, _, err = cli(capsys, "run", "--method", "randon", "--task", "reach", "--scale", "smoke", "--dry-run")
    assert code == 3 and "random" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_no_results_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    for words in (["run", "--device", "cpu", "--scale", "smoke", "--method", "random"],
                  ["submit", "--method", "random"], ["reproduce", "fig5", "--device", "cpu", "--scale", "smoke"]):
        code, _, err = cli(capsys, *words, "--task", "reach", "--results",
                           str(tmp_path / "file" / below), "--dry-run")
        assert code == 2 and f"{tmp_path / 'file'}: this is a file, and no results folder" in err and "--results" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told_before_any_work(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(**place: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(place["dir"]))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    for name in ("prepare", "expect"):  # what is made and measured before the first run
        monkeypatch.setattr(f"pvdr_bench.cli.run.{name}", lambda *_, **__: pytest.fail("work began"))
    code, _, err = cli(capsys, "run", "--method", "random", "--task", "reach", "--scale", "smoke", "--device", "cpu",
                       "--results", str(tmp_path / "results"))
    assert code == 9 and "the file system is read-only: choose another place: --out, --results" in err
    assert f"error: {tmp_path / 'results'}: cannot write" in err


def test_a_changed_recipe_is_refused_with_the_difference(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from pvdr_bench.catalog.catalog import load_catalog

    spec = load_catalog().resolve("random", "reach", 0, "smoke")
    changed = spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"num_envs": 1, "sync_every": 40})})
    run_dir = RunDir(spec.path(tmp_path))
    run_dir.open(changed)
    before = (run_dir.path / "run.yaml").read_bytes()
    code, _, err = run(capsys, tmp_path, "--seeds", "2")
    assert code == 7 and "protocol.num_envs: 1 (there) -> 2 (asked for)" in err
    assert (run_dir.path / "run.yaml").read_bytes() == before


def test_evaluate_builds_nothing_that_a_run_stands_on(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.catalog.catalog import load_catalog

    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    spec = load_catalog().resolve("ppo", "reach", 0, "smoke")
    run_dir = RunDir(spec.path(tmp_path / "results"))
    run_dir.open(spec)
    code, _, err = cli(capsys, "evaluate", str(run_dir.path))
    assert code == 2 and "no checkpoint yet" in err, "no artefact would help"
    with run_dir.lock():
        run_dir.save(0, {}, {})
    reference = {"stage": "tokenize", "name": "tokenizer", "hash": "abc", "weights_sha256": "0"}
    (run_dir.path / ARTEFACTS).write_text(json.dumps({"tokenize": reference}))
    code, _, err = cli(capsys, "evaluate", str(run_dir.path))
    assert code == 4 and err.splitlines() == [
        f"error: {run_dir.path}: this run was trained from tokenize/tokenizer-abc, not on this machine",
        f"  -> copy it into {tmp_path / 'data' / 'artefacts'} from the data folder that the run was made with, or set "
        "PVDR_BENCH_DATA to that one; what `pvdr-bench pretrain --method ppo --task reach --scale smoke --protocol "
        "pvdr` makes serves if its weights come out the same"]
    assert not (tmp_path / "data").exists()


def test_a_dry_run_asks_for_the_simulator_as_the_run_does(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COPPELIASIM_ROOT", raising=False)
    for dry in (("--dry-run",), ()):
        code, _, err = cli(capsys, "run", "--method", "random", "--task", "rlbench-lamp-on", "--scale", "smoke",
                           "--device", "cpu", "--results", str(tmp_path), *dry)
        assert code == 4 and "the suite rlbench is not ready" in err
