"""The spaces that suites declare: what they refuse, and that reading one loads nothing heavy."""

import subprocess
import sys

import pytest

from pvdr_bench.suites.spaces import BoxSpace, ImageSpace


def test_shapes():
    assert ImageSpace(48, 64).shape == (48, 64, 3)
    assert BoxSpace(4, names=("x", "y", "z", "gripper")).shape == (4,)
    assert (BoxSpace(2).low, BoxSpace(2).high) == (-1.0, 1.0)


@pytest.mark.parametrize("bad", [
    {"dim": 0}, {"dim": 2, "low": 1.0, "high": 1.0}, {"dim": 2, "high": float("inf")}, {"dim": 2, "low": float("nan")},
    {"dim": 2, "names": ("x",)}, {"dim": 2, "names": ("x", "x")},
])
def test_a_space_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError):
        BoxSpace(**bad)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 x 4"):
        ImageSpace(0, 4)


def test_reading_a_space_loads_neither_torch_nor_a_simulator():
    code = ("import sys, pvdr_bench.suites.spaces; "
            "print([name for name in ('torch', 'mujoco', 'metaworld', 'pandas') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
