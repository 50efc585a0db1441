"""Commands that are imported when they are called, so that a help text costs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from pvdr_bench.words import did_you_mean, nearest

if TYPE_CHECKING:
    from pvdr_bench.errors import BenchError


@dataclass(frozen=True)
class Lazy:
    """Where a command stands (``module:attribute``, a function or a Typer app) and its line in the main help."""

    target: str
    help: str


class LazyGroup(TyperGroup):
    """A group whose commands come from a table; the main help and completion of names import none of them.

    ``parts`` holds the commands under the titles that the help has for them, and ``table`` all of them.
    """

    parts: dict[str, dict[str, Lazy]] = {}
    table: dict[str, Lazy] = {}
    _stubs = False

    def __init_subclass__(cls) -> None:
        cls.table = {name: lazy for commands in cls.parts.values() for name, lazy in commands.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The real command, or a stub with its help line while names are only listed."""
        lazy = self.table.get(cmd_name)
        if lazy is None:
            return None
        if self._stubs:
            return TyperCommand(cmd_name, callback=None, help=lazy.help)
        return load_command(cmd_name, lazy.target)

    @contextmanager
    def _listing(self) -> Iterator[None]:
        self._stubs = True
        try:
            yield
        finally:
            self._stubs = False

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands by part, from the table alone; lines that are too long are broken, not cut."""
        width = max(map(len, self.table))
        for title, commands in self.parts.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), lazy.help) for name, lazy in commands.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Completion of command names, from the table alone."""
        with self._listing():
            return super().shell_complete(ctx, incomplete)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; an unknown one gets the nearest match."""
        if args and args[0] not in self.table and not args[0].startswith("-"):
            from pvdr_bench.errors import UsageError

            close = nearest(args[0], self.table)
            raise UsageError(f"unknown command {args[0]!r}",
                             hint=f"{did_you_mean(close)}commands: {', '.join(self.table)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Call the command; a word that is none of its choices gets the nearest match."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if " is not one of " not in error.message:
                raise
            raise _no_choice(error) from error


def _no_choice(error: typer.BadParameter) -> BenchError:
    """Typer's "'foo' is not one of 'a', 'b'." in the form of every other error."""
    from pvdr_bench.errors import UsageError

    value, *allowed = re.findall(r"'([^']*)'", error.message)
    close = nearest(value, allowed)
    where = error.param.opts[0] if error.param is not None else None
    return UsageError(f"{value!r} is not one of the choices", where=where,
                      hint=f"{did_you_mean(close)}allowed: {', '.join(allowed)}")


def load_command(name: str, target: str) -> Any:
    """Import a command.

    Raises:
        SetupError: a package it needs is not installed.
    """
    from pvdr_bench.needed import need

    module_name, _, attribute = target.partition(":")
    mend = "the installation is incomplete: install pvdr-bench again" if module_name.startswith("pvdr_bench") else None
    found = getattr(need(module_name, f"the command {name!r}", mend), attribute)
    wrapper = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        wrapper.add_typer(found, name=name)
        group: Any = get_command(wrapper)
        return group.commands[name]
    wrapper.command(name)(found)
    return get_command(wrapper)
