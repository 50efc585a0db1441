"""Property tests draw the same examples in every `make test`; `make test-long` searches with new ones.

An example that a search finds becomes an `@example` or a test of its own.
"""
from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests import quick_disk  # noqa: F401
from tests.rlbench_here import faked  # noqa: F401
from tests.slurm_cluster import cluster  # noqa: F401

# Files that take longest go first, so that none of them is left alone at the end of `make test`, whose workers take one
# file after the other in this order (pytest-xdist's own, by the number of tests, puts the longest last).
LONGEST = ("test_main_job.py", "test_training_distributed.py", "test_efficientzero_learner.py", "test_pvdr_online.py")

settings.register_profile("fixed", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all else as it was."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
