"""Atomic files, JSON without NaN tokens, append-only logs."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.errors import DataError, StorageError
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.runs import faults
from pvdr_bench.runs.files import atomic_write, content_hash, from_json, read_json, storage_errors, to_json, write_json
from pvdr_bench.runs.logs import JsonlLog, read_jsonl, read_jsonl_from
from pvdr_bench.videos.parts import check_parts


def refuse_constants(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


@pytest.mark.parametrize("row", [
    {"loss": math.nan}, {"a": {"b/c": [1.0, -math.inf, {"~": math.inf}]}}, {"x": 1e-300, "y": 0.1 + 0.2, "n": None},
    {"text": "λ \n \u2028", "big": 2**100, "t": True},
])
def test_json_round_trip_is_exact_and_strict(row):
    text = to_json(row)
    strict = json.loads(text, parse_constant=refuse_constants)
    assert repr(from_json(text)) == repr(row)  # repr, since nan != nan
    if "loss" in row:
        assert strict == {"loss": None, "_nonfinite": {"/loss": "nan"}}


def test_json_takes_numpy_and_refuses_the_unknown():
    row = {"f": np.float32(0.5), "i": np.int64(3), "b": np.bool_(True), "a": np.arange(2), "n": np.float64("nan")}
    back = from_json(to_json(row))
    assert {k: v for k, v in back.items() if k != "n"} == {"f": 0.5, "i": 3, "b": True, "a": [0, 1]}
    assert math.isnan(back["n"])
    with pytest.raises(TypeError, match="object"):
        to_json({"x": object()})


def test_content_hash_depends_on_values_only():
    assert content_hash({"a": 1, "b": (2.0, None)}) == content_hash({"b": [2.0, None], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert len(content_hash({})) == 12


def test_atomic_write_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "done.json"
    write_json(path, {"v": 1})
    monkeypatch.setenv(faults.FULL_AT, "write/done.json/torn")
    monkeypatch.setattr(faults, "_passed", faults.Counter())
    with pytest.raises(StorageError) as caught:
        write_json(path, {"v": 2})
    assert str(tmp_path) in str(caught.value) and "make room" in str(caught.value) and caught.value.exit_code == 9
    assert read_json(path) == {"v": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["done.json"]


def test_a_really_full_device_is_a_storage_error():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(StorageError, match="full"), storage_errors(Path("/dev/full")), \
            Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


def test_unwritable_places_are_storage_errors_and_other_errors_pass(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        atomic_write(tmp_path / "file" / "below", b"x")
    with pytest.raises(InterruptedError), storage_errors(tmp_path):
        raise InterruptedError(errno.EINTR, "x")


def test_broken_json_file_names_itself(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1')
    with pytest.raises(DataError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_log_rows_reach_readers_at_once_and_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "train.jsonl"
    log = JsonlLog(path)
    log.append({"a": 1})
    log.append({"a": math.inf})
    assert read_jsonl(path) == [{"a": 1}, {"a": math.inf}]
    log.close()
    with path.open("ab") as file:
        file.write(b'{"a": 3}'[:-1])
    assert len(read_jsonl(path)) == 2
    again = JsonlLog(path)
    assert again.offset() == len(b'{"a": 1}\n') + len(b'{"a": null, "_nonfinite": {"/a": "inf"}}\n')
    again.append({"a": 4})
    assert [row["a"] for row in read_jsonl(path)] == [1, math.inf, 4]


def test_a_log_of_one_torn_line_is_empty(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"a"' + b"x" * 200_000)
    assert read_jsonl(path) == []
    log = JsonlLog(path)
    log.append({"b": 1})
    assert path.read_bytes() == b'{"b": 1}\n'


def test_broken_middle_line_says_line_and_byte(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(DataError, match=r"train\.jsonl: line 2, byte 9"):
        read_jsonl(path)
    path.write_bytes(b"[1]\n")
    with pytest.raises(DataError, match="line 1"):
        read_jsonl(path)


def test_truncate_goes_back_to_an_offset(tmp_path):
    path = tmp_path / "train.jsonl"
    log = JsonlLog(path)
    log.append({"a": 1})
    offset = log.sync()
    log.append({"a": 2})
    log.truncate(offset)
    assert read_jsonl(path) == [{"a": 1}]
    log.append({"a": 5})
    assert read_jsonl(path) == [{"a": 1}, {"a": 5}]
    with pytest.raises(DataError, match="checkpoint needs"):
        log.truncate(10_000)
    with pytest.raises(DataError, match="end of a line"):
        log.truncate(offset - 1)
    log.truncate(0)
    assert path.read_bytes() == b""
    JsonlLog(tmp_path / "none.jsonl").truncate(0)
    assert not (tmp_path / "none.jsonl").exists()


def test_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl"
    log = JsonlLog(path)
    log.append({"a": 1})
    monkeypatch.setattr(faults, "_passed", faults.Counter())
    monkeypatch.setenv(faults.FULL_AT, "log/train.jsonl/torn")
    with pytest.raises(StorageError, match=r"train\.jsonl"):
        log.append({"a": 2})
    monkeypatch.delenv(faults.FULL_AT)
    assert path.read_bytes() == b'{"a": 1}\n'
    log.append({"a": 3})
    assert read_jsonl(path) == [{"a": 1}, {"a": 3}]


def test_following_a_log(tmp_path):
    path = tmp_path / "train.jsonl"
    assert read_jsonl_from(path, 0) == ([], 0)
    log = JsonlLog(path)
    log.append({"a": 1})
    rows, offset = read_jsonl_from(path, 0)
    log.append({"a": 2})
    assert rows == [{"a": 1}]
    assert read_jsonl_from(path, offset)[0] == [{"a": 2}]
    log.truncate(0)
    log.append({"a": 9})
    assert read_jsonl_from(path, 2 * offset)[0] == [{"a": 9}]


def test_what_has_a_name_is_on_the_disk_before_and_its_name_after(tmp_path, monkeypatch):
    """Tests do not wait for a disk (tests/quick_disk.py), so here is seen that the product does."""
    events, replace = [], Path.replace
    descriptors = Path("/proc/self/fd")
    monkeypatch.setattr(os, "fsync", lambda number: events.append(str((descriptors / str(number)).readlink())))
    monkeypatch.setattr(Path, "replace", lambda path, target: (events.append("replace"), replace(path, target))[1])
    atomic_write(tmp_path / "a.json", b"{}")
    assert events[0].startswith(f"{tmp_path}/.a.json.") and events[1:] == ["replace", str(tmp_path)]
    log = JsonlLog(tmp_path / "log.jsonl")
    log.append({"step": 1})
    before = len(events)
    log.sync()
    assert f"{tmp_path}/log.jsonl" in events[before:]
    log.close()


@pytest.mark.parametrize("make", [
    lambda folder: EpisodeReplay(folder, 1, 8, 2), lambda folder: check_parts(folder, {}),
    lambda folder: JsonlLog(folder / "log.jsonl").append({}), lambda folder: write_json(folder / "a.json", {}),
])
@pytest.mark.parametrize(("where", "hint"), [
    ("file", "a file stands where a folder is needed"), ("file/below", "a file stands where a folder is needed"),
    ("/proc/nowhere", "cannot be made: choose another one")])
def test_a_folder_that_cannot_be_made_is_told_with_its_place(tmp_path: Path, make: Callable[[Path], object], where: str,
                                                             hint: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=hint) as raised:
        make(tmp_path / where)
    assert str(tmp_path / where) in str(raised.value) and raised.value.exit_code == 9


def test_a_folder_is_no_place_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, Path(), Path("/")):
        with pytest.raises(StorageError, match="a folder stands where a file is needed") as raised:
            atomic_write(path, b"data")
        assert str(raised.value).startswith(f"{path}: ") and "add the file's name" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_writing_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.MonkeyPatch.context() as patched, pytest.raises(StorageError) as raised:
        patched.setattr(os, "open", refuse)
        atomic_write(tmp_path / "figure.png", b"data")
    assert raised.value.where == str(tmp_path / "figure.png") and "--out" in str(raised.value)
