"""What the online loop refuses, told before anything starts. Imports no torch."""

from __future__ import annotations

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import CatalogError


def check_protocol(spec: RunSpec) -> None:
    """Refuse what the loop cannot do, before anything starts.

    Raises:
        CatalogError: the budget is not on the grid of sync points, or a goal image is needed and instances vary.
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
