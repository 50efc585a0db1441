"""Tokens of a corpus: made once, found by hashes, the same windows as the frames."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pvdr_bench.errors import DataError
from pvdr_bench.runs.faults import CRASH_CODE
from pvdr_bench.videos.layout import HELDOUT
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.tokens import TOKENS, TokenStore
from pvdr_bench.videos.writer import ClipWriter


class MeanTokenizer:
    """Codes are mean grey levels of 4x4 patches plus an offset; counts its calls."""

    grid, codebook_size = 2, 300

    def __init__(self, offset: int = 0) -> None:
        self.offset, self.images = offset, 0

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.images += len(images)
        patches = images.float().reshape(-1, 2, 4, 2, 4, 3).mean((2, 4, 5))
        return patches.long() + self.offset


def make_corpus(path: Path, seed: int = 0) -> ClipStore:
    rng = np.random.default_rng(seed)
    writer = ClipWriter(path, 8, {"seed": seed})
    for _ in range(24):
        writer.append(rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), "x")
    return writer.publish()


@pytest.fixture
def clips(tmp_path: Path) -> ClipStore:
    return make_corpus(tmp_path / "c")


def test_tokens_are_those_of_every_frame(clips: ClipStore) -> None:
    tokens = TokenStore.build(clips, MeanTokenizer(), "abc", batch=50)
    expected = np.array(clips.frames(0, 144)).reshape(144, 2, 4, 2, 4, 3).astype(float).mean((2, 4, 5)).astype(int)
    assert np.array_equal(tokens.frames(0, 144), expected)
    assert tokens.frames(0, 144).dtype == np.uint16
    tokens.verify()


def test_encoded_once_and_again_for_another_tokenizer_or_corpus(clips: ClipStore, tmp_path: Path) -> None:
    first, again, other = MeanTokenizer(), MeanTokenizer(), MeanTokenizer(5)
    one = TokenStore.build(clips, first, "abc")
    TokenStore.build(clips, again, "abc")
    two = TokenStore.build(clips, other, "def")
    assert (first.images, again.images, other.images) == (144, 0, 144)
    assert one.path != two.path and one.hash != two.hash
    changed = make_corpus(tmp_path / "d", seed=1)
    with pytest.raises(DataError, match="made from corpus"):
        TokenStore(one.path, changed)


def test_drawn_tokens_are_those_of_the_frames(clips: ClipStore) -> None:
    tokens = TokenStore.build(clips, MeanTokenizer(), "abc")
    assert np.array_equal(tokens.windows("train", 3, 2), clips.windows("train", 3, 2))
    codes, start = tokens.draw(np.random.default_rng(1), 16, 3, 2, HELDOUT)
    pixels, same = clips.draw(np.random.default_rng(1), 16, 3, 2, HELDOUT)
    assert np.array_equal(start, same)
    again = MeanTokenizer().encode(torch.from_numpy(pixels).reshape(-1, 8, 8, 3)).reshape(16, 3, 2, 2)
    assert np.array_equal(codes, again.numpy())


def test_truncated_and_changed_tokens_are_found(clips: ClipStore) -> None:
    tokens = TokenStore.build(clips, MeanTokenizer(), "abc")
    file = tokens.path / TOKENS
    data = bytearray(file.read_bytes())
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match="checksum"):
        TokenStore(tokens.path, clips).verify()
    os.truncate(file, len(data) - 3)
    with pytest.raises(DataError, match=f"byte {len(data) - 3}"):
        TokenStore(tokens.path, clips)


def test_codes_outside_the_codebook_are_refused(clips: ClipStore) -> None:
    with pytest.raises(DataError, match="outside its codebook"):
        TokenStore.build(clips, MeanTokenizer(offset=250), "abc")


@pytest.mark.parametrize("point", ["tokens.batch:2", "tokens.publish"])
def test_a_killed_build_continues(clips: ClipStore, point: str) -> None:
    script = (
        "import sys; from tests.test_videos_tokens import *\n"
        "t = MeanTokenizer(); TokenStore.build(ClipStore(sys.argv[1]), t, 'abc', batch=40); print(t.images)"
    )
    command = [sys.executable, "-c", script, str(clips.path)]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    assert subprocess.run(command, check=False, env={**env, "PVDR_BENCH_CRASH_AT": point}).returncode == CRASH_CODE
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (64 if point == "tokens.batch:2" else 24)  # whole batches are kept, the last is redone
    whole = TokenStore.build(clips, MeanTokenizer(), "xyz", batch=40)
    assert np.array_equal(TokenStore.build(clips, MeanTokenizer(), "abc").frames(0, 144), whole.frames(0, 144))
