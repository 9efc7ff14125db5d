"""Adding events to logs in PostgreSQL, and opening turns with their inputs. Run inside a transaction; no verbs."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from sessile.domain.log import VISIBLE, Draft, Entry, draft
from sessile.rows import AgentRow, Claim, Fence, SessionRow
from sessile.stores import rules
from sessile.stores.postgres.db import Db
from sessile.wire import codec
from sessile.wire.events import TurnStartedRecord


class Opening(Struct, frozen=True, kw_only=True):
    """A turn that is to be started with its input, in a session that does not run and stands still meanwhile."""

    agent: AgentRow
    session: SessionRow
    turn_id: str
    event_id: str
    input: Draft
    now: int
    lease_until: int
    told: Draft | None = None
    """What tells of the files that came with the input."""
    waited: bool = False

    def entries(self) -> list[Entry]:
        """The input, its `turn_started`, and what tells of its files."""
        first = self.session.last_sequence + 1
        key, turn_id, now = self.session.key, self.turn_id, self.now
        started = draft(TurnStartedRecord(input_event_id=self.event_id))
        behind = [started] if self.told is None else [started, self.told]
        input = Entry(self.event_id, key, first, turn_id, self.input.type, now, VISIBLE, self.input.body)
        return [input, *rules.placed(behind, key, first, turn_id, now)]


class _Event(Struct):
    """An event as the queries read it that add some, but for its body."""

    tenant_id: int
    session_id: int
    sequence: int
    id: str
    turn_id: str
    type: str
    created_at: int


async def open_turns(db: Db, openings: Sequence[Opening]) -> list[Claim]:
    """Append inputs and their `turn_started` to the logs of different sessions, and claim the turns."""
    if not openings:
        return []
    db.changed.sessions.update(opening.session.id for opening in openings)
    opened = [opening.entries() for opening in openings]
    rows = await db.change(
        "open_turns",
        **events(
            (o.session.tenant_id, o.session.id, entry)
            for o, made in zip(openings, opened, strict=True)
            for entry in made
        ),
        tenants=[o.session.tenant_id for o in openings],
        sessions=[o.session.id for o in openings],
        turn_ids=[o.turn_id for o in openings],
        sequences=[o.session.last_sequence + 1 for o in openings],
        event_ids=[o.event_id for o in openings],
        heads=[made[-1].sequence for made in opened],
        last_event_ids=[rules.last_shown(made) for made in opened],
        times=[o.now for o in openings],
        leases=[o.lease_until for o in openings],
    )
    turns: dict[str, int] = {turn_id: turn for turn_id, turn in rows}
    return [
        Claim(
            agent=o.agent,
            session=o.session,
            turn_id=o.turn_id,
            fence=Fence(o.session.id, turns[o.turn_id], 1),
            opened=entries,
            waited=o.waited,
        )
        for o, entries in zip(openings, opened, strict=True)
    ]


async def insert(db: Db, tenant_id: int, session_id: int, entries: Sequence[Entry]) -> None:
    """Put entries into a log; whoever calls moves its head."""
    if entries:
        db.changed.sessions.add(session_id)
        await db.count("insert_events", **events((tenant_id, session_id, entry) for entry in entries))


def events(found: Iterable[tuple[int, int, Entry]]) -> dict[str, Any]:
    """Entries, each with its tenant's and its session's id, as the values of a query that adds them.

    All but the bodies goes as one JSON array: the driver takes long to encode many arrays, element by element.
    """
    rows, bodies = [], []
    for tenant_id, session_id, entry in found:
        rows.append(
            _Event(tenant_id, session_id, entry.sequence, entry.id, entry.turn_id, entry.type, entry.created_at)
        )
        bodies.append(entry.body)
    return {"events": codec.encode(rows).decode(), "bodies": bodies}
