"""Damage to one file: what disks, editors, other programs and people do to it. Each kind is drawn from a generator."""

from __future__ import annotations

import errno
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Change = Callable[[bytes, random.Random], bytes]
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (key, key, b", ".join([b"*%c" % (key - 1)] * 9)) for key in range(ord("b"), ord("j")))
VALUES = ("abc", "", -1, 0, 1e308, True, None, [], {}, [1], {"a": 1}, 2**70, -0.5, "\x1b[2J", "a/../../b", 10**18)


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[:rng.randrange(len(data) + 1)]


def flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def nested(data: bytes, rng: random.Random) -> bytes:
    deep = rng.choice((b"[" * 100_000, b"[" * 900 + b"]" * 900, b'{"a":' * 300 + b"1" + b"}" * 300))
    return rng.choice((deep, b'{"env_steps": ' + deep + b"}\n", b"recipe: " + deep + b"\n", data + deep + b"\n"))


def huge(data: bytes, rng: random.Random) -> bytes:
    return _number(data, rng, rng.choice((b"1" + b"0" * 400, b"1e999", b"9" * 30, b"-1e999", b"1" * 6000)))


def no_number(data: bytes, rng: random.Random) -> bytes:
    return _number(data, rng, rng.choice((b"NaN", b"Infinity", b"-Infinity", b".nan", b".inf", b'"5"', b"null")))


def negative(data: bytes, rng: random.Random) -> bytes:
    return _number(data, rng, b"-%d" % rng.randrange(1, 10**6))


def _number(data: bytes, rng: random.Random, new: bytes) -> bytes:
    """One number replaced."""
    found = list(re.finditer(rb"(?<=[ :,\[])-?\d+(\.\d+)?", data))
    if not found:
        return new
    at = rng.choice(found)
    return data[:at.start()] + new + data[at.end():]


def mistyped(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON text, or of one line of a log or a YAML file, of another type."""
    lines = data.splitlines(keepends=True)
    if data[:1] == b"{" and len(lines) and lines[0].strip() == b"{":
        value = json.loads(data)
        _somewhere(value, rng)
        return json.dumps(value).encode()
    if data[:1] == b"{":
        at = rng.randrange(len(lines))
        value = json.loads(lines[at])
        _somewhere(value, rng)
        lines[at] = json.dumps(value).encode() + b"\n"
        return b"".join(lines)
    at = [i for i, line in enumerate(lines) if b": " in line]
    if at:
        i = rng.choice(at)
        lines[i] = lines[i].partition(b": ")[0] + b": " + json.dumps(rng.choice(VALUES)).encode() + b"\n"
    return b"".join(lines)


def _somewhere(value: object, rng: random.Random) -> None:
    while isinstance(value, dict) and value:
        key = rng.choice(list(value))
        if rng.random() < 0.3:
            del value[key]
            return
        if not isinstance(value[key], dict) or rng.random() < 0.3:
            value[key] = rng.choice(VALUES)
            return
        value = value[key]


def lost_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def twice(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    return data + (rng.choice(lines) if lines else b"")


def pointer(data: bytes, rng: random.Random) -> bytes:
    bad = rng.choice(({"/no/such": "nan"}, {"/env_steps": "nan"}, {"": "nan"}, {"/0": "5"}, [], "x", {"/time": 1}))
    text = json.dumps({"_nonfinite": bad}).encode()
    return data.replace(b"{", text[:-1] + b", ", 1) if b"{" in data else text


CHANGES: dict[str, Change] = {
    "truncated": truncated, "flipped": flipped, "nested": nested, "huge": huge, "no number": no_number,
    "negative": negative, "mistyped": mistyped, "lost line": lost_line, "twice": twice, "pointer": pointer,
    "empty": lambda data, rng: b"", "bomb": lambda data, rng: BOMB, "no UTF-8": lambda data, rng: _insert(data, rng),
    "long line": lambda data, rng: data + b'{"a": "' + b"x" * 2_000_000 + b'"}\n',
    "zeros": lambda data, rng: b"\0" * len(data),
}


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80")) + data[at:]


def folder(path: Path) -> None:
    path.mkdir()
    (path / "a").write_text("file")


PLACES: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: None, "folder": folder, "pipe": os.mkfifo, "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"), "device": lambda path: path.symlink_to("/dev/zero"),
}
KINDS = (*CHANGES, *PLACES, "refused")  # refused: no permission; root has all, so a test lets os.open say so


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Do it. The file may be new: then a change starts from nothing."""
    data = path.read_bytes() if path.is_file() else b"{}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind in PLACES:
        path.unlink(missing_ok=True)
        PLACES[kind](path)
    elif kind in CHANGES:
        path.write_bytes(CHANGES[kind](data, rng))
    elif not path.exists():
        path.write_bytes(data)


@contextmanager
def refusing(path: Path, code: int = errno.EACCES) -> Iterator[None]:
    """Let os.open refuse one file; root itself has every permission."""
    real = os.open

    def refuse(name: Any, *rest: Any, **more: Any) -> int:
        if isinstance(name, str | Path) and Path(name) == path:
            raise OSError(code, os.strerror(code), str(name))
        return real(name, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield
