"""Readers of real videos: the pixels of files that others wrote, and of true-format files of the tests' own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from pvdr_bench.errors import BenchError, DataError, SetupError, UsageError
from pvdr_bench.videos.readers import lerobot
from pvdr_bench.videos.readers.base import ReadOptions
from pvdr_bench.videos.readers.detect import open_source
from pvdr_bench.videos.readers.lerobot_info import declared_size, filled
from pvdr_bench.videos.readers.parquet import batches
from pvdr_bench.videos.readers.tfrecord import records
from tests import video_files as made

FIXTURES = next((parent / "shared" / "fixtures" for parent in Path(__file__).resolve().parents
                 if (parent / "shared" / "fixtures").is_dir()), None)
fixtures = pytest.mark.skipif(FIXTURES is None, reason="the sample files of the data sets are not on this machine")


def read(root: Path, camera: str = "", fmt: str = "", fps: float = 0.0) -> dict[str, tuple[str | None, np.ndarray]]:
    """All episodes of a source: name -> split, frames."""
    reader = open_source(root, ReadOptions(camera, fps), fmt)
    return {episode.name: (episode.split, np.concatenate(list(episode.frames())))
            for unit in reader.units() for episode in reader.episodes(unit)}


def sha(frames: np.ndarray) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()


# What others wrote: hashes by TensorFlow, TFDS and PyAV ---------------------------------------------------------------


@fixtures
@pytest.mark.parametrize("camera", ["", "main"])
def test_bair_shards_of_tensorflow_have_the_oracles_pixels(camera: str) -> None:
    assert FIXTURES is not None
    expected = json.loads((FIXTURES / "bair_tfrecord_format" / "expected.json").read_text())
    key = f"image_{camera or 'aux1'}_sha256"
    wanted = {f"{name}#{number}": row[key] for name, rows in expected.items() for number, row in enumerate(rows)}
    found = read(FIXTURES / "bair_tfrecord_format", camera)
    assert {name: sha(frames) for name, (_, frames) in found.items()} == wanted
    assert [split for split, _ in found.values()] == ["train"] * 3 + ["heldout"]


@fixtures
@pytest.mark.parametrize(("folder", "name", "cameras"), [
    ("bair_tfds_format", "bair_robot_pushing_small", ["image_aux1", "image_main"]),
    ("openx_rlds_format", "jaco_play", ["image", "image_wrist"]),
    ("openx_rlds_format", "berkeley_cable_routing", ["image", "top_image", "wrist45_image", "wrist225_image"]),
])
def test_tfds_data_sets_have_the_oracles_pixels(folder: str, name: str, cameras: list[str]) -> None:
    assert FIXTURES is not None
    expected = json.loads((FIXTURES / folder / f"expected_{name}.json").read_text())
    for camera in cameras:
        found = read(FIXTURES / folder / name, camera)
        for split, kind in (("train", "train"), ("test", "heldout")):  # TFDS tells of them in an order of its own
            mine = sorted(sha(frames) for own, frames in found.values() if own == kind)
            assert mine == sorted(row[camera]["sha256_decoded"] for row in expected[split])


@fixtures
@pytest.mark.parametrize("version", ["v21", "v30"])
def test_lerobot_av1_is_near_the_oracles_means(version: str) -> None:
    assert FIXTURES is not None
    expected = json.loads((FIXTURES / "lerobot_v30_format" / "expected_v30_and_v21.json").read_text())
    rows = [row for name, row in expected.items() if version in name]
    frames = [episode for _, episode in read(FIXTURES / f"lerobot_{version}_format").values()]
    assert [len(episode) for episode in frames] == [22, 30]
    for got, row in zip(frames if version == "v21" else [np.concatenate(frames)], rows, strict=True):
        assert list(got.shape) == row["shape"]
        assert abs(got.mean() - row["mean"]) < 0.5
        assert abs(got[0].mean() - row["first_frame_mean"]) < 0.5 and abs(got[-1].mean() - row["last_frame_mean"]) < 0.5


@fixtures
def test_npz_of_others() -> None:
    assert FIXTURES is not None
    demos = read(FIXTURES / "metaworld_plate_slide_demos")
    with np.load(FIXTURES / "metaworld_plate_slide_demos" / "20240513T151859_0_100.npz") as archive:
        newest = archive["observation"][:, -3:].transpose(0, 2, 3, 1)
    assert len(demos) == 5 and np.array_equal(demos["20240513T151859_0_100.npz"][1], newest)
    sample = read(FIXTURES / "bair_real_npz" / "bair_sample.npz", "aux1_image")["bair_sample.npz"][1]
    bair = read(FIXTURES / "bair_tfrecord_format")["train/traj_0_to_2.tfrecords#0"][1]
    assert np.array_equal(sample, bair)
    with pytest.raises(UsageError, match="camera 'front' is not there"):
        read(FIXTURES / "bair_real_npz" / "bair_sample.npz", "front")


# Files of the tests' own ----------------------------------------------------------------------------------------------


def test_our_own_crc_is_the_published_one() -> None:
    assert made.crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    assert made.crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize("tar", [False, True])
def test_bair_in_a_folder_and_in_its_archive(tmp_path: Path, tar: bool) -> None:
    shards = {"test/traj_0_to_0": (9,), "train/traj_256_to_257": (2, 3), "train/traj_0_to_1": (0, 1)}
    root = made.write_bair(tmp_path, shards, 5, tar)
    found = read(root)
    assert list(found) == ["train/traj_0_to_1.tfrecords#0", "train/traj_0_to_1.tfrecords#1",
                           "train/traj_256_to_257.tfrecords#0", "train/traj_256_to_257.tfrecords#1",
                           "test/traj_0_to_0.tfrecords#0"]
    for (split, frames), number in zip(found.values(), (0, 1, 2, 3, 9), strict=True):
        assert np.array_equal(frames, made.bair_episode(number, 5)) and split == ("heldout" if number == 9 else "train")
    mirrored = read(root, "main")["train/traj_0_to_1.tfrecords#1"][1]
    assert np.array_equal(mirrored, made.bair_episode(1, 5)[:, :, ::-1])
    if not tar:
        assert list(read(root / "softmotion30_44k")) == list(found)


def test_a_bair_shard_that_lacks_trajectories_is_said(tmp_path: Path) -> None:
    made.write_bair(tmp_path, {"train/traj_0_to_3": (0, 1, 2)}, 3)
    with pytest.raises(DataError, match="3 trajectories where its name tells of 4"):
        read(tmp_path)


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("JPEG", 3)])
def test_rlds_pictures_of_either_kind(tmp_path: Path, kind: str, tolerance: int) -> None:
    episodes = [made.moving(n, 3 + n, 48, 64) for n in range(3)]
    root = made.write_rlds(tmp_path, "thing", {"train": episodes[:2], "test": episodes[2:]}, kind, shards=1)
    found = read(root)
    assert [split for split, _ in found.values()] == ["train", "train", "heldout"]
    for (_, frames), truth in zip(found.values(), episodes, strict=True):
        assert frames.shape == truth.shape
        assert np.abs(frames.astype(int) - truth).mean() <= tolerance
        assert tolerance or np.array_equal(frames, truth)
    wrist = read(root / "0.1.0", "wrist")
    assert np.abs(wrist["thing-train.tfrecord-00000-of-00001#1"][1].astype(int) - episodes[1][:, ::-1]).mean() <= 3
    with pytest.raises(UsageError, match="--camera takes one of: steps/observation/image, steps/obs"):
        read(root, "hand")


def test_shards_that_are_missing_are_named(tmp_path: Path) -> None:
    root = made.write_rlds(tmp_path, "thing", {"train": [made.moving(n, 2, 8) for n in range(4)]}, shards=2)
    next(root.rglob("*00001-of-00002")).unlink()
    with pytest.raises(DataError, match=r"thing-train\.tfrecord-00001-of-00002: a shard is missing, of 2"):
        read(root)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
@pytest.mark.parametrize("dtype", ["video", "image"])
def test_lerobot_of_every_version(tmp_path: Path, version: str, dtype: str) -> None:
    episodes = [made.moving(n, 4 + n, 64) for n in range(3)]
    found = list(read(made.write_lerobot(tmp_path / "set", episodes, version, dtype)).values())
    assert [len(frames) for _, frames in found] == [4, 5, 6]
    for (_, frames), truth in zip(found, episodes, strict=True):
        error = np.abs(frames.astype(int) - truth).mean()
        assert error == 0 if dtype == "image" else error < 6


def test_pictures_of_many_episodes_are_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LeRobot v3.0, cameras as pictures: whichever episodes are asked for, and in whatever order the file has them."""
    episodes = [made.moving(n, 3 + n % 3, 16) for n in range(12)]
    root = made.write_lerobot(tmp_path / "set", episodes, "v3.0", "image")
    path = next(root.glob("data/*/*"))
    table = parquet.read_table(path)
    turned = np.concatenate([np.flatnonzero(np.array(table["episode_index"]) == n) for n in (*range(6, 12), *range(6))])
    parquet.write_table(table.take(turned), path)
    seen: Counter[str] = Counter()
    monkeypatch.setattr(lerobot, "batches", lambda path, columns, *rows: (
        seen.update(["+".join(columns)]) or row for row in batches(path, columns, *rows)))
    reader = open_source(root, ReadOptions())
    for wanted in (range(12), (2, 7, 11)):
        seen.clear()
        found = {int(each.name.rpartition("#")[2]): np.concatenate(list(each.frames()))
                 for each in reader.episodes(reader.units()[0]) if int(each.name.rpartition("#")[2]) in wanted}
        assert sorted(found) == list(wanted) and all(np.array_equal(found[n], episodes[n]) for n in wanted)
        assert max(seen.values()) <= sum(map(len, episodes))
    parquet.write_table(table.take(np.argsort(np.arange(len(table)) % 2, kind="stable")), path)
    with pytest.raises(DataError, match=r"row \d+: the rows of episode \d+ do not stand together"):
        read(root)


