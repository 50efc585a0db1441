"""Everything that is wrong with folders of YAML, at every scale, before anything is run with them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.experiment import Experiment, GridPart
from pvdr_bench.catalog.folders import KINDS, search_roots
from pvdr_bench.catalog.mixture import split_videos
from pvdr_bench.catalog.problems import Problem, problems_in, unknown
from pvdr_bench.catalog.protocol import DEFAULT_PROTOCOL
from pvdr_bench.catalog.resolve import find_key
from pvdr_bench.catalog.suites import DEFAULT_TOKENIZER, check_camera, check_environment
from pvdr_bench.errors import BenchError, CatalogError, UsageError
from pvdr_bench.launch.plan import grid, members
from pvdr_bench.suites.registry import broken_suites
from pvdr_bench.training.checks import check_runs, check_sizes
from pvdr_bench.videos.sources import broken_sources
from pvdr_bench.words import nearest

_SUFFIXES = (".yaml", ".yml")


def catalog_of(folder: Path | None) -> tuple[Catalog, list[Path]]:
    """The catalog that a folder is checked in, and the folders to check: it, or all that are searched.

    Raises:
        UsageError: no such folder.
    """
    if folder is None:
        roots = search_roots()
        return Catalog(roots), roots
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", where="FOLDER",
                         hint="a folder with methods/, tasks/, tasks/protocols/, slurm/ or experiments/")
    own = folder.resolve()
    return Catalog([own, *(root for root in search_roots() if root.resolve() != own)]), [own]


def checked_files(catalog: Catalog, roots: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """(kind, name) -> file, of the files in ``roots`` that the catalog reads."""
    return {(kind, name): path for kind in KINDS for name, path in catalog.files(kind).items()
            if any(root in path.parents for root in roots)}


def validate(catalog: Catalog, roots: Sequence[Path]) -> list[Problem]:
    """Every problem of the files in ``roots``, by place."""
    checks: dict[str, Callable[[Catalog, str], Iterator[Problem]]] = {
        "methods": _method, "tasks": _task, "protocols": _protocol, "profiles": _profile, "experiments": _experiment}
    found = [problem for root in roots for check in (_strange_files, _broken_python) for problem in check(root)]
    for (kind, name), path in checked_files(catalog, roots).items():
        try:
            problems = list(checks[kind](catalog, name))
        except BenchError as error:
            problems = list(problems_in(error))
        found += [problem if problem.where else Problem(str(path), problem.message, problem.hint)
                  for problem in problems]
    return list(dict.fromkeys(found))


def _broken_python(root: Path) -> Iterator[Problem]:
    """Python files of a folder that name nothing which can be used."""
    for kind, broken in (("algorithms", registry.broken_algorithms()), ("suites", broken_suites()),
                         ("corpora", broken_sources())):
        for name, error in broken.items():
            if (path := root / kind / f"{name}.py").is_file():
                yield Problem(error.where or str(path), error.message, error.hint)


def _strange_files(root: Path) -> Iterator[Problem]:
    """What lies in a folder and is read by nobody."""
    folders = {kind: root / place for kind, place in KINDS.items()}
    python = [root / kind for kind in ("algorithms", "suites", "corpora")]
    if not any(folder.is_dir() for folder in (*folders.values(), *python)):
        yield Problem(str(root), f"none of {', '.join(f'{place}/' for place in KINDS.values())} is here",
                      "YAML lies in a folder of its kind, such as methods/mine.yaml")
    for path in sorted(path for path in root.iterdir() if path.is_dir() and any(_yaml(path))):
        close = {"protocols": "tasks/protocols", "profiles": "slurm"}.get(path.name) or nearest(
            path.name, KINDS.values())
        if path.name not in KINDS.values() and close:
            yield Problem(str(path), "nobody reads the YAML in this folder", f"did you mean {close}/?")
    for path in _yaml(root):
        yield Problem(str(path), "nobody reads this file", f"YAML lies in {', '.join(KINDS.values())}")
    for folder in filter(Path.is_dir, folders.values()):
        yield from _strange_in(folder, set(folders.values()))


def _strange_in(folder: Path, known: set[Path]) -> Iterator[Problem]:
    stems: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__", "README")) or path in known:
            continue
        if path.is_dir():
            if any(_yaml(path)):
                yield Problem(str(path), "nobody reads the YAML in this folder", f"move the files to {folder}")
        elif path.suffix not in _SUFFIXES:
            yield Problem(str(path), "nobody reads this file", "names end in .yaml")
        elif path.stem in stems:
            yield Problem(str(path), f"nobody reads this file: {stems[path.stem].name} has the same name",
                          "keep one of them")
        stems.setdefault(path.stem, path)


def _yaml(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.y*ml") if path.suffix in _SUFFIXES)


def _method(catalog: Catalog, name: str) -> Iterator[Problem]:
    spec = catalog.method(name)
    problems = catalog.method_problems(name)
    yield from problems
    info = registry.algorithms()[spec.algorithm or ""]
    for corpus in (corpus for corpus in spec.videos if corpus not in catalog.corpora()):
        yield Problem.of(unknown("corpus", corpus, catalog.corpora(), catalog.place("methods", name, ("videos",))))
    if not spec.videos and any(stage.own_videos for stage in info.offline):
        yield Problem(catalog.place("methods", name, ()), f"method {name} names no videos for a stage that all runs "
                      "share", f"videos: [{', '.join(catalog.corpora())}]")
    tokenizer = spec.tokenizer or DEFAULT_TOKENIZER
    if info.needs and tokenizer not in catalog.methods():
        others = [other for other in catalog.methods() if other != name]
        yield Problem.of(unknown("method", tokenizer, others, catalog.place("methods", name, ("tokenizer",))))
    elif info.learner is not None and not problems:
        yield from _method_in_protocols(catalog, name)


def _method_in_protocols(catalog: Catalog, name: str) -> Iterator[Problem]:
    """At every scale some protocol fits the method's budget and networks, the default one first."""
    protocols = sorted(catalog.protocols(), key=lambda protocol: (protocol != DEFAULT_PROTOCOL, protocol))
    for scale in {scale: None for protocol in protocols for scale in catalog.protocol_file(protocol).scales}:
        failed: list[Problem] = []
        for protocol in protocols:
            if scale not in catalog.protocol_file(protocol).scales:
                continue
            try:
                check_sizes(catalog.resolve(name, catalog.tasks()[-1], 0, scale, protocol), catalog)
            except CatalogError as error:
                path = tuple((error.where or "").split("."))
                place = catalog.config(name, scale).layers.origins.get(path) or error.where
                failed.append(Problem(place, f"{error.message} (method {name} at scale {scale})", error.hint))
            else:
                failed.clear()
                break
        yield from failed[:1]


