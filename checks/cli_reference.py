"""Writes docs/reference/cli.md from the commands themselves: `python -m checks.cli_reference`. A test compares them."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sessile.cli.app import COMMANDS, app
from sessile.cli.lazy import load

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"

_EVERYWHERE = ("url", "api_key", "help")
_HEAD = """# The `sessile` command

Every command says this of itself with `--help`. Commands over HTTP find the server by `SESSILE_URL`
(http://127.0.0.1:8700 when it is not set) and `SESSILE_API_KEY`; each takes `--url` and `--api-key` instead.
`sessile --install-completion` teaches your shell the commands.

On a terminal, lists are tables; in a pipe they are lines with tabs, and with `--json` one JSON document for each item.
Messages go to standard error.

| exit code | meaning |
|---|---|
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD + "".join(f"| {code} | {meaning} |\n" for code, meaning in _exit_codes())]
    for name, lazy in COMMANDS.items():
        parts += _described(f"sessile {name}", load(name, lazy), 2)
    return "\n".join(parts)


def _described(name: str, command: Any, level: int) -> Iterator[str]:
    text, examples = _help(command)
    yield f"{'#' * level} `{name}`\n"
    yield f"{text}\n"
    children = getattr(command, "commands", {})
    if children:
        for child in children.values():
            yield from _described(f"{name} {child.name}", child, level + 1)
        return
    yield f"`{_usage(name, command)}`\n"
    if examples:
        yield "".join(f"- `{example}`\n" for example in examples)
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    if rows := [row for option in options if (row := _row(option))]:
        yield "| option | |\n|---|---|\n" + "".join(rows)


def _usage(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    words = [argument.metavar if argument.required else f"[{argument.metavar}]" for argument in arguments]
    return " ".join([name, *words])


def _row(option: Any) -> str | None:
    if option.hidden or option.name in _EVERYWHERE:
        return None
    names = "`, `".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return f"| `{names}{value}` | {(option.help or '').replace('|', ' or ')} |\n"


def _help(command: Any) -> tuple[str, list[str]]:
    """What a command says of itself, without its examples, and the examples."""
    text, examples = [], []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("Example: "):
            examples.append(paragraph.removeprefix("Example: ").strip())
        else:
            text.append(" ".join(paragraph.replace("\b", "").split()))
    return "\n\n".join(part for part in text if part), examples


def _exit_codes() -> Iterator[tuple[str, str]]:
    for line in inspect.cleandoc(str(app.info.epilog)).splitlines():
        code, _, meaning = line.strip().partition("  ")
        if code.isdigit():
            yield code, meaning


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name}: {PAGE.stat().st_size} bytes\n")
