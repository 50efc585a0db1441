"""What runs are refused for, and warned of, before anything starts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.catalog.stage_graph import stage_graph
from pvdr_bench.catalog.suites import check_suite, suite_of
from pvdr_bench.errors import CatalogError, SetupError
from pvdr_bench.rl.config import TokenizerConfig
from pvdr_bench.runs.paths import data_root
from pvdr_bench.videos.requirements import check_videos, find_store, wanted_frames
from pvdr_bench.words import counted


def check_runs(specs: Iterable[RunSpec], catalog: Catalog) -> None:
    """Refuse runs that would fail, some of them only once stages were made; what many have alike is checked once.

    Raises:
        CatalogError: see :func:`check_protocol`, :func:`check_task` and :func:`check_sizes`.
    """
    tasks, sizes = {}, {}
    for spec in specs:
        check_protocol(spec)
        tasks[spec.task.name, spec.protocol.camera] = spec
        sizes[spec.variant, spec.scale_label, spec.task.set] = spec
    for spec in tasks.values():
        check_task(spec, catalog)
    for spec in sizes.values():
        check_sizes(spec, catalog)


def check_suites(specs: Iterable[RunSpec]) -> None:
    """Refuse runs whose simulator is not here, before anything is made for them.

    Raises:
        SetupError: what a suite lacks first.
    """
    for name in dict.fromkeys(spec.task.suite for spec in specs):
        if problems := suite_of(name).problems():
            more = f", and {counted(len(problems) - 1, 'thing')} more" if len(problems) > 1 else ""
            raise SetupError(f"the suite {name} is not ready: {problems[0].message}{more}",
                             hint="pvdr-bench doctor tells all that it lacks, and what mends it")


def warnings(specs: Iterable[RunSpec]) -> list[str]:
    """Settings of a method and its protocol that work against each other: a sentence per variant, runs are made."""
    variants = {(spec.variant, spec.scale_label, spec.task.set, spec.protocol.name): spec for spec in specs}
    found: dict[str, None] = {}
    for spec in variants.values():
        if (text := spec.config_object().warning(spec.protocol)) is not None:
            found[f"{spec.variant}: {text}"] = None
    return list(found)


def check_corpora(specs: Iterable[RunSpec], catalog: Catalog) -> None:
    """Refuse videos that are not here, or that a stage could not learn from; those yet to be generated are not made.

    Raises:
        SetupError: no such videos of the runs' image size.
        DataError: they are broken.
        UsageError: too short or too still, in the size asked for.
    """
    stages = {node.key: node for spec in specs for node in stage_graph(spec, catalog)}
    asked = {(share.corpus, share.size, node.image_size, node.config.schedule(node.stage.name)): (share.name, node)
             for node in stages.values() for share in node.shares}
    for (corpus, size, image_size, schedule), (name, node) in asked.items():
        store = find_store(corpus, image_size, data_root())
        wanted = wanted_frames(size, image_size, data_root()) if size else None
        if store is not None and (wanted is not None or not size):
            check_videos(store if wanted is None else store.of_size(wanted), schedule, name, node.label)


def check_protocol(spec: RunSpec) -> None:
    """Refuse what the loop cannot do.

    Raises:
        CatalogError: the budget is not on the grid of sync points, or reward or method need a goal image and the
            protocol has none.
    """
    protocol = spec.protocol
    if protocol.env_steps % protocol.sync_every:
        raise CatalogError(f"the budget of {protocol.env_steps} env_steps is not a multiple of sync_every "
                           f"{protocol.sync_every}", where="protocol.env_steps",
                           hint=_multiples(protocol.env_steps, protocol.sync_every))
    if protocol.reward == "goal_distance" and not protocol.frozen_instance:
        raise CatalogError("reward goal_distance needs one goal image, so a frozen instance",
                           where="protocol.frozen_instance", hint="frozen_instance: true, or reward: dense")
    known = registry.algorithms()
    info = known.get(spec.algorithm)
    if info is not None and info.needs_goal_image and not protocol.has_goal_image:
        without = [name for name, other in known.items() if other.learner is not None and not other.needs_goal_image]
        raise CatalogError(
            f"{spec.variant} (algorithm {info.name}) needs a goal image, and protocol {protocol.name} has none: each "
            "of its episodes has a goal of its own", where="protocol.frozen_instance",
            hint=f"--protocol pvdr has one; algorithms that need none: {', '.join(without)}")


def _multiples(value: int, of: int) -> str:
    """``use 480 or 640``: the positive multiples next to a value."""
    below = value // of * of
    return f"use {' or '.join(str(near) for near in (below, below + of) if near)}"


def check_task(spec: RunSpec, catalog: Catalog) -> None:
    """Refuse a task whose environment cannot be built; no simulator is started, nor imported.

    Raises:
        CatalogError: no such suite, environment, camera or option, or no expert or goal image where one is needed.
    """
    check_suite(spec, lambda key: catalog.task_place(spec.task.name, key))


def check_sizes(spec: RunSpec, catalog: Catalog) -> None:
    """Refuse pictures too small for the networks, or that the run's tokenizer cannot cut into cells, and networks that
    do not fit its token grid.

    Raises:
        CatalogError: with the sizes that would do; or what should train the tokenizer trains none.
    """
    config = spec.config_object()
    config.check_image(spec.protocol.image_size)
    if spec.tokenizer is not None:
        grid = token_grid(spec.tokenizer, spec.scale, spec.protocol.image_size, catalog)
        if spec.info.needs:  # others have a tokenizer for their reward alone
            config.check_grid(grid)
    stage_graph(spec, catalog)


def token_grid(tokenizer: str, scale: str, image_size: int, catalog: Catalog) -> int:
    """Side of the token grid that the tokenizer of a scale makes of square pictures.

    Raises:
        CatalogError: the side of a picture is not a multiple of a cell's, or the method trains no tokenizer.
    """
    found = catalog.config(tokenizer, scale)
    if not isinstance(found.value, TokenizerConfig):
        raise CatalogError(f"method {tokenizer} trains no frame tokenizer: its algorithm is {found.method.algorithm}",
                           where="tokenizer", hint="leave the key out, for the method named tokenizer")
    try:
        return found.value.grid(image_size)
    except ValueError as error:
        raise CatalogError(str(error), where="protocol.image_size",
                           hint=_multiples(image_size, found.value.factor)) from error
