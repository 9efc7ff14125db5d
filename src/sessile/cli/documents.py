"""What a person hands to a command: JSON in a file or an option, and the text of an input."""

import os
import sys
from pathlib import Path
from typing import Any

import typer

from sessile.wire import codec
from sessile.wire.errors import BadRequest

STDIN = "-"
_OF_THE_SERVER = ("id", "created_at", "updated_at", "inactive_tools")


def read_agent(file: str | None) -> dict[str, Any]:
    """An agent document without what only a server writes, so that what `agents get --json` prints can be sent back.

    Raises typer.BadParameter.
    """
    document = read(file) if file else {}
    return {name: value for name, value in document.items() if name not in _OF_THE_SERVER}


def read(file: str) -> dict[str, Any]:
    """A JSON object from a file, or from standard input for `-`. Raises typer.BadParameter."""
    return _object(data_of(file, "--file"), file, "--file")


def data_of(file: str, option: str = "FILE") -> bytes:
    """The bytes of a file, or of standard input for `-`. Raises typer.BadParameter."""
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint=option) from None


def parse(text: str, option: str) -> dict[str, Any]:
    """A JSON object from the text of an option. Raises typer.BadParameter."""
    return _object(os.fsencode(text), "the value", option)


def tool_output(text: str) -> dict[str, Any]:
    """What a person gives as the output of a tool: a JSON object, or any other JSON or text as `{"result": …}`."""
    try:
        value = codec.decode(os.fsencode(text))
    except BadRequest:
        value = text
    return value if isinstance(value, dict) else {"result": value}


def read_text(text: str | None) -> str:
    """The text of an input: an argument, or all of standard input for `-` and for None. Raises typer.BadParameter."""
    if text is None and sys.stdin.isatty():
        raise typer.BadParameter("there is nothing to send.", param_hint="TEXT")
    body = sys.stdin.buffer.read().removesuffix(b"\n") if text in (None, STDIN) else os.fsencode(text)
    if not body:
        raise typer.BadParameter("the input is empty.", param_hint="TEXT")
    return body.decode("utf-8", "replace")


def readable(file: Path) -> Path:
    """A file that can be read. Raises typer.BadParameter."""
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--file") from None


def _object(body: bytes, name: str, option: str) -> dict[str, Any]:
    try:
        value = codec.decode(body)
    except BadRequest as error:
        raise typer.BadParameter(f"{name}: {error.message}", param_hint=option) from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{name} is not a JSON object.", param_hint=option)
    return value
