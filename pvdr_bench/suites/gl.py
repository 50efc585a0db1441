"""The one OpenGL context of a process, and the checks that its pictures are pictures.

Several OSMesa contexts in one process gave striped noise without any error. So a process has exactly one context,
made here and shared by every renderer; a small scene with known colours is drawn after each new renderer, and again now
and then, and a wrong colour raises instead of feeding noise to a learner.
"""

from __future__ import annotations

import atexit
import os
import platform
import threading
from pathlib import Path
from typing import Any

import numpy as np

from pvdr_bench.errors import SetupError
from pvdr_bench.needed import missing
from pvdr_bench.suites.base import Image

_HINT = (
    "install a software OpenGL library (Debian, Ubuntu: apt-get install libosmesa6) and set MUJOCO_GL=osmesa, "
    "or on a machine with a GPU install libegl1 and set MUJOCO_GL=egl"
)
_BACKENDS = {"Darwin": ("cgl", "glfw"), "Windows": ("wgl", "glfw")}
_ON_LINUX = ("egl", "osmesa", "glfw")
# Variables that decide what a driver does, and that a shell or a notebook may have left behind.
_VARIABLES = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "EGL_PLATFORM", "LIBGL_ALWAYS_SOFTWARE", "LIBGL_DRIVERS_PATH",
              "GALLIUM_DRIVER", "MESA_GL_VERSION_OVERRIDE", "DISPLAY", "WAYLAND_DISPLAY", "LD_PRELOAD")
_PROBE_XML = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/><quality offsamples="0" shadowsize="0"/></visual>
  <worldbody>
    <geom type="box" size="1 1 1" pos="-1 0 0" rgba="1 0 0 1"/>
    <geom type="box" size="1 1 1" pos="1 0 0" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""
_PROBE_SIZE = 16
_PROBE_TOLERANCE = 8  # grey levels; drivers round differently


def choose_backend() -> str:
    """Name of the GL backend, from ``MUJOCO_GL`` or, if unset, set there: egl where an NVIDIA GPU is seen, else osmesa.

    Call it before the first ``import mujoco``: MuJoCo reads the variable while it is imported, and refuses to be
    imported where ``PYOPENGL_PLATFORM`` says something else. That one is PyOpenGL's way to the same library, and is
    therefore set to what was chosen, whatever it held.

    Raises:
        SetupError: ``MUJOCO_GL`` holds a name that is no backend here, or one that needs a display.
    """
    given = os.environ.get("MUJOCO_GL", "")
    name, allowed = given.strip().lower(), _BACKENDS.get(platform.system(), _ON_LINUX)
    if name and name not in allowed:
        raise SetupError(f"MUJOCO_GL={given!r} is no backend that can draw here; allowed: {', '.join(allowed)}",
                         hint="unset MUJOCO_GL, and one is chosen")
    if not name:
        name = allowed[0] if allowed is not _ON_LINUX or Path("/dev/nvidiactl").exists() else "osmesa"
        os.environ["MUJOCO_GL"] = name
    if name == "glfw" and allowed is _ON_LINUX and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise SetupError(f"MUJOCO_GL={given!r} draws in a window, and there is no display (DISPLAY is not set)",
                         hint="unset MUJOCO_GL, or set it to osmesa (no GPU needed) or egl")
    if allowed is _ON_LINUX:
        if name == "glfw":
            os.environ.pop("PYOPENGL_PLATFORM", None)
        else:
            os.environ["PYOPENGL_PLATFORM"] = name
    return name


def import_mujoco() -> Any:
    """The package ``mujoco``, once the GL backend is chosen.

    Raises:
        SetupError: it is not installed, or its backend's library cannot be loaded.
    """
    backend = choose_backend()
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise missing(error, "mujoco", "drawing") from error
    except Exception as error:
        raise no_opengl(backend, error) from error
    return mujoco


def no_opengl(backend: str, error: Exception) -> SetupError:
    """The error of a backend that does not work, with the variables that may be the cause."""
    seen = ", ".join(f"{name}={os.environ[name]}" for name in _VARIABLES if os.environ.get(name))
    return SetupError(f"no OpenGL for MuJoCo's backend {backend!r} ({type(error).__name__}: {error}); in the "
                      f"environment: {seen}", hint=f"unset what you did not mean to set, or {_HINT}")


