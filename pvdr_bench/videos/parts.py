"""Worker processes that make the parts of a corpus; whoever makes one, it has the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from pvdr_bench.errors import ChangedError, TrainingError
from pvdr_bench.runs.difference import difference
from pvdr_bench.runs.files import atomic_write, canonical_json, make_folder
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import changed_recipe

P = TypeVar("P")
TICK_SECONDS = 0.5


def make_parts(parts: Sequence[P], make: Callable[[P], None], workers: int, tick: Callable[[], None], what: str, *,
               fresh: bool = False) -> None:
    """Make all parts in processes of their own; an error of one ends the others.

    Args:
        make: a function of a module; parts are plain data.
        tick: called about twice a second, and after each part. It may raise, to stop.
        fresh: each part in a new process, for those that leave something behind, as renderers do.

    Raises:
        TrainingError: a worker died. Whatever ``make`` and ``tick`` raise.
    """
    if not parts:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(parts)), mp_context=context, max_tasks_per_child=1 if fresh else None,
                             initializer=_leave_with_parent) as pool:
        running: set[Future[None]] = {pool.submit(make, part) for part in parts}
        try:
            while running:
                done, running = wait(running, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                tick()
        except KeyboardInterrupt:
            tick()  # a worker's own: a terminal's Ctrl-C meets workers and us, and we may have advice
            raise
        except BrokenProcessPool as error:
            tick()  # it raises where we were told to stop: a cluster tells workers too, and they die of it
            raise TrainingError(f"a worker died while {what} (killed, or out of memory)",
                                hint="the same command continues; use fewer --jobs if memory is short") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def open_finished(path: Path, recipe: Mapping[str, Any]) -> ClipStore:
    """A corpus that was made before.

    Raises:
        ChangedError: from another recipe.
    """
    store = ClipStore(path)
    if changed := difference(store.recipe, dict(recipe)):
        raise changed_recipe("a corpus", changed, path)
    return store


def check_parts(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Parts of another recipe must not be joined; the recipe is written before the first part.

    Raises:
        ChangedError: there are some.
    """
    make_folder(folder)
    file = folder / "recipe.json"
    text = canonical_json(recipe)
    if file.exists() and file.read_text() != text:
        raise ChangedError("an interrupted corpus with another recipe is here", where=str(folder),
                           hint="delete that folder, or give the arguments it was started with")
    atomic_write(file, text.encode())


def _leave_with_parent() -> None:
    """A worker ends when its parent does, also after kill -9."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
