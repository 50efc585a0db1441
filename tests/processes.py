"""Run a function in a child with environment variables set: of a server that has imported torch, or of this process."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkProcess, ForkServerProcess
from pathlib import Path
from typing import Any

from pvdr_bench.errors import BenchError
from tests import quick_disk  # noqa: F401  # in children, too

# The fork server imports its preloads before it gets this process's sys.path.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
_context = multiprocessing.get_context("forkserver")
_PRELOADED = ["tests.preloaded"]


def _child(function: Callable[..., Any], arguments: tuple[Any, ...], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    try:
        code = function(*arguments)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    os._exit(code or 0)


def start(function: Callable[..., Any], *arguments: Any, **environment: str) -> ForkServerProcess:
    """Start ``function(*arguments)``; its integer result is the exit code (99 after an exception)."""
    _context.set_forkserver_preload([*_PRELOADED, function.__module__])  # the first call's: the server starts with it
    process = _context.Process(target=_child, args=(function, arguments, environment))
    process.start()
    return process


def forked(function: Callable[[], Any], **environment: str) -> ForkProcess:
    """Start ``function()`` in a fork, which has all that the test has replaced; the exit code is that of its error."""
    def work() -> None:
        os.environ.update(environment)
        try:
            function()
        except BenchError as error:
            sys.exit(error.exit_code)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def call(function: Callable[..., Any], *arguments: Any, **environment: str) -> int:
    """The exit code of ``function(*arguments)`` in a child (negative: killed by that signal)."""
    process = start(function, *arguments, **environment)
    process.join(120)
    assert process.exitcode is not None, "the child process hangs"
    return process.exitcode
