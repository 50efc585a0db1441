"""The lean renderer: what it shows, that it is deterministic, and that garbage and missing libraries are noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.bench.render import ssim
from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.suites import gl
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.gl import choose_backend, shared_context

choose_backend()
import mujoco  # noqa: E402

from pvdr_bench.suites.lean import LeanRenderer, composite, shared_renderer  # noqa: E402

CAMERA = CameraPose((0.0, 0.0, 0.0), 4.0, 90.0, 0.0)  # looks along +y
SCENE = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <body name="wall"><geom type="box" size=".3 .02 .3" pos="0 -0.5 0" rgba="0 0 1 1"/></body>
    <site name="mark" type="sphere" size=".1" pos="1 0 1" rgba="0 1 0 1"/>
    <body name="cart"><joint name="slide" type="slide" axis="1 0 0"/>
      <geom type="box" size=".2 .2 .2" rgba="1 0 0 1"/></body>
    <body name="pane" pos="-1 0 -.8"><joint type="slide" axis="1 0 0"/>
      <geom type="box" size=".3 .02 .3" rgba="1 1 1 .25"/></body>
    <body name="pad" mocap="true" pos="1 0 -1"><geom type="box" size=".1 .1 .1" rgba="1 0 1 1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture()
def scene() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.fixture()
def lean(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> Iterator[LeanRenderer]:
    renderer = LeanRenderer(scene[0], CAMERA, 64)
    yield renderer
    renderer.close()


def area(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image.astype(int) - colour).max(-1) < 30).sum())


def test_a_moving_thing_is_hidden_by_a_fixed_one_and_seen_beside_it(scene, lean) -> None:  # type: ignore[no-untyped-def]
    model, data = scene
    behind = lean.render(model, data)
    assert area(behind, (255, 0, 0)) == 0, "the red box stands behind the blue wall"
    assert area(behind, (0, 0, 255)) > 100
    data.qpos[0] = 0.9
    beside = lean.render(model, data)
    assert area(beside, (255, 0, 0)) > 40
    columns = np.flatnonzero((np.abs(beside.astype(int) - (255, 0, 0)).max(-1) < 30).any(0))
    assert columns.min() > 32, "x to the right, as the stock renderer has it"


def test_upright_and_following_goal_markers_and_mocap_bodies(scene, lean) -> None:  # type: ignore[no-untyped-def]
    model, data = scene
    image = lean.render(model, data)
    assert area(image[:32], (0, 255, 0)) > 3 and area(image[32:], (0, 255, 0)) == 0, "the mark is above"
    assert area(image[32:], (255, 0, 255)) > 3, "the pad is below"
    model.site("mark").pos = (1, 0, -0.4)  # as a reset of Meta-World does, without mj_forward
    data.mocap_pos[0] = (1, 0, 1)
    moved = lean.render(model, data)
    assert area(moved[32:], (0, 255, 0)) > 3 and area(moved[:32], (0, 255, 0)) == 0
    assert area(moved[:32], (255, 0, 255)) > 3 and area(moved[32:], (255, 0, 255)) == 0


def test_near_to_the_stock_picture_translucent_things_included(scene, lean) -> None:  # type: ignore[no-untyped-def]
    model, data = scene
    stock = LeanRenderer(model, CAMERA, 64, "stock-no-shadow")
    for x in (-1.0, 0.0, 0.45, 1.0):
        data.qpos[0] = x
        a, b = stock.render(model, data), lean.render(model, data)
        assert ssim(a, b) > 0.97
        assert np.abs(a.astype(int) - b).mean() < 1.5
    stock.close()


def test_composite_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    size = 6
    back = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    front = rng.integers(0, 256, (2 * size, 2 * size, 4), dtype=np.uint8)
    front[..., 3] = rng.choice([0, 4, 255], (2 * size, 2 * size))
    front[front[..., 3] == 0] = 0
    front[front[..., 3] == 4, :3] //= 8
    front[:2], front[:, -3:] = 0, 0
    depth, back_depth = (rng.random((2 * size, 2 * size)).astype(np.float32) for _ in range(2))
    depth[front[..., 3] == 4] = 1.0  # translucent alone: no depth is written
    got = composite(back, back_depth, front, depth)
    for y in range(size):
        for x in range(size):
            total = np.zeros(3)
            for i in range(2):
                for j in range(2):
                    r, g, b, a = front[2 * y + i, 2 * x + j].astype(float)
                    opacity = 1.0 if a > 127 else np.sqrt(a / 255)
                    if back_depth[2 * y + i, 2 * x + j] <= depth[2 * y + i, 2 * x + j] < 1:
                        r = g = b = opacity = 0.0
                    total += np.array([r, g, b]) + (1 - opacity) * back[y, x]
            np.testing.assert_allclose(got[y, x], np.minimum(total / 4, 255), atol=1.0)


def test_several_renderers_of_one_process_do_not_disturb_each_other(scene, lean) -> None:  # type: ignore[no-untyped-def]
    model, data = scene
    alone = lean.render(model, data)
    others = [LeanRenderer(model, CAMERA, size, kind) for size in (32, 96) for kind in ("lean", "stock")]
    for other in others:
        other.render(model, data)
        np.testing.assert_array_equal(lean.render(model, data), alone)
    for other in others:
        other.close()
    np.testing.assert_array_equal(lean.render(model, data), alone)


def test_one_shared_renderer_per_shape_size_and_kind(scene) -> None:  # type: ignore[no-untyped-def]
    model, _ = scene
    first = shared_renderer(model, CAMERA, 32)
    assert shared_renderer(mujoco.MjModel.from_xml_string(SCENE), CAMERA, 32) is first
    assert shared_renderer(model, CAMERA, 48) is not first
    assert shared_renderer(model, CAMERA, 32, "stock") is not first


def test_stock_is_the_picture_of_mujocos_own_renderer(tmp_path: Path) -> None:
    """In a process each, since MuJoCo's own renderer brings a context of its own."""
    (tmp_path / "scene.xml").write_text(SCENE)
    code = """
import sys, numpy as np
from pvdr_bench.suites.gl import choose_backend
choose_backend()
import mujoco
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.lean import LeanRenderer
from pvdr_bench.suites.passes import make_camera
model = mujoco.MjModel.from_xml_path(sys.argv[1]); data = mujoco.MjData(model); mujoco.mj_forward(model, data)
pose = CameraPose((0.0, 0.0, 0.0), 4.0, 90.0, 0.0)
if sys.argv[3] == "ours":
    image = LeanRenderer(model, pose, 64, "stock").render(model, data)
else:
    renderer = mujoco.Renderer(model, 64, 64); renderer.update_scene(data, make_camera(pose)); image = renderer.render()
np.save(sys.argv[2], image)
"""
    images = []
    for who in ("ours", "theirs"):
        path = tmp_path / f"{who}.npy"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "scene.xml"), str(path), who], check=True)
        images.append(np.load(path))
    assert np.abs(images[0].astype(int) - images[1]).max() <= 2


