"""Where an error becomes words and an exit code. A defect is none of these errors: it keeps its traceback."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import typer

from sessile.cli.terminal import Style, styled
from sessile.cli.text import printable
from sessile.config import ConfigError
from sessile.wire.errors import SessileError

FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4
TURN_FAILED = 5
INTERRUPTED = 130
PIPE_CLOSED = 141
"""128 and the number of SIGPIPE: what a shell reports of other programs whose reader went away."""

AS_JSON = "sessile.json"
"""The key, in what the contexts of a call share, that is there when errors are wanted as JSON."""

_GONE = ("server_unreachable", "connection_lost", "stream_broken")
_HINTS = {
    "unauthenticated": "Set SESSILE_API_KEY to a key of this server; `sessile keys create` makes one.",
    "session_running": (
        "`sessile turns wait AGENT SESSION TURN` waits for its end, `sessile events interrupt AGENT SESSION` stops it."
    ),
}


@contextlib.contextmanager
def handled(meta: Mapping[str, Any]) -> Iterator[None]:
    """Report what is raised inside and leave with its exit code. Raises typer.Exit."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise typer.Exit(PIPE_CLOSED) from None
    except ConfigError as error:
        _say(f"sessile: {error}")
        raise typer.Exit(FAILED) from None
    except SessileError as error:
        report(error, as_json=AS_JSON in meta)
        raise typer.Exit(exit_code(error)) from None


def exit_code(error: SessileError) -> int:
    """What a script is told."""
    if error.code in _GONE:
        return UNREACHABLE
    return NOT_FOUND if error.status == 404 else FAILED


def report(error: SessileError, *, as_json: bool = False) -> None:
    """Tell an error on stderr: for people, or as one line of JSON."""
    if as_json:
        print(json.dumps(document(error)), file=sys.stderr)
        return
    for line in lines(error):
        _say(line)


def document(error: SessileError) -> dict[str, Any]:
    """The error as the wire shows it, with the HTTP status; what is not known is left out."""
    known = {
        "code": error.code,
        "messages": [error.message],
        "status": error.status,
        "request_id": error.request_id,
        "field_errors": error.field_errors,
        "id": error.id,
    }
    return {name: value for name, value in known.items() if value is not None}


def lines(error: SessileError) -> list[str]:
    """The error in words: what it is, the fields it is about, and what to do."""
    source = f" ({error.code}, request {error.request_id})" if error.status is not None else ""
    told = [f"sessile: {error.message}{source}"]
    told += [
        f"  {name}: {reason}" for name, reason in (error.field_errors or {}).items() if reason not in error.message
    ]
    if error.status is not None and error.retry_after is not None:
        told.append(f"The server asks to try again in {error.retry_after} s.")
    if error.status is not None and error.code in _HINTS:
        told.append(_HINTS[error.code])
    return told


def _say(line: str) -> None:
    print(styled(printable(line), Style.RED, sys.stderr), file=sys.stderr)