def test_names_in_any_order_and_templates_of_ones_own(tmp_path: Path) -> None:
    facts = [({"shape": [3, 48, 64], "names": ["channels", "height", "width"]}, (48, 64)),
             ({"shape": [64, 48, 3], "names": ["width", "height", "channel"]}, (48, 64)),
             ({"shape": [3, 48, 64], "names": None}, (48, 64)), ({"shape": [48, 64, 3]}, (48, 64))]
    assert [declared_size(each, "x") for each, _ in facts] == [size for _, size in facts]
    templates = {**made.V2, "video_path": "films/{video_key}/{episode_index:d}-{episode_chunk}.mp4"}
    root = made.write_lerobot(tmp_path, [made.moving(0, 4, 64)], names="chw", templates=templates)
    (root / "films" / made.CAMERA).mkdir(parents=True)
    next(root.glob("videos/**/*.mp4")).rename(root / "films" / made.CAMERA / "0-0.mp4")
    assert len(read(root)["episode 0"][1]) == 4


@pytest.mark.parametrize("template", [
    "../../etc/{video_key}", "/etc/passwd", "{video_key.__class__}", "{0}", "{episode_index!r}", "{secret}",
    "{episode_index:>999999999}", "{video_key", "a\0b", "x" * 5000, "{episode_index:99d}"])
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, template: str) -> None:
    root = made.write_lerobot(tmp_path, [made.moving(0, 2, 16)], dtype="image")
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps(info | {"data_path": template}))
    with pytest.raises(DataError, match="not inside the source|not followed|is missing"):
        read(root)


