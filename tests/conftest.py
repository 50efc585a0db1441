"""Property tests draw the same examples in every `make test`; `make test-long` searches with new ones.

An example that a search finds becomes an `@example` or a test of its own.
"""
import os

from hypothesis import settings

from tests.slurm_cluster import cluster  # noqa: F401

settings.register_profile("fixed", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
