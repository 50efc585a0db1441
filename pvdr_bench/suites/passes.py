"""One drawing pass over a MuJoCo scene: a context of one size, what is drawn with it, and from where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.suites.base import Image
from pvdr_bench.suites.cameras import WHOLE, CameraPose
from pvdr_bench.suites.gl import SharedContext

if TYPE_CHECKING:
    import mujoco

_MAX_GEOMS = 2000


def make_camera(pose: CameraPose) -> mujoco.MjvCamera:
    """A free MuJoCo camera at a pose."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = pose.lookat
    camera.distance, camera.azimuth, camera.elevation = pose.distance, pose.azimuth, pose.elevation
    return camera


def _aim(scene: Any, pose: CameraPose) -> None:
    """Give a scene's camera the pose's field of view and crop: a part of the picture, as sharp as the whole."""
    left, top, right, bottom = pose.crop
    for eye in scene.camera:
        half = eye.frustum_top if pose.fovy is None else eye.frustum_near * math.tan(math.radians(pose.fovy) / 2)
        eye.frustum_center = half * (left + right - 1)
        eye.frustum_top, eye.frustum_bottom = half * (1 - 2 * top), half * (1 - 2 * bottom)
        eye.frustum_width = 0  # as wide as high


class Pass:
    """A drawing context of one size and the scene drawn with it.

    Args:
        model: the physics model that scenes are made of.
        drawn: a copy of it for the context: its meshes are what is drawn.
        categories: ``mjtCatBit`` mask of what to draw.
    """

    def __init__(self, gl: SharedContext, model: Any, drawn: Any, size: int, categories: int, samples: int) -> None:
        import mujoco

        self.size, self._gl, self._categories = size, gl, categories
        drawn.vis.global_.offwidth = drawn.vis.global_.offheight = size
        drawn.vis.quality.offsamples = samples
        self.faces = int(drawn.mesh_facenum.sum())
        gl.make_current()
        self._context = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_50)
        gl.keep(self._context)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        self._option = mujoco.MjvOption()
        self._view = mujoco.MjrRect(0, 0, size, size)

    def disable(self, *names: str) -> None:
        """Switch effects off by the ends of their ``mjtRndFlag`` names."""
        import mujoco

        for name in names:
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{name}")] = 0

    def draw(self, model: Any, data: Any, camera: Any, pose: CameraPose) -> None:
        """Draw into the context's buffer; ``camera`` is the pose's own, see :func:`make_camera`."""
        import mujoco

        mujoco.mjv_updateScene(model, data, self._option, None, camera, self._categories, self._scene)
        if pose.fovy is not None or pose.crop != WHOLE:
            _aim(self._scene, pose)
        self._gl.make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(self._view, self._scene, self._context)

    def close(self) -> None:
        """Free the context."""
        self._gl.release(self._context)

    def colours(self) -> Image:
        """What was drawn [size, size, 3], bottom row first."""
        import mujoco

        image = np.empty((self.size, self.size, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, self._view, self._context)
        return image

    def depth(self) -> NDArray[np.float32]:
        """Depth buffer [size, size] of a context without multisampling, bottom row first; 1 is far."""
        import mujoco

        depth = np.empty((self.size, self.size), np.float32)
        mujoco.mjr_readPixels(None, depth, self._view, self._context)
        return depth

    def colours_and_alpha(self) -> Image:
        """As :meth:`colours`, with the alpha channel [size, size, 4]; not for a context with multisampling."""
        from OpenGL import GL  # type: ignore[import-untyped]

        image = np.empty((self.size, self.size, 4), np.uint8)
        GL.glReadPixels(0, 0, self.size, self.size, GL.GL_RGBA, GL.GL_UNSIGNED_BYTE, image)
        return image
