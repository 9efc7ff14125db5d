"""A group whose commands are imported when one of them is used, so that help and completion start at once."""

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Lazy(NamedTuple):
    """A command that is not imported yet: its module, which has a typer app named `app`, and what a list says of it."""

    module: str
    help: str
    panel: str


class LazyGroup(TyperGroup):
    """A group that lists its commands from `table` and imports the one that is called."""

    table: ClassVar[Mapping[str, Lazy]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, lazy in self.table.items():
            self.commands[name] = TyperCommand(name, help=lazy.help, rich_help_panel=lazy.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name, imported; called for running, for help and for completion."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name, self.table[name]) if name is not None and name in self.table else command, rest


def load(name: str, lazy: Lazy) -> Any:
    """Import a command and give it its name."""
    command = typer.main.get_command(importlib.import_module(lazy.module).app)
    command.name = name
    return command
