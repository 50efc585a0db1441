"""One run in a process of its own: ``python -m pvdr_bench.launch.worker``.

The first line of standard input is the order (JSON: spec, results, device); then the input stays open as a lifeline:
when it ends, the process that gave the order is gone and the run stops as if it had got a signal. The last line of
standard output is the outcome (JSON: exit_code, message).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from pvdr_bench.errors import BenchError, LockedError
from pvdr_bench.streams import of_no_matter

GRACE_SECONDS = 120.0  # from the lifeline's end until the process ends itself, checkpoint or not


class StopFlag:
    """Set by SIGTERM, SIGINT, SIGUSR1, SIGUSR2 or by hand; asked by loops."""

    def __init__(self) -> None:
        self.is_set = False
        self.signals: list[int] = []  # that came, in their order

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.is_set

    def set(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Ask for a stop."""
        self.is_set = True
        if signum:
            self.signals.append(signum)

    def install(self) -> StopFlag:
        """Let the usual signals set it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self.set)
        return self


def watch_lifeline(stop: StopFlag) -> None:
    """Stop when standard input ends; a process that cannot is ended after a grace time."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        stop.set()
        time.sleep(GRACE_SECONDS)
        os._exit(75)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def read_order() -> dict[str, Any]:
    """The first line of standard input, unbuffered, so that the rest stays in the pipe."""
    data = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        data += byte
    order: dict[str, Any] = json.loads(data)
    return order


def perform(order: dict[str, Any], stop: StopFlag) -> bool:
    """Do the ordered run; False if it was stopped first."""
    from pvdr_bench.catalog.specs import RunSpec
    from pvdr_bench.runs.users import User
    from pvdr_bench.training.execute import execute
    from pvdr_bench.training.stages import Stages

    spec, results = RunSpec.model_validate(order["spec"]), Path(order["results"])
    stages = Stages(spec, order["device"], stop, env_workers=order["env_workers"], user=User.run(results, spec))
    return execute(spec, results, stages.pieces, stop, stages.device)


@of_no_matter()  # where the disk is full, so may be that of worker.log; the outcome is still told
def main(work: Callable[[dict[str, Any], StopFlag], bool] = perform) -> int:
    """Read an order, do it and tell the outcome; returns the exit code."""
    stop = StopFlag().install()
    order = read_order()
    watch_lifeline(stop)
    try:
        code, message = (0, "done") if work(order, stop) else (75, "stopped; the same command continues")
    except BenchError as error:
        code, message = error.exit_code, str(error)
        if not isinstance(error, LockedError):  # which is no fault, and the log is that of the process that has the run
            traceback.print_exc()
    except Exception as error:
        code, message = 1, f"{type(error).__name__}: {error}"
        traceback.print_exc()
    print(json.dumps({"exit_code": code, "message": message}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
