"""The table of commands is true: what it names exists, says the same of itself, and gives an example that works."""

import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from sessile.cli import app as root_module
from sessile.cli import options
from sessile.cli.app import COMMANDS
from sessile.cli.lazy import load
from sessile.client import client

ROOT: Any = typer.main.get_command(root_module.app)
EXAMPLE = re.compile(r"^\s*Example: (sessile .*)$", re.MULTILINE)
SHELL_ONLY = {"<", ">", "|", "2>"}
WIDTH = 78
"""What a terminal of 80 columns shows of a line of help."""


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """A command and all commands below it, each with its path."""
    yield " ".join(path), command
    for name in getattr(command, "commands", {}):
        below = load(name, COMMANDS[name]) if command is ROOT else command.commands[name]
        yield from walk(below, (*path, name))


ALL = dict(walk(ROOT, ("sessile",)))


def examples(command: Any) -> list[str]:
    return EXAMPLE.findall(inspect.cleandoc(command.help or "") + "\n" + inspect.cleandoc(command.epilog or ""))


EXAMPLES = [(path, line) for path, command in ALL.items() for line in examples(command)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_says_of_itself_what_the_table_says(name: str) -> None:
    loaded = load(name, COMMANDS[name])
    assert loaded.name == name
    assert inspect.cleandoc(loaded.help).split("\n\n")[0].replace("\n", " ") == COMMANDS[name].help


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_in_the_module_of_its_name(name: str) -> None:
    assert COMMANDS[name].module == f"sessile.cli.{name.replace('-', '_')}"
    assert isinstance(importlib.import_module(COMMANDS[name].module).app, typer.Typer)


@pytest.mark.parametrize("path", [path for path in ALL if path != "sessile"])
def test_only_the_root_installs_completion(path: str) -> None:
    assert [option.name for option in ALL[path].params if "completion" in option.name] == []


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if not hasattr(command, "commands")])
def test_every_command_has_an_example(path: str) -> None:
    assert examples(ALL[path])


@pytest.mark.parametrize(("path", "line"), EXAMPLES)
def test_an_example_stays_on_its_line(path: str, line: str) -> None:
    assert len(f"Example: {line}") <= WIDTH


@pytest.mark.parametrize(("path", "line"), EXAMPLES)
def test_an_example_is_a_call_of_its_command(path: str, line: str) -> None:
    """It is parsed like on the command line, and not run."""
    words = shlex.split(line)
    end = next((place for place, word in enumerate(words) if word in SHELL_ONLY), len(words))
    command, rest, context = ROOT, words[1:end], typer.Context(ROOT, info_name="sessile")
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        context = typer.Context(command, info_name=name, parent=context)
    command.make_context(name, rest, parent=context.parent)


def test_help_names_every_option_with_words() -> None:
    silent = [
        (path, option.name)
        for path, command in ALL.items()
        for option in command.params
        if not getattr(option, "help", None)
    ]
    assert silent == []


def test_an_api_key_is_never_shown() -> None:
    options = [option for command in ALL.values() for option in command.params if option.name == "api_key"]
    assert len(options) > 10
    assert {option.envvar for option in options} == {"SESSILE_API_KEY"}
    assert {option.default for option in options} == {None}


def test_the_server_that_help_names_is_the_one_that_the_client_takes() -> None:
    assert options.DEFAULT_URL == client.DEFAULT_URL
