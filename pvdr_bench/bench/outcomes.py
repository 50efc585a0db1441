"""What became of the device's tests, for ``bench gpu-check``."""

from __future__ import annotations

from typing import Any


class Outcomes:
    """What became of the device's tests, told as they end; a pytest plugin."""

    def __init__(self, device: str) -> None:
        self.name = "cuda" if device.startswith("cuda") else device
        self.rows: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave the tests of other devices out."""
        items[:] = [item for item in items if self._device_of(item) in (None, self.name)]

    @staticmethod
    def _device_of(item: Any) -> str | None:
        call = getattr(item, "callspec", None)
        return None if call is None else call.params.get("device")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write down a test once it is over, or where its set-up ended it."""
        if report.when == "call" or report.outcome != "passed":
            row = {"outcome": report.outcome, "seconds": report.duration}
            if report.outcome != "passed":
                row["why"] = str(report.longrepr)[-1500:]
            self.rows[report.nodeid.partition("::")[2]] = row