def test_garbage_frames_raise(scene, lean, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    monkeypatch.setattr(shared_context()._probe, "draw", lambda: noise)
    with pytest.raises(SetupError, match="garbage frame"):
        shared_context().verify()
    with pytest.raises(SetupError, match="garbage frame"):
        LeanRenderer(scene[0], CAMERA, 16)
    lean._frames = 0  # its next regular check is due
    with pytest.raises(SetupError, match="garbage frame"):
        lean.render(*scene)


def test_frames_that_differ_for_the_same_state_raise(scene, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    monkeypatch.setattr(LeanRenderer, "render", lambda *_: rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    with pytest.raises(SetupError, match="drawn twice"):
        LeanRenderer(scene[0], CAMERA, 8)


def test_missing_library_names_the_package_and_the_variable(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setitem(sys.modules, "mujoco.osmesa", None)
    with pytest.raises(SetupError, match="libosmesa6") as caught:
        gl._make_context("osmesa")
    assert "libegl1" in str(caught.value) and "MUJOCO_GL" in str(caught.value)


def test_backend_is_chosen_only_where_unset(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert choose_backend() == "egl"
    monkeypatch.setenv("MUJOCO_GL", "glew")
    with pytest.raises(SetupError, match="osmesa"):
        choose_backend()
    monkeypatch.delenv("MUJOCO_GL")
    assert choose_backend() in ("egl", "osmesa", "cgl", "wgl")


def test_unknown_kind(scene) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="stock"):
        LeanRenderer(scene[0], CAMERA, 16, "fancy")


def test_ssim_against_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    two = np.clip(one.astype(int) + rng.integers(-40, 40, one.shape), 0, 255).astype(np.uint8)
    assert ssim(one, two) == pytest.approx(metrics.structural_similarity(one, two, channel_axis=2), abs=1e-9)
    assert ssim(one, one) == pytest.approx(1.0)


def test_a_foreign_context_in_the_process_does_no_harm(scene, lean) -> None:  # type: ignore[no-untyped-def]
    if choose_backend() != "osmesa":
        pytest.skip("makes an OSMesa context")
    from mujoco.osmesa import GLContext

    alone = lean.render(*scene)
    foreign = GLContext(32, 32)
    foreign.make_current()
    np.testing.assert_array_equal(lean.render(*scene), alone)
    del foreign
    np.testing.assert_array_equal(lean.render(*scene), alone)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_and_a_second_thread_are_refused(scene, lean) -> None:  # type: ignore[no-untyped-def]
    said: list[str] = []

    def draw() -> None:
        try:
            lean.render(*scene)
        except SetupError as error:
            said.append(str(error))

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert "thread" in said[0]
    child = os.fork()
    if child == 0:
        draw()
        os._exit(0 if "fork" in said[-1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