def test_a_camera_that_leads_elsewhere_is_refused() -> None:
    with pytest.raises(DataError, match="not inside"):
        from pvdr_bench.videos.readers.base import inside

        inside(Path("/data"), filled("videos/{video_key}/x.mp4", {"video_key": "../../../etc"}, "info"), "info")


@pytest.mark.parametrize("change", [{"length": 9}, {"length": 3}])
def test_videos_that_lie_about_their_frames_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    root = made.write_lerobot(tmp_path, [made.moving(0, 5, 64)])
    (root / "meta" / "episodes.jsonl").write_text(json.dumps({"episode_index": 0, **change}) + "\n")
    with pytest.raises(DataError, match="frames that the data set tells of"):
        read(root)


# One's own files ------------------------------------------------------------------------------------------------------


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    from PIL import Image

    frames = made.moving(1, 12, 48, 64)
    made.write_video(tmp_path / "a" / "film 10.mp4", frames, fps=30, crf="10")
    made.write_video(tmp_path / "a" / "film 2.mkv", frames[:7], fps=30, crf="10")
    (tmp_path / "b").mkdir()
    for number in (1, 2, 10, 9):
        Image.fromarray(frames[number]).save(tmp_path / "b" / f"frame_{number}.png")
    Image.fromarray(frames[0]).save(tmp_path / "c.gif", save_all=True, append_images=map(Image.fromarray, frames[1:4]))
    np.savez(tmp_path / "d.npz", frames=frames.transpose(0, 3, 1, 2).astype(np.int64), action=np.zeros((12, 4)))
    (tmp_path / ".hidden.mp4").write_bytes(b"no video")
    (tmp_path / "notes.txt").write_text("no video")
    found = read(tmp_path)
    assert list(found) == ["a/film 2.mkv", "a/film 10.mp4", "b", "c.gif", "d.npz"]
    assert [len(each) for _, each in found.values()] == [7, 12, 4, 4, 12]
    assert np.array_equal(found["b"][1], frames[[1, 2, 9, 10]]) and np.array_equal(found["d.npz"][1], frames)
    assert np.abs(found["a/film 10.mp4"][1].astype(int) - frames).mean() < 6
    assert np.abs(found["c.gif"][1].astype(int) - frames[:4]).mean() < 10
    thinned = read(tmp_path / "a", fps=10)
    assert np.array_equal(thinned["film 10.mp4"][1], found["a/film 10.mp4"][1][::3])
    with pytest.raises(UsageError, match="3 of the episodes here are none, such as b"):
        read(tmp_path, fps=10)


