"""What stores read off the events of summaries, and make of them. No I/O, no SQL."""

from collections.abc import Iterable

from msgspec import UNSET, structs

from sessile.domain.log import Entry, draft
from sessile.rows import Summary
from sessile.wire import ids
from sessile.wire.errors import InvalidRequest, NothingToCompact
from sessile.wire.events import CompactionEvent, CompactionOrder

_NO_ENVELOPE = {"id": "", "session_key": "", "created_at": "", "sequence": 0, "turn_id": "", "hidden": False}


def summary(newest_first: Iterable[Entry]) -> Summary:
    """What stands for the beginning of a log: the newest of its summaries that is not stale."""
    stale_through = 0
    for entry in newest_first:
        event = _event(entry)
        if not event.stale:
            return Summary(event.summary_text or "", _through(event), stale_through)
        stale_through = max(stale_through, _through(event))
    return Summary(None, 0, stale_through)


def made_stale(entry: Entry, sequence: int) -> bytes | None:
    """The body of a summary without its text, if it covers a place and has one."""
    event = _event(entry)
    if _through(event) < sequence or event.stale:
        return None
    return draft(structs.replace(event, **_NO_ENVELOPE, summary_text=UNSET, stale=True)).body


def order(up_to: str, message: str | None) -> CompactionOrder:
    """What a caller has ordered."""
    return CompactionOrder(up_to_event_id=up_to, compaction_message=UNSET if message is None else message)


def no_such_event(event_id: str) -> InvalidRequest:
    """The place that an order names is not there."""
    reason = f"There is no event {event_id[:100]!r} in this session."
    return InvalidRequest(f"compact_up_to_event_id: {reason}", field_errors={"compact_up_to_event_id": reason})


def nothing(asked: str | None, keep: int) -> NothingToCompact:
    """An order would cover no input."""
    return NothingToCompact(f"There is nothing to compact before the last {keep} inputs." if asked is None else None)


def through(entry: Entry) -> int:
    """The last place that a summary stands for."""
    return _through(_event(entry))


def _event(entry: Entry) -> CompactionEvent:
    event = entry.event()
    assert isinstance(event, CompactionEvent)
    return event


def _through(event: CompactionEvent) -> int:
    return ids.sequence_of(event.up_to_event_id or "") or 0
