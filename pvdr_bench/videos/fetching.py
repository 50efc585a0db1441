"""Getting a corpus' files from where its authors keep them: resumed, with their size and checksum compared.

A file is written to ``NAME.part`` and gets its name when its checksum is right, so what bears the name is whole. Where
there is no network, or too little disk, the error says what to put where by hand.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pvdr_bench.errors import DataError, SetupError, StorageError, UsageError
from pvdr_bench.runs.files import make_folder, storage_errors, sync_folder
from pvdr_bench.runs.locks import FileLock
from pvdr_bench.suites.corpora import CorpusSource, Download
from pvdr_bench.videos.readers.base import inside

Progress = Callable[[int, int], None]  # bytes done, bytes in all; it may raise, to stop
TRIES = 6  # without a new byte
_AT_ONCE = 2**20
_PART = ".part"
_LISTING = 2**26  # bytes of a bucket's list
_TIMEOUT = 60.0  # seconds without an answer
_STORAGE = "https://storage.googleapis.com"
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class RemoteFile:
    """One file to get.

    Attributes:
        name: below the corpus' folder.
        digest: of ``algorithm`` (sha256 or md5), hex digits; empty: unknown.
    """

    name: str
    url: str
    size: int
    algorithm: str = "sha256"
    digest: str = ""


def downloads_path(corpus: str, data_dir: Path | str) -> Path:
    """Where a corpus' files lie as they were downloaded: ``DATA/downloads/<corpus>``."""
    return Path(data_dir) / "downloads" / corpus


@dataclass(frozen=True)
class Downloaded:
    """Bytes in a corpus' folder of downloads: of whole files, and of each that is not whole yet."""

    whole: int
    unfinished: dict[str, int]


def downloaded(corpus: str, data_dir: Path | str) -> Downloaded:
    """What of a corpus is on disk."""
    folder = downloads_path(corpus, data_dir)
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return Downloaded(sum(size for path, size in sizes.items() if path.suffix != _PART),
                      {str(path.relative_to(folder)): size for path, size in sizes.items() if path.suffix == _PART})


def fetch(corpus: CorpusSource, data_dir: Path | str, progress: Progress | None = None, base: str = "") -> Path:
    """Get all files of a corpus, or go on; returns their folder.

    Args:
        base: a mirror: the folder (http or https) that holds the files under their own names.

    Raises:
        UsageError: there is nothing to get. SetupError: the network does not reach it.
        StorageError: the disk has no room. DataError: a file is not what it should be.
        LockedError: another process gets it.
    """
    if not corpus.downloads:
        raise UsageError(f"there is nothing to fetch for {corpus.name}",
                         hint=f"it is {corpus.kind}; videos of your own: pvdr-bench videos import NAME FOLDER")
    folder = downloads_path(corpus.name, data_dir)
    make_folder(folder)
    by_hand = how_by_hand(corpus, folder)
    with FileLock(folder.with_name(f"{corpus.name}.lock"), f"download of {corpus.name}"):
        try:
            _check_room(sum(each.size for each in corpus.downloads), folder, by_hand)
            files = [file for each in corpus.downloads for file in _files_of(each, base)]
            _check_room(sum(file.size for file in files), folder, by_hand)
            _get_all(files, folder, progress)
        except _BROKEN as error:
            raise SetupError(f"cannot get {corpus.name}: {_reason(error)}",
                             hint=f"the same command continues; or by hand: {by_hand}") from error
    return folder


def _get_all(files: list[RemoteFile], folder: Path, progress: Progress | None) -> None:
    done, total = 0, sum(file.size for file in files)

    def report(have: int) -> None:
        if progress:
            progress(done + have, max(total, done + have))

    for file in files:
        _get(file, folder, report)
        done += file.size


def how_by_hand(corpus: CorpusSource, folder: Path) -> str:
    """What to put where, for machines without a network."""
    ways = []
    for each in corpus.downloads:
        if each.url.startswith("gs://"):
            ways.append(f"gsutil -m cp -r {each.url} {folder}/")
        else:
            ways.append(f"curl -L -C - -o {folder / each.url.rpartition('/')[2]} {each.url}")
    return f"{'; '.join(ways)}; then pvdr-bench videos import {corpus.name}"


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    code = getattr(error, "code", None)
    return f"{code} {reason}" if code else str(reason) or type(error).__name__


