"""How long runs take and how much disk they need before they begin: as finished runs of their kind went, or unknown.

A rate is looked for in the results folder, then among the packed reference runs, then among the hours that a
publication reports (``results/paper/hours.json``); first of the variant itself, then of its method, then of the method
that this one extends; of each under the run's own protocol first, and then under other keys of it. It is of one kind of
device, and says where it is from: nothing is guessed. Imports no torch.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvdr_bench.algorithms.registry import algorithms
from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.resolve import split_variant
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import BenchError, CatalogError
from pvdr_bench.results.figures.sweep import leaves
from pvdr_bench.results.paper import paper_folder
from pvdr_bench.runs.archive import open_archive
from pvdr_bench.runs.checkpoints import KEEP
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.paths import ARCHIVE

if TYPE_CHECKING:
    from pvdr_bench.catalog.profile import Profile

HOURS, SIZES = "hours.json", "sizes.json"
COPIES, NUMBERS = KEEP + 1, 3  # checkpoints of a finished run; numbers for each weight: itself and Adam's two moments


@dataclass(frozen=True)
class Place:
    """Where something will compute: ``cpu`` or ``cuda``, and the GPUs of a job as a cluster's profile has them.

    Attributes:
        gpu: their kind as the profile names it; empty: not known. gpus: of one job; 0: not known, or none.
    """

    device: str
    gpu: str = ""
    gpus: int = 0

    @classmethod
    def of(cls, profile: Profile) -> Place:
        """A profile's jobs."""
        return cls(profile.device, profile.gpu.type or "", profile.gpus)

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether reported hours are of the kind of GPU that there is here."""
        return self.device == "cuda" and str(row["gpu"]).lower() == self.gpu.lower()


@dataclass(frozen=True)
class Known:
    """What is known of a kind of run.

    Attributes:
        per_step: seconds per env_step of training, evaluations included; None: of the whole run alone.
        whole: seconds of a whole run, whatever its budget; None: see ``per_step``.
        of: the method that it was measured with. source: where, for people.
    """

    of: str
    source: str
    per_step: float | None = None
    whole: float | None = None

    def seconds(self, env_steps: int, budget: int) -> float:
        """Of ``env_steps`` still to be made of a run of ``budget``."""
        return self.per_step * env_steps if self.per_step is not None else (self.whole or 0.0) * env_steps / budget


@dataclass
class Rates:
    """Rates by variant, scale and suite, each looked for once.

    Args:
        reference: folders with packed runs. paper: the folder with the published hours.
    """

    catalog: Catalog
    results: Path
    place: Place
    reference: Sequence[Path] = ()
    paper: Path | None = None
    _known: dict[tuple[str, str, str], Known | None] = field(default_factory=dict, init=False, repr=False)
    _measured: dict[tuple[str, str, str], list[tuple[float, int, str]]] | None = field(default=None, init=False,
                                                                                       repr=False)

    def of(self, spec: RunSpec) -> Known | None:
        """The rate of a kind of run; None where none was ever measured on such a device."""
        key = spec.variant, spec.scale_label, spec.task.suite
        if key not in self._known:
            found = (self._found(name, label, spec) for name in names_of(spec.variant, self.catalog)
                     for label in labels_of(spec.scale_label))
            self._known[key] = next((known for known in found if known is not None), None)
        return self._known[key]

    def here(self, name: str, label: str, suite: str) -> Known | None:
        """The rate of finished runs in the results folder, of a variant, scale and suite, on such a device.

        Args:
            label: of the scale, see :func:`labels_of`.
        """
        own = [(seconds, steps) for run, done, device in finished(self.results, name, label)
               if device == self.place.device and self._suite(run.path.parents[2].name) == suite
               for seconds, steps in [(done.get("wall_seconds", 0.0), done["env_steps"])] if seconds and steps]
        return Known(name, f"{_runs(len(own))} in the results folder{_otherwise(label)}",
                     sum(seconds for seconds, _ in own) / sum(steps for _, steps in own)) if own else None

    def _found(self, name: str, label: str, spec: RunSpec) -> Known | None:
        if (own := self.here(name, label, spec.task.suite)) is not None:
            return own
        packed = [each for (variant, other, suite), runs in self._packed().items() for each in runs
                  if (variant, suite) == (name, spec.task.suite) and _of_label(other, label)]
        if packed:
            places = ", ".join(dict.fromkeys(where for _, _, where in packed))
            return Known(name, f"{_runs(len(packed))} in {places}{_otherwise(label)}",
                         sum(seconds for seconds, _, _ in packed) / sum(steps for _, steps, _ in packed))
        return self._published(name, spec)

    def _suite(self, task: str) -> str:
        """The suite of a run's task; empty for one that the catalog does not have (any more)."""
        with suppress(BenchError):
            return self.catalog.task(task).suite
        return ""

    def _packed(self) -> dict[tuple[str, str, str], list[tuple[float, int, str]]]:
        """Seconds, env_steps and place of the packed runs on such a device, by variant, scale and suite."""
        if self._measured is None:
            self._measured = {}
            for folder in self.reference:
                for (variant, task, label), seconds, steps in _archived(folder / ARCHIVE, self.place.device):
                    key = variant, label, self._suite(task)
                    self._measured.setdefault(key, []).append((seconds, steps, folder.name))
        return self._measured

    def _published(self, name: str, spec: RunSpec) -> Known | None:
        for row in published_hours(self.paper):
            if (row["stage"], row["method"], row["suite"], row["scale"]) == (
                    "online", name, spec.task.suite, spec.scale) and self.place.has(row):
                return Known(name, f"as its authors report, not measured here ({row['source']})",
                             whole=3600.0 * float(row["hours"]))
        return None


