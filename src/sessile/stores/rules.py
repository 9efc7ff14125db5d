"""Decisions that are the same in every store: places in a log, pages of one, idempotency keys. No I/O, no SQL."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from sessile.domain.log import DELETED, HIDDEN, VISIBLE, Draft, Entry
from sessile.rows import EventQuery, Kept, NewArtifact, Once, Page, SessionRow, TurnEnd, TurnProgress
from sessile.wire import ids
from sessile.wire.errors import IdempotencyKeyReused, PreconditionFailed, SessionFull, SessionRunning
from sessile.wire.events import RECORD_TYPES, TurnEndedRecord
from sessile.wire.limits import IDEMPOTENCY_SECONDS, MAX_SESSION_FILE_BYTES, MAX_SESSION_FILES

AGENTS, SESSIONS, TOOL_SERVERS, IMPORTS = "agents", "sessions", "tool_servers", "session_imports"
"""Scopes of idempotency keys in a tenant."""
_UNTIL_IT_STOPS = "is running; wait until it has stopped"
_UNTIL_ANSWERED = "waits for client tools; answer them"
_WAYS_ON = "interrupt it, or send the input with a behavior: steer or follow_up."
_DAY = 24 * 60 * 60 * 1_000_000
_EXAMINED = 1_000
"""How many places of a log one page may look at."""


class Window(Struct, frozen=True):
    """The places of a log that one page looks at, between `after` and `before`; `next`: where the next one starts."""

    after: int
    before: int
    next: int | None

    def page(self, found: list[Entry], limit: int) -> Page[Entry]:
        """The page of what was found there; one entry more than `limit` says that there are more."""
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].sequence)
        return Page(found, self.next)


def window(query: EventQuery, head: int) -> Window:
    """Where a page of a log looks whose newest sequence is `head`."""
    if query.order == "asc":
        after = query.cursor or 0
        before = after + _EXAMINED + 1
        return Window(after, before, before - 1 if before <= head else None)
    before = head + 1 if query.cursor is None else min(query.cursor, head + 1)
    after = max(before - _EXAMINED - 1, 0)
    return Window(after, before, after + 1 if after > 0 else None)


def most_hidden(query: EventQuery) -> int:
    """The greatest visibility that a page shows."""
    return DELETED if query.include_deleted else HIDDEN if query.include_hidden else VISIBLE


def placed(drafts: Iterable[Draft], session_key: str, head: int, turn_id: str, now: int) -> list[Entry]:
    """The entries that drafts become behind the head of a log."""
    return [
        Entry(ids.event_id(sequence), session_key, sequence, turn_id, item.type, now, VISIBLE, item.body)
        for sequence, item in enumerate(drafts, head + 1)
    ]


def last_shown(entries: Sequence[Entry]) -> str | None:
    """The newest event that the contract's list shows."""
    return next((entry.id for entry in reversed(entries) if entry.type not in RECORD_TYPES), None)


def turn_ended(end: TurnEnd, progress: TurnProgress) -> TurnEndedRecord:
    """The record that ends a turn."""
    return TurnEndedRecord(stop_reason=end.stop_reason, error=end.error, usage=progress.turn_usage)


def running(session: SessionRow) -> SessionRunning:
    """Why a session takes no input now."""
    why = _UNTIL_ANSWERED if session.status == "stopped" else _UNTIL_IT_STOPS
    return SessionRunning(f"Turn {session.running_turn} of this session {why}, {_WAYS_ON}", id=session.running_turn)


def check_last_event(session: SessionRow, if_match: str | None) -> None:
    """Raise PreconditionFailed when a caller has seen another last event of the session."""
    if if_match is not None and if_match != (session.last_event_id or "start"):
        raise PreconditionFailed(f"The last event of the session is {session.last_event_id or 'none'} now.")


def check_version(session: SessionRow, if_match: int | None) -> None:
    """Raise PreconditionFailed when a caller has seen another version of the session."""
    if if_match is not None and if_match != session.version:
        raise PreconditionFailed(f"The session has version {session.version} now.")


def inputs_of(session_id: int) -> str:
    """The scope of the inputs of one session, which is never another's: internal ids are not used twice."""
    return f"inputs of {session_id}"


def of_waiting(row_id: int) -> int:
    """What a key has made that came with an input which had to wait: below zero, where no turn is."""
    return -row_id


def waiting_of(made: int) -> int | None:
    """The row of the input that had to wait, if the key has made one."""
    return -made if made < 0 else None


def check_room(artifacts: Sequence[NewArtifact], files: int, size: int) -> None:
    """Raise SessionFull when artifacts are too many for a session that has so many files, of so many bytes."""
    if files + len(artifacts) > MAX_SESSION_FILES:
        raise SessionFull(f"A session holds {MAX_SESSION_FILES} files at most; this one has {files}.")
    if size + sum(artifact.size for artifact in artifacts) > MAX_SESSION_FILE_BYTES:
        raise SessionFull(f"A session holds {MAX_SESSION_FILE_BYTES} bytes of files at most; this one has {size}.")


def expires_at(artifact: NewArtifact, now: int) -> int | None:
    """When the time of an artifact is over that comes now."""
    return None if artifact.ttl_days is None else now + artifact.ttl_days * _DAY


def same(kept: Kept, once: Once) -> int:
    """The internal id of what a key has made. Raises IdempotencyKeyReused when it came with another request."""
    if kept.fingerprint != once.fingerprint:
        raise IdempotencyKeyReused
    return kept.made


def expired(now: int) -> int:
    """Idempotency keys of this time and older are forgotten."""
    return now - IDEMPOTENCY_SECONDS * 1_000_000
