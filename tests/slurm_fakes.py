"""A scheduler that only writes down what it is told: sbatch, srun, squeue, scancel and scontrol as small scripts.

``DIR/queue.json`` is the queue, ``DIR/calls.jsonl`` has a line per call (words, environment, script), and a file
``DIR/COMMAND.fail`` makes a command print its text and fail.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.launch.cluster import QueuedJob, queue
from pvdr_bench.launch.records import RunRecord, Submission
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import write_json
from tests.dummies import make_spec

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
_SCRIPT = '''#!{python} -IS
import fcntl, json, os, re, sys
folder, name, words = {folder!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
lock = open(folder + "/mutex", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
script = open(words[0]).read() if name == "sbatch" else None
with open(folder + "/calls.jsonl", "a") as calls:
    calls.write(json.dumps(dict(command=name, words=words, env=dict(os.environ), script=script)) + "\\n")
if os.path.exists(folder + "/" + name + ".fail"):
    sys.exit(open(folder + "/" + name + ".fail").read())
queue = json.load(open(folder + "/queue.json"))
if name == "sbatch":
    flags = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, re.M))
    number = json.load(open(folder + "/number")) + 1
    json.dump(number, open(folder + "/number", "w"))
    last = re.match(r"0-(\\d+)%", flags.get("array", ""))
    reason = "Dependency" if "dependency" in flags else "Priority"
    for index in range(int(last[1]) + 1) if last else [None]:
        queue.append([flags["job-name"], number if index is None else 1000 * number + index, number,
                      "N/A" if index is None else index, "PENDING", "", reason, "1:00:00"])
    print("Submitted batch job", number)
elif name == "squeue":
    for row in queue:
        print("|".join(map(str, row)))
elif name == "scancel":
    queue = [row for row in queue if (str(row[1]) if row[3] == "N/A" else "%s_%s" % (row[2], row[3])) not in words]
json.dump(queue, open(folder + "/queue.json.new", "w"))
os.replace(folder + "/queue.json.new", folder + "/queue.json")
'''


class FakeSlurm:
    """The scripts and what they wrote; :attr:`bin` belongs on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "queue.json").write_text("[]")
        (folder / "number").write_text("100")
        for name in COMMANDS:
            path = self.bin / name
            path.write_text(_SCRIPT.format(python=sys.executable, folder=str(folder)))
            path.chmod(0o755)

    def calls(self, command: str) -> list[dict[str, Any]]:
        """The calls of a command, in their order."""
        path = self.folder / "calls.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["command"] == command]

    def forget(self) -> None:
        """Forget the calls."""
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    def fail(self, command: str, words: str) -> None:
        """Let a command fail from now on."""
        (self.folder / f"{command}.fail").write_text(words)

    def mend(self, command: str) -> None:
        """Let it work again."""
        (self.folder / f"{command}.fail").unlink()

    def rows(self) -> list[list[Any]]:
        """The queue: name, job, array job, index, state, node, reason, time left."""
        rows: list[list[Any]] = json.loads((self.folder / "queue.json").read_text())
        return rows

    def set_rows(self, rows: list[list[Any]]) -> None:
        """Replace the queue."""
        (self.folder / "queue.json").write_text(json.dumps(rows))

    def change(self, name: str, index: int | None, state: str | None, node: str = "node1",
               reason: str = "None") -> None:
        """Move a job on; None takes it out of the queue."""
        wanted = "N/A" if index is None else index
        others = [row for row in self.rows() if (row[0], row[3]) != (name, wanted)]
        found = [row for row in self.rows() if (row[0], row[3]) == (name, wanted)]
        assert len(found) == 1
        self.set_rows(others + ([[*found[0][:4], state, node, reason, "1:00"]] if state else []))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A fake cluster before everything else on PATH; nothing of a real one is in the environment."""
    fake = FakeSlurm(tmp_path / "fake-slurm")
    for name in list(os.environ):
        if name.startswith(("SLURM", "SBATCH", "SQUEUE", "PVDR_BENCH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{fake.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    return fake


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any of the scheduler's commands."""
    empty = tmp_path / "no-commands"
    empty.mkdir()
    (empty / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))


# Runs in states -------------------------------------------------------------------------------------------------------

PROFILE = {"name": "test", "device": "cpu", "scale": "smoke", "cpus_per_task": 1, "time_min": 30, "leave_s": 60}
ID = "20260101-000000-abcd"  # of a submission
NAME = f"pvdr-{ID}-r0"


def submission(results: Path, stages: dict[str, str] | None = None, jobs: dict[str, str] | None = None,
               **profile: Any) -> Submission:
    """A submission's folder as ``submit`` leaves it; ``stages``: key by name."""
    found = Submission(results / ".slurm" / ID)
    found.logs.mkdir(parents=True)
    facts = PROFILE | profile
    found.write({"command": ["pvdr-bench", "submit"], "snapshot": "", "profiles": {"runs": facts, "stages": facts},
                 "stages": stages or {}, "arrays": {}, "jobs": {NAME: "101"} if jobs is None else jobs})
    return found


def submitted_run(results: Path, index: int = 0, after: str | None = None, spec: Any = None) -> Path:
    """A run with the files that ``submit`` writes."""
    chosen = spec or make_spec(seed=index)
    run_dir = RunDir(chosen.path(results))
    run_dir.open(chosen)
    RunRecord(ID, NAME, index, chosen.protocol.env_steps, str(results), after).write(run_dir.path)
    return run_dir.path


def lock(run: Path, host: str = "node1", job: str = "101_0", age: float = 0.0, **more: Any) -> None:
    """A lock that a process on another machine holds, last heard of ``age`` seconds ago."""
    write_json(run / "lock", {"host": host, "pid": 7, "start": "1", "scope": "other", "job": job, "restarts": 0,
                              "token": "t", **more})
    then = time.time() - age
    os.utime(run / "lock", (then, then))


def entry(index: int, state: str = "RUNNING", reason: str = "None", name: str = NAME) -> list[Any]:
    """A line of the queue."""
    return [name, 1000 + index, 101, index, state, "" if state == "PENDING" else "node1", reason, "9:00"]


def asked(fake: FakeSlurm) -> dict[tuple[str, int], QueuedJob]:
    """What squeue says now, without the call being counted."""
    found = queue()
    fake.forget()
    return found