class SharedContext:
    """The process's OpenGL context. Use :func:`shared_context`; it belongs to the process and thread that made it."""

    def __init__(self) -> None:
        self.backend = choose_backend()
        self.pid, self.thread = os.getpid(), threading.get_ident()
        self._context = _make_context(self.backend)
        self._drawers: list[Any] = []
        self.make_current()
        self._probe = _Probe()
        self.verify()

    def make_current(self) -> None:
        """Make this context the current one; refuses in a forked child and in another thread."""
        if os.getpid() != self.pid:
            raise SetupError(
                "an OpenGL context does not survive a fork",
                hint="start worker processes with the 'spawn' method and create environments inside them",
            )
        if threading.get_ident() != self.thread:
            raise SetupError("rendering from a second thread: the OpenGL context belongs to the thread that made it")
        self._context.make_current()

    def verify(self) -> None:
        """Draw the known scene and compare its colours.

        Raises:
            SetupError: the frame is garbage.
        """
        self.make_current()
        self._probe.check(self.backend)

    def keep(self, context: Any) -> None:
        """Remember an ``MjrContext``, so that it is freed before the GL context at exit."""
        self._drawers.append(context)

    def release(self, context: Any) -> None:
        """Free an ``MjrContext`` now; its memory may be large (a stock shadow map takes 64 MB)."""
        self.make_current()
        self._drawers.remove(context)
        context.free()

    def close(self) -> None:
        """Free everything, in the order that the drivers want; only at the end of the process."""
        if os.getpid() != self.pid:
            return
        self._context.make_current()
        for drawer in [*self._drawers, self._probe.context]:
            drawer.free()
        self._drawers.clear()
        self._context = None  # freed by its destructor, now, while its module is alive; it must not be freed twice


def _make_context(backend: str) -> Any:
    try:
        import_mujoco()
        if backend == "osmesa":
            from mujoco.osmesa import GLContext
        elif backend == "egl":
            from mujoco.egl import GLContext

            GLContext._context = None  # its destructor asks for it, also where making one failed
        else:
            from mujoco.gl_context import GLContext
        # The size is that of a window's buffer; every renderer draws into a frame buffer of its own.
        return GLContext(64, 64)
    except SetupError:
        raise
    except Exception as error:  # PyOpenGL raises AttributeError, ImportError or its own classes when a library lacks
        raise no_opengl(backend, error) from error


class _Probe:
    """A red box on the left, a green one on the right, and how they must look."""

    def __init__(self) -> None:
        mujoco = import_mujoco()
        self.model = mujoco.MjModel.from_xml_string(_PROBE_XML)
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = _PROBE_SIZE
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.camera = mujoco.MjvCamera()
        self.camera.azimuth, self.camera.elevation, self.camera.distance = 90.0, 0.0, 3.0
        self.scene = mujoco.MjvScene(self.model, 8)
        self.option = mujoco.MjvOption()
        mujoco.mjv_updateScene(
            self.model, self.data, self.option, None, self.camera, mujoco.mjtCatBit.mjCAT_ALL, self.scene
        )
        try:
            self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except mujoco.FatalError as error:
            raise no_opengl(os.environ["MUJOCO_GL"], error) from error

    def draw(self) -> Image:
        import mujoco

        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        view = mujoco.MjrRect(0, 0, _PROBE_SIZE, _PROBE_SIZE)
        mujoco.mjr_render(view, self.scene, self.context)
        image = np.empty((_PROBE_SIZE, _PROBE_SIZE, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, view, self.context)
        return image

    def check(self, backend: str) -> None:
        image = self.draw()
        half = _PROBE_SIZE // 2
        inner = slice(2, _PROBE_SIZE - 2)
        left, right = image[inner, 2 : half - 1].astype(int), image[inner, half + 1 : -2].astype(int)
        wrong = max(np.abs(left - (255, 0, 0)).max(), np.abs(right - (0, 255, 0)).max())
        if wrong > _PROBE_TOLERANCE:
            raise SetupError(
                f"garbage frame: a scene of known colours came out wrong by {wrong} grey levels (backend {backend!r})",
                hint="another part of this process made an OpenGL context of its own (env.render(), mujoco.Renderer); "
                "use one renderer per process",
            )


_shared: SharedContext | None = None


def shared_context() -> SharedContext:
    """The context of this process, made on the first call.

    Raises:
        SetupError: no OpenGL library, or garbage frames.
    """
    global _shared
    if _shared is None:
        _shared = SharedContext()
        atexit.register(_shared.close)
    return _shared