def _task(catalog: Catalog, name: str) -> Iterator[Problem]:
    task = catalog.task(name)
    check_environment(task, lambda key: catalog.task_place(task.name, key))
    sets = {key for method in catalog.methods() for key in _sets(catalog, method)}
    if task.set is not None and task.set not in sets:
        yield Problem.of(unknown("hyperparameter set: no method has", task.set, sorted(sets),
                                 catalog.task_place(name, "set")))


def _sets(catalog: Catalog, method: str) -> list[str]:
    """Hyperparameter sets of a method's file; a broken one has problems of its own."""
    try:
        spec = catalog.method(method)
    except CatalogError:
        return []
    return [key for section in spec.scales.values() for key in section.sets]


def _protocol(catalog: Catalog, name: str) -> Iterator[Problem]:
    found = catalog.protocol_file(name)
    if not found.scales:
        yield Problem(found.document.file, f"protocol {name} has no scale, so no run can have it",
                      "add scales: {cpu: {...}}")
    problems = catalog.protocol_problems(name)
    yield from problems
    for scale in () if problems else found.scales:
        layers = catalog.protocol_layers(name, scale)
        check_camera(catalog.protocol(name, scale).camera, layers.origin(("camera",)))


def _profile(catalog: Catalog, name: str) -> Iterator[Problem]:
    catalog.profile(name)
    yield from ()


def _experiment(catalog: Catalog, name: str) -> Iterator[Problem]:
    found = catalog.experiment(name)
    members(catalog, name)
    yield from drawn_problems(catalog, found)
    here = catalog.place("experiments", name, ("protocol",))
    if found.protocol not in (None, *catalog.protocols()):
        yield Problem.of(unknown("protocol", str(found.protocol), catalog.protocols(), here))
        return
    scales = (found.scale,) if found.scale else catalog.protocol_file(found.protocol or DEFAULT_PROTOCOL).scales
    for number, part in enumerate(found.grid):
        names = list(_names_in(catalog, name, number, part, scales[0]))
        yield from names
        for scale in () if names else scales:
            try:
                check_runs(grid(catalog, part.methods, part.tasks, part.seeds or found.seeds, scale, found.protocol,
                                part.videos, part.overrides), catalog)
            except BenchError as error:
                yield from _at(catalog.place("experiments", name, ("grid", str(number))), error)


def drawn_problems(catalog: Catalog, experiment: Experiment) -> Iterator[Problem]:
    """What a sweep or a table names that does not exist."""
    if experiment.figure is not None and (key := experiment.figure.key) is not None:
        method = experiment.grid[0].methods[0]
        try:
            find_key(key, type(catalog.config(method, "cpu").value), f"method {method}")
        except BenchError as error:
            yield Problem(catalog.place("experiments", experiment.name, ("figure", "key")), error.message, error.hint)
    if (table := experiment.table) is None:
        return
    from pvdr_bench.results.paper import published  # half a second of pandas

    numbers = published()
    if table.published not in set(numbers["table"]):
        yield Problem.of(unknown("published table", table.published, sorted(numbers["table"].unique()),
                                 catalog.place("experiments", experiment.name, ("table", "published"))))
    asked = {name for part in experiment.grid for name in split_videos(part.videos)}
    for theirs, ours in table.stand_ins.items():
        place = catalog.place("experiments", experiment.name, ("table", "stand_ins", theirs))
        if theirs not in set(numbers["corpus"]):
            yield Problem.of(unknown("published corpus", theirs, sorted(numbers["corpus"].unique()), place))
        if ours not in asked:
            yield Problem.of(unknown("corpus of the grid", ours, sorted(asked), place))


def _names_in(catalog: Catalog, experiment: str, number: int, part: GridPart, scale: str) -> Iterator[Problem]:
    """Names of a grid that do not exist, each at its line."""
    finders: dict[str, tuple[Sequence[str], Callable[[str], object]]] = {
        "methods": (part.methods, lambda one: catalog.config(one, scale)), "tasks": (part.tasks, catalog.task),
        "videos": (part.videos, lambda one: [catalog.videos(text) for text in split_videos(one)])}
    for key, (names, find) in finders.items():
        for index, one in enumerate(names):
            try:
                find(one)
            except BenchError as error:
                place = catalog.place("experiments", experiment, ("grid", str(number), key, str(index)))
                yield from _at(place, error)


def _at(place: str, error: BenchError) -> Iterator[Problem]:
    """The problems of an error that was met at ``place``; one that stands in another file keeps that place too."""
    for problem in problems_in(error):
        elsewhere = f"{problem.where}: " if problem.where else ""
        yield Problem(place, f"{elsewhere}{problem.message}", problem.hint)
