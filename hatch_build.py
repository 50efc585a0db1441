"""Puts the YAML folders and other shipped data into a wheel; an editable install finds them beside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("methods", "tasks", "slurm", "experiments", "artefacts", "results/paper")
FILES = ("results/reference/reach-cpu/report.html",)


class DataFolders(BuildHookInterface):
    """Map ``FOLDER`` to ``pvdr_bench/_data/FOLDER``, and files likewise."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a build."""
        if version == "editable":
            return
        for name in FOLDERS:
            folder = Path(self.root) / name
            if folder.is_dir() and any(path.is_file() for path in folder.rglob("*")):
                build_data["force_include"][str(folder)] = f"pvdr_bench/_data/{name}"
        for name in FILES:
            if (Path(self.root) / name).is_file():
                build_data["force_include"][str(Path(self.root) / name)] = f"pvdr_bench/_data/{name}"
