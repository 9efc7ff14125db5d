"""Which events callers may hide or delete, and what is left of a deleted one. Pure."""

from typing import Any

from msgspec import NODEFAULT, structs

from sessile.domain.log import Draft, draft
from sessile.wire.errors import RecordFixed, SessionRunning
from sessile.wire.events import RECORD_TYPES, AnyEvent

_KEPT = frozenset({"tool_call_id", "output_id", "error", "partial"})
"""What the rules of a transcript need to know of an event that has no text any more."""


def check(type: str, turn_id: str, unfinished_turn: str | None) -> None:
    """Raise unless an event of this type and turn may be hidden or deleted, now that a turn is, or none, unfinished."""
    if type in RECORD_TYPES:
        raise RecordFixed(f"A record ({type}) can be neither hidden nor deleted.")
    if turn_id == unfinished_turn:
        message = f"Turn {turn_id}, which the event belongs to, has not ended; wait, or interrupt it."
        raise SessionRunning(message, id=turn_id)


def erased(event: AnyEvent) -> Draft:
    """What stands in the place of a deleted event: its type and the names that join halves, no text and no data."""
    left = {
        field.name: _empty(field, getattr(event, field.name))
        for field in structs.fields(event)
        if field.name not in _KEPT
    }
    return draft(structs.replace(event, **left))


def _empty(field: structs.FieldInfo, value: Any) -> Any:
    if field.default is not NODEFAULT:
        return field.default
    return None if value is None else type(value)()
