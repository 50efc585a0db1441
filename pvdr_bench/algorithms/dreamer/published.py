"""What of the authors' own DreamerV3 is installed here, for ``doctor``: it is no method of the house. Imports no torch.

PyPI has no release of it: ``dreamerv3`` ends at 1.5.0 (February 2023), the agent of the first preprint, and the archive
of ``embodied`` 1.2.0 cannot be built. From a checkout it plays the tasks by their Gymnasium ids.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from packaging.version import Version

FIRST_PREPRINT = Version("1.5.0")  # the last release of PyPI
CHECKOUT = "git clone https://github.com/danijar/dreamerv3 CHECKOUT, and its folder in PYTHONPATH"
REQUIREMENTS = "pip install -r CHECKOUT/requirements.txt, in an environment of its own"
NEEDED = {"dreamerv3": CHECKOUT, "embodied": CHECKOUT, "elements": REQUIREMENTS, "portal": REQUIREMENTS,
          "jax": REQUIREMENTS}
USE = ("its task gym_pvdr_bench/reach-v0 is ours, where gym is gymnasium and pvdr_bench.gym was imported (not tried "
       "here); what it writes is no run of this harness")


def published_dreamerv3(found: Callable[[str], object] = find_spec) -> tuple[str, list[tuple[str, str]]]:
    """A sentence on what is here and how the rest is had, and what is missing with its mend.

    Args:
        found: gives None for a module that cannot be imported.
    """
    missing = [(module, mend) for module, mend in NEEDED.items() if found(module) is None]
    try:
        release = version("dreamerv3")
    except PackageNotFoundError:
        release = ""
    if release and Version(release) <= FIRST_PREPRINT and len(missing) < len(NEEDED):
        missing = [(f"dreamerv3 {release} of PyPI is another agent, the first preprint's",
                    f"pip uninstall dreamerv3; {CHECKOUT}"), *missing]
    if not missing:
        return f"can be imported: {USE}", missing
    mends = dict.fromkeys(mend for _, mend in missing)
    listed = "; ".join(f"{', '.join(what for what, each in missing if each == mend)} -> {mend}" for mend in mends)
    return f"PyPI has no release of the present code, and no row here needs it. From a checkout: {listed}", missing
