"""``pvdr-bench clean``: move what is of no use into the trash, and empty the trash."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Json, Results
from pvdr_bench.words import counted, disk_size

if TYPE_CHECKING:
    from pvdr_bench.runs.artefacts import ArtefactStore
    from pvdr_bench.runs.cleaning import Found

OlderThan = Annotated[float, typer.Option("--older-than", metavar="DAYS", min=0.0,
                                          help="Of artefacts: only those that nobody made or asked for since.")]


@dataclass
class _Plan:
    """What there is to do in a results folder and the data folder."""

    root: Path
    store: ArtefactStore
    days: float
    runs: list[Found] = field(default_factory=list)
    idle: list[Found] = field(default_factory=list)
    kept: list[Found] = field(default_factory=list)
    moved: dict[Path, Path | None] = field(default_factory=dict)

    @property
    def trash(self) -> tuple[Path, Path]:
        """The folders of removed runs and of removed artefacts."""
        from pvdr_bench.runs.cleaning import DATA_TRASH, RUN_TRASH

        return self.root / RUN_TRASH, self.store.root.parent / DATA_TRASH

    def rows(self) -> dict[str, Any]:
        """As JSON types."""
        def row(found: Found) -> dict[str, Any]:
            target = self.moved.get(found.path)
            return {"path": str(found.path), "reason": found.reason, "bytes": found.size,
                    "moved_to": str(target) if target else None}
        return {"runs": [row(found) for found in self.runs], "artefacts": [row(found) for found in self.idle],
                "kept": [{"path": str(found.path), "reason": found.reason, "bytes": found.size}
                         for found in self.kept]}


def clean(
    results: Results = None,
    artefacts: Annotated[bool, typer.Option("--artefacts", help="Also old artefacts that no run stands on, in any "
                                                                "results folder.")] = False,
    older_than: OlderThan = 7.0,
    empty_trash: Annotated[bool, typer.Option("--empty-trash", help="Delete what is in the trash, and nothing "
                                                                    "else.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
    json_: Json = False,
) -> None:
    """Move broken runs into RESULTS/.trash, and unused artefacts into the data folder's trash; asks first.

    Nothing is deleted but by --empty-trash: what was moved can be moved back. Runs write down what they stand on before
    they open it, so runs of other results folders and runs that are just starting keep their artefacts.
    """
    from pvdr_bench.errors import UsageError
    from pvdr_bench.runs.artefacts import ArtefactStore
    from pvdr_bench.runs.cleaning import broken_runs, idle_artefacts
    from pvdr_bench.runs.paths import existing_results

    if json_ and not (yes or dry_run):
        raise UsageError("--json cannot ask", hint="add --dry-run to list, or --yes to go on")
    plan = _Plan(existing_results(results), ArtefactStore(), older_than)
    if empty_trash:
        if artefacts:
            raise UsageError("--empty-trash moves no artefacts", hint="give one after the other")
        _empty(plan, yes, dry_run, json_)
        return
    plan.runs = broken_runs(plan.root)
    if artefacts:
        plan.idle, plan.kept = idle_artefacts(plan.store, plan.root, older_than)
    if not json_:
        _show(plan)
    count = len(plan.runs) + len(plan.idle)
    if count and not dry_run and _agreed(f"Move {counted(count, 'folder')} to the trash?", yes):
        _move(plan, json_)
    if json_:
        typer.echo(json.dumps(plan.rows()))


def _agreed(question: str, yes: bool) -> bool:
    if yes or typer.confirm(question):
        return True
    typer.echo("nothing was moved or deleted")
    return False


def _show(plan: _Plan) -> None:
    for found in (*plan.runs, *plan.idle):
        typer.echo(f"{found.path}  ({found.reason}; {disk_size(found.size)})")
    for found in plan.kept:
        typer.echo(f"stays: {found.path}  ({found.reason}; {disk_size(found.size)})")
    if not plan.runs and not plan.idle:
        typer.echo("nothing to remove")
    else:
        typer.echo(f"together {disk_size(sum(found.size for found in (*plan.runs, *plan.idle)))}")


def _move(plan: _Plan, quiet: bool) -> None:
    """Move what still may go, and say where to."""
    from pvdr_bench.runs.cleaning import discard_artefact, discard_run, fresh_trash

    runs, data = plan.trash
    if plan.runs:
        trash = fresh_trash(runs)
        for found in plan.runs:
            plan.moved[found.path] = discard_run(found, trash)
    if plan.idle:
        trash = fresh_trash(data)
        for found in plan.idle:
            plan.moved[found.path] = discard_artefact(found, plan.store, plan.root, plan.days, trash)
    for path, target in () if quiet else plan.moved.items():
        typer.echo(f"{path} -> {target}" if target else f"stays, somebody has come to use it: {path}")
    if not quiet:
        typer.echo("move a folder back to undo it; pvdr-bench clean --empty-trash deletes it for good")


def _empty(plan: _Plan, yes: bool, dry_run: bool, json_: bool) -> None:
    from pvdr_bench.runs.cleaning import empty, trash_size

    there = {path: trash_size(path) for path in plan.trash if path.is_dir()}
    for path, size in () if json_ else there.items():
        typer.echo(f"{path}  ({disk_size(size)})")
    if not there and not json_:
        typer.echo("the trash is empty")
    go = bool(there) and not dry_run and _agreed(f"Delete {disk_size(sum(there.values()))} for good?", yes)
    deleted = {str(path): empty(path) for path in there} if go else {}
    if json_:
        typer.echo(json.dumps({"trash": {str(path): size for path, size in there.items()}, "deleted": deleted}))
