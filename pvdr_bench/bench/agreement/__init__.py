"""``bench agreement``: our world models beside public implementations, on the same weights, batch and random numbers.

A public implementation is read from a checkout of its repository; nothing of it is here. Its modules are imported
without what their losses do not need, both models are made small, ours gives its weights under the names there, both
see one batch, and what either draws is the same. Where our form departs on purpose the key for it is switched off.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pvdr_bench.bench.agreement.draws import double_precision
from pvdr_bench.bench.agreement.report import TOLERANCE, judge
from pvdr_bench.errors import UsageError

METHODS = ("contextwm", "prelar", "dreamerv3")


def measure(method: str = "contextwm", checkout: str = "", seed: int = 0) -> dict[str, Any]:
    """Losses, gradients and buffers here and in a checkout.

    Args:
        method: one of :data:`METHODS`. checkout: a folder with the repository that the method's module names.

    Returns:
        comparisons: by name, ``values`` (ours, theirs, absolute and relative difference of each loss), ``gradients``
        and ``buffers`` (by module, the largest relative difference of its tensors); off: keys of ours that are
        switched for it; there: what is otherwise there; failed: what is beyond the tolerance.

    Raises:
        UsageError: no such method, or no checkout is named. SetupError: the checkout lacks a file, or is another one.
    """
    if method not in METHODS:
        raise UsageError(f"there is nothing to compare {method} with", where="-o method",
                         hint=f"there is: {', '.join(METHODS)}")
    module = import_module(f"{__name__}.{method}")
    if not checkout:
        raise UsageError(f"no checkout of {module.LAYOUT.repository} is named", where="-o checkout",
                         hint=f"git clone https://github.com/{module.LAYOUT.repository} CHECKOUT, then "
                              "-o checkout=CHECKOUT")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), \
                double_precision(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # theirs are written for other versions of torch
            torch.manual_seed(seed)
            comparisons = module.compare(Path(checkout).expanduser(), seed)
    finally:
        torch.set_num_threads(before)
    return {"method": method, "repository": module.LAYOUT.repository, "commit": module.LAYOUT.commit,
            "torch": torch.__version__, "off": module.OFF, "there": module.THERE, "comparisons": comparisons,
            "tolerance": TOLERANCE, "failed": judge(comparisons)}
