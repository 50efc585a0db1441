"""Small videos in the true formats, by writers of the tests' own: nothing here is shared with the readers."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Episodes = Sequence[np.ndarray]  # uint8 [T, H, W, 3] each


def moving(number: int, length: int, height: int, width: int | None = None) -> np.ndarray:
    """An episode: a bright square on a smooth background, each episode another."""
    width = width or height
    rng = np.random.default_rng(number)
    base = np.add.outer(np.arange(height) * 90 // height, np.arange(width) * 60 // width)
    frames = np.repeat(np.stack([base + 20, base + 40, 150 - base], -1).astype(np.uint8)[None], length, 0)
    side = max(2, min(height, width) // 6)
    y, x = rng.integers(0, height - side), rng.integers(0, width - side)
    dy, dx = rng.integers(-3, 4), rng.integers(1, 4)
    colour = rng.integers(150, 256, 3)
    for t in range(length):
        top, left = (y + dy * t) % (height - side), (x + dx * t) % (width - side)
        frames[t, top:top + side, left:left + side] = colour
    return frames


# TFRecord, by the specification ---------------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, a byte at a time (RFC 3720, appendix B)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_entry(value) for value in range(256)]


def tfrecord(payloads: Sequence[bytes]) -> bytes:
    def mask(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    lengths = [struct.pack("<Q", len(payload)) for payload in payloads]
    return b"".join(length + mask(length) + payload + mask(payload)
                    for length, payload in zip(lengths, payloads, strict=True))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def example(features: Mapping[str, list[bytes] | list[float] | list[int]]) -> bytes:
    """A tf.train.Example."""
    entries = b""
    for name, values in features.items():
        if values and isinstance(values[0], bytes):
            feature = _field(1, b"".join(_field(1, value) for value in values))  # type: ignore[arg-type]
        elif values and isinstance(values[0], float):
            feature = _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = _field(3, _field(1, b"".join(_varint(int(value)) for value in values)))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


# BAIR -----------------------------------------------------------------------------------------------------------------


def bair_record(main: np.ndarray, aux: np.ndarray) -> bytes:
    features: dict[str, Any] = {}
    for t in range(len(aux)):
        features[f"{t}/image_main/encoded"] = [main[t].tobytes()]
        features[f"{t}/image_aux1/encoded"] = [aux[t].tobytes()]
        features[f"{t}/action"] = [0.5, -0.5, 0.0, 1.0]
        features[f"{t}/endeffector_pos"] = [0.1, 0.2, 0.3]
    return example(features)


def bair_episode(number: int, length: int = 30) -> np.ndarray:
    return moving(number, length, 64)


def write_bair(root: Path, shards: Mapping[str, Sequence[int]], length: int = 30, tar: bool = False) -> Path:
    """``softmotion30_44k`` with shards ``{"train/traj_0_to_1": (0, 1)}``; aux1 is `bair_episode`, main its mirror."""
    files = {}
    for name, numbers in shards.items():
        pairs = [(bair_episode(n, length)[:, :, ::-1].copy(), bair_episode(n, length)) for n in numbers]
        files[f"softmotion30_44k/{name}.tfrecords"] = tfrecord([bair_record(*pair) for pair in pairs])
    if not tar:
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root
    path = root / "bair_robot_pushing_dataset_v0.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# TFDS and RLDS --------------------------------------------------------------------------------------------------------


def encoded(frame: np.ndarray, kind: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return file.getvalue()


def write_rlds(root: Path, name: str, splits: Mapping[str, Episodes], kind: str = "PNG", version: str = "0.1.0",
               shards: int = 1) -> Path:
    """A data set with the cameras image and image_wrist (upside down)."""
    folder = root / name / version
    folder.mkdir(parents=True)
    info = []
    for split, episodes in splits.items():
        parts = [episodes[number::shards] for number in range(shards)]
        for number, part in enumerate(parts):
            payloads = [example({
                "steps/observation/image": [encoded(frame, kind) for frame in frames],
                "steps/observation/image_wrist": [encoded(frame[::-1].copy(), kind) for frame in frames],
                "steps/observation/natural_language_instruction": [b"push"] * len(frames),
                "steps/action/world_vector": [0.0] * (3 * len(frames)), "steps/is_first": [1] + [0] * (len(frames) - 1),
            }) for frames in part]
            (folder / f"{name}-{split}.tfrecord-{number:05d}-of-{shards:05d}").write_bytes(tfrecord(payloads))
        info.append({"name": split, "shardLengths": [str(len(part)) for part in parts],
                     "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})
    (folder / "dataset_info.json").write_text(json.dumps(
        {"name": name, "version": version, "fileFormat": "tfrecord", "splits": info}))
    return root / name


# Video files ----------------------------------------------------------------------------------------------------------


def write_video(path: Path, frames: np.ndarray, fps: int = 10, codec: str = "libx264", **options: str) -> Path:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = options
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_av1(path: Path, frames: np.ndarray, fps: int = 10) -> Path:
    return write_video(path, frames, fps, "libsvtav1", preset="10", crf="20")


# LeRobot --------------------------------------------------------------------------------------------------------------

V2 = {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
      "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"}
V3 = {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
      "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
CAMERA = "observation.images.image"


def lerobot_info(version: str, size: int, dtype: str = "video", fps: int = 10, names: str = "hwc",
                 templates: Mapping[str, str] | None = None) -> dict[str, Any]:
    words = {"h": "height", "w": "width", "c": "channel"}
    feature = {"dtype": dtype, "shape": [3 if letter == "c" else size for letter in names],
               "names": [words[letter] for letter in names]}
    return {"codebase_version": version, "fps": fps, "chunks_size": 1000, "splits": {"train": "0:2"},
            "features": {CAMERA: feature, "action": {"dtype": "float32", "shape": [7], "names": None}},
            **(templates or (V3 if version == "v3.0" else V2))}


def write_lerobot(root: Path, episodes: Episodes, version: str = "v2.1", dtype: str = "video", **how: Any) -> Path:
    """A data set whose episodes are videos (AV1), or pictures in its Parquet files."""
    import pyarrow as pa
    from pyarrow import parquet

    info = lerobot_info(version, episodes[0].shape[1], dtype, **how)
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))

    def table(place: str, indices: Sequence[int]) -> None:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        columns: dict[str, Any] = {"episode_index": [i for i in indices for _ in episodes[i]]}
        if dtype == "image":
            columns[CAMERA] = [{"bytes": encoded(frame), "path": "x.png"} for i in indices for frame in episodes[i]]
        parquet.write_table(pa.table(columns), path)

    if version != "v3.0":
        lines = [json.dumps({"episode_index": i, "tasks": ["push"], "length": len(f)}) for i, f in enumerate(episodes)]
        (root / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
        for index, frames in enumerate(episodes):
            table(f"data/chunk-000/episode_{index:06d}.parquet", [index])
            if dtype == "video":
                write_av1(root / f"videos/chunk-000/{CAMERA}/episode_{index:06d}.mp4", frames, info["fps"])
        return root
    table("data/chunk-000/file-000.parquet", range(len(episodes)))
    if dtype == "video":
        write_av1(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", np.concatenate(list(episodes)), info["fps"])
    ends = np.cumsum([len(frames) for frames in episodes]) / info["fps"]
    rows = {"episode_index": list(range(len(episodes))), "length": [len(frames) for frames in episodes],
            "data/chunk_index": [0] * len(episodes), "data/file_index": [0] * len(episodes)}
    if dtype == "video":
        rows |= {f"videos/{CAMERA}/chunk_index": [0] * len(episodes),
                 f"videos/{CAMERA}/file_index": [0] * len(episodes),
                 f"videos/{CAMERA}/from_timestamp": [0.0, *ends[:-1].tolist()],
                 f"videos/{CAMERA}/to_timestamp": ends.tolist()}
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    parquet.write_table(pa.table(rows), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    return root
