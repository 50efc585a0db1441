"""What a result was made with: code, packages, machine, job. No secrets: the environment is not copied."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from email.parser import HeaderParser
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from pvdr_bench.runs.files import content_hash, sha256_file

_SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SLURM_NNODES",
          "SLURM_JOB_PARTITION", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SECRET = re.compile(r"(?i)(key|token|secret|passw|credential|auth)")
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
COMMAND = "PVDR_BENCH_COMMAND"  # a worker process learns here, as JSON, what the user typed
SNAPSHOT = "snapshot.json"  # beside a package that was copied for queued jobs: its hash and git state
_PERSONAL = ("host", "executable", "directory", "slurm", "pid")


def collect() -> dict[str, Any]:
    """Provenance of this process, as JSON types.

    torch is asked for device and threads only if the process has imported it already.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": redacted(json.loads(os.environ.get(COMMAND, "null")) or typed_command()),
        "directory": str(Path.cwd()),
        "pvdr_bench": _version("pvdr-bench"),
        "git": code(),
        "sources": sources(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "torch": _torch(),
        "packages": dict(_packages()),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "gl": os.environ.get("MUJOCO_GL"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm": {name: os.environ[name] for name in _SLURM if name in os.environ},
    }


def typed_command() -> list[str]:
    """The command line of this process as one would type it: ``python -m pvdr_bench`` leaves a file's name behind."""
    first, *rest = sys.argv or [""]
    return ["python", "-m", Path(first).parent.name, *rest] if Path(first).name == "__main__.py" else [first, *rest]


def shareable(provenance: dict[str, Any]) -> dict[str, Any]:
    """The same without host, job and local paths: for files that are published."""
    kept = {key: value for key, value in provenance.items() if key not in _PERSONAL}
    if "command" in kept:
        kept["command"] = [Path(word).name if Path(word).is_absolute() else word for word in kept["command"]]
    return kept


def redacted(words: list[str]) -> list[str]:
    """A command line with the values of options that look like secrets, and logins in addresses, left out."""
    result: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        previous = result[-1] if result else ""
        if equals and _SECRET.search(name):
            result.append(f"{name}=***")
        elif previous.startswith("-") and "=" not in previous and _SECRET.search(previous) and word[:1] != "-":
            result.append("***")
        else:
            result.append(_URL_LOGIN.sub("***@", word))
    return result


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    """Names and versions, from the heads of the files that have them; the descriptions below take long to parse."""
    texts = (item.read_text("METADATA") or item.read_text("PKG-INFO") or "" for item in distributions())
    heads = [HeaderParser().parsestr(text.partition("\n\n")[0]) for text in texts]
    found = {(head["Name"] or "").lower(): head["Version"] for head in heads}
    return tuple(sorted((name, number) for name, number in found.items() if name))


def _git_output(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20,
                              check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code() -> dict[str, Any]:
    """Commit of the code and whether tracked files differ from it; empty for a wheel."""
    return dict(_git())


@cache
def sources() -> str:
    """Hash of the package's Python files: the same code has the same, in a checkout, a wheel or a copy of either.

    Recipes are not in it, which a run's ``run.yaml`` has, unlike in the hash of a cluster's snapshot.
    """
    package = Path(__file__).resolve().parents[1]
    return content_hash(sorted([path.relative_to(package).as_posix(), sha256_file(path)]
                               for path in package.rglob("*.py")))


@cache
def _git() -> tuple[tuple[str, Any], ...]:
    """Commit and whether tracked files differ from it; empty for a wheel (also one inside another repository).

    Code that was copied for a cluster's jobs says what it was copied from.
    """
    copied = Path(__file__).resolve().parents[2] / SNAPSHOT
    if copied.is_file():
        origin = json.loads(copied.read_text(encoding="utf-8"))
        return tuple({**origin["git"], "snapshot": origin["hash"]}.items())
    if _git_output("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return ()
    commit, changes = _git_output("rev-parse", "HEAD"), _git_output("status", "--porcelain", "--untracked-files=no")
    return (("commit", commit), ("dirty", None if changes is None else bool(changes)))


def _torch() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {"version": _version("torch")}
    cuda = torch.cuda.is_available()
    return {
        "version": torch.__version__, "threads": torch.get_num_threads(), "cuda": torch.version.cuda if cuda else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