def labels_of(label: str) -> list[str]:
    """The scale's label of a run, its scale's own, and ``cpu@``, which stands for that scale with any other keys."""
    scale, _, _ = label.partition("@")
    return list(dict.fromkeys((label, scale, f"{scale}@")))


def _of_label(label: str, asked: str) -> bool:
    return label.startswith(asked) if asked.endswith("@") else label == asked


def _otherwise(label: str) -> str:
    return ", under other keys of the protocol" if label.endswith("@") else ""


def names_of(variant: str, catalog: Catalog) -> list[str]:
    """The variant, its method, and those that this extends, the nearest first."""
    names = [variant, split_variant(variant)[0]]
    with suppress(CatalogError):  # a method that the catalog does not have (any more) extends none
        while parent := catalog.method(names[-1]).extends:
            names.append(parent)
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Size:
    """Bytes of a run's folder once it is done; ``least`` where only a part of it is known."""

    bytes: float
    source: str
    least: bool = False


def size_of(spec: RunSpec, catalog: Catalog, results: Path) -> Size | None:
    """What a finished run of this kind takes up here; else what can be counted: checkpoints, and a replay's frames."""
    folders = [run.path for run, _, _ in finished(results, spec.variant, spec.scale_label)]
    if folders:
        return Size(sum(map(bytes_of, folders)) / len(folders), f"{_runs(len(folders))} in the results folder")
    paper = paper_folder()
    known = _records(paper.parent / "reference" / SIZES) if paper else []
    rows = [row for name in names_of(spec.variant, catalog) for row in known
            if (row["method"], row["scale"]) == (name, spec.scale)]
    protocol = spec.protocol
    info = algorithms().get(spec.algorithm)
    frames = 0 if info is None or info.on_policy else _kept(spec) * 3 * protocol.image_size**2
    if not rows and not frames:
        return None
    weights = 4 * NUMBERS * COPIES * int(rows[0]["parameters"]) if rows else 0
    parts = [f"{COPIES} checkpoints of {int(rows[0]['parameters']):,} weights with Adam's moments "
             f"({rows[0]['source']})"] if rows else []
    parts += ["the frames of the replay"] if frames else []
    return Size(weights + frames, f"counted: {' and '.join(parts)}", least=True)


def bytes_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _kept(spec: RunSpec) -> int:
    """Entries of a finished run's replay that are drawn from: its decisions, at most the config's ``capacity``."""
    limits = [value for name, value in leaves(spec.config) if name.rpartition(".")[2] == "capacity"]
    return int(min([spec.protocol.env_steps // spec.protocol.action_repeat, *limits]))


def _runs(count: int) -> str:
    return f"{count} finished run{'s' * (count != 1)}"


def published_hours(folder: Path | None) -> list[dict[str, Any]]:
    """Hours that a publication reports, a record each: method, stage, suite, scale, gpu, gpus, hours, source."""
    return _records(folder / HOURS) if folder else []


def _records(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def finished(results: Path, variant: str, label: str) -> Iterator[tuple[RunDir, Mapping[str, Any], str]]:
    """Finished runs of a variant and scale (see :func:`labels_of`), whatever task, corpus and seed; with done.json and
    the device."""
    if not (results / variant).is_dir():
        return
    for path in sorted((results / variant).glob(f"*/*/{_plain(label)}{'*' * label.endswith('@')}/seed-*/done.json")):
        run_dir = RunDir(path.parent)
        with suppress(BenchError):  # what is wrong with another run is that run's matter
            if done := run_dir.done():
                timing = run_dir.read_timing()
                yield run_dir, done, timing[-1]["device"] if timing else "cpu"


def _plain(text: str) -> str:
    import glob

    return glob.escape(text)


def _archived(path: Path, device: str) -> Iterator[tuple[tuple[str, str, str], float, int]]:
    """Variant, task and scale, seconds, and env_steps of the packed runs that were on such a device."""
    if not path.is_file():
        return
    names = set(open_archive(path).members)
    with zipfile.ZipFile(path) as archive:
        for name in sorted(one for one in names if one.endswith("/done.json")):
            parts, timing = name.split("/"), name.replace("done.json", "timing.jsonl")
            done = json.loads(archive.read(name))
            lines = archive.read(timing).splitlines() if timing in names else []
            where = json.loads(lines[-1]).get("device", "cpu") if lines else "cpu"  # older runs were all on a processor
            if len(parts) == 6 and where == device and done.get("wall_seconds") and done.get("env_steps"):
                yield (parts[0], parts[1], parts[3]), done["wall_seconds"], done["env_steps"]


def all_rates(catalog: Catalog, results: Path, place: Place) -> Rates:
    """Rates from every place that there is: the results folder, packed runs, published hours."""
    return Rates(catalog, results, place, reference_folders(), paper_folder())


def reference_folders() -> list[Path]:
    """Folders of packed runs that come with the code; none in a wheel."""
    paper = paper_folder()
    root = paper.parent / "reference" if paper else None
    return sorted(path.parent for path in root.glob(f"*/{ARCHIVE}")) if root and root.is_dir() else []
