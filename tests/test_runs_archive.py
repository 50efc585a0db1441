"""Runs in one archive: the same bytes each time, all of it checked, and nothing that leads out of its folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.runs import archive as module
from pvdr_bench.runs.archive import MANIFEST, Archive, archived_runs, open_archive, run_name, unpack, write_archive
from pvdr_bench.runs.files import sha256
from pvdr_bench.runs.paths import ARCHIVE

FORK = multiprocessing.get_context("fork")
FILES = {"ppo/reach/none/cpu/seed-0/run.yaml": b"recipe: {}\n", "ppo/reach/none/cpu/seed-0/train.jsonl": b"{}\n" * 500,
         "ppo/reach/none/cpu/seed-1/failed.json": b"{}", "ppo/reach/none/cpu/seed-1/deep/run.yaml": b"x"}
RUNS = ["ppo/reach/none/cpu/seed-0", "ppo/reach/none/cpu/seed-1"]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def packed(tmp_path: Path) -> Archive:
    for name, content in FILES.items():
        (tmp_path / "loose" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loose" / name).write_bytes(content)
    return write_archive(tmp_path / "results" / ARCHIVE, {name: tmp_path / "loose" / name for name in reversed(FILES)})


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_files_give_the_same_bytes(packed: Archive, tmp_path: Path) -> None:
    first = packed.path.read_bytes()
    for name in FILES:
        os.utime(tmp_path / "loose" / name, (1e9, 1e9))
        (tmp_path / "loose" / name).chmod(0o600)
    write_archive(packed.path, {name: tmp_path / "loose" / name for name in FILES})
    assert packed.path.read_bytes() == first and len(first) < sum(map(len, FILES.values()))
    assert list(packed.path.parent.iterdir()) == [packed.path]
    with zipfile.ZipFile(packed.path) as plain:  # any zip program reads it
        assert plain.namelist() == [MANIFEST, *sorted(FILES)] and plain.testzip() is None
    told = open_archive(packed.path).members["ppo/reach/none/cpu/seed-0/run.yaml"]
    assert (told.size, told.sha256) == (11, sha256(b"recipe: {}\n"))


def test_it_comes_out_as_it_went_in(packed: Archive, tmp_path: Path) -> None:
    assert packed.runs() == RUNS
    unpack(packed, tmp_path / "out")
    unpack(packed, tmp_path / "out")  # the same again
    assert read_all(tmp_path / "out") == FILES
    (tmp_path / "out" / RUNS[0] / "run.yaml").write_text("mine")
    with pytest.raises(UsageError, match="another content"):
        unpack(packed, tmp_path / "out")
    assert (tmp_path / "out" / RUNS[0] / "run.yaml").read_text() == "mine"


def test_the_copy_is_made_once_and_made_anew_where_it_was_changed(packed: Archive, data: Path) -> None:
    runs = archived_runs(packed.path.parent)
    assert list(runs) == RUNS and read_all(next((data / ".unpacked").iterdir())) == FILES
    inode = (runs[RUNS[0]] / "run.yaml").stat().st_ino
    assert archived_runs(packed.path.parent) == runs and (runs[RUNS[0]] / "run.yaml").stat().st_ino == inode
    for change in (lambda: (runs[RUNS[0]] / "run.yaml").write_text("recipe: []\n"),
                   lambda: (runs[RUNS[0]] / "train.jsonl").unlink(), lambda: (runs[RUNS[0]] / "lock").write_text("")):
        change()
        assert archived_runs(packed.path.parent) == runs and read_all(next((data / ".unpacked").iterdir())) == FILES
    assert len(list((data / ".unpacked").iterdir())) == 1
    assert archived_runs(data) == {}


@pytest.mark.parametrize("stand", [lambda path: path.write_text("x"), lambda path: path.symlink_to(path.parent),
                                   lambda path: path.symlink_to("nowhere")])
def test_something_else_in_the_copys_place_goes(packed: Archive, data: Path, stand: Callable[[Path], Any]) -> None:
    copy = next(iter(archived_runs(packed.path.parent).values())).parents[4]
    shutil.rmtree(copy)
    stand(copy)
    assert list(archived_runs(packed.path.parent)) == RUNS and read_all(copy) == FILES and not copy.is_symlink()


@pytest.mark.parametrize("stand", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_something_else_in_the_archives_place_is_told(tmp_path: Path, stand: Callable[[Path], Any]) -> None:
    stand(tmp_path / ARCHIVE)
    with pytest.raises(DataError, match="this is no file"):
        archived_runs(tmp_path)


def test_a_data_folder_that_cannot_be_made(packed: Archive, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.write_text("a file stands here")
    runs = archived_runs(packed.path.parent)
    assert (runs[RUNS[0]] / "run.yaml").read_bytes() == FILES[f"{RUNS[0]}/run.yaml"]
    assert [run_name(run, packed.path.parent) for run in runs.values()] == RUNS
    shutil.rmtree(runs[RUNS[0]].parents[6])


def _unpack(root: Path, barrier: Any, told: Any) -> None:
    barrier.wait()
    told.put(read_all(next(iter(archived_runs(root).values())).parents[4]) == FILES)


def test_many_processes_unpack_at_once(packed: Archive) -> None:
    barrier, told = FORK.Barrier(4), FORK.Queue()
    children = [FORK.Process(target=_unpack, args=(packed.path.parent, barrier, told)) for _ in range(4)]
    for child in children:
        child.start()
    assert [told.get(timeout=60) for _ in children] == [True] * 4
    for child in children:
        child.join()


def forged(path: Path, files: dict[str, bytes], told: dict[str, Any] | None = None,
           change: Callable[[zipfile.ZipInfo], None] = lambda info: None) -> Path:
    """An archive as somebody else may make it."""
    rows = {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in files.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps({"format": 1, "files": rows if told is None else told}))
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../x", "a\\..\\x", "C:/x", "a//b", "./x", "a/\x1b[2Jx"])
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    path = forged(tmp_path / "x.zip", {name: b"x"})
    with pytest.raises(DataError, match="name leads out"):
        open_archive(path)


def test_what_no_archive_of_runs_holds(tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    def squeezed(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_LZMA

    digest, path = sha256(b"x"), tmp_path / "x.zip"
    cases: list[tuple[str, Callable[[], Path]]] = [
        ("no plain file", lambda: forged(path, {"a/b": b"/etc/passwd"}, change=link)),
        ("no plain file", lambda: forged(path, {"a": b"x", "a/b": b"x"})),
        ("compression 14", lambda: forged(path, {"a": b"x"}, change=squeezed)),
        ("not in the manifest", lambda: forged(path, {"a": b"x"}, {})),
        ("not in the archive", lambda: forged(path, {}, {"a": {"bytes": 1, "sha256": digest}})),
        ("1 bytes, and 2 in the manifest", lambda: forged(path, {"a": b"x"}, {"a": {"bytes": 2, "sha256": digest}})),
        ("not a list of files", lambda: forged(path, {"a": b"x"}, {"a": 3})),
        ("not a list of files", lambda: forged(path, {"a": b"x"}, {"a": {"bytes": "many", "sha256": digest}})),
        ("would unpack to", lambda: forged(path, {str(i): bytes(2**20) for i in range(65)})),
    ]
    for message, make in cases:
        with pytest.raises(DataError, match=message):
            open_archive(make())
    path.write_bytes(b"no zip at all")
    with pytest.raises(DataError, match="damaged"):
        open_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x")
    with pytest.raises(DataError, match="no manifest.json"):
        open_archive(path)
    with pytest.raises(UsageError, match="no archive"):
        open_archive(tmp_path / "absent.zip")


def test_any_damaged_byte_is_found_or_harmless(packed: Archive, tmp_path: Path) -> None:
    """Every third byte flipped, and cuts: the contents are right, or one DataError names the archive."""
    whole, path, refused = packed.path.read_bytes(), tmp_path / "damaged.zip", 0
    cases = [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:] for at in range(0, len(whole), 3)]
    for case in (*cases, *(whole[:at] for at in range(0, len(whole), 50))):
        path.write_bytes(case)
        try:
            assert dict(open_archive(path).contents()) == FILES
        except DataError as error:
            refused += 1
            assert str(path) in str(error.where)
    assert refused > len(cases) // 2


def test_a_damaged_file_is_named(packed: Archive, tmp_path: Path) -> None:
    path = forged(tmp_path / "x.zip", {"a/run.yaml": b"x"}, {"a/run.yaml": {"bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(DataError, match="checksum") as raised:
        unpack(open_archive(path), tmp_path / "out")
    assert raised.value.where == f"{path}: a/run.yaml" and not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_is_packed(packed: Archive, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    before = packed.path.read_bytes()
    monkeypatch.setattr(module, "sha256_file", lambda path: "0" * 64)
    with pytest.raises(DataError, match="checksum"):
        write_archive(packed.path, {name: tmp_path / "loose" / name for name in FILES})
    assert packed.path.read_bytes() == before and list(packed.path.parent.iterdir()) == [packed.path]
