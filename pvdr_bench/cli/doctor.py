"""``pvdr-bench doctor``: is this machine able to do the work, and if not, what is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import typer

from pvdr_bench.cli.options import Json, Results

PACKAGES = ("numpy", "gymnasium", "pydantic", "pandas", "pyarrow", "safetensors", "imageio",
            "submitit")
RENDER_SECONDS = 180.0
LOW_DISK = 5e9  # bytes; a corpus and its artefacts take about one GB
_GL_HINT = ("Debian, Ubuntu: apt-get install libosmesa6, and MUJOCO_GL=osmesa; with an NVIDIA GPU: libegl1, and "
            "MUJOCO_GL=egl")


@dataclass(frozen=True)
class Check:
    """One finding: ``ok``, ``warn`` (works, with a limit) or ``fail`` (the main job cannot run)."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    hint: str = ""
    data: dict[str, object] | None = None


def doctor(results: Results = None, json_: Json = False) -> None:
    """Check Python, code, packages, suites, torch, device, GL (a frame is drawn and timed), disk, SLURM and corpora."""
    checks: list[Callable[[], Check]] = [
        check_python, check_code, check_packages, check_suites, *optional_checks(), check_torch, check_device,
        check_render, lambda: check_disk(results), check_slurm, check_corpora, check_published_dreamerv3,
    ]
    found: list[Check] = []
    for check in checks:
        found.append(check())
        if not json_:
            echo_check(found[-1])
    failed = [check.name for check in found if check.status == "fail"]
    if json_:
        typer.echo(json.dumps({"ok": not failed, "checks": [asdict(check) for check in found]}))
    if failed:
        raise typer.Exit(4)


def echo_check(check: Check) -> None:
    """Print one finding."""
    typer.echo(f"{check.status:<5}{check.name:<20}{check.detail}")
    if check.hint and check.status != "ok":
        typer.echo(f"     -> {check.hint}")


def check_python() -> Check:
    """The interpreter's version."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return Check("python", "ok" if sys.version_info >= (3, 11) else "fail", detail, "Python 3.11 or newer is needed")


def check_code() -> Check:
    """What runs made here will say of their code in ``provenance.json``."""
    from pvdr_bench.runs import provenance

    git, sources = provenance.code(), provenance.sources()
    changes = ", with changes" if git.get("dirty") else ""
    commit = f"commit {git['commit']}{changes}" if git.get("commit") else "no commit: this is no checkout"
    return Check("code", "ok", f"sources {sources}, {commit}", data={"sources": sources, **git})


def check_packages() -> Check:
    """Versions of what the main job imports."""
    found: dict[str, object] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    missing = [name for name, installed in found.items() if installed is None]
    detail = ", ".join(f"{name} {installed}" for name, installed in found.items() if installed)
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", "install again: make setup", found)
    return Check("packages", "ok", detail, data=found)


def check_suites() -> Check:
    """Each suite's packages and variables; only the default suite has to work."""
    from pvdr_bench.cli.suites import suite_health

    good, bad, needed = suite_health()
    data: dict[str, object] = {"work": good, "problems": bad}
    if not bad:
        return Check("suites", "ok", ", ".join(good), data=data)
    fails = any(problem.startswith(f"{needed}: ") for problem in bad)
    return Check("suites", "fail" if fails else "warn", "; ".join(bad),
                 f"what works: {', '.join(good) or 'none'}", data)


def optional_checks() -> list[Callable[[], Check]]:
    """A check for each suite that a user sets up by hand."""
    from pvdr_bench.cli.suites import optional_suites

    return [partial(check_optional, name) for name in optional_suites()]


def check_optional(name: str) -> Check:
    """A suite that a user sets up by hand; what nobody began to set up is no fault."""
    from pvdr_bench.cli.suites import optional_health

    begun, missing = optional_health(name)
    data: dict[str, object] = {"missing": [{"what": what, "mend": mend} for what, mend in missing]}
    if not missing:
        return Check(name, "ok", "set up", data=data)
    listed = "; ".join(f"{what} -> {mend}" for what, mend in missing)
    if begun:
        return Check(name, "warn", listed, "mend the first one, and ask again", data)
    return Check(name, "ok", f"not set up, and optional: {listed}", data=data)


