"""A real SLURM cluster on this machine for tests marked `slurm` (fixture `cluster`), and words to speak with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

SCRIPT = Path(__file__).parents[1] / "slurm" / "sandbox" / "cluster.sh"
CANNOT = 4  # its exit code where SLURM cannot be had: not root, not installed, no namespaces


def eventually(look: Callable[[], T], seconds: float = 60, what: str = "what a test waits for") -> T:
    """The first true value of ``look()``; asked rarely, since the controller shares the machine with the jobs."""
    end = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.3)
    return value


class Cluster:
    """A cluster in a folder, with the commands of cluster.sh and those of SLURM."""

    def __init__(self, folder: Path):
        self.folder = folder
        # A test may itself run inside a job: nothing of that one is handed on.
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        self.env["SLURM_CONF"] = str(folder / "slurm.conf")

    def control(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``cluster.sh COMMAND``."""
        line = [str(SCRIPT), command, "--dir", str(self.folder), *arguments]
        return subprocess.run(line, env=self.env, capture_output=True, text=True, timeout=150)

    def run(self, *command: str) -> str:
        """Output of a command of SLURM."""
        result = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
        return result.stdout.strip()

    def submit(self, script: str, *arguments: str, output: Path | str = os.devnull) -> str:
        """The number of a new job that runs ``script`` with bash."""
        line = ["sbatch", "--parsable", "--open-mode=append", f"--output={output}", *arguments]
        result = subprocess.run(
            line, env=self.env, input=f"#!/bin/bash\n{script}\n", capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, f"{' '.join(line)}: {result.stderr}"
        return result.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """Fields of ``scontrol show job``; a finished job stays known for five minutes."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str, seconds: float = 60) -> dict[str, str]:
        """Fields of a job once it is in one of ``states``."""

        def look() -> dict[str, str]:
            job = self.job(number)
            return job if job["JobState"] in states else {}

        return eventually(look, seconds, f"job {number}: {' or '.join(states)}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two nodes for all tests of this session, or a skip that says why there is none."""
    folder = Path(tempfile.mkdtemp(prefix="pvdr-slurm-", dir="/tmp"))  # short: a socket's path has 108 characters
    cluster = Cluster(folder)
    try:
        result = cluster.control("up")
        if result.returncode == CANNOT:
            pytest.skip(f"no SLURM: {result.stderr.splitlines()[0].removeprefix('error: ')}")
        assert result.returncode == 0, result.stderr
        yield cluster
    finally:
        cluster.control("down")
        shutil.rmtree(folder, ignore_errors=True)
