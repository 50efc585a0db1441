"""Who holds a lock, and whether that process can still be alive.

A holder is certainly gone: on the same host (same boot, same process namespace) when the process is dead or its id
belongs to a later process; in SLURM, when the same job was requeued. Of another host's processes nothing is known.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def process_start(pid: int) -> str | None:
    """When a process began, in the kernel's own units; None where it is dead (or a zombie) or cannot be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def process_alive(pid: int) -> bool:
    """Whether a process of this host runs; a zombie does not."""
    if Path("/proc/self/stat").exists():
        return process_start(pid) is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _scope() -> str:
    """What process ids are comparable within: this boot and this process namespace."""
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _boot(scope: str) -> str:
    return scope.partition(" ")[0]


def job_id() -> str | None:
    """The SLURM job (with its array index) this process belongs to."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often the SLURM job that this process belongs to has been started again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def place() -> dict[str, Any]:
    """Where this process is, for watchers: node, job and how often that job was started again."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    return {"node": node, "job": job_id(), "restarts": restarts()}


def identity() -> dict[str, Any]:
    """What a lock says about its holder."""
    return {
        "host": socket.gethostname(), "pid": os.getpid(), "start": process_start(os.getpid()), "scope": _scope(),
        "job": job_id(), "restarts": restarts(),
        "command": Path(sys.argv[0]).name if sys.argv else "", "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "token": uuid.uuid4().hex,
    }


def certainly_gone(holder: Mapping[str, Any], me: Mapping[str, Any]) -> bool | None:
    """True: the holder is dead; False: it lives; None: it cannot be known from here, ask the heartbeat."""
    if holder.get("job") and holder.get("job") == me.get("job") and holder.get("restarts", 0) < me.get("restarts", 0):
        return True
    if holder.get("host") != me.get("host"):
        return None
    scope, mine = str(holder.get("scope") or ""), str(me.get("scope") or "")
    if scope != mine:
        # The same host after a reboot has no processes from before; another namespace (a container) is unknown.
        rebooted = _boot(scope) != _boot(mine) and scope.partition(" ")[2] == mine.partition(" ")[2]
        return True if rebooted and scope and mine else None
    pid = holder["pid"]
    if not process_alive(pid):
        return True
    start = process_start(pid)
    return holder.get("start") is not None and start is not None and start != holder["start"]


def describe(holder: Mapping[str, Any] | None) -> str:
    """A holder in words."""
    if holder is None:
        return "nobody"
    job = f", job {holder['job']}" if holder.get("job") else ""
    since = f", since {holder['since']}" if holder.get("since") else ""
    return f"process {holder.get('pid')} on {holder.get('host')}{job}{since}"
