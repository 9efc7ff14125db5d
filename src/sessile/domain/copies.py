"""What a copy of a log needs besides its events: new ids, the end of a turn that goes no further, what follows from it.

Pure.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

from msgspec import Struct, json

from sessile.domain.log import Entry
from sessile.domain.session import SessionState, fold
from sessile.wire.events import (
    RECORD_TYPES,
    AnyEvent,
    InputMessageEvent,
    SessionInterruptedEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import Usage

REFERRING = frozenset({*RECORD_TYPES, "client_tool_pending", "compaction"})
"""Types of events whose bodies name other events of the log."""
SALT_BYTES = 16
_ID = re.compile(rb"aev_[0-9a-f]{30}|trn_[0-9a-f]{20}")
_RANDOM_CHARS = 20
_BROKEN_OFF = "The session was copied while this call was open; its outcome is not known here."


class Ending(Struct, frozen=True, kw_only=True):
    """How a copy ends: the events that close its last turn, and what its session says of the log then."""

    events: Sequence[AnyEvent]
    turn_id: str | None
    """The turn that these events end, if one has to be ended."""
    state: SessionState


@lru_cache(maxsize=256)
def renamed(id: str, salt: bytes) -> str:
    """The id that an event or turn has in a copy: the same place in the log, and as unguessable as the salt.

    The same id and salt always give the same, so that what refers to an event can be renamed by itself. Records that
    belong to no turn have an empty one, and keep it.
    """
    if not id:
        return id
    digest = blake2b(id.encode(), key=salt, digest_size=_RANDOM_CHARS // 2)
    return id[:-_RANDOM_CHARS] + digest.hexdigest()


def renamed_within(body: bytes, salt: bytes) -> bytes:
    """A body with every id in it renamed."""
    return _ID.sub(lambda found: renamed(found[0].decode(), salt).encode(), body)


def cut(event: AnyEvent, following: AnyEvent | None) -> int:
    """Where a copy up to an event ends: with the start of an input's turn, or with the end of a turn, if it follows."""
    started = isinstance(event, InputMessageEvent) and isinstance(following, TurnStartedRecord)
    if following is not None and (started or isinstance(following, TurnEndedRecord)):
        return following.sequence
    return event.sequence


def ending(tail: Iterable[AnyEvent]) -> Ending:
    """The ending of a copy whose log ends with `tail`, which begins where a turn does, or with the log."""
    events = list(tail)
    return closed(fold(events), events[-1] if events else None)


def closed(state: SessionState, last: AnyEvent | None) -> Ending:
    """The ending of a log whose events fold to `state`; `last` is the last of them.

    A turn that goes no further was interrupted, as far as its copy knows: its open calls are answered with that.
    """
    closing: list[AnyEvent] = []
    turn_id = state.running_turn
    if isinstance(last, InputMessageEvent) and turn_id is None:
        closing.append(TurnStartedRecord(input_event_id=last.id))
        turn_id = last.turn_id
    if turn_id is not None:
        closing += map(unanswered, state.open_tool_calls.values())
        closing += [SessionInterruptedEvent(), TurnEndedRecord(stop_reason="interrupted", error=None, usage=Usage())]
        state.status, state.stop_reason, state.running_turn = "stopped", "interrupted", None
    return Ending(events=closing, turn_id=turn_id, state=state)


def unanswered(call: ToolInputEvent) -> ToolOutputEvent:
    """The answer to a call that was open where the log was cut."""
    return ToolOutputEvent(
        tool_call_id=call.tool_call_id,
        tool_configuration_name=call.tool_configuration_name,
        tool_name=call.tool_name,
        tool_output={"error": _BROKEN_OFF, "code": "turn_interrupted"},
        error=True,
    )


def complete(tail: Sequence[Entry]) -> bool:
    """Whether the last events of a log reach back far enough for `ending`: to a turn, and to an event that is shown."""
    types = {entry.type for entry in tail}
    return bool(types & {"turn_started", "turn_ended"}) and bool(types - RECORD_TYPES)


def total(usages: Iterable[bytes]) -> Usage:
    """The sum of what turns have used."""
    counted = Usage()
    for usage in usages:
        if usage != b"{}":
            counted += json.decode(usage, type=Usage)
    return counted
