"""``bench gpu-check``: in one call of under nine minutes, what only a GPU shows.

Each part is a process of its own with a time limit, so that one that runs out of memory, hangs or breaks the device's
context takes no other with it; what a part has found comes line by line, and the file is written anew at each. Limits
add up to the whole: a part that is done early leaves its time to the later ones. Nothing is installed or fetched, and
only the last two parts need a simulator. Imports no torch: this process must not hold the device's memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told
from pvdr_bench.runs.files import write_json

LIMITS = {"machine": 30, "tests": 65, "tokenizer": 35, "pretrain": 30, "online": 45, "plan": 25, "dreamerv2": 55,
          "apv": 55, "contextwm": 25, "prelar": 20, "dreamerv3": 20, "efficientzero": 20, "ficc": 15, "stg": 15,
          "ppo": 25, "pvdr": 35}  # seconds, in this order; 515 together
PARTS = tuple(LIMITS)
NEED_SIMULATOR = ("ppo", "pvdr")
CHILD = (sys.executable, "-m", "pvdr_bench.bench.gpu_parts")
POLL_SECONDS = 0.2
ENDS = 3000  # characters of a failed part's output that are kept


@dataclass(frozen=True)
class Order:
    """What a part is told, as JSON on the first line of its standard input; that it ends says that nobody waits."""

    part: str
    device: str
    scale: str
    run_scale: str
    task: str
    compiled: tuple[str, ...]
    seconds: float  # that it has; it is killed after them
    seed: int


def measure(device: str = "cuda", scale: str = "paper", run_scale: str = "gpu", parts: tuple[str, ...] = PARTS,
            task: str = "reach", compiled: tuple[str, ...] = ("step",), minutes: float = 8.6,
            out: str = "gpu-check.json", seed: int = 0) -> dict[str, Any]:
    """Do the parts one after the other.

    Args:
        scale: sizes of steps, plans and updates. run_scale: of the runs whose first minutes are measured.
        parts: which. machine: what the device is, its matrix-product peak. tests: those of the suite marked ``gpu``.
            tokenizer, pretrain, online: :mod:`~pvdr_bench.bench.onestep` with operations counted. plan: 16 candidates
            of :mod:`~pvdr_bench.bench.plan`. dreamerv2, apv, contextwm, prelar, dreamerv3: an update, see
            :mod:`~pvdr_bench.bench.dreamer`. efficientzero: updates with their searches. ficc, stg: steps of
            pre-training. All of them on random pictures. ppo, pvdr: the beginning of a run and what it says of the
            whole, with untrained weights where the scale's artefacts are not there.
        compiled: what the updates of dreamerv2 and apv are measured with, compiled, beside eager ones; () for nothing.
        minutes: for all of it.
        out: the file that is written after every finding; "": none.

    Returns:
        The order, and by part: state (passed, failed, skipped, out of time), seconds, limit, found, error or reason.
        failed, skipped: names of parts. seconds of the whole.

    Raises:
        UsageError: no such part.
    """
    if unknown := set(parts) - set(PARTS):
        raise UsageError(f"there is no part {', '.join(sorted(unknown))}", where="-o parts",
                         hint=f"there is: {', '.join(PARTS)}")
    chosen = [part for part in PARTS if part in parts]
    share = 60 * minutes / sum(LIMITS[part] for part in chosen)
    began, until = time.monotonic(), 0.0
    result: dict[str, Any] = {"device": device, "scale": scale, "run_scale": run_scale, "task": task,
                              "compiled": list(compiled), "minutes": minutes, "parts": {}, "failed": [], "skipped": []}

    def write(name: str, part: Mapping[str, Any]) -> None:
        result["parts"][name] = dict(part)
        result["failed"] = [key for key, one in result["parts"].items() if one["state"] in ("failed", "out of time")]
        result["skipped"] = [key for key, one in result["parts"].items() if one["state"] == "skipped"]
        result["seconds"] = time.monotonic() - began
        if out:
            write_json(Path(out), result)

    for name in told(chosen, "parts"):
        until += share * LIMITS[name]
        left = until - (time.monotonic() - began)
        order = Order(name, device, scale, run_scale, task, tuple(compiled), left, seed)
        if "machine" in result["failed"]:
            write(name, {"state": "failed", "error": "not begun: the part machine failed"})
        else:
            Part(order, write).run()
    return result


class Part:
    """A part's process, and what it has told so far.

    Args:
        tell: given the part's name and state at each finding, and at its end.
    """

    def __init__(self, order: Order, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.order, self._tell = order, tell
        self.found: dict[str, Any] = {}
        self.state: dict[str, Any] = {"state": "running", "seconds": 0.0, "limit": order.seconds, "found": self.found}
        self.read = 0  # bytes of its output

    def run(self) -> None:
        """Until it ends or its time is over; nothing of it is left then."""
        began = time.monotonic()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=output, stderr=errors,
                                       start_new_session=True)
            try:
                assert process.stdin is not None
                with suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(asdict(self.order)).encode() + b"\n")
                    process.stdin.flush()
                while process.poll() is None and time.monotonic() - began < self.order.seconds:
                    time.sleep(POLL_SECONDS)
                    self.state["seconds"] = time.monotonic() - began
                    self._listen(output)
                late = process.poll() is None
            finally:
                self._end(process)
            self.state["seconds"] = time.monotonic() - began
            self._listen(output)
            self._judge(process.returncode, late, _end_of(errors))
        self._tell(self.order.part, self.state)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of the process and of those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()

    def _listen(self, output: Any) -> None:
        """Take in whole lines of its output."""
        size = os.fstat(output.fileno()).st_size
        text = os.pread(output.fileno(), size - self.read, self.read)
        whole = text[:text.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in whole.splitlines():
            told = json.loads(line)
            self.found.update(told.pop("found", {}))
            self.state.update(told)
            self._tell(self.order.part, self.state)

    def _judge(self, code: int | None, late: bool, errors: str) -> None:
        if late:
            self.state.update(state="out of time", error=f"killed after its {self.order.seconds:.0f} s")
        elif self.state["state"] == "running":
            how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
            self.state.update(state="failed", error=f"its process ended {how} without a word")
        if self.state["state"] in ("failed", "out of time"):
            self.state["output"] = errors


def _end_of(file: Any) -> str:
    """The last of what was written to a file."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), ENDS, max(0, size - ENDS)).decode(errors="replace")
