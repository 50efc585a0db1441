"""``bench render``: the lean renderer against the stock one, in the tasks that publications report.

Both draw the same states, frame by frame in turn, so that a busy machine slows both. ``stock`` does the OpenGL work of
gymnasium's ``env.render()`` at the same size, from the suite's first camera. Pictures are compared with the stock
picture without shadows, by the mean structural similarity (Wang et al., 2004; windows of 7 x 7, mean of the colours).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told
from pvdr_bench.suites import make_env
from pvdr_bench.suites.base import EnvConfig, Image, MujocoEnv
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.gl import choose_backend
from pvdr_bench.suites.registry import DEFAULT_SUITE
from pvdr_bench.suites.registry import suite as suite_of

_WINDOW = 7  # pixels
_ACTION_REPEAT = 8  # simulator steps between two frames


def measure(
    size: int = 128, frames: int = 8, tasks: Sequence[str] = (), progress: Callable[[str], None] | None = None,
    suite: str = DEFAULT_SUITE,
) -> dict[str, Any]:
    """Time and compare both renderers on states of the scripted expert's way to the goal.

    Args:
        tasks: of the suite, by name; default: those that publications report.

    Returns:
        ratio: stock time / lean time, from the sums over tasks of each task's median frame. ratio_min: of the worst
        task. ssim_min: the worst frame of all tasks. lean_ms, stock_ms: means over tasks. backend, size, frames, and
        ``tasks`` with the same numbers for each.

    Raises:
        UsageError: no frame, or pictures that are smaller than the window in which they are compared.
    """
    if size < _WINDOW or frames < 1:
        raise UsageError(f"size = {size}, frames = {frames}: at least {_WINDOW} pixels and one frame are measured",
                         where="-o size, -o frames")
    backend = choose_backend()
    rows: dict[str, dict[str, float]] = {}
    info = suite_of(suite)
    every = {task.name: task.env_id for task in info.tasks()}
    chosen = tasks or [name for name, env_id in every.items() if env_id in info.published]
    for task in told(chosen, "tasks"):
        rows[task] = _measure_task(EnvConfig(
            suite, every.get(task, task), info.first_camera, image_size=size, action_repeat=_ACTION_REPEAT,
            episode_steps=_ACTION_REPEAT * (frames + 1), terminate_on_success=False), frames)
        if progress is not None:
            progress(f"{task}: {rows[task]['ratio']:.1f} times, SSIM {rows[task]['ssim_min']:.3f}")
    stock, lean = (float(np.mean([row[key] for row in rows.values()])) for key in ("stock_ms", "lean_ms"))
    return {
        "ratio": stock / lean, "ratio_min": min(row["ratio"] for row in rows.values()),
        "ssim_min": min(row["ssim_min"] for row in rows.values()), "stock_ms": stock, "lean_ms": lean,
        "backend": backend, "size": size, "frames": frames, "tasks": rows,
    }


def _measure_task(config: EnvConfig, frames: int) -> dict[str, float]:
    from pvdr_bench.suites.lean import LeanRenderer

    env, camera = make_env(config), config.camera
    if not isinstance(env, MujocoEnv) or not isinstance(camera, CameraPose):
        raise UsageError(f"the lean renderer does not draw the suite {config.suite}", where="-o suite")
    model, data = env.simulation
    stock, plain, lean = (LeanRenderer(model, camera, config.image_size, kind)
                          for kind in ("stock", "stock-no-shadow", "lean"))
    env.reset(0)
    seconds: dict[LeanRenderer, list[float]] = {stock: [], lean: []}
    similarity = []
    for frame in range(frames + 1):
        for renderer, spent in seconds.items():
            started = time.perf_counter()
            picture = renderer.render(model, data)
            if frame:  # the first one warms up
                spent.append(time.perf_counter() - started)
        similarity.append(ssim(plain.render(model, data), picture))
        env.step(env.expert_action())
    for renderer in (stock, plain, lean):
        renderer.close()
    env.close()
    stock_ms, lean_ms = (1e3 * float(np.median(seconds[renderer])) for renderer in (stock, lean))
    return {
        "ratio": stock_ms / lean_ms, "stock_ms": stock_ms, "lean_ms": lean_ms,
        "ssim_min": float(np.min(similarity)), "ssim_mean": float(np.mean(similarity)),
    }


def ssim(one: Image, two: Image) -> float:
    """Mean structural similarity of two pictures [H, W, C] of bytes, in windows that lie wholly inside."""
    x, y = one.astype(np.float64), two.astype(np.float64)
    n = _WINDOW**2
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    unbiased = n / (n - 1)
    var_x = unbiased * (_window_mean(x * x) - mean_x**2)
    var_y = unbiased * (_window_mean(y * y) - mean_y**2)
    cov = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(values.mean())


def _window_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over all windows [H - 6, W - 6, C]."""
    view = np.lib.stride_tricks.sliding_window_view(values, (_WINDOW, _WINDOW), (0, 1))
    result: NDArray[np.float64] = view.mean((-2, -1))
    return result