def test_a_film_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    import av

    made.write_video(tmp_path / "plain.mp4", made.moving(3, 4, 48, 64), crf="10")
    with av.open(str(tmp_path / "plain.mp4")) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "turned.mp4").read_bytes()
    unit, quarter = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero, one = bytes(4), (1 << 30).to_bytes(4, "big")
    upright = unit + zero * 3 + unit + zero * 3 + one
    assert data.count(upright) == 2  # of the film and of its stream
    at = data.rindex(upright)
    (tmp_path / "turned.mp4").write_bytes(data[:at] + zero + unit + zero + quarter + zero * 4 + one + data[at + 36:])
    plain, turned = read(tmp_path / "plain.mp4")["plain.mp4"][1], read(tmp_path / "turned.mp4")["turned.mp4"][1]
    assert turned.shape == (4, 64, 48, 3) and np.array_equal(turned, np.rot90(plain, -1, (1, 2)))


def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such file"):
        read(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no videos"):
        read(tmp_path)
    (tmp_path / "a.mp4").write_text("#EXTM3U\n/etc/passwd\n")
    with pytest.raises(DataError, match="cannot be (opened|decoded)"):
        read(tmp_path)
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "a.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="no NumPy archive"):
        read(tmp_path)
    with pytest.raises(UsageError, match="unknown format 'bear'.*did you mean bair|unknown format"):
        read(tmp_path, fmt="bear")


# Damage ---------------------------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        return data[:at]
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1:]


@pytest.mark.parametrize("kind", ["bair", "rlds"])
def test_a_thousand_damaged_shards_never_give_a_wrong_frame(tmp_path: Path, kind: str) -> None:
    """The same pixels, or an error with file and byte."""
    if kind == "bair":
        made.write_bair(tmp_path, {"train/traj_0_to_2": (0, 1, 2)}, 1)
        path, tries = tmp_path / "softmotion30_44k" / "train" / "traj_0_to_2.tfrecords", 1000
    else:
        made.write_rlds(tmp_path, "thing", {"train": [made.moving(n, 2, 16) for n in range(3)]})
        path, tries = next(tmp_path.rglob("*.tfrecord-*")), 1000
    whole, data, rng = read(tmp_path), path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(tries):
        path.write_bytes(damaged(data, rng))
        try:
            found = read(tmp_path)
        except DataError as error:
            assert str(path) in str(error), error
            assert "byte" in str(error) or "trajectories" in str(error) or "episodes" in str(error) \
                or "no record" in str(error)
            refused += 1
        else:
            assert {name: sha(frames) for name, (_, frames) in found.items()} == {
                name: sha(frames) for name, (_, frames) in whole.items()}
    assert refused == tries  # every byte of a TFRecord is under a checksum


