"""Identifiers: how they look, how they are made, and what an event id says about its place in the log."""

import os
import re
from collections import deque
from typing import Annotated

from msgspec import Meta

from sessile.wire.limits import MAX_AGENT_NAME_CHARS, MAX_IDEMPOTENCY_KEY_CHARS, MAX_KEY_CHARS

# Python's `$` also matches before a last line break; `\\Z` does not. The OpenAPI document shows it as `$`.
KEY_PATTERN = r"^[0-9a-zA-Z_-]+\Z"
EVENT_ID_PATTERN = r"^aev_[0-9a-zA-Z_-]+\Z"
TURN_ID_PATTERN = r"^trn_[0-9a-f]+\Z"
ARTIFACT_ID_PATTERN = r"^art_[a-z0-9_-]+\Z"
TOOL_SERVER_ID_PATTERN = r"^tsr_[0-9a-zA-Z_-]+\Z"
TOOL_ID_PATTERN = r"^tol_[0-9a-zA-Z_-]+\Z"
IDEMPOTENCY_KEY_PATTERN = rf"^[!-~]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}\Z"

Key = Annotated[str, Meta(pattern=KEY_PATTERN, min_length=1, max_length=MAX_KEY_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_NAME_CHARS)]
EventId = Annotated[str, Meta(pattern=EVENT_ID_PATTERN)]
TurnId = Annotated[str, Meta(pattern=TURN_ID_PATTERN)]
ArtifactId = Annotated[str, Meta(pattern=ARTIFACT_ID_PATTERN)]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339 in UTC with microseconds: `2026-01-31T09:30:00.000000Z`."""

_SEQUENCE_DIGITS = 10
_RANDOM_BYTES = 10
_TAIL_DIGITS = 2 * _RANDOM_BYTES
_EVENT_ID = re.compile(rf"aev_([0-9a-f]{{{_SEQUENCE_DIGITS}}})[0-9a-f]{{{_TAIL_DIGITS}}}")
_NOWHERE = "f" * _SEQUENCE_DIGITS
_POOL = 256
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


def event_id(sequence: int) -> str:
    """An unguessable event id that sorts by `sequence` among the ids of its session."""
    return f"aev_{sequence:0{_SEQUENCE_DIGITS}x}{_random()}"


def sequence_of(event_id: str) -> int | None:
    """The sequence an event id stands for, or None when no server of ours made it."""
    match = _EVENT_ID.fullmatch(event_id)
    return int(match[1], 16) if match else None


def waiting_id() -> str:
    """An event id for an input that has no place in the log yet; it sorts behind all that have one."""
    return f"aev_{_NOWHERE}{_random()}"


def is_waiting(event_id: str) -> bool:
    """Whether an input waits, or has waited, under this id."""
    return event_id.startswith(f"aev_{_NOWHERE}")


def placed_id(waiting_id: str, sequence: int) -> str:
    """The event id of an input that has waited, once it has its place: nothing else of it changes."""
    return f"aev_{sequence:0{_SEQUENCE_DIGITS}x}{waiting_id[-_TAIL_DIGITS:]}"


def is_same_input(event_id: str, waiting_id: str) -> bool:
    """Whether an event is the input that has waited under this id."""
    return event_id[-_TAIL_DIGITS:] == waiting_id[-_TAIL_DIGITS:]


def turn_id() -> str:
    """A new turn id."""
    return f"trn_{_random()}"


def output_id() -> str:
    """A new id for one model attempt; every delta of the attempt carries it."""
    return f"out_{_random()[:16]}"


def tool_call_id() -> str:
    """An id for a tool call whose model gave it none."""
    return f"call_{_random()}"


def live_id() -> str:
    """An id for a frame that looks like an event and stands in no log; it is no cursor."""
    return f"aev_live_{_random()}"


def summary_key() -> str:
    """A new id for a summary."""
    return f"sum_{_random()}"


def artifact_id() -> str:
    """A new artifact id."""
    return f"art_{_random()}"


def request_id() -> str:
    """An id for a request whose caller gave it none."""
    return f"req_{_random()[:16]}"


def idempotency_key() -> str:
    """An idempotency key for a call whose caller gave it none."""
    return f"idk_{_random()}"


def agent_key(name: str) -> str:
    """A new agent key: a slug of the name and a random tail."""
    return _slugged("agt", name)


def tool_server_id(name: str) -> str:
    """A new id of a tool server: a slug of the name and a random tail."""
    return _slugged("tsr", name)


def tool_id(name: str) -> str:
    """A new id of a tool of a tool server: a slug of the name and a random tail."""
    return _slugged("tol", name)


def session_key(name: str) -> str:
    """A new session key: a slug of the name and a random tail."""
    return _slugged("ase", name)


_randoms: deque[str] = deque()


def _random() -> str:
    """Eighty unguessable bits in hex. The kernel is asked for many at a time: a system call for each is slow."""
    while True:
        try:
            return _randoms.popleft()
        except IndexError:
            pool = os.urandom(_RANDOM_BYTES * _POOL)
            _randoms.extend(pool[i : i + _RANDOM_BYTES].hex() for i in range(0, len(pool), _RANDOM_BYTES))


def _slugged(prefix: str, name: str) -> str:
    slug = _NOT_SLUG.sub("-", name[:80].lower()).strip("-")[:24].rstrip("-")
    tail = _random()[:16]
    return f"{prefix}_{slug}_{tail}" if slug else f"{prefix}_{tail}"
