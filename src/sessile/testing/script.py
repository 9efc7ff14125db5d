"""Steps of a scripted model answer, for the HTTP upstream and the in-process model. A step only says what to do."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from sessile.ports import ModelFault, ModelUsage

_WORD = re.compile(r"\s*\S+|\s+$")


class Think(Struct, frozen=True):
    """Thinking, one delta a piece."""

    pieces: list[str]


class Say(Struct, frozen=True):
    """Text, one delta a piece."""

    pieces: list[str]


class Call(Struct, frozen=True):
    """A tool call. `arguments` is JSON text; without `id` the player makes one."""

    tool: str
    arguments: str
    id: str | None = None


class ReportUsage(Struct, frozen=True):
    """The usage of the call."""

    usage: ModelUsage


class Finish(Struct, frozen=True):
    """The end of the answer. Without `reason` no finish_reason is sent, without `done` no `[DONE]`."""

    reason: str | None
    done: bool


class WaitFor(Struct, frozen=True):
    """Hold the answer open until the event is set."""

    event: asyncio.Event


class Sleep(Struct, frozen=True):
    """Wait some seconds."""

    seconds: float


class Hang(Struct, frozen=True):
    """Send nothing more until the reader goes away."""


class Status(Struct, frozen=True):
    """Answer with an HTTP status instead of a stream; must be the first step."""

    code: int
    body: bytes
    headers: Mapping[str, str]


class Break(Struct, frozen=True):
    """Cut the connection."""


class Raw(Struct, frozen=True):
    """Bytes as they are, in one write. A script with raw bytes is not ended on its own."""

    data: bytes


class Fail(Struct, frozen=True):
    """Raise a fault; for the in-process model only."""

    fault: ModelFault


Step = Think | Say | Call | ReportUsage | Finish | WaitFor | Sleep | Hang | Status | Break | Raw | Fail


def think(text: str, *, whole: bool = False) -> Step:
    """Thinking, word by word, or in one delta."""
    return Think([text] if whole else words(text))


def say(text: str, *, whole: bool = False) -> Step:
    """Text, word by word, or in one delta."""
    return Say([text] if whole else words(text))


def call(tool: str, arguments: dict[str, Any] | str | None = None, id: str | None = None) -> Step:
    """A tool call; `arguments` as an object, as text that need not be JSON, or none at all."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments is not None else ""
    return Call(tool, text, id)


def usage(input_tokens: int, output_tokens: int, cached_tokens: int = 0, reasoning_tokens: int = 0) -> Step:
    """The usage of the call; sent at its end."""
    return ReportUsage(ModelUsage(input_tokens, output_tokens, cached_tokens, reasoning_tokens))


def finish(reason: str | None = "stop", *, done: bool = True) -> Step:
    """End the answer here. Without this step it ends with the fitting reason and `[DONE]`."""
    return Finish(reason, done)


def wait_for(event: asyncio.Event) -> Step:
    """Hold the answer open until the event is set."""
    return WaitFor(event)


def sleep(seconds: float) -> Step:
    """Wait some seconds."""
    return Sleep(seconds)


def hang() -> Step:
    """Send nothing more until the reader goes away."""
    return Hang()


def status(code: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Step:
    """An HTTP status with a body: bytes, or anything that becomes JSON."""
    return Status(code, body if isinstance(body, bytes) else json.dumps(body).encode(), headers or {})


def break_connection() -> Step:
    """Cut the connection in the middle of the answer."""
    return Break()


def raw(data: bytes) -> Step:
    """Bytes as they are, in one write."""
    return Raw(data)


def fail(fault: ModelFault) -> Step:
    """Raise a fault; for the in-process model only."""
    return Fail(fault)


def words(text: str) -> list[str]:
    """Pieces of a text that together are the text, a word each."""
    return [match[0] for match in _WORD.finditer(text)]
