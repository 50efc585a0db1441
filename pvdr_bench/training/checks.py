"""What the online loop refuses, told before anything starts. Imports no torch."""

from __future__ import annotations

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import CatalogError


def check_protocol(spec: RunSpec) -> None:
    """Refuse what the loop cannot do, before anything starts.

    Raises:
        CatalogError: the budget is not on the grid of sync points, or reward or method need a goal image and the
            protocol has none.
    """
    protocol = spec.protocol
    if protocol.env_steps % protocol.sync_every:
        below = protocol.env_steps // protocol.sync_every * protocol.sync_every
        nearest = [str(steps) for steps in (below, below + protocol.sync_every) if steps]
        raise CatalogError(f"the budget of {protocol.env_steps} env_steps is not a multiple of sync_every "
                           f"{protocol.sync_every}", where="protocol.env_steps", hint=f"use {' or '.join(nearest)}")
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
