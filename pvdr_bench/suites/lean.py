"""Drawing MuJoCo scenes: the lean renderer, and the stock one from the same camera.

``lean`` draws decimated meshes without shadows, reflections and multisampling; ``stock`` draws as MuJoCo does by
default. Both work for any ``MjModel``, and both draw from their own ``MjData``: positions are copied out of the physics
and only kinematics run there, so the physics is never touched.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.suites.base import CameraPose, Image
from pvdr_bench.suites.decimate import DEFAULT_CELL, decimate_model
from pvdr_bench.suites.gl import choose_backend, shared_context

if TYPE_CHECKING:
    import mujoco

KINDS = ("lean", "stock", "stock-no-shadow")
_VERIFY_EVERY = 1000  # frames between two checks for garbage
_MAX_GEOMS = 2000


def make_camera(pose: CameraPose) -> mujoco.MjvCamera:
    """A free MuJoCo camera at a pose."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = pose.lookat
    camera.distance, camera.azimuth, camera.elevation = pose.distance, pose.azimuth, pose.elevation
    return camera


class LeanRenderer:
    """Draws scenes of one model's shape at one size. All renderers of a process share its one GL context.

    Args:
        model: a compiled ``MjModel``; other instances compiled from the same file can be drawn as well.
        camera: the pose to draw from.
        size: width and height in pixels.
        kind: ``lean``, ``stock``, or ``stock-no-shadow`` (stock but for the shadows, to compare with).
        cell: cluster size of the decimation in metres.

    Raises:
        SetupError: no OpenGL library, a forked process, or garbage frames.
    """

    def __init__(
        self, model: mujoco.MjModel, camera: CameraPose, size: int, kind: str = "lean", cell: float = DEFAULT_CELL
    ) -> None:
        if kind not in KINDS:
            raise UsageError(f"unknown renderer {kind!r}; allowed: {', '.join(KINDS)}")
        import mujoco

        self.size, self.kind = size, kind
        self._gl = shared_context()
        drawn = decimate_model(model, cell) if kind == "lean" else _copy_model(model)
        drawn.vis.global_.offwidth = drawn.vis.global_.offheight = size
        if kind == "lean":
            drawn.vis.quality.offsamples = 0
            drawn.vis.quality.shadowsize = 0
        self.faces = int(drawn.mesh_facenum.sum())
        self._gl.make_current()
        self._context = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_50)
        self._gl.keep(self._context)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        if kind != "stock":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        if kind == "lean":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._camera = make_camera(camera)
        self._data = mujoco.MjData(model)
        self._view = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), np.uint8)
        self._frames = 0
        self._self_check(model)

    def set_camera(self, camera: CameraPose) -> None:
        """Draw from another pose from now on."""
        self._camera = make_camera(camera)

    def render(self, model: mujoco.MjModel, data: mujoco.MjData) -> Image:
        """Draw the state (``qpos`` and mocap bodies) of ``data``; returns a new image [size, size, 3], upright."""
        import mujoco

        own = self._data
        own.qpos[:] = data.qpos
        own.mocap_pos[:] = data.mocap_pos
        own.mocap_quat[:] = data.mocap_quat
        mujoco.mj_kinematics(model, own)
        mujoco.mj_comPos(model, own)
        mujoco.mj_camlight(model, own)
        mujoco.mjv_updateScene(
            model, own, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        self._gl.make_current()
        if self._frames % _VERIFY_EVERY == 0:
            self._gl.verify()
        self._frames += 1
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(self._view, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._view, self._context)
        return self._pixels[::-1].copy()

    def _self_check(self, model: mujoco.MjModel) -> None:
        """Two drawings of one state must be equal, and not one flat colour."""
        import mujoco

        start = mujoco.MjData(model)
        one, two = self.render(model, start), self.render(model, start)
        self._gl.verify()
        if not np.array_equal(one, two):
            raise SetupError("garbage frames: the same scene drawn twice gave two pictures")


def _copy_model(model: Any) -> Any:
    import copy

    return copy.copy(model)


_cache: dict[tuple[str, int, str], LeanRenderer] = {}


def shared_renderer(model: mujoco.MjModel, camera: CameraPose, size: int, kind: str = "lean") -> LeanRenderer:
    """The process's renderer for this shape of model, size and kind, pointed at ``camera``; made on the first call."""
    choose_backend()
    key = (_shape_key(model), size, kind)
    if key not in _cache:
        _cache[key] = LeanRenderer(model, camera, size, kind)
    renderer = _cache[key]
    renderer.set_camera(camera)
    return renderer


def _shape_key(model: mujoco.MjModel) -> str:
    """Hash of all that a drawing context holds (meshes, textures, materials) and of the sizes of the state."""
    digest = hashlib.sha256()
    for array in (model.mesh_vert, model.mesh_face, model.tex_data, model.mat_rgba, model.geom_type, model.geom_dataid):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr((model.nq, model.nmocap, model.nbody, model.ngeom, model.nsite, model.nlight)).encode())
    return digest.hexdigest()