def check_torch() -> Check:
    """Torch can be imported and multiply."""
    try:
        import torch

        value = float((torch.ones(2, 2) @ torch.ones(2, 2)).sum())
    except (ImportError, OSError) as error:
        return Check("torch", "fail", f"cannot be imported: {error}", "pip install torch, or make setup TORCH=...")
    status: Literal["ok", "fail"] = "ok" if value == 8.0 else "fail"
    return Check("torch", status, f"{torch.__version__}, {torch.get_num_threads()} threads, CUDA build "
                 f"{torch.version.cuda or 'none'}", data={"version": torch.__version__, "cuda": torch.version.cuda})


def check_device() -> Check:
    """The GPU, and whether its driver is new enough for torch's CUDA."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return Check("device", "ok", f"CPU, {os.cpu_count()} cores; no NVIDIA driver", data={"device": "cpu"})
    try:
        answer = subprocess.run([smi], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("device", "warn", f"nvidia-smi does not answer: {error}", "runs will use the CPU")
    return judge_device(answer.stdout if answer.returncode == 0 else "", *_torch_cuda())


def _torch_cuda() -> tuple[str | None, list[str]]:
    """Torch's CUDA version, and the names of the devices it can use."""
    try:
        import torch
    except (ImportError, OSError):
        return None, []
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.version.cuda, [torch.cuda.get_device_name(i) for i in range(count)]


def judge_device(smi: str, torch_cuda: str | None, usable: list[str]) -> Check:
    """Compare what ``nvidia-smi`` prints with torch's CUDA version."""
    driver = re.search(r"Driver Version: *([\d.]+)", smi)
    newest = re.search(r"CUDA Version: *(\d+)\.(\d+)", smi)
    data: dict[str, object] = {
        "device": "cuda" if usable else "cpu", "devices": usable, "torch_cuda": torch_cuda,
        "driver": driver.group(1) if driver else None, "driver_cuda": ".".join(newest.groups()) if newest else None,
    }
    if usable:
        detail = f"{', '.join(usable)}; driver {data['driver']}, torch CUDA {torch_cuda}"
        return Check("device", "ok", detail, data=data)
    if driver is None:
        return Check("device", "warn", "nvidia-smi is there but sees no GPU", "runs will use the CPU", data)
    if torch_cuda is None:
        return Check("device", "warn", f"driver {data['driver']} is there, but torch is a CPU build",
                     "install a CUDA build of torch: make setup TORCH=...", data)
    if newest and int(newest.group(1)) < int(torch_cuda.split(".")[0]):
        detail = f"driver {data['driver']} supports CUDA {data['driver_cuda']}, torch was built for {torch_cuda}"
        hint = f"install torch built for CUDA {newest.group(1)}, or a newer driver"
        return Check("device", "warn", detail, hint, data)
    return Check("device", "warn", f"torch (CUDA {torch_cuda}) cannot use the GPU with driver {data['driver']}",
                 "python -c 'import torch; torch.cuda.init()' tells why", data)


def check_render() -> Check:
    """Draw frames of a task in a process of its own: a broken GL library may end the process, not raise."""
    code = "from pvdr_bench.cli.doctor import render_probe; render_probe()"
    try:
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=RENDER_SECONDS,
                                check=False)
    except subprocess.TimeoutExpired:
        return Check("render", "fail", f"no frame within {RENDER_SECONDS:.0f} s", _GL_HINT)
    lines = answer.stdout.strip().splitlines()
    data = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "error" in data:
        return Check("render", "fail", data["error"], data["hint"] or _GL_HINT)
    if answer.returncode == 0 and data:
        size = data["image_size"]
        detail = (f"MUJOCO_GL={data['backend']}: a {size}x{size} frame with its simulator step takes "
                  f"{data['ms_per_frame']:.1f} ms; first one after {data['start_s']:.1f} s")
        return Check("render", "ok", detail, data=data)
    reason = (answer.stderr.strip().splitlines() or [f"the process ended with code {answer.returncode}"])[-1]
    return Check("render", "fail", reason, _GL_HINT)


def render_probe() -> None:
    """Print as JSON how drawing went; runs in the process that :func:`check_render` starts."""
    from pvdr_bench.errors import BenchError

    try:
        print(json.dumps(time_frames()))
    except BenchError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}))