def _check_room(size: int, folder: Path, by_hand: str) -> None:
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if size - have > free:
        raise StorageError(f"needs {(size - have) / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free",
                           where=str(folder),
                           hint=f"set PVDR_BENCH_DATA to a larger disk; or by hand, there: {by_hand}")


# What there is to get ------------------------------------------------------------------------------------------------


def _files_of(download: Download, base: str) -> list[RemoteFile]:
    if base and not base.startswith(("http://", "https://")):
        raise UsageError(f"{base!r} is no address of the web", where="--from")
    if download.url.startswith("gs://"):
        return _bucket(download.url, base)
    name = download.url.rpartition("/")[2]
    url = f"{base.rstrip('/')}/{name}" if base else download.url
    return [RemoteFile(name, url, download.size, "sha256", download.sha256)]


def _bucket(url: str, base: str) -> list[RemoteFile]:
    """The files in a folder of a public bucket, with their sizes and checksums, as Google's list tells them."""
    bucket, _, prefix = url.removeprefix("gs://").partition("/")
    server = base.rstrip("/") or _STORAGE
    found: list[RemoteFile] = []
    page = ""
    while True:
        query = urllib.parse.urlencode({"prefix": f"{prefix}/", "fields": "items(name,size,md5Hash),nextPageToken",
                                        **({"pageToken": page} if page else {})})
        address = f"{server}/storage/v1/b/{bucket}/o?{query}"
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
            text = answer.read(_LISTING)
        try:
            listing = json.loads(text)
            for item in listing.get("items", []):
                name = str(item["name"])
                inside(Path("/"), name, address)
                md5 = base64.b64decode(item.get("md5Hash", "")).hex()
                short = f"{prefix.rpartition('/')[2]}/{name.removeprefix(prefix).lstrip('/')}"
                if not name.endswith("/"):
                    found.append(RemoteFile(short, f"{server}/{bucket}/{urllib.parse.quote(name)}", int(item["size"]),
                                            "md5", md5))
            page = str(listing.get("nextPageToken", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"the list of files is no list: {error!r}", where=address) from error
        if not page:
            break
    if not found:
        raise DataError("there are no files in this folder", where=url, hint="has it moved? see docs/videos.md")
    return found


# Getting it ----------------------------------------------------------------------------------------------------------


def _get(file: RemoteFile, folder: Path, report: Callable[[int], object]) -> None:
    """One file: nothing where it is there, the rest of it where a part is."""
    target = folder / file.name
    if target.is_file() and (not file.size or target.stat().st_size == file.size):
        report(target.stat().st_size)
        return
    part = target.with_name(target.name + _PART)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    tries = 0
    while not file.size or part.stat().st_size < file.size:
        before = part.stat().st_size
        try:
            _stream(file, part, report)
            if not file.size or part.stat().st_size >= file.size:
                break
            raise ConnectionError(f"the connection ended at byte {part.stat().st_size} of {file.size}")
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise
            tries = _again(error, tries)
        except _BROKEN as error:
            tries = _again(error, 0 if part.stat().st_size > before else tries)
    _check(file, part)
    with storage_errors(target):
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(target)
    sync_folder(target.parent)


def _again(error: Exception, tries: int) -> int:
    if tries + 1 >= TRIES:
        raise error
    time.sleep(min(30.0, 0.5 * 2**tries))
    return tries + 1


def _stream(file: RemoteFile, part: Path, report: Callable[[int], object]) -> None:
    """Append what the server sends from where the part ends; anew where it cannot go on."""
    have = part.stat().st_size
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        goes_on = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        with storage_errors(part), part.open("ab" if goes_on else "wb") as out:
            have = have if goes_on else 0
            while data := answer.read(_AT_ONCE):
                if file.size and have + len(data) > file.size:
                    raise DataError(f"is longer than the {file.size} bytes that it should have", where=file.url)
                out.write(data)
                have += len(data)
                report(have)


def _check(file: RemoteFile, part: Path) -> None:
    """Compare the checksum; a file that differs is deleted."""
    if not file.digest:
        return
    with part.open("rb") as data:
        digest = hashlib.file_digest(data, lambda: hashlib.new(file.algorithm, usedforsecurity=False)).hexdigest()
    if digest != file.digest:
        part.unlink()
        raise DataError(f"has another {file.algorithm} ({digest}) than it should ({file.digest}), and was deleted",
                        where=file.url, hint="the same command gets it anew; if it happens again, its source changed")
