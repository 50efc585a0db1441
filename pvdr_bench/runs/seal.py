"""The seal of a finished run: row counts and sha256 of its files, in ``done.json``.

It tells what was changed since by accident or by hand; it is no signature, and whoever wants to can make it anew. Not
sealed are what may still change (``videos/``, ``heartbeat.json``, ``worker.log``, jobs' files) and ``checkpoints/``,
which have checksums of their own. A run that was finished before there were seals is checked for what can be checked
without one: its final episodes against the protocol and against the means in ``done.json``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pvdr_bench.errors import DataError, UnreadableError
from pvdr_bench.runs.episodes import MEASURED, EpisodeRow
from pvdr_bench.runs.files import canonical_json, encode, sha256
from pvdr_bench.runs.intake import LARGEST_LOG, read_bytes
from pvdr_bench.runs.logs import parse_rows
from pvdr_bench.runs.run_file import read_run_file
from pvdr_bench.runs.schema import DoneFile, SealedFile, SealFile, checked

SEALED = ("run.yaml", "provenance.json", "artefacts.json", "train.jsonl", "episodes.jsonl", "timing.jsonl")
_MARKS, _DIGITS = 128, 8  # checksums within a log, at most, and the hex digits of each: they tell where it changed
_FINAL = b'"final"'
_MEANS = MEASURED[:3]


@dataclass(frozen=True)
class Change:
    """What is not as it was when the run was done: in which file, where in it, and what was expected."""

    file: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file} {self.detail}"


class Unread(Change):
    """A file that cannot be read now, and may be as it was."""


def make_seal(folder: Path, facts: Mapping[str, Any]) -> SealFile:
    """The seal of a run's files as they are now.

    Args:
        facts: all else that will stand in ``done.json``, as JSON types.
    """
    data = {name: _bytes_of(folder / name) for name in SEALED}
    files = {name: None if content is None else sealed_file(name, content) for name, content in data.items()}
    rows = final_rows(data["episodes.jsonl"] or b"", folder, facts.get("env_steps"))
    return closed({"format": 1, "files": files, "final": len(rows), "wanted": wanted_episodes(folder), "sha256": ""},
                  facts)


def closed(seal: SealFile, facts: Mapping[str, Any]) -> SealFile:
    """The seal with the checksum of all else in ``done.json``, its own other keys included."""
    seal = cast(SealFile, {**seal, "sha256": ""})
    return {**seal, "sha256": sha256(encode(canonical_json({**facts, "seal": seal})))}


def resealed(done: DoneFile, name: str, data: bytes) -> dict[str, Any]:
    """``done.json`` with the seal of one file made anew; what it says of the others stays."""
    facts = {key: value for key, value in done.items() if key != "seal"}
    files = {**done["seal"]["files"], name: sealed_file(name, data)}
    return {**facts, "seal": closed({**done["seal"], "files": files}, facts)}


def sealed_file(name: str, data: bytes) -> SealedFile:
    """What the seal says of one file."""
    found: SealedFile = {"bytes": len(data), "sha256": sha256(data)}
    if name.endswith(".jsonl"):
        found |= {"rows": data.count(b"\n"), "marks": _marks(data)}
    return found


def check_seal(folder: Path, done: DoneFile) -> list[Change]:
    """All that is not as it was sealed.

    Raises:
        KeyError: the run has no seal.
    """
    if change := check_facts(done):
        return [change]
    seal = done["seal"]
    changes = [change for name, entry in seal["files"].items() if (change := _compare(folder, name, entry))]
    if not changes and (missing := _missing(seal["final"], seal["wanted"])):
        changes.append(missing)
    return changes


def check_facts(done: DoneFile) -> Change | None:
    """Whether ``done.json`` itself was changed."""
    facts = {key: value for key, value in done.items() if key != "seal"}
    if closed(done["seal"], facts)["sha256"] == done["seal"]["sha256"]:
        return None
    return Change("done.json", "was changed after the run was done: it does not have its own checksum")


def check_unsealed(folder: Path, done: DoneFile) -> list[Change]:
    """What tells without a seal that the final evaluation is not whole, or not what ``done.json`` says of it.

    Raises:
        DataError: a file cannot be read, or a row of the evaluations is none.
    """
    data, path = _bytes_of(folder / "episodes.jsonl") or b"", folder / "episodes.jsonl"
    for number, row in enumerate(parse_rows(data[:data.rfind(b"\n") + 1], path), start=1):
        checked(EpisodeRow, row, f"{path}: row {number}")
    rows = final_rows(data, folder, done["env_steps"])
    missing = _missing(len(rows), wanted_episodes(folder)) or _missing(len(rows), done.get("episodes"))
    if missing:
        return [missing]
    changes = []
    for name in _MEANS if rows else ():
        mean, told = math.fsum(float(row[name]) for row in rows) / len(rows), cast("dict[str, Any]", done).get(name)
        if told is not None and not math.isclose(mean, told, rel_tol=1e-9, abs_tol=1e-9):
            changes.append(Change("episodes.jsonl", f"was changed after the run was done: {name} of its {len(rows)} "
                                                    f"final episodes is {mean:.6g} on average, and done.json says "
                                                    f"{told:.6g}"))
    return changes


def _missing(there: int, wanted: int | None) -> Change | None:
    if wanted is None or there >= wanted:
        return None
    return Change("episodes.jsonl", f"has {there} of the {wanted} episodes of the final evaluation")


def wanted_episodes(folder: Path) -> int | None:
    """How many episodes the final evaluation has by the run's protocol; None where ``run.yaml`` does not say.

    Raises:
        DataError: ``run.yaml`` is broken.
    """
    found = read_run_file(folder / "run.yaml")
    protocol = found["spec"].get("protocol") if found is not None else None
    wanted = protocol.get("eval_final_episodes") if isinstance(protocol, dict) else None
    return wanted if isinstance(wanted, int) else None


def final_rows(data: bytes, folder: Path, env_steps: Any) -> list[dict[str, Any]]:
    """The rows of the final evaluation after ``env_steps``, one per evaluation seed; of two, the later.

    Raises:
        DataError: one is no JSON object.
    """
    rows = parse_rows(data[:data.rfind(b"\n") + 1], folder / "episodes.jsonl", wanted=_FINAL)
    found = [row for row in rows if row.get("point") == "final" and row.get("env_steps") == env_steps]
    return list({str(row.get("eval_seed")): row for row in found}.values())


def _bytes_of(path: Path) -> bytes | None:
    try:
        return read_bytes(path, LARGEST_LOG)
    except FileNotFoundError:
        return None


def _compare(folder: Path, name: str, entry: SealedFile | None) -> Change | None:
    """What is different about one file."""
    try:
        data = _bytes_of(folder / name)
    except DataError as error:
        return unreadable(name, error)
    if data is None:
        return None if entry is None else Change(name, f"is missing; it had {entry['bytes']} bytes")
    if entry is None:
        return Change(name, "was not there when the run was done")
    if len(data) == entry["bytes"] and sha256(data) == entry["sha256"]:
        return None
    if "rows" not in entry:
        return Change(name, f"was changed after the run was done: it has {len(data)} bytes with sha256 "
                            f"{sha256(data)[:12]}, and had {entry['bytes']} with {entry['sha256'][:12]}")
    rows, place = data.count(b"\n"), _first_difference(data, entry)
    count = f"it has {rows} rows, and had {entry['rows']}" if rows != entry["rows"] else "a value was changed"
    return Change(name, f"was changed after the run was done: {count}; the first difference is {place}")


def unreadable(name: str, error: DataError) -> Change:
    """That a file cannot be read as what it should be."""
    kind = Unread if isinstance(error, UnreadableError) else Change
    return kind(name, f"cannot be read: {error.message}")


def _first_difference(data: bytes, entry: SealedFile) -> str:
    """Where a log changed, as far as its marks tell."""
    size, rows, marks = _block(entry["rows"]), entry["rows"], entry.get("marks", "")
    lines = data.splitlines(keepends=True)
    for start in range(0, rows, size):
        at = start // size * _DIGITS
        if _mark(lines[start:min(start + size, rows)]) != marks[at:at + _DIGITS]:
            last = min(start + size, rows)
            return f"in line {last}" if last == start + 1 else f"between lines {start + 1} and {last}"
    return f"after line {rows}"


def _block(rows: int) -> int:
    """Lines that share a mark."""
    return max(1, -(-rows // _MARKS))


def _marks(data: bytes) -> str:
    lines = data.splitlines(keepends=True)
    size = _block(data.count(b"\n"))
    return "".join(_mark(lines[start:start + size]) for start in range(0, len(lines), size))


def _mark(lines: list[bytes]) -> str:
    return hashlib.sha256(b"".join(lines)).hexdigest()[:_DIGITS]
