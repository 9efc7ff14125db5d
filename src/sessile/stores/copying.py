"""Decisions about copied and imported sessions that are the same in every store. No I/O, no SQL."""

from collections.abc import AsyncIterator, Iterable, Sequence
from os import urandom
from typing import Any

from msgspec import UNSET, Struct

from sessile.domain import copies
from sessile.domain.log import VISIBLE, Entry, draft
from sessile.domain.session import fold
from sessile.rows import NewArtifact, NewSession, Once, StreamOnce
from sessile.wire import codec, ids
from sessile.wire.errors import InvalidRequest, KeyTaken, StorageUnavailable
from sessile.wire.events import AnyEvent, TurnEndedRecord, TurnStartedRecord
from sessile.wire.limits import MAX_FORK_EVENTS
from sessile.wire.sessions import Usage

STALE_SECONDS = 600
"""Seconds after which a copy that nobody has gone on with is given up."""
TAIL = 100
"""Events of the end of a log that are read at once."""


class EndedTurn(Struct, frozen=True, kw_only=True):
    """A turn of an import, as its row has it."""

    turn_id: str
    input_sequence: int
    input_event_id: str
    stop_reason: str
    error: bytes | None
    usage: bytes
    created_at: int
    ended_at: int


class ImportedLog:
    """What was written of an import so far. A slice may be written twice: only `written` moves on."""

    def __init__(self) -> None:
        self.begun = False
        """Whether a slice is durable that has a turn: what ids become is decided."""
        self._salt: bytes | None = None
        self._state = fold([])
        self._started: Entry | None = None
        """The `turn_started` of the turn that has no end yet."""

    def begin(self, taken: bool) -> None:
        """Decide with the first turn: every id is new when it is here already, else all stay."""
        self._salt = urandom(copies.SALT_BYTES) if taken else None

    def written(self, entries: Sequence[Entry]) -> None:
        """A slice is durable."""
        self.begun = self.begun or bool(first_turn(entries))
        self._state = fold((entry.event() for entry in entries), self._state)
        for entry in entries:
            if entry.type in ("turn_started", "turn_ended"):
                self._started = entry if entry.type == "turn_started" else None

    def state(self) -> dict[str, Any]:
        """What the row of the session says of the whole log."""
        last = self._state.last_event_id
        return {
            "stop_reason": self._state.stop_reason,
            "last_sequence": self._state.last_sequence,
            "last_event_id": last and self._id(last),
            "usage": codec.encode(self._state.usage),
            "context_usage": None,
        }

    def turns(self, entries: Sequence[Entry]) -> list[EndedTurn]:
        """The turns that end in a slice."""
        turns, started = [], self._started
        for entry in entries:
            if entry.type == "turn_started":
                started = entry
            elif entry.type == "turn_ended" and started is not None:
                turns.append(self._turn(started, started.event(), entry, entry.event()))
        return turns

    def events(self, entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
        """The events of a slice: sequence, id, turn_id, type, hidden, created_at, body."""
        return [
            (
                entry.sequence,
                self._id(entry.id),
                self._id(entry.turn_id),
                entry.type,
                entry.visibility,
                entry.created_at,
                self._body(entry),
            )
            for entry in entries
        ]

    def _turn(self, started: Entry, start: AnyEvent, ended: Entry, end: AnyEvent) -> EndedTurn:
        assert isinstance(start, TurnStartedRecord)
        assert isinstance(end, TurnEndedRecord)
        input_id = start.input_event_id
        return EndedTurn(
            turn_id=self._id(started.turn_id),
            input_sequence=started.sequence if input_id is UNSET else ids.sequence_of(input_id) or 0,
            input_event_id="" if input_id is UNSET else self._id(input_id),
            stop_reason=end.stop_reason,
            error=codec.encode(end.error) if end.error else None,
            usage=codec.encode(end.usage) if end.usage != Usage() else b"{}",
            created_at=started.created_at,
            ended_at=ended.created_at,
        )

    def _body(self, entry: Entry) -> bytes:
        if self._salt is None or entry.type not in copies.REFERRING:
            return entry.body
        return copies.renamed_within(entry.body, self._salt)

    def _id(self, id: str) -> str:
        return id if self._salt is None else copies.renamed(id, self._salt)


def settings(new: NewSession) -> dict[str, Any]:
    """The columns of a session that its caller chose."""
    return {name: getattr(new, name) for name in new.__struct_fields__}


def closing(ending: copies.Ending, head: int, turn_id: str, salt: bytes, now: int) -> list[Entry]:
    """The events that end the last turn of a copy, behind what was copied."""
    drafts = [draft(event) for event in ending.events]
    return [
        Entry(
            ids.event_id(sequence),
            "",
            sequence,
            turn_id,
            item.type,
            now,
            VISIBLE,
            copies.renamed_within(item.body, salt) if item.type in copies.REFERRING else item.body,
        )
        for sequence, item in enumerate(drafts, head + 1)
    ]


def check_found(found: Sequence[Entry], event_id: str, waited: bool, field: str) -> None:
    """Raise InvalidRequest unless what was found first is the event that a field names."""
    if not found or (found[0].id != event_id and not waited):
        reason = f"{event_id[:100]!r} is no event of that session."
        field = f"from_session.{field}"
        raise InvalidRequest(f"{field}: {reason}", field_errors={field: reason})


def entries(items: Sequence[Entry | NewArtifact]) -> list[Entry]:
    """The events in a slice of an import."""
    return [item for item in items if isinstance(item, Entry)]


def files(items: Sequence[Entry | NewArtifact]) -> list[NewArtifact]:
    """The files in a slice of an import."""
    return [item for item in items if isinstance(item, NewArtifact)]


def first_turn(entries: Sequence[Entry]) -> str:
    """The id of the first turn in a slice of an import; empty when there is none."""
    return next((entry.turn_id for entry in entries if entry.turn_id), "")


async def read_through(slices: AsyncIterator[Sequence[Entry | NewArtifact]], once: StreamOnce) -> Once:
    """Read an import to its end that has happened before; returns what proves that it is the same."""
    once.skip()
    async for _ in slices:
        pass
    return once.whole()


def files_told(bodies: Iterable[bytes]) -> list[str]:
    """The ids of the artifacts that bodies of `artifact_upload` events tell of."""
    return [artifact["artifact_id"] for body in bodies for artifact in codec.decode(body)["artifacts"]]


def check_length(cut: int) -> None:
    """Raise InvalidRequest for a log that is too long to be copied."""
    if cut > MAX_FORK_EVENTS:
        reason = f"The log has {cut} events up to there; at most {MAX_FORK_EVENTS} can be forked."
        raise InvalidRequest(f"from_session: {reason}", field_errors={"from_session": reason})


def check_free(taken: bool, key: str) -> None:
    """Raise KeyTaken when a session has the key."""
    if taken:
        message = f"The session key {key!r} is already in use."
        raise KeyTaken(message, field_errors={"key": message})


def given_up() -> StorageUnavailable:
    """Somebody came back to a copy that was purged."""
    return StorageUnavailable("The copy took too long and was given up; nothing was changed.")


def same_turn_twice() -> InvalidRequest:
    """A turn of an import is in the store already."""
    return InvalidRequest("A turn of the export has the id of a turn that is here already.")