def time_frames(image_size: int = 128, frames: int = 20) -> dict[str, object]:
    """Render frames of the default suite: the backend, seconds until the first frame, milliseconds of each further one.

    Raises:
        SetupError: nothing can be drawn here.
    """
    from pvdr_bench.suites.gl import choose_backend

    backend = choose_backend()
    import numpy as np

    from pvdr_bench.errors import SetupError
    from pvdr_bench.suites import make_env
    from pvdr_bench.suites.base import EnvConfig
    from pvdr_bench.suites.registry import DEFAULT_SUITE, suite

    begin, info = time.perf_counter(), suite(DEFAULT_SUITE)
    env = make_env(EnvConfig(info.name, info.probe, info.first_camera, image_size, "lean", 1, 500))
    try:
        image = env.reset(0)
        started = time.perf_counter()
        for _ in range(frames):
            image = env.step(np.zeros(env.action_dim, np.float32)).image
        seconds = (time.perf_counter() - started) / frames
        if int(image.max()) - int(image.min()) < 32:
            raise SetupError(f"MUJOCO_GL={backend} draws an empty picture", hint=_GL_HINT)
    finally:
        env.close()
    return {"backend": backend, "image_size": image_size, "ms_per_frame": seconds * 1e3, "start_s": started - begin}


def check_disk(results: Path | None) -> Check:
    """Free space and write permission where data and results go."""
    from pvdr_bench.runs.paths import data_root, results_root

    parts, low, closed = [], [], []
    data: dict[str, object] = {}
    for name, folder in (("data", data_root()), ("results", results_root(results))):
        parent = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(parent).free
        parts.append(f"{name} {folder}: {free / 1e9:.1f} GB free")
        data[name] = {"folder": str(folder), "free_bytes": free}
        if free < LOW_DISK:
            low.append(name)
        if not os.access(parent, os.W_OK):
            closed.append(name)
    detail = "; ".join(parts)
    if closed:
        return Check("disk", "fail", f"no permission to write {' and '.join(closed)} ({detail})",
                     "set PVDR_BENCH_DATA and PVDR_BENCH_RESULTS", data)
    if low:
        return Check("disk", "warn", detail, f"less than {LOW_DISK / 1e9:.0f} GB for {' and '.join(low)}", data)
    return Check("disk", "ok", detail, data=data)


def check_slurm() -> Check:
    """Whether jobs could be submitted from here."""
    from pvdr_bench.launch.cluster import queue_if_any

    sbatch = shutil.which("sbatch")
    job = os.environ.get("SLURM_JOB_ID")
    detail = (f"{sbatch}" if sbatch else "not here: runs are local") + (f"; inside job {job}" if job else "")
    data: dict[str, object] = {"sbatch": sbatch, "job": job}
    found, why = queue_if_any() if sbatch else (None, "")
    if sbatch and found is None:
        return Check("slurm", "warn", f"{detail}, and no cluster answers: {why.partition(';')[0]}",
                     "start or mend it before submitting; runs here need none", data)
    return Check("slurm", "ok", detail, data=data)


def check_corpora() -> Check:
    """Corpora on disk, and packages that bring some and cannot be read."""
    from pvdr_bench.runs.paths import data_root
    from pvdr_bench.videos.sources import broken_sources

    folder = data_root() / "videos"
    made = sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in folder.glob("*/*/manifest.json")
                  if not path.parent.name.endswith(".partial"))
    detail = ", ".join(made) or "none yet; they are made when a run first needs them"
    data: dict[str, object] = {"folder": str(folder), "found": made}
    if broken := broken_sources():
        return Check("corpora", "warn", detail, "; ".join(map(str, broken.values())), data)
    return Check("corpora", "ok", detail, data=data)


def check_published_dreamerv3() -> Check:
    """The authors' own DreamerV3, which is no method here; what nobody set up is no fault."""
    from pvdr_bench.algorithms.dreamer.published import published_dreamerv3

    detail, missing = published_dreamerv3()
    data: dict[str, object] = {"missing": [{"what": what, "mend": mend} for what, mend in missing]}
    return Check("authors' dreamerv3", "ok", detail, data=data)