@pytest.mark.parametrize("kind", ["png", "gif", "npz", "mp4", "lerobot"])
def test_damaged_files_without_checksums_end_in_pixels_or_one_error(tmp_path: Path, kind: str) -> None:
    frames = made.moving(0, 3, 32)
    if kind == "lerobot":
        root = made.write_lerobot(tmp_path, [frames, frames], "v3.0", "image")
        path = next(root.glob("data/*/*"))
    elif kind == "png":
        path = tmp_path / "frame.png"
        path.write_bytes(made.encoded(frames[0]))
    elif kind == "npz":
        path = tmp_path / "x.npz"
        np.savez_compressed(path, frames=frames)
    elif kind == "gif":
        from PIL import Image

        path = tmp_path / "x.gif"
        Image.fromarray(frames[0]).save(path, save_all=True, append_images=map(Image.fromarray, frames[1:]))
    else:
        path = made.write_video(tmp_path / "x.mp4", frames)
    data, rng = path.read_bytes(), random.Random(1)
    whole = {name: sha(each) for name, (_, each) in read(tmp_path).items()}
    for _ in range(150):
        path.write_bytes(damaged(data, rng))
        try:
            found = read(tmp_path)
        except BenchError as error:
            assert str(path) in str(error) or str(tmp_path) in str(error)
        else:
            assert kind in ("gif", "mp4") or {name: sha(each) for name, (_, each) in found.items()} == whole


def test_lengths_that_lie_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "train" / "traj_0_to_0.tfrecords"
    path.parent.mkdir()
    length = (2**40).to_bytes(8, "little")
    crc = made.tfrecord([b""])  # an empty record, to see that such are read
    path.write_bytes(crc)
    assert [record.data for record in records(path)] == [b""]
    masked = (((made.crc32c(length) >> 15) | (made.crc32c(length) << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    path.write_bytes(length + masked.to_bytes(4, "little") + b"x" * 100)
    with pytest.raises(DataError, match="a record of 1099511627776 bytes"):
        read(tmp_path)


BOMBS = """
import io, resource, struct, sys, zipfile, zlib
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
import numpy as np
from pvdr_bench.errors import DataError
from pvdr_bench.videos.readers.base import ReadOptions
from pvdr_bench.videos.readers.detect import open_source
root = Path(sys.argv[1])
def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
(root / "png").mkdir()
(root / "png" / "bomb.png").write_bytes(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head)
    + chunk(b"IDAT", zlib.compress(bytes(2**24))) + chunk(b"IEND", b""))
(root / "gif").mkdir()
(root / "gif" / "bomb.gif").write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3)
    + b"\\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\\x00\\x02\\x02\\x4c\\x01\\x00\\x3b")
(root / "npz").mkdir()
with zipfile.ZipFile(root / "npz" / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False,
                                                  "shape": (9, 90000, 90000, 3)})
    archive.writestr("frames.npy", buffer.getvalue() + bytes(2**26))
for name in ("png", "gif", "npz"):
    try:
        reader = open_source(root / name, ReadOptions())
        for unit in reader.units():
            for episode in reader.episodes(unit):
                for chunk in episode.frames():
                    raise SystemExit(f"{name} was decoded")
    except DataError as error:
        print(name, error.message)
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


def test_decompression_bombs_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    answer = subprocess.run([sys.executable, "-c", BOMBS, str(tmp_path)], capture_output=True, text=True, check=False,
                            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"})
    assert answer.returncode == 0, answer.stderr
    *told, peak = answer.stdout.splitlines()
    assert [line.split()[0] for line in told] == ["png", "gif", "npz"]
    assert all("pixels" in line for line in told)
    assert int(peak) < 2**21  # KiB


def test_ten_thousand_tiny_files(tmp_path: Path) -> None:
    tiny = made.encoded(made.moving(0, 1, 8)[0])
    (tmp_path / "0.png").write_bytes(tiny)
    for number in range(1, 10_000):
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    episode, = read(tmp_path).values()
    assert episode[1].shape == (10_000, 8, 8, 3)
    for number in range(130):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "0.png").write_bytes(tiny)
    units = open_source(tmp_path, ReadOptions()).units()
    assert [len(unit.data["files"]) for unit in units] == [64, 64, 3]
