"""Fetching from a server that breaks off, lies, or is not there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import pytest
from typer.testing import CliRunner

from pvdr_bench.cli.videos import app
from pvdr_bench.errors import DataError, Interrupted, SetupError, StorageError, UsageError
from pvdr_bench.suites.corpora import CorpusSource, Download
from pvdr_bench.videos import fetching
from pvdr_bench.videos.fetching import downloads_path, fetch
from pvdr_bench.videos.real import BAIR, JACO_PLAY, REAL

DATA = bytes(range(256)) * 4096  # 1 MiB
SOURCE = CorpusSource("thing", "a thing", "files", "x:y", 1,
                      downloads=(Download("http://nowhere.invalid/a/thing.tar", len(DATA),
                                          hashlib.sha256(DATA).hexdigest()),))


class Server:
    """Gives files; breaks off after ``limit`` bytes, ``breaks`` times."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/thing.tar": DATA}
        self.limit, self.breaks, self.ranges, self.code = len(DATA), 0, True, 0
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        data = self.listing(handler.path) or self.files.get(unquote(handler.path))
        if data is None or self.code:
            handler.send_error(self.code or 404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        if self.breaks:
            self.breaks -= 1
            handler.wfile.write(data[start:start + self.limit])
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.wfile.write(data[start:])

    def listing(self, path: str) -> bytes | None:
        if not path.startswith("/storage/v1/b/bucket/o"):
            return None
        names = sorted(name.removeprefix("/bucket/") for name in self.files if name.startswith("/bucket/"))
        page = int(parse_qs(urlparse(path).query).get("pageToken", ["0"])[0])
        items = [{"name": name, "size": str(len(self.files[f"/bucket/{name}"])), "md5Hash": base64.b64encode(
            hashlib.md5(self.files[f"/bucket/{name}"]).digest()).decode()} for name in names[page:page + 1]]
        more = {"nextPageToken": str(page + 1)} if page + 1 < len(names) else {}
        return json.dumps({"items": items, **more}).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching.time, "sleep", lambda _: None)
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_file_is_fetched_once_and_its_progress_told(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = fetch(SOURCE, tmp_path, lambda *p: seen.append(p), server.url)
    assert folder == downloads_path("thing", tmp_path) and (folder / "thing.tar").read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA)) and not list(folder.glob("*.part"))
    asked = len(server.asked)
    fetch(SOURCE, tmp_path, None, server.url)
    assert len(server.asked) == asked


