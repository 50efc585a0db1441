"""Finished runs replayed into a tracker: TensorBoard, Weights & Biases or Trackio.

A tracker is a sink; the run directories stay the truth. What goes out: the recipe in ``run.yaml`` as hyperparameters,
the numbers of ``train.jsonl`` as ``train/NAME``, and the evaluations as ``eval/NAME`` (on the way) and ``final/NAME``,
all against env_steps. Provenance, hosts, users and local paths stay here: of a recipe's text that is a path, the last
name goes out, and what a tracker would collect of the machine by itself is turned off. Numbers that are not finite
are left out, since trackers disagree on them.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from pvdr_bench.errors import DataError, SetupError, UsageError
from pvdr_bench.needed import need
from pvdr_bench.results.collect import Results
from pvdr_bench.results.problems import Problem
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import atomic_write, content_hash, make_folder

PROJECT = "pvdr-bench"
EVALUATED = ("success", "success_any", "success_end", "return", "length", "episodes")
Scalar = bool | int | float | str


@dataclass(frozen=True)
class Label:
    """What a run is called: ``method/task/corpus/scale/seed-N``, its group without the seed, and a stable id."""

    name: str
    group: str
    id: str


class Sink(Protocol):
    """Where one run goes."""

    def config(self, values: Mapping[str, Scalar]) -> None:
        """Take the hyperparameters; called once, first."""

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Take the finite numbers of one moment; env_steps never fall."""

    def close(self) -> None:
        """Finish the run; nothing comes later."""


OpenSink = Callable[[Label], Sink]


def replay(results: Results, open_sink: OpenSink, left_out: list[Problem] | None = None) -> list[str]:
    """Send every finished run to a sink of its own; returns their names.

    Args:
        left_out: gets those whose log is broken.

    Raises:
        UsageError: there is no finished run.
    """
    names = [str(path) for path, status in zip(results.runs["path"], results.runs["status"], strict=True)
             if status == "done"]
    if not names:
        raise UsageError("there is no finished run to export", where=str(results.root))
    sent = []
    for name in names:
        run_dir, points = RunDir(results.places[name]), results.points[results.points["path"].eq(name)]
        try:
            recipe = (run_dir.read_run() or {}).get("recipe", {})
            moments = merged([*_training(run_dir), *_evaluations(points)])
        except DataError as error:
            if left_out is not None:
                left_out.append(Problem(name, "broken", error.message))
            continue
        sink = open_sink(Label(name, name.rpartition("/")[0], content_hash([name, recipe])))
        try:
            sink.config(dict(flat(recipe)))
            for env_steps, values in moments:
                sink.scalars(env_steps, values)
        finally:
            sink.close()
        sent.append(name)
    return sent


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Scalar]]:
    """A recipe's leaves with their dotted keys; lists as text, None as ``none``, paths cut to their last name."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, bool | int | float):
        yield key, value
    elif isinstance(value, list | tuple):
        yield key, ", ".join(str(item) for part in value for _, item in flat(part))
    else:
        yield key, "none" if value is None else without_folder(str(value))


def without_folder(text: str) -> str:
    """Only the name, where ``text`` is an absolute path or one in a home folder."""
    return Path(text).name if text.startswith(("/", "~")) else text


def merged(moments: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    """One entry per env_steps, in order; where two have the same name, the later in the list counts."""
    found: dict[int, dict[str, float]] = {}
    for env_steps, values in moments:
        found.setdefault(env_steps, {}).update(values)
    return sorted(found.items())


def _training(run_dir: RunDir) -> Iterator[tuple[int, dict[str, float]]]:
    for row in run_dir.read_train():
        if "env_steps" not in row:
            raise DataError("a row lacks env_steps", where=str(run_dir.train.path))
        values = {name: value for name, value in row.items() if name != "env_steps"}
        yield int(row["env_steps"]), _numbers("train", values)


def _evaluations(points: pd.DataFrame) -> Iterator[tuple[int, dict[str, float]]]:
    """Whole evaluations at the env_steps at which they were really made, as the training's rows are."""
    for row in points[points["complete"].astype(bool)].to_dict("records"):
        folder = "final" if row["point"] == "final" else "eval"
        yield int(row["env_steps_made"]), _numbers(folder, {name: row[name] for name in EVALUATED})


