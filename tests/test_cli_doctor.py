"""``doctor``: what it finds, and what it says when something is missing."""

from __future__ import annotations

import json
import subprocess

import pytest

from pvdr_bench.algorithms.dreamer import published
from pvdr_bench.algorithms.dreamer.published import NEEDED, published_dreamerv3
from pvdr_bench.cli import doctor as module
from pvdr_bench.cli.main import main
from pvdr_bench.cli.options import choose_device, choose_scale
from pvdr_bench.errors import CatalogError, SetupError, UsageError
from tests.slurm_fakes import FakeSlurm, slurm

__all__ = ["slurm"]

SMI = "| NVIDIA-SMI 550.54    Driver Version: 550.54.15    CUDA Version: 12.4     |"


def test_doctor_here(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--json", "--results", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in found["checks"]}
    assert list(checks) == ["python", "code", "packages", "suites", "rlbench", "torch", "device", "render", "disk",
                            "slurm", "corpora", "authors' dreamerv3"]
    assert checks["code"]["data"]["sources"] in checks["code"]["detail"] and "commit " in checks["code"]["detail"]
    missing = checks["rlbench"]["data"]["missing"]
    assert checks["rlbench"]["status"] == "ok" and "COPPELIASIM_ROOT" in missing[0]["what"], "optional, and told"
    assert found["ok"] is True and caught.value.code in (0, None)
    assert 0 < checks["render"]["data"]["ms_per_frame"] < 60_000
    assert checks["disk"]["data"]["results"]["free_bytes"] > 0


def test_how_the_authors_dreamerv3_is_made_to_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    detail, missing = published_dreamerv3(lambda module: None)
    assert "PyPI has no release" in detail and [what for what, _ in missing] == list(NEEDED)
    assert "git clone" in dict(missing)["embodied"] and "requirements.txt" in dict(missing)["jax"]
    detail, missing = published_dreamerv3(lambda module: None if module == "jax" else module)
    assert [what for what, _ in missing] == ["jax"]
    detail, missing = published_dreamerv3(lambda module: module)
    assert not missing and "gym_pvdr_bench/reach-v0" in detail
    check = module.check_published_dreamerv3()
    assert check.status == "ok" and "no row here needs it" in check.detail and "git clone" in check.detail
    module.echo_check(check)
    assert "authors' dreamerv3  " in capsys.readouterr().out, "a name does not touch what is told of it"


@pytest.mark.parametrize(("release", "another"), [
    ("1.5.0", True), ("0.9.0", True), ("1.5.1", False), ("1.10.0", False), ("2.0.0", False)])
def test_pypis_dreamerv3_is_told_from_the_present_one(monkeypatch: pytest.MonkeyPatch, release: str,
                                                      another: bool) -> None:
    monkeypatch.setattr(published, "version", lambda name: {"dreamerv3": release}[name])
    detail, missing = published_dreamerv3(lambda module: module)
    assert bool(missing) is another and ("is another agent" in detail) is another
    if another:
        (what, mend), = missing
        assert what.startswith(f"dreamerv3 {release} of PyPI") and mend.startswith("pip uninstall dreamerv3; git clone")


def test_doctor_fails_without_gl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    check = module.check_render()
    assert check.status == "fail"
    assert "nonsense" in check.detail and "unset MUJOCO_GL" in check.hint
    monkeypatch.setattr(module, "check_render", lambda: check)
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 4
    assert "fail render" in capsys.readouterr().out


def test_a_crashing_gl_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -11, "", "")

    monkeypatch.setattr(subprocess, "run", crash)
    check = module.check_render()
    assert check.status == "fail" and "code -11" in check.detail


@pytest.mark.parametrize(("smi", "cuda", "usable", "status", "words"), [
    (SMI, "12.4", ["A100"], "ok", "A100"),
    (SMI, "13.0", [], "warn", "supports CUDA 12.4, torch was built for 13.0"),
    (SMI, None, [], "warn", "CPU build"),
    (SMI, "12.1", [], "warn", "cannot use the GPU"),
    ("", "12.4", [], "warn", "sees no GPU"),
])
def test_driver_against_torch(smi: str, cuda: str | None, usable: list[str], status: str, words: str) -> None:
    check = module.judge_device(smi, cuda, usable)
    assert check.status == status and words in check.detail


def test_a_full_disk_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "a" / "b"))
    monkeypatch.setattr(module, "LOW_DISK", 1e30)
    check = module.check_disk(tmp_path)
    assert check.status == "warn" and "data and results" in check.hint


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no-such-package"))
    check = module.check_packages()
    assert check.status == "fail" and "no-such-package" in check.detail


def test_default_device_and_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvdr_bench.cli.options._cuda_devices", lambda: 0)
    assert choose_device().value == "cpu"
    with pytest.raises(SetupError, match="cuda:1"):
        choose_device("cuda:1")
    monkeypatch.setattr("pvdr_bench.cli.options._cuda_devices", lambda: 1)
    assert choose_device().value == "cuda"
    assert choose_device("cuda:0").value == "cuda:0"
    assert choose_device("cpu").value == "cpu"
    with pytest.raises(UsageError, match="auto, cpu"):
        choose_device("gpu")
    assert choose_scale(None, "cuda:0").value == "gpu"
    assert choose_scale(None, "cpu").value == "cpu"
    assert choose_scale("smoke", "cuda").value == "smoke"
    with pytest.raises(CatalogError, match="'smoke'"):
        choose_scale("smok")


def test_a_cluster_that_does_not_answer_is_told(slurm: FakeSlurm) -> None:
    assert module.check_slurm().status == "ok"
    slurm.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    found = module.check_slurm()
    assert found.status == "warn" and str(slurm.bin) in found.detail
    assert "no cluster answers: squeue failed" in found.detail
