"""What the fork server of ``tests.processes`` has done before it forks, so that no child has to do it again.

Modules that a run imports late, and what it asks of the machine, which is the same in all of them.
"""

from __future__ import annotations

import numpy.ma  # noqa: F401
import safetensors.torch  # noqa: F401
import torch._dynamo  # noqa: F401  # optimizers import it

import tests.dummies  # noqa: F401
from pvdr_bench.runs import provenance

provenance.collect()
