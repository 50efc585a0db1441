"""Videos: the layout shows the given pictures, and the files can be read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.api import Episode
from pvdr_bench.errors import UsageError
from pvdr_bench.inspection.run import episode_exhibits
from pvdr_bench.playing.film import episode_pictures, plan_strip, render_video, write_video
from pvdr_bench.rl.views import Film, Picture

RED, BLUE, YELLOW = (200, 10, 10), (10, 10, 200), (200, 200, 10)


def plain(color: tuple[int, int, int], *shape: int) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (*shape, 3)).copy()


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == np.array(color, np.uint8)).all(-1).sum())


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("length", [1, 3, 6])
def test_every_picture_is_shown_whole(size: int, length: int) -> None:
    plans = np.stack([plain((k + 1, 100, 50), 2, size, size) for k in range(length)], axis=1)
    pictures = plan_strip(plain(RED, 2, size, size), plans, goal=plain(YELLOW, size, size))
    assert pictures.dtype == np.uint8 and pictures.shape[1] % 2 == pictures.shape[2] % 2 == 0
    factor = max(1, round(112 / size))
    for picture in pictures:
        for color in [(k + 1, 100, 50) for k in range(length)] + [YELLOW]:
            assert count(picture, color) == (factor * size) ** 2
        assert count(picture, RED) >= (factor * size) ** 2 * (4 if length > 1 else 1) * 0.7


def test_frames_keep_their_order_in_time() -> None:
    frames = np.concatenate([plain(RED, 1, 16, 16), plain(BLUE, 1, 16, 16)])
    pictures = plan_strip(frames, None)
    assert count(pictures[0], RED) > 0 == count(pictures[0], BLUE)
    assert count(pictures[1], BLUE) > 0 == count(pictures[1], RED)


def test_enlarging_makes_no_new_colours() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    picture = plan_strip(frames, None)[0]
    inner = picture[24:24 + 112, 8:8 + 112]
    assert np.array_equal(inner[::14, ::14], frames[0])


def test_observations_are_numbered() -> None:
    pictures = plan_strip(plain(RED, 2, 32, 32), None)
    head = 8 + 16
    assert not np.array_equal(pictures[0][:head], pictures[1][:head])
    assert np.array_equal(pictures[0][head:], pictures[1][head:])


@pytest.mark.parametrize("first", [None, 7, 19])
def test_the_moments_of_an_episode_show_its_first_success(first: int | None) -> None:
    success = np.zeros(20, bool)
    success[slice(20, 20) if first is None else slice(first, first + 1)] = True
    actions, rewards = np.zeros((20, 2), np.float32), np.zeros(20, np.float32)
    seen = Episode(0, plain(RED, 21, 32, 32), None, actions, rewards, success, None)
    shown, film = (exhibit for _, exhibit in episode_exhibits(seen, 3, 0))
    assert isinstance(shown, Picture) and isinstance(film, Film) and len(film.pictures) == 21
    moments = np.split(shown.picture, 5)
    assert sum(count(moment, (0, 158, 115)) > 0 for moment in moments) == (first is not None)
    assert ("first success" in shown.about) == (first is not None)


def test_success_is_marked() -> None:
    pictures = plan_strip(plain(RED, 2, 32, 32), None, success=np.array([False, True]))
    assert count(pictures[0], (0, 158, 115)) == 0 < count(pictures[1], (0, 158, 115))


@pytest.mark.parametrize(("frames", "plans", "words"), [
    (np.zeros((0, 8, 8, 3), np.uint8), None, "observations"),
    (np.zeros((2, 8, 8, 3), np.float32), None, "observations"),
    (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((1, 3, 8, 8, 3), np.uint8), "plans"),
    (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 0, 8, 8, 3), np.uint8), "plans"),
])
def test_wrong_shapes_are_refused(frames: np.ndarray, plans: np.ndarray | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_strip(frames, plans)


def episode(plans: bool) -> Episode:
    rng = np.random.default_rng(0)
    t = 4
    images = rng.integers(0, 256, (t + 1, 16, 16, 3), dtype=np.uint8)
    imagined = rng.integers(0, 256, (t, 3, 16, 16, 3), dtype=np.uint8) if plans else None
    return Episode(0, images, imagined, np.zeros((t, 4), np.float32), np.zeros(t, np.float32),
                   np.array([False, False, True, True]), images[-1])


@pytest.mark.parametrize("plans", [True, False])
def test_an_episode_has_a_picture_per_observation(plans: bool) -> None:
    pictures = episode_pictures(episode(plans))
    assert len(pictures) == 5
    marked = [count(picture, (0, 158, 115)) > 0 for picture in pictures]
    assert marked == [False, False, False, True, True]  # success of a decision shows in the observation after it


def test_mp4_and_gif_can_be_read_again(tmp_path: Path) -> None:
    pictures = np.concatenate([plain(RED, 6, 64, 96), plain(BLUE, 6, 64, 96)])
    av = pytest.importorskip("av")
    with av.open(str(write_video(pictures, tmp_path / "a" / "x.mp4", fps=12.5))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 12.5
    assert len(decoded) == 12 and decoded[0].shape == (64, 96, 3)
    assert np.abs(decoded[2].astype(int) - RED).mean() < 8 and np.abs(decoded[9].astype(int) - BLUE).mean() < 8
    from PIL import Image

    with Image.open(write_video(pictures[::6], tmp_path / "x.gif", fps=5)) as image:
        assert image.n_frames == 2 and image.info["duration"] == 200
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "x.gif", "x.mp4"]


def test_an_unknown_suffix_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4 or \.gif"):
        render_video(tmp_path / "no-run", tmp_path / "x.avi")
    with pytest.raises(UsageError, match=r"\.mp4 or \.gif"):
        write_video(plain(RED, 1, 8, 8), tmp_path / "x")
    with pytest.raises(UsageError, match="holds no run"):
        render_video(tmp_path / "no-run", tmp_path / "x.gif")
