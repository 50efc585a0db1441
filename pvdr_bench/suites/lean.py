"""Drawing MuJoCo scenes: the lean renderer, and the stock one from the same camera.

``stock`` draws as MuJoCo does by default. ``lean`` leaves out shadows and reflections, and draws in two layers: what is
welded to the world (table, walls, furniture, goal markers) once per arrangement with multisampling; on top of it, in
every frame, only what moves: decimated meshes, at twice the size without multisampling, cut by the depth of the first
layer and averaged down. Both kinds work for any ``MjModel``, and both draw from their own ``MjData``: positions are
copied out of the physics and only kinematics run there, so the physics is never touched.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.suites.base import Image
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.decimate import DEFAULT_CELL, decimate_model
from pvdr_bench.suites.gl import choose_backend, shared_context
from pvdr_bench.suites.passes import Pass, make_camera

if TYPE_CHECKING:
    import mujoco

# Renderers' names stand in the protocol's hash: another picture is another name.
KINDS = ("lean", "stock", "stock-no-shadow")
_VERIFY_EVERY = 1000  # frames between two checks for garbage
_MAX_BACKGROUNDS = 32  # arrangements of fixed things that are remembered
_OVERSAMPLE = 2  # of the moving layer, in each direction
# A framebuffer's alpha after blending is the square of a translucent thing's opacity where nothing is behind it.
_COVERAGE = np.where(np.arange(256) < 128, np.round(np.sqrt(np.arange(256) / 255.0) * 255), 255).astype(np.uint8)


@dataclass(frozen=True)
class _Background:
    """The fixed layer: colours [size, size, 3] and depth at the moving layer's size, bottom row first."""

    image: Image
    depth: NDArray[np.float32]


class LeanRenderer:
    """Draws scenes of one model's shape at one size. All renderers of a process share its one GL context.

    Args:
        model: a compiled ``MjModel``; other instances compiled from the same file can be drawn as well.
        camera: the pose to draw from.
        size: width and height in pixels.
        kind: ``lean``, ``stock``, or ``stock-no-shadow`` (stock but for the shadows, to compare with).
        cell: cluster size of the decimation in metres.

    Raises:
        UsageError: unknown kind.
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
        self._data = mujoco.MjData(model)
        self._fixed_geoms, self._fixed_sites = _fixed(model, model.geom_bodyid), _fixed(model, model.site_bodyid)
        self._backgrounds: OrderedDict[bytes, _Background] = OrderedDict()
        self._frames = 0
        self._passes: list[Pass] = []
        if kind == "lean":
            self._build_layers(model, cell)
        else:
            everything = int(mujoco.mjtCatBit.mjCAT_ALL)
            samples = int(model.vis.quality.offsamples)
            self._whole = Pass(self._gl, model, copy.copy(model), size, everything, samples)
            self._passes = [self._whole]
            if kind == "stock-no-shadow":
                self._whole.disable("SHADOW")
        self.set_camera(camera)
        self._self_check(model)

    def _build_layers(self, model: Any, cell: float) -> None:
        import mujoco

        fixed, moving = copy.copy(model), decimate_model(model, cell)
        fixed.vis.quality.shadowsize = moving.vis.quality.shadowsize = 0
        used = np.unique(model.geom_dataid[self._fixed_geoms & _is_mesh(model)])
        fixed.mesh_facenum[np.setdiff1d(np.arange(model.nmesh), used)] = 0  # not drawn here, so not uploaded
        static, dynamic = int(mujoco.mjtCatBit.mjCAT_STATIC), int(mujoco.mjtCatBit.mjCAT_DYNAMIC)
        large = _OVERSAMPLE * self.size
        self._fixed_pass = Pass(self._gl, model, fixed, self.size, static, 4)
        self._moving_pass = Pass(self._gl, model, moving, large, dynamic, 0)
        # The fixed things once more, for their depth at the moving layer's size; same context size, other category.
        self._depth_pass = Pass(self._gl, model, fixed, large, static, 0)
        self._passes = [self._moving_pass, self._fixed_pass, self._depth_pass]
        for layer in self._passes:
            layer.disable("SHADOW", "REFLECTION")
        self._moving_pass.disable("SKYBOX", "HAZE")  # black, and alpha zero where nothing moves

    @property
    def faces(self) -> int:
        """Triangles of the meshes that may be drawn in a frame."""
        return self._passes[0].faces

    def close(self) -> None:
        """Free the drawing contexts; not for a renderer of :func:`shared_renderer`, which others use."""
        for layer in self._passes:
            layer.close()
        self._passes = []

    def set_camera(self, camera: CameraPose) -> None:
        """Draw from another pose from now on."""
        self._pose, self._camera = camera, make_camera(camera)

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
        if self._frames % _VERIFY_EVERY == 0:
            self._gl.verify()
        self._frames += 1
        if self.kind != "lean":
            self._whole.draw(model, own, self._camera, self._pose)
            return self._whole.colours()[::-1].copy()
        background = self._background(model)
        self._moving_pass.draw(model, own, self._camera, self._pose)
        front, depth = self._moving_pass.colours_and_alpha(), self._moving_pass.depth()
        return composite(background.image, background.depth, front, depth)[::-1].copy()

    def _background(self, model: Any) -> _Background:
        """The fixed layer of the current arrangement, drawn at its first use."""
        key = self._arrangement(model)
        found = self._backgrounds.get(key)
        if found is None:
            self._fixed_pass.draw(model, self._data, self._camera, self._pose)
            image = self._fixed_pass.colours()
            self._depth_pass.draw(model, self._data, self._camera, self._pose)
            found = self._backgrounds[key] = _Background(image, self._depth_pass.depth())
            if len(self._backgrounds) > _MAX_BACKGROUNDS:
                self._backgrounds.popitem(last=False)
        else:
            self._backgrounds.move_to_end(key)
        return found

    def _arrangement(self, model: Any) -> bytes:
        """All that the fixed layer depends on: where fixed things are, sizes, colours, and the camera."""
        own, geoms, sites = self._data, self._fixed_geoms, self._fixed_sites
        arrays = (
            own.geom_xpos[geoms], own.geom_xmat[geoms], own.site_xpos[sites], own.site_xmat[sites],
            model.geom_rgba[geoms], model.geom_size[geoms], model.site_rgba[sites], model.site_size[sites],
        )
        return repr(self._pose).encode() + b"".join(array.tobytes() for array in arrays)

    def _self_check(self, model: mujoco.MjModel) -> None:
        """Two drawings of one state must be equal, and the known scene must still come out right."""
        import mujoco

        start = mujoco.MjData(model)
        one = self.render(model, start)
        self._backgrounds.clear()
        two = self.render(model, start)
        self._backgrounds.clear()
        self._gl.verify()
        if not np.array_equal(one, two):
            raise SetupError("garbage frames: the same scene drawn twice gave two pictures")


def _fixed(model: Any, bodies: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which of the owners' bodies MuJoCo files under ``mjCAT_STATIC``: welded to the world, and moved by no mocap."""
    result: NDArray[np.bool_] = (model.body_weldid[bodies] == 0) & (model.body_mocapid[model.body_rootid[bodies]] < 0)
    return result


