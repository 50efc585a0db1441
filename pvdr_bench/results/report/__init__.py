"""The report: one HTML file with all that a results folder says, for readers who did not run anything.

It opens from disk and asks no network for anything. Statistics are made here, by the functions that ``table`` and
``plot`` use; the browser only shows them. The same results folder gives the same bytes.
"""

from pvdr_bench.results.report.build import Report, build_report
from pvdr_bench.results.report.chapters import Options

__all__ = ["Options", "Report", "build_report"]
