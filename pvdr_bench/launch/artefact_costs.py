"""What a shared artefact takes before it is made: as the nearest one of its kind that was made here, or unknown.

Of its kind are finished artefacts of the same algorithm, stage, scale and image size; the nearest are those whose
configs differ in the fewest keys. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvdr_bench.catalog.stage_graph import StageNode
from pvdr_bench.errors import BenchError
from pvdr_bench.launch.rates import Place, bytes_of
from pvdr_bench.runs.artefacts import MANIFEST, METRICS, PROVENANCE, RECIPE, TIMING, read_stage_rows
from pvdr_bench.runs.difference import difference
from pvdr_bench.runs.files import read_json
from pvdr_bench.runs.schema import ManifestFile, read
from pvdr_bench.words import counted


@dataclass(frozen=True)
class Made:
    """A finished artefact of a kind.

    Attributes:
        apart: keys in which its config differs from the wanted one's.
        per_step: seconds of a step of its training, validations included; None: not recorded.
        processes: that shared its batches. devices: names of the GPUs that there were.
    """

    path: Path
    name: str
    apart: int
    per_step: float | None
    device: str
    processes: int
    devices: tuple[str, ...]

    def on(self, place: Place) -> bool:
        """Whether it was trained on such a device, of the kind of GPU that is named, if one is."""
        if self.device != place.device:
            return False
        return not place.gpu or any(place.gpu.lower() in name.lower() for name in self.devices)


@dataclass(frozen=True)
class Cost:
    """Hours on ``gpus`` GPUs (none: on a processor) that an artefact will take, None where not known.

    ``source`` says how that is known.
    """

    hours: float | None = None
    gpus: int = 0
    source: str = ""

    def on(self, gpus: int) -> Cost:
        """The same GPU-hours on so many GPUs, which is said; as it is where that is not known, or the same."""
        if self.hours is None or not gpus or not self.gpus or gpus == self.gpus:
            return self
        there = f"{self.source}; there {self.hours:.3g} h on {counted(self.gpus, 'GPU')}"
        return Cost(self.hours * self.gpus / gpus, gpus, f"{there}, and GPU-hours taken as the same")


def made_of_kind(node: StageNode, root: Path) -> list[Made]:
    """The finished artefacts below ``root`` that are of a stage's kind, the nearest first."""
    found: list[Made] = []
    for path in sorted((root / node.stage.name).glob(f"*/{MANIFEST}")):
        with suppress(BenchError, FileNotFoundError):  # what is wrong with another artefact is that one's matter
            found += _read(path.parent, node)
    return sorted(found, key=lambda one: (one.apart, one.name))


def _read(folder: Path, node: StageNode) -> Iterator[Made]:
    """The artefact in a folder, if it is of the stage's kind."""
    manifest, recipe = read(ManifestFile, folder / MANIFEST), read_json(folder / RECIPE)
    kind = recipe.get("stage"), recipe.get("algorithm"), recipe.get("image_size")
    wanted = node.stage.name, node.info.name, node.image_size
    if kind != wanted or not manifest["name"].endswith(f"-{node.scale}"):
        return
    rows = read_stage_rows(folder / TIMING)  # those of before have none
    torch: dict[str, Any] = read_json(folder / PROVENANCE).get("torch") or {}
    yield Made(folder, manifest["name"], len(difference(recipe.get("config"), node.own_config())),
               rows[-1]["wall_seconds"] / rows[-1]["step"] if rows and rows[-1]["step"] else None,
               rows[-1]["device"] if rows else "", int(read_json(folder / METRICS).get("processes", 1)),
               tuple(map(str, torch.get("devices") or ())))


def time_of(node: StageNode, made: Sequence[Made], place: Place) -> Cost | None:
    """The time of a stage's steps at the rate of the nearest that were trained in such a place; None without one."""
    timed = [one for one in made if one.per_step is not None and one.on(place)]
    if not timed:
        return None
    first = timed[0]
    alike = [one for one in timed if (one.apart, one.processes) == (first.apart, first.processes)]
    rate = sum(one.per_step or 0.0 for one in alike) / len(alike)
    names = ", ".join(dict.fromkeys(one.name for one in alike))
    return Cost(node.config.schedule(node.stage.name).steps * rate / 3600.0,
                first.processes if place.device == "cuda" else 0, f"as {names} took here")


def size_of_artefact(made: Sequence[Made]) -> float | None:
    """Mean bytes of the folders of the nearest, whatever they were trained on; None without one."""
    sizes = [bytes_of(one.path) for one in made if one.apart == made[0].apart]
    return sum(sizes) / len(sizes) if sizes else None