def _is_mesh(model: Any) -> NDArray[np.bool_]:
    import mujoco

    result: NDArray[np.bool_] = model.geom_type == int(mujoco.mjtGeom.mjGEOM_MESH)
    return result


def composite(back: Image, back_depth: NDArray[np.float32], front: Image, depth: NDArray[np.float32]) -> Image:
    """The moving layer over the fixed one.

    Args:
        back: colours of the fixed layer [S, S, 3].
        back_depth: its depth [2 S, 2 S].
        front: colours times opacity and blended alpha of the moving layer [2 S, 2 S, 4], zero where nothing is.
        depth: its depth [2 S, 2 S].

    Returns:
        [S, S, 3]: averages over 2 x 2, the moving layer only where it is nearer than the fixed one.
    """
    image = back.copy()
    alpha = front[..., 3]
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return image
    k = _OVERSAMPLE
    top, bottom, left, right = rows[0] // k, rows[-1] // k + 1, columns[0] // k, columns[-1] // k + 1
    block = (slice(top * k, bottom * k), slice(left * k, right * k))
    shown = front[block].copy()
    near = depth[block]
    # Behind something fixed. Translucent things write no depth, so alone they keep 1 and count as in front.
    shown[(near >= back_depth[block]) & (near < 1.0)] = 0
    shown[..., 3] = _COVERAGE[shown[..., 3]]
    summed = np.zeros((bottom - top, right - left, 4), np.int32)
    for i, j in np.ndindex(k, k):
        summed += shown[i::k, j::k]
    y, x = np.nonzero(summed[..., 3])
    colours, covered = summed[y, x, :3], summed[y, x, 3:]
    full = k * k * 255
    mixed = (image[top + y, left + x] * (full - covered) + colours * 255 + full // 2) // full
    image[top + y, left + x] = np.minimum(mixed, 255)
    return image


_cache: dict[tuple[str, int, str, float], LeanRenderer] = {}


def shared_renderer(model: mujoco.MjModel, camera: CameraPose, size: int, kind: str = "lean",
                    cell: float = DEFAULT_CELL) -> LeanRenderer:
    """The process's renderer for this shape of model, size and kind, pointed at ``camera``; made on the first call."""
    choose_backend()
    key = (_shape_key(model), size, kind, cell)
    if key not in _cache:
        _cache[key] = LeanRenderer(model, camera, size, kind, cell)
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