@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_the_connection_broke(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.limit, server.breaks, server.ranges = 300_000, 2, ranges
    assert (fetch(SOURCE, tmp_path, None, server.url) / "thing.tar").read_bytes() == DATA
    resumed = [wanted for _, wanted in server.asked if wanted]
    assert len(resumed) == 2 and resumed[0] != "bytes=0-"


def test_a_stopped_download_goes_on_and_keeps_what_it_had(server: Server, tmp_path: Path) -> None:
    server.limit, server.breaks = 400_000, 1

    def stop(done: int, total: int) -> None:
        if done:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        fetch(SOURCE, tmp_path, stop, server.url)
    part = downloads_path("thing", tmp_path) / "thing.tar.part"
    kept = part.stat().st_size
    assert 0 < kept <= 400_000
    fetch(SOURCE, tmp_path, None, server.url)
    assert server.asked[-1] == ("/thing.tar", f"bytes={kept}-")


def test_other_bytes_than_promised_are_refused_and_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.files["/thing.tar"] = DATA[:-1] + b"!"
    with pytest.raises(DataError, match="has another sha256"):
        fetch(SOURCE, tmp_path, None, server.url)
    server.files["/thing.tar"] = DATA + b"more"
    with pytest.raises(DataError, match="is longer than"):
        fetch(SOURCE, tmp_path, None, server.url)
    server.files["/thing.tar"] = DATA
    (downloads_path("thing", tmp_path) / "thing.tar.part").unlink(missing_ok=True)
    fetch(SOURCE, tmp_path, None, server.url)


def test_a_bucket_is_listed_and_its_checksums_compared(server: Server, tmp_path: Path) -> None:
    server.files |= {"/bucket/robots/jaco/0.1.0/dataset_info.json": b"{}",
                     "/bucket/robots/jaco/0.1.0/jaco-train.tfrecord-00000-of-00001": DATA}
    source = replace(SOURCE, downloads=(Download("gs://bucket/robots/jaco/0.1.0"),))
    folder = fetch(source, tmp_path, None, server.url)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["0.1.0/dataset_info.json", "0.1.0/jaco-train.tfrecord-00000-of-00001"]
    server.files = {"/bucket/robots/jaco/0.1.0/../../../../evil": b"x"}
    with pytest.raises(DataError, match="not inside"):
        fetch(source, tmp_path / "other", None, server.url)


def test_without_a_network_it_says_what_to_put_where(server: Server, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(SetupError, match="cannot get thing") as error:
        fetch(SOURCE, tmp_path, None, server.url)
    assert f"-o {downloads_path('thing', tmp_path)}/thing.tar http://nowhere.invalid/a/thing.tar" in str(error.value)
    monkeypatch.setattr(fetching, "_STORAGE", server.url)
    small = replace(JACO_PLAY, downloads=(replace(JACO_PLAY.downloads[0], size=1),))
    with pytest.raises(SetupError, match="gsutil -m cp -r gs://gresearch/robotics/jaco_play/0.1.0"):
        fetch(small, tmp_path)


@pytest.mark.parametrize("code", [404, 503])
def test_a_server_that_refuses(server: Server, tmp_path: Path, code: int) -> None:
    server.code = code
    with pytest.raises(SetupError, match=f"cannot get thing: {code}"):
        fetch(SOURCE, tmp_path, None, server.url)
    assert len(server.asked) == (1 if code == 404 else fetching.TRIES)


def test_too_little_disk_is_said_before_a_byte(server: Server, tmp_path: Path) -> None:
    huge = replace(BAIR, downloads=(replace(BAIR.downloads[0], size=10**18),))
    with pytest.raises(StorageError, match=r"needs 1000000000\.0 GB more, and .* GB are free"):
        fetch(huge, tmp_path, None, server.url)
    assert not server.asked


def test_the_command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr("pvdr_bench.videos.sources.REAL", (replace(SOURCE, license="CC BY 4.0", citation="Us"),))
    said = CliRunner().invoke(app, ["fetch", "thing", "--from", server.url])
    assert said.exit_code == 0 and "licence: CC BY 4.0" in said.output and "videos import thing" in said.output
    rows = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    assert next(row for row in rows if row["name"] == "thing")["downloaded"] == len(DATA)
    with pytest.raises(UsageError, match="nothing to fetch for metaworld"):
        from pvdr_bench.videos.sources import source

        fetch(source("metaworld"), tmp_path)


def test_what_is_fetched_is_what_the_page_tells_of() -> None:
    """Address, size, checksum, licence and episodes of each corpus, in the table of docs/videos.md."""
    page = (Path(__file__).parents[1] / "docs" / "videos.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5}
    for source in REAL:
        row, download = rows[source.name], source.downloads[0]
        assert download.url in row and download.sha256 in row
        told = re.search(r"([\d.]+) GB", row)
        assert told is not None and abs(float(told[1]) - download.size / 1e9) < 0.05
        train, test = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) \+ ([\d,]+)", row)[0])
        assert train + test == source.episodes
        assert source.license.split(";")[0].removesuffix(" by its authors") in row
    assert re.search(r"(\d+) films of (\d+) frames", rows["bair"]) and BAIR.train_frames == 43_264 * 30
    assert f"({BAIR.train_frames:,})" in page


def test_a_download_that_is_not_whole_is_told_of(server: Server, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr("pvdr_bench.videos.sources.REAL", (SOURCE,))
    part = downloads_path("thing", tmp_path) / "thing.tar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1_000_000])
    row = next(row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).output) if row["name"] == "thing")
    assert row["downloaded"] == 0 and row["unfinished"] == {"thing.tar.part": 1_000_000}
    assert "not all: pvdr-bench videos fetch thing goes on" in CliRunner().invoke(app, ["list"]).output
    refused = CliRunner().invoke(app, ["import", "thing"]).exception
    assert isinstance(refused, UsageError) and "thing.tar.part has 1.0 MB so far" in str(refused)
    fetch(SOURCE, tmp_path, None, server.url)
    row = next(row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).output) if row["name"] == "thing")
    assert row["downloaded"] == len(DATA) and row["unfinished"] == {}
