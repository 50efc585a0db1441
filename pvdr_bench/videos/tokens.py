"""A corpus as tokens: every frame encoded once by one tokenizer, memory-mapped as uint16.

The folder's name holds the hashes of the tokenizer and of the corpus, so tokens of another tokenizer, or of a corpus
that was made anew, can never be read by mistake (a prototype lost an evening to exactly that).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import make_folder, sha256_file, storage_errors, sync_folder
from pvdr_bench.runs.locks import FileLock
from pvdr_bench.tokenizer.interface import FrameTokenizer
from pvdr_bench.videos.layout import TRAIN, Episode, read_object, write_object
from pvdr_bench.videos.rows import RowFile
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.windows import Drawn, episode_windows, sample_indices, within_episodes

TOKENS, META = "tokens.u16", "tokens.json"
_HINT = "delete the folder; the next run makes it again"
_FORMAT = 1


class TokenStore:
    """Tokens of all frames of a corpus, opened for reading; the same windows and the same draws as its `ClipStore`.

    Args:
        folder: what `build` returned as ``path``.
        clips: the corpus the tokens were made from.

    Raises:
        DataError: tokens of another corpus, a truncated file, codes out of range are found by `verify`.
    """

    def __init__(self, folder: Path | str, clips: ClipStore) -> None:
        self.path = Path(folder)
        meta = read_object(self.path / META, _HINT)
        if meta["format"] != _FORMAT or meta["corpus_hash"] != clips.hash:
            raise DataError(
                f"tokens were made from corpus {meta['corpus_hash']}, this one is {clips.hash}",
                where=str(self.path), hint=_HINT,
            )
        self.grid, self.codebook_size = int(meta["grid"]), int(meta["codebook_size"])
        self.tokenizer_hash: str = meta["tokenizer_hash"]
        self.hash = f"{self.tokenizer_hash}-{meta['corpus_hash']}"
        self.episodes: list[Episode] = clips.episodes
        self.num_frames = clips.num_frames
        self._sha256: str = meta["sha256"]
        shape = (self.num_frames, self.grid, self.grid)
        stored, wanted = (self.path / TOKENS).stat().st_size, int(np.prod(shape)) * 2
        if stored != wanted:
            raise DataError(
                f"file has {stored} bytes instead of {wanted}",
                where=f"{self.path / TOKENS}, byte {min(stored, wanted)}", hint=_HINT,
            )
        self._rows = RowFile(self.path / TOKENS, np.uint16, self.num_frames, shape[1:])
        self._windows: dict[tuple[str | None, int, int], NDArray[np.int64]] = {}

    @classmethod
    def build(
        cls, clips: ClipStore, tokenizer: FrameTokenizer, tokenizer_hash: str, folder: Path | None = None, *,
        batch: int = 512, progress: Callable[[int, int], None] | None = None, stop: Callable[[], bool] = lambda: False,
        on_wait: Callable[[str], None] | None = None, poll_seconds: float = 1.0,
    ) -> TokenStore:
        """Open the tokens of ``clips``, encoding them first if nobody has; a killed build continues.

        One process encodes, others wait for it.

        Args:
            tokenizer_hash: names the tokenizer's weights.
            folder: parent of the token folders; default: beside the corpus, ``<corpus>-tokens``.
            batch: frames per call of ``encode``.
            progress: called with (frames done, frames in all).
            stop: asked while another process encodes. on_wait: told once who is waited for.

        Raises:
            Interrupted: ``stop`` said so.
        """
        parent = folder or clips.path.with_name(clips.path.name + "-tokens")
        path = parent / f"{tokenizer_hash}-{clips.hash}"
        make_folder(parent)
        if not (path / META).is_file():
            lock = FileLock(path.with_name(path.name + ".lock"), f"token store {path}")
            lock.wait(stop, poll_seconds, on_wait)
            try:
                with storage_errors(parent):
                    if not (path / META).is_file():  # another process may have encoded them while this one waited
                        _encode_all(path, clips, tokenizer, tokenizer_hash, batch, progress, lock.check)
            finally:
                lock.release()
        return cls(path, clips)

    def verify(self) -> None:
        """Read every byte.

        Raises:
            DataError: the checksum is wrong or a code is out of range.
        """
        if sha256_file(self.path / TOKENS) != self._sha256:
            raise DataError("checksum is wrong", where=str(self.path / TOKENS), hint=_HINT)
        if self.num_frames and int(self._data.max()) >= self.codebook_size:
            raise DataError(f"a code is not below {self.codebook_size}", where=str(self.path / TOKENS), hint=_HINT)

    def frames(self, i0: int, i1: int) -> NDArray[np.uint16]:
        """Tokens of frames i0 to i1 (exclusive): uint16 [i1 - i0, h, w], a read-only view."""
        if not 0 <= i0 <= i1 <= self.num_frames:
            raise IndexError(f"frames {i0}:{i1} of a store with {self.num_frames}")
        return self._data[i0:i1]

    @cached_property
    def _data(self) -> NDArray[np.uint16]:
        return np.memmap(self.path / TOKENS, np.uint16, "r", shape=(self.num_frames, self.grid, self.grid))

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Tokens at frame numbers [...]: uint16 [..., h, w], copied."""
        return self._rows.take(indices)

    def windows(self, split: str | None, frames: int, stride: int = 1) -> NDArray[np.int64]:
        """As `ClipStore.windows`."""
        key = (split, frames, stride)
        if key not in self._windows:
            self._windows[key] = episode_windows(self.episodes, split, frames, stride)
        return self._windows[key]

    def draw(
        self, rng: np.random.Generator, batch: int, frames: int, stride: int = 1, split: str | None = TRAIN,
        part: slice = slice(None),
    ) -> Drawn:
        """Clips uint16 [batch, frames, h, w]; equal generators draw the clips that `ClipStore.draw` draws.

        With ``part`` the same batch is drawn, and only those clips of it are read.
        """
        indices = sample_indices(rng, self.windows(split, frames, stride), batch, frames, stride)[part]
        return Drawn(self.take(indices), within_episodes(self.episodes, indices[:, 0]))