def _numbers(folder: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{folder}/{name}": float(value) for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)}


# The trackers ---------------------------------------------------------------------------------------------------------

def _need(module: str, package: str) -> Any:
    return need(module, f"exporting to {package}",
                f"{sys.executable} -m pip install {package} (or pvdr-bench[trackers])")


class TensorBoardSink:
    """``OUT/NAME/events.out.tfevents.pvdr-bench``, written whole at the end; an older one is replaced.

    Written with TensorBoard's own records, without TensorFlow: its writers put the host's name into the file's name.
    """

    def __init__(self, label: Label, out: Path) -> None:
        self._event = _need("tensorboard.compat.proto.event_pb2", "tensorboard").Event
        self._summary = _need("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
        self._hparams = _need("tensorboard.plugins.hparams.summary_v2", "tensorboard").hparams_pb
        self._records = _need("tensorboard.summary.writer.record_writer", "tensorboard").RecordWriter
        self.path = out / label.name / f"events.out.tfevents.{PROJECT}"
        self._label = label
        self._now = time.time()
        self._events = [self._event(wall_time=self._now, file_version="brain.Event:2")]

    def config(self, values: Mapping[str, Scalar]) -> None:
        """Hyperparameters for the HPARAMS tab."""
        summary = self._hparams(dict(values), trial_id=self._label.id, start_time_secs=self._now)
        self._events.append(self._event(wall_time=self._now, summary=summary))

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        """One event."""
        parts = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._events.append(self._event(wall_time=self._now, step=env_steps, summary=self._summary(value=parts)))

    def close(self) -> None:
        """Write the file."""
        from io import BytesIO

        buffer = BytesIO()
        writer = self._records(buffer)
        for event in self._events:
            writer.write(event.SerializeToString())
        atomic_write(self.path, buffer.getvalue())


class WandbSink:
    """A run of Weights & Biases, offline in ``OUT/wandb`` unless ``online``; an older offline copy is replaced."""

    def __init__(self, label: Label, out: Path, *, online: bool = False) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        wandb = _need("wandb", "wandb")
        make_folder(out)
        for old in (out / "wandb").glob(f"offline-run-*-{label.id}"):
            shutil.rmtree(old)
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False, x_disable_meta=True,
            x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False, host="", username="",
            program="")
        self._run = wandb.init(project=PROJECT, id=label.id, name=label.name, group=label.group, dir=str(out),
                               mode="online" if online else "offline", settings=settings)
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def config(self, values: Mapping[str, Scalar]) -> None:
        """The run's config."""
        self._run.config.update(dict(values))

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        """One row of the history, with env_steps as its axis."""
        self._run.log({"env_steps": env_steps, **values})

    def close(self) -> None:
        """Finish, and remove the client's own logs, which name user and folders."""
        folder = Path(self._run.dir).parent
        self._run.finish()
        shutil.rmtree(folder / "logs", ignore_errors=True)
        for link in folder.parent.glob("debug*.log"):
            link.unlink()


class TrackioSink:
    """A run of Trackio in its local database below ``OUT``; older runs of the same name are replaced."""

    _ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")

    def __init__(self, label: Label, out: Path) -> None:
        make_folder(out)
        # It would ask a hub for the user's name, and send the run wherever its variables point.
        os.environ.update(TRACKIO_DIR=str(out), HF_HUB_OFFLINE="1")
        for name in self._ELSEWHERE:
            os.environ.pop(name, None)
        self._trackio = _need("trackio", "trackio")
        used = Path(self._trackio.utils.TRACKIO_DIR)
        if used != out:
            raise SetupError(f"trackio writes to {used} in this process already", where=str(out),
                             hint="export in a process of its own")
        self._label = label
        for old in list(self._trackio.Api().runs(PROJECT)) if (out / f"{PROJECT}.db").exists() else ():
            if old.name == label.name:
                old.delete()

    def config(self, values: Mapping[str, Scalar]) -> None:
        """Begin the run: its config is given then."""
        with _talk_aside():
            self._trackio.init(project=PROJECT, name=self._label.name, group=self._label.group, config=dict(values),
                               auto_log_gpu=False, auto_log_cpu=False, embed=False)

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        """One row, with env_steps as its step."""
        self._trackio.log(dict(values), step=env_steps)

    def close(self) -> None:
        """Write what is left."""
        with _talk_aside():
            self._trackio.finish()


@contextmanager
def _talk_aside() -> Iterator[None]:
    """What a tracker prints goes to stderr: stdout may be JSON."""
    with redirect_stdout(sys.stderr):
        yield


TRACKERS = ("tensorboard", "wandb", "trackio")


def tracker(kind: str, out: Path, *, online: bool = False) -> OpenSink:
    """Sinks that write below ``out``.

    Args:
        kind: one of :data:`TRACKERS`.
        online: send to the account that is logged in; only wandb can.

    Raises:
        UsageError: no such tracker, or one that is never online. Opening a sink raises SetupError where the package
            is missing.
    """
    if kind not in TRACKERS:
        raise UsageError(f"there is no tracker {kind!r}", where="--to", hint=f"there is: {', '.join(TRACKERS)}")
    if online and kind != "wandb":
        raise UsageError(f"{kind} is written to this machine only", where="--online")
    if kind == "wandb":
        return lambda label: WandbSink(label, out, online=online)
    return lambda label: TensorBoardSink(label, out) if kind == "tensorboard" else TrackioSink(label, out)
