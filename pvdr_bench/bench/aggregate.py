"""``bench aggregate``: how long collecting, figures and tables take for a results folder of a large experiment.

The folder is synthetic and deleted afterwards. Its files have the format of the real writers; success rates follow
seeded logistic curves.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pvdr_bench.catalog import load_catalog
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import UsageError
from pvdr_bench.progress import told
from pvdr_bench.results.collect import Results, collect, write_frame
from pvdr_bench.runs.files import content_hash, encode, plain, write_json
from pvdr_bench.runs.known import SETTLED_SECONDS
from pvdr_bench.runs.run_file import FORMAT
from pvdr_bench.runs.seal import make_seal
from pvdr_bench.suites.registry import suite

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_FIRST_EVALUATION_SEED = 10**9


def measure(tasks: int = 15, methods: int = 12, seeds: int = 5, evaluations: int = 100, episodes: int = 20,
            metrics: tuple[str, ...] = ("success",), seed: int = 0) -> dict[str, Any]:
    """Write ``tasks`` x ``methods`` x ``seeds`` runs, and collect them twice.

    Args:
        evaluations: points of a run's curve; a final one with 100 episodes comes on top.
        episodes: of each of them.
        metrics: to draw and write all figures and tables of; none with ``metrics=[]``.
        seed: of the success rates.

    Returns:
        aggregate_s: collecting and writing the frames. again_s: the same after one new run; again_read: logs read for
        it. again_command_s: once more as a command of its own, start included. figures_s: every kind of figure (PDF,
        SVG, PNG) and table (Markdown, CSV, LaTeX). runs, rows (episode lines) and points: of the second time.
        written_s: making the folder. NAME_cpu_s beside each NAME_s: seconds of computing, which leave out what other
        programs took of the machine. peak_gib: largest resident set of this process and of the command.

    Raises:
        UsageError: a number of which there must be one at least is less.
    """
    numbers = {"tasks": tasks, "methods": methods, "seeds": seeds, "evaluations": evaluations, "episodes": episodes}
    for key, number in numbers.items():
        if number < 1:
            raise UsageError(f"{key} = {number}: at least 1 is needed", where=f"-o {key}")
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pvdr-bench-") as name:
        root, out = Path(name) / "runs", Path(name) / "out"
        specs = list(_specs(tasks, methods, seeds, evaluations, episodes))
        _timed(found, "written", lambda: _write_runs(root, specs, rng))
        time.sleep(SETTLED_SECONDS + 0.5)  # files that have just changed are not taken for finished
        _timed(found, "aggregate", lambda: _aggregate(root, out))
        _write_run(root, specs[0].model_copy(update={"seed": seeds}), rng)
        results = _timed(found, "again", lambda: _aggregate(root, out))
        found["again_read"] = results.read
        command = [sys.executable, "-m", "pvdr_bench.cli.main", "aggregate", "--json", "--results", str(root)]
        _timed(found, "again_command", lambda: subprocess.run(command, check=True, capture_output=True))
        _timed(found, "figures", lambda: _show(results, metrics, out))
        rows = int(results.points["episodes"].sum())
    kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {**found, "runs": len(results.runs), "rows": rows, "points": len(results.points), "peak_gib": kib / 2**20}


def _timed(found: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    """Put NAME_s and NAME_cpu_s into ``found``; the second leaves out what other programs took of the machine."""
    began, cpu = time.perf_counter(), _cpu_seconds()
    result = work()
    found[f"{name}_s"], found[f"{name}_cpu_s"] = time.perf_counter() - began, _cpu_seconds() - cpu
    return result


def _cpu_seconds() -> float:
    """Seconds of computing of this process and of the commands that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _aggregate(root: Path, out: Path) -> Results:
    results = collect(root)
    write_frame(results, out)
    return results