def _encode_all(
    path: Path, clips: ClipStore, tokenizer: FrameTokenizer, tokenizer_hash: str, batch: int,
    progress: Callable[[int, int], None] | None, check: Callable[[], None],
) -> None:
    """Encode what is not encoded yet, and publish; ``check`` refuses where another process has taken over."""
    import torch  # heavy, and not needed to read tokens

    grid = tokenizer.grid
    if tokenizer.codebook_size > 2**16:
        raise DataError(f"{tokenizer.codebook_size} codes do not fit into 16 bits", where=str(path))
    partial = path.with_name(path.name + ".partial")
    partial.mkdir(exist_ok=True)
    target = partial / TOKENS
    target.touch()
    frame_bytes = grid * grid * 2
    done = target.stat().st_size // (frame_bytes * batch) * batch if clips.num_frames else 0
    done = min(done, clips.num_frames // batch * batch)  # whole batches only, so that batching is as in one go
    os.truncate(target, done * frame_bytes)
    with target.open("ab") as file:
        while done < clips.num_frames:
            until = min(done + batch, clips.num_frames)
            codes = tokenizer.encode(torch.from_numpy(clips.read(done, until)))
            array = np.asarray(codes.cpu(), np.int64)
            if array.shape != (until - done, grid, grid) or array.min() < 0 or array.max() >= tokenizer.codebook_size:
                raise DataError(f"the tokenizer gave codes {array.shape} outside its codebook", where=tokenizer_hash)
            check()
            file.write(array.astype("<u2").tobytes())
            file.flush()
            crash_point("tokens.batch")
            done = until
            if progress:
                progress(done, clips.num_frames)
        os.fsync(file.fileno())
    check()
    write_object(partial / META, {
        "format": _FORMAT, "grid": grid, "codebook_size": tokenizer.codebook_size, "tokenizer_hash": tokenizer_hash,
        "corpus_hash": clips.hash, "sha256": sha256_file(target),
    })
    sync_folder(partial)
    crash_point("tokens.publish")
    partial.replace(path)
    sync_folder(path.parent)
