"""``pvdr-bench``: the main command. It imports nothing heavy; each command is imported when it is called."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.main import get_command

from pvdr_bench.cli.lazy import Lazy, LazyGroup


class MainGroup(LazyGroup):
    """All commands, in the parts and the order of the main help, as in README.md."""

    parts = {
        "Look": {
            "demo": Lazy("pvdr_bench.cli.demo:demo", "Film a shipped policy beside its plans; open a report."),
            "list": Lazy("pvdr_bench.cli.show:list_", "List methods, tasks, suites, protocols, corpora, runs."),
            "describe": Lazy("pvdr_bench.cli.describe:describe", "Explain every key of anything that has a name."),
            "validate": Lazy("pvdr_bench.cli.validate:validate", "Check a folder of YAML, at every scale."),
        },
        "Run": {
            "run": Lazy("pvdr_bench.cli.run:run", "Train and evaluate methods in tasks."),
            "reproduce": Lazy("pvdr_bench.cli.reproduce:reproduce",
                              "Plan, run and draw a figure or table of the paper."),
            "evaluate": Lazy("pvdr_bench.cli.run:evaluate", "Play more evaluation episodes with a run's policy."),
            "pretrain": Lazy("pvdr_bench.cli.pretrain:pretrain",
                             "Find or make what runs start from, on many GPUs too."),
        },
        "Results": {
            "aggregate": Lazy("pvdr_bench.cli.results:aggregate", "Write all results as one tidy frame."),
            "plot": Lazy("pvdr_bench.cli.plot:plot", "Draw curves, bars, profiles and sweeps with intervals."),
            "table": Lazy("pvdr_bench.cli.results:table", "Print results as Markdown, CSV or LaTeX."),
            "video": Lazy("pvdr_bench.cli.video:video", "Film a run's policy beside its plans."),
            "inspect": Lazy("pvdr_bench.cli.inspect:inspect",
                            "Show what models think: futures, plans, t-SNE, roll-outs."),
            "report": Lazy("pvdr_bench.cli.report:report", "Write results and every run as one HTML file."),
            "compare": Lazy("pvdr_bench.cli.compare:compare", "One row against another: effect, interval, test."),
            "agreement": Lazy("pvdr_bench.cli.compare:agreement",
                              "Rank agreement of our ordering with the published one."),
            "export": Lazy("pvdr_bench.cli.export:export", "Results for other tools, and runs for trackers."),
            "pack": Lazy("pvdr_bench.cli.pack:pack", "Put published runs into one archive with checksums."),
            "unpack": Lazy("pvdr_bench.cli.pack:unpack", "Write the runs of an archive as folders."),
        },
        "Cluster": {
            "submit": Lazy("pvdr_bench.cli.submit:submit", "Submit runs to SLURM, artefact stages first."),
            "status": Lazy("pvdr_bench.cli.status:status", "Show how far all runs are, here and on the cluster."),
            "logs": Lazy("pvdr_bench.cli.status:logs", "Print what a run and its job wrote."),
            "cancel": Lazy("pvdr_bench.cli.status:cancel", "Take jobs out of the queue; checkpoints stay."),
            "retry": Lazy("pvdr_bench.cli.submit:retry", "Submit again what failed, was stopped or lost."),
        },
        "Data": {
            "clean": Lazy("pvdr_bench.cli.clean:clean", "Move broken runs and unused artefacts to the trash."),
            "videos": Lazy("pvdr_bench.cli.videos:app", "Make and list the corpora of pre-training."),
        },
        "Check": {
            "doctor": Lazy("pvdr_bench.cli.doctor:doctor", "Check this machine, and render a frame."),
            "verify": Lazy("pvdr_bench.cli.verify:verify",
                           "Say whether finished runs are as they were, and what is not."),
            "bench": Lazy("pvdr_bench.cli.bench:bench", "Measure this machine, a trained model, or the statistics."),
        },
    }


app = typer.Typer(cls=MainGroup, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]})


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"pvdr-bench {version('pvdr-bench')}")
        except PackageNotFoundError:
            typer.echo("pvdr-bench (not installed: run from its source folder)")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                          help="Print the version.")] = False,
) -> None:
    """Robot learning from videos without actions: PVDR and its comparison set.

    Exit codes: 0 done, 1 runs failed in different ways, or what no other code says, 2 usage, 3 YAML or override,
    4 missing on this machine, 5 broken data, 6 locked, 7 changed recipe, 8 training failed, 9 disk, 75 interrupted (the
    same command continues), 130 ended by Ctrl-C (where nothing is kept).
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point: an expected error becomes one message and its exit code; see :mod:`pvdr_bench.cli.output`."""
    from pvdr_bench.cli.output import run

    os.environ["MPLBACKEND"] = "agg"  # matplotlib cannot even be imported where a notebook's backend is not installed
    sys.exit(run(lambda: get_command(app)(args=arguments, prog_name="pvdr-bench", standalone_mode=True)))


if __name__ == "__main__":
    main()
