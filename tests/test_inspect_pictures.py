"""Pictures of ``inspect``: what is put in is what is seen, and where; curves and clouds are PNG of the right layout."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pvdr_bench.inspection.numbers import measured
from pvdr_bench.inspection.plots import draw_cloud, draw_curves, stretched, told
from pvdr_bench.inspection.strips import CELL, cell_size, compose, places
from pvdr_bench.rl.views import Cloud, Curves, Line, Panel, Row, Strips, difference, psnr, spread_out


def frames(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [16, 64, 128])
def test_every_frame_stands_where_it_belongs_and_is_not_changed(size: int) -> None:
    a, b, c, d = frames(4, size)
    strips = Strips("t", "a", {}, ("now", "+3"), (Row("true", (a, b)), Row("a longer label", (None, c)),
                                                  Row("true", (d, None), apart=True)))
    picture, side = compose(strips), cell_size(strips)
    factor = max(1, round(CELL / size))
    assert picture.dtype == np.uint8 and side == factor * size
    found = places(strips)
    assert len(found) == 4
    for (top, left, _), frame in zip(found, (a, b, c, d), strict=True):
        cell = picture[top:top + side, left:left + side]
        assert np.array_equal(cell[::factor, ::factor], frame) and np.array_equal(cell, frame.repeat(factor, 0).repeat(
            factor, 1))
    tops, lefts = [top for top, _, _ in found], [left for _, left, _ in found]
    assert tops[0] == tops[1] < tops[2] < tops[3] and lefts[0] == lefts[3] < lefts[1] == lefts[2]
    assert tops[3] - tops[2] > tops[2] - tops[0]  # more room before the next case
    empty = picture[tops[2]:tops[2] + side, lefts[0]:lefts[0] + side]
    assert (empty == 255).all()
    labels = picture[tops[0]:tops[0] + side, :lefts[0] - 4]
    assert (labels < 200).any() and (picture[:tops[0] - 2] < 200).any()  # words are written


def pixels(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_a_cloud_has_a_panel_for_each_and_its_points_have_the_colours_of_their_actions() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((40, 3))
    red = np.broadcast_to(np.array([[-1.0, 1, 1, -1]]), (40, 4))  # magenta and yellow
    cyan = np.broadcast_to(np.array([[1.0, -1, -1, -1]]), (40, 4))
    panels = (Panel("one", z, {"sampled": red}), Panel("two", z, {"sampled": cyan}),
              Panel("three", z, {"sampled": red}), Panel("four", z, {"sampled": red}, frames(1, 16)[0]))
    plane, found = [rng.standard_normal((40, 2)) for _ in panels], [measured(z, red)] * 4
    data = draw_cloud(Cloud("t", "a", {}, panels), "sampled", plane, found)
    assert data == draw_cloud(Cloud("t", "a", {}, panels), "sampled", plane, found)
    picture = pixels(data)
    height, width = picture.shape[0] // 2, picture.shape[1] // 2

    def share(part: np.ndarray, color: tuple[int, int, int]) -> int:
        return int((np.abs(part.astype(int) - color).max(-1) < 8).sum())

    alone = pixels(draw_cloud(Cloud("t", "a", {}, panels[:1], 1), "sampled", plane[:1], found[:1]))
    black = (alone[-30:] < 40).all(-1).any(0)  # the last word of the legend, K = a4
    assert black[len(black) * 3 // 4:-4].any() and not black[-4:].any()
    left, right = picture[:height, :width], picture[:height, width:]
    assert share(left, (255, 0, 0)) > 100 > share(left, (0, 255, 255)) and share(right, (0, 255, 255)) > 100
    assert share(picture[height:, :width], (255, 0, 0)) > 100


def test_the_two_numbers_are_written_under_a_panel() -> None:
    words = told({"rank_correlation": 0.256, "probe_r2": -0.1, "probe_r2_permuted": None, "action_spread": 0.0123})
    assert words.splitlines() == ["rank correlation 0.26   spread of actions 0.012",
                                  "probe R² \N{MINUS SIGN}0.10   with permuted actions none"]
    assert "0.00" in told({"rank_correlation": -0.001, "probe_r2": 1, "probe_r2_permuted": 0, "action_spread": 0.0})


def test_what_is_stretched_reaches_from_edge_to_edge() -> None:
    action = np.stack([np.linspace(0.1, 0.3, 101), np.full(101, 0.7)], 1)
    found = stretched(action)
    assert found[0].tolist() == [-1, 0] and found[100].tolist() == [1, 0] and found[50, 0] == pytest.approx(0)


def test_curves_of_one_label_share_their_axes() -> None:
    x = np.arange(5.0)
    lines = (Line("a", "reward", x, x), Line("b", "reward", x, -x), Line("c", "error", x, x**2))
    one = pixels(draw_curves(Curves("t", "a", {}, "env_steps", lines[:2])))
    two = pixels(draw_curves(Curves("t", "a", {}, "env_steps", lines, ((2.0, "success"),))))
    assert two.shape[1] == one.shape[1] and two.shape[0] > 1.5 * one.shape[0]


def test_psnr_and_differences_by_hand() -> None:
    black, gray = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 51, np.uint8)
    assert psnr(gray, black) == pytest.approx(10 * np.log10(25)) and psnr(black, black) == 99
    gray[0, 0, 0] = [1, 2, 40]
    shown = difference(gray, black, 2)
    assert shown[0, 0, 0].tolist() == [80, 80, 80] and shown[1, 0, 0].tolist() == [102, 102, 102]
    assert difference(np.full((1, 1, 1, 3), 255, np.uint8), np.zeros((1, 1, 1, 3), np.uint8), 4).max() == 255


def test_places_are_spread_and_different() -> None:
    assert spread_out(10, 2) == [2, 7] and spread_out(3, 5) == [0, 1, 2] and spread_out(250, 3) == [41, 125, 208]
