"""What only the simulator knows, carried beside experience in a form that nothing can be learnt from. Imports no torch.

A learner that read a goal's true distance would look good and prove nothing. So the truth is no tensor and no field of
what networks read: it is a :class:`Diagnostics`, which refuses to become an array or a tensor and gives its numbers out
by name, for metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

REFUSAL = "diagnostics are no input: what only the simulator knows is for metrics, see Diagnostics.metric"


class Diagnostics:
    """Named numbers of the simulator, for metrics only.

    Args:
        values: name -> an array, [N] of one decision or [T, N] of many; copied as float32.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, ArrayLike] | None = None) -> None:
        self._values = {name: np.array(value, np.float32) for name, value in (values or {}).items()}
        for array in self._values.values():
            array.setflags(write=False)

    @classmethod
    def stack(cls, parts: Sequence[Diagnostics]) -> Diagnostics:
        """Consecutive decisions as one, with a first dimension T; of the names that all of them have."""
        names = [name for name in (parts[0]._values if parts else {}) if all(name in part._values for part in parts)]
        return cls({name: np.stack([part._values[name] for part in parts]) for name in names})

    @property
    def names(self) -> tuple[str, ...]:
        """What is there."""
        return tuple(self._values)

    def metric(self, name: str) -> NDArray[np.float32] | None:
        """Read-only numbers to compute a metric of; None where the simulator does not tell.

        To be used in what is logged, and nowhere else: neither a loss, nor a reward, nor a choice may depend on it.
        """
        return self._values.get(name)

    def __len__(self) -> NoReturn:
        raise TypeError(REFUSAL)

    def __getitem__(self, key: Any) -> NoReturn:
        raise TypeError(REFUSAL)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(REFUSAL)

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Copies for a checkpoint."""
        return {name: array.copy() for name, array in self._values.items()}
