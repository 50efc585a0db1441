"""Run as ``python -m tests.stream_driver``: calls commands in forked children whose streams are broken.

Standard input: JSON list of [streams, arguments]. Standard output: JSON list of [exit code, what standard error got].
Streams: ``full`` (stdout is /dev/full), ``gone`` (a pipe without a reader), ``closed``, ``mute`` (stderr closed too,
and stdout full). One interpreter serves them all, with the commands imported once: a hundred calls are a few seconds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from typing import Any


def break_streams(kind: str) -> None:
    """Make the streams of this process as the interpreter would find them."""
    if kind == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]  # as Python has it where descriptor 1 is closed at its start
        return
    if kind == "gone":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)
    os.dup2(writer, 1)
    os.close(writer)
    if kind == "mute":
        os.close(2)
        sys.stderr = None  # type: ignore[assignment]


def child(kind: str, arguments: list[str], log: int) -> None:
    """Call one command and leave as the interpreter would, its last flush included."""
    os.dup2(log, 2)
    break_streams(kind)
    code: Any = 1
    try:
        from pvdr_bench.cli.main import main

        main(arguments)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        code = 120  # what the interpreter says when its last flush fails
    os._exit(int(code))


def call(kind: str, arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error of one command."""
    with tempfile.TemporaryFile() as log:
        process = os.fork()
        if process == 0:
            child(kind, arguments, log.fileno())
        _, status = os.waitpid(process, 0)
        log.seek(0)
        return os.waitstatus_to_exitcode(status), log.read().decode(errors="replace")


if __name__ == "__main__":
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.cli.lazy import load_command
    from pvdr_bench.cli.main import MainGroup

    load_catalog()
    for name, lazy in MainGroup.table.items():
        load_command(name, lazy.target)
    print(json.dumps([call(kind, arguments) for kind, arguments in json.load(sys.stdin)]))
