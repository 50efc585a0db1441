"""The process behind ``vector.VectorEnv``: ``python -m pvdr_bench.suites.worker SOCKET MEMORY TIED``.

It answers one message after the other until it is told to close or its parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pvdr_bench.errors import BenchError
from pvdr_bench.suites.group import EnvGroup
from pvdr_bench.suites.processes import STOPPING

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Serve until the end; arguments are two inherited descriptors and whether to die with the parent's thread."""
    descriptor, memory, tied = (int(argument) for argument in arguments)
    parent = os.getppid()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if tied and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            return
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        _serve(connection, memory)


def _serve(connection: Connection, memory: int) -> None:
    group: EnvGroup | None = None
    while True:
        message = connection.recv()
        if message[0] == "close":
            if group is not None:
                group.close()
            return
        try:
            if message[0] == "open":
                group = _open(memory, *message[1:])
                answer: Any = group.action_space
            else:
                answer = getattr(group, message[0])(*message[1:])
        except BenchError as error:
            connection.send(("error", (type(error).__name__, error.message, error.where, error.hint)))
        except Exception as error:
            connection.send(("error", (type(error).__name__, str(error), None, traceback.format_exc())))
        else:
            connection.send(("ok", answer))


def _open(memory: int, config: Any, num_envs: int, part: slice) -> EnvGroup:
    shape = (2, num_envs, config.image_size, config.image_size, 3)
    frames = np.frombuffer(mmap.mmap(memory, int(np.prod(shape))), np.uint8).reshape(shape)
    os.close(memory)
    return EnvGroup(config, part.stop - part.start, frames[:, part])


if __name__ == "__main__":
    main(sys.argv[1:])
