"""The two states of a durable event: a draft that waits for its place, and an entry that has one."""

from msgspec import Struct
from msgspec.json import Decoder
from msgspec.structs import force_setattr

from sessile.wire import codec
from sessile.wire.events import AnyEvent, Event

VISIBLE, COMPACTED, HIDDEN, DELETED = range(4)
"""Who may see an event: all; all but the model, and who asks for hidden ones, because a summary covers it (COMPACTED)
or a caller hid it (HIDDEN); nobody, because its text was erased."""

_decode = Decoder(AnyEvent).decode
"""Decodes a body, which has no envelope: what is stored was checked when it came in."""


class Draft(Struct, frozen=True):
    """An event without its envelope: a type and its JSON body, which opens with `{"type":`."""

    type: str
    body: bytes


class Entry(Struct, frozen=True):
    """One event of a log as it is stored. `json` splices the envelope in front of the body; nothing is re-encoded."""

    id: str
    session_key: str
    sequence: int
    turn_id: str
    type: str
    created_at: int
    """Microseconds since the epoch."""
    visibility: int
    body: bytes
    _json: bytes | None = None

    @property
    def hidden(self) -> bool:
        """Whether only who asks for hidden events sees it."""
        return self.visibility != VISIBLE

    @property
    def deleted(self) -> bool:
        """Whether it was deleted: it keeps its place in the log, and nobody outside sees it."""
        return self.visibility == DELETED

    @property
    def json(self) -> bytes:
        """The event as an answer shows it."""
        if self._json is None:
            envelope = (
                f'{{"id":"{self.id}","session_key":"{self.session_key}",'
                f'"created_at":"{codec.rfc3339(self.created_at)}","sequence":{self.sequence},'
                + (f'"turn_id":"{self.turn_id}",' if self.turn_id else "")
                + ('"hidden":true,' if self.hidden else "")
            )
            force_setattr(self, "_json", envelope.encode() + self.body[1:])
        return self._json  # type: ignore[return-value]

    def event(self) -> AnyEvent:
        """The typed event."""
        event: AnyEvent = _decode(self.body)
        return self.placed(event)

    def placed(self, event: AnyEvent) -> AnyEvent:
        """The event of a draft that became this entry, with its envelope filled in."""
        event.id = self.id
        event.session_key = self.session_key
        event.created_at = codec.rfc3339(self.created_at)
        event.sequence = self.sequence
        event.turn_id = self.turn_id
        event.hidden = self.hidden
        return event


def draft(event: Event) -> Draft:
    """The draft of an event whose envelope is empty."""
    return Draft(str(event.__struct_config__.tag), codec.encode(event))