def _show(results: Results, metrics: Sequence[str], out: Path) -> None:
    """Curves, bars and a table of each metric; of rates also a profile and aggregates, drawn and as a table."""
    from pvdr_bench.results import figures
    from pvdr_bench.results.aggregate_table import build_aggregate_table
    from pvdr_bench.results.tables import FORMATS, build_table

    for metric in told(metrics, "figures and tables"):
        plots: dict[str, Callable[..., Any]] = {"curves": figures.plot_curves, "bars": figures.plot_bars}
        tables: dict[str, Callable[..., Any]] = {"table": build_table}
        if metric != "return":
            plots |= {"profile": figures.plot_profile, "aggregates": figures.plot_aggregates}
            tables["aggregates"] = build_aggregate_table
        for kind, plot in plots.items():
            figures.save(plot(results, metric), out / f"{metric}-{kind}")
        for kind, build in tables.items():
            table = build(results, metric)
            for suffix, form in FORMATS.items():
                (out / f"{metric}-{kind}.{suffix}").write_text(form(table), encoding="utf-8")


def _specs(tasks: int, methods: int, seeds: int, evaluations: int, episodes: int) -> Iterator[RunSpec]:
    """Runs of the built-in pvdr at cpu scale, under other names: as many keys as a real recipe has."""
    whole = load_catalog().resolve("pvdr", "reach", 0, scale="cpu")
    budget = evaluations * whole.protocol.eval_every
    protocol = whole.protocol.model_copy(update={"env_steps": budget, "eval_episodes": episodes})
    names = suite(whole.task.suite).published
    for task in range(tasks):
        name = names[task] if task < len(names) else f"task-{task}"
        spec = whole.task.model_copy(update={"name": name, "env_id": name})
        for method in range(methods):
            label = f"method-{method:02d}"
            for seed in range(seeds):
                yield whole.model_copy(update={"method": label, "variant": label, "title": f"Method {method}",
                                               "task": spec, "protocol": protocol, "seed": seed})


def _write_runs(root: Path, specs: Sequence[RunSpec], rng: np.random.Generator) -> None:
    for spec in told(specs, "writing runs"):
        _write_run(root, spec, rng)


def _write_run(root: Path, spec: RunSpec, rng: np.random.Generator) -> None:
    """A finished run: ``run.yaml``, ``episodes.jsonl`` and ``done.json`` as the run loop writes them."""
    folder, protocol = spec.path(root), spec.protocol
    folder.mkdir(parents=True)
    recipe = plain(spec.recipe())
    text = yaml.dump({"format": FORMAT, "recipe_hash": content_hash(recipe), "recipe": recipe,
                      "spec": spec.model_dump(mode="json")}, Dumper=_DUMPER, sort_keys=False, width=120)
    (folder / "run.yaml").write_bytes(encode(text))
    steps = np.arange(protocol.eval_every, protocol.env_steps + 1, protocol.eval_every)
    rates = rng.uniform(0.2, 1.0) / (1.0 + np.exp(-(steps / protocol.env_steps - rng.uniform(0.1, 0.7)) * 12.0))
    with (folder / "episodes.jsonl").open("w", encoding="utf-8") as log:
        for env_steps, rate in zip(steps.tolist(), rates.tolist(), strict=True):
            log.writelines(_lines(spec, env_steps, "grid", rate, protocol.eval_episodes, rng))
        log.writelines(_lines(spec, protocol.env_steps, "final", rates[-1], protocol.eval_final_episodes, rng))
    facts = {"time": 0.0, "env_steps": protocol.env_steps}
    write_json(folder / "done.json", {**facts, "seal": make_seal(folder, facts)}, durable=False)


def _lines(spec: RunSpec, env_steps: int, point: str, rate: float, episodes: int,
           rng: np.random.Generator) -> Iterator[str]:
    """Lines of one evaluation, byte for byte as :class:`~pvdr_bench.runs.logs.JsonlLog` would write them."""
    head = (f'{{"seed": {spec.seed}, "env_steps": {env_steps}, '
            f'"decisions": {env_steps // spec.protocol.action_repeat}, "point": "{point}"')
    success, end = (rng.random((2, episodes)) < [[rate], [0.5]]).tolist()
    returns = rng.normal(-50.0 * (1.0 - rate), 5.0, episodes).tolist()
    for i in range(episodes):
        yield (f'{head}, "episode": {i}, "eval_seed": {_FIRST_EVALUATION_SEED + i}, '
               f'"success_any": {"true" if success[i] else "false"}, '
               f'"success_end": {"true" if success[i] and end[i] else "false"}, '
               f'"return": {returns[i]!r}, "length": {spec.protocol.episode_steps}}}\n')
