"""Summaries in SQLite: what stands for the beginning of a log, what one covers, and the turn that makes one."""

import sqlite3
from collections.abc import Sequence

from sessile.domain import compaction
from sessile.domain.log import VISIBLE, Draft, Entry, draft
from sessile.ports import Admit, LogMovedOn
from sessile.rows import (
    Appended,
    Claim,
    Cover,
    Fence,
    Once,
    Rejoined,
    SessionRef,
    SessionRow,
    Span,
    Summary,
    TurnEnd,
    TurnProgress,
)
from sessile.stores import rows, rules, summaries
from sessile.stores.sqlite import log
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite.opening import insert
from sessile.stores.sqlite.verbs import QUERIES, Verbs, place
from sessile.wire import ids
from sessile.wire.errors import NotFound
from sessile.wire.events import TurnStartedRecord


class Compactions(Verbs):
    """Verbs of the `Store` port."""

    async def accept_compaction(
        self,
        ref: SessionRef,
        up_to_event_id: str | None,
        message: str | None,
        turn_id: str,
        admit: Admit,
        once: Once | None = None,
        if_match: str | None = None,
    ) -> Claim | Rejoined:
        now = self._clock.now()
        order = (up_to_event_id, message)
        return await self._writer.run(
            lambda db: accept(db, ref, order, turn_id, admit, now, self._lease, once, if_match)
        )

    async def summary(self, session_id: int) -> Summary:
        return await self._readers.run(lambda db: _summary(db, session_id))

    async def span(self, session_id: int, *, keep: int | None = None, through: int | None = None) -> Span | None:
        return await self._readers.run(lambda db: _span(db, session_id, keep, through))


def covering(
    db: sqlite3.Connection,
    fence: Fence,
    drafts: Sequence[Draft],
    progress: TurnProgress,
    end: TurnEnd | None,
    cover: Cover,
    now: int,
    lease: int,
) -> Appended:
    """`Store.append` with a `cover` within a transaction."""
    values = {"session_id": fence.session_id, "after": cover.span.after, "through": cover.span.through}
    if db.execute(QUERIES["changed_since"], values | {"seen": cover.seen}).fetchone():
        raise LogMovedOn
    added = log.append(db, fence, drafts, progress, end, now, lease)
    db.execute(QUERIES["cover_events"], values)
    return added


def mark_stale(db: sqlite3.Connection, session: SessionRow, sequence: int) -> None:
    """Erase the texts of the summaries that cover a place."""
    for row in db.execute(QUERIES["summaries_after"], {"session_id": session.id, "sequence": sequence}).fetchall():
        entry = rows.entry(session.key, row)
        if (bare := summaries.made_stale(entry, sequence)) is not None:
            values = {"session_id": session.id, "sequence": entry.sequence, "hidden": entry.visibility}
            db.execute(QUERIES["erase_event"], values | {"body": bare})


def accept(
    db: sqlite3.Connection,
    ref: SessionRef,
    order: tuple[str | None, str | None],
    turn_id: str,
    admit: Admit,
    now: int,
    lease: int,
    once: Once | None = None,
    if_match: str | None = None,
) -> Claim | Rejoined:
    """`Store.accept_compaction` within a transaction."""
    row = db.execute(QUERIES["session_for_input"], place(ref)).fetchone()
    if row is None:
        raise NotFound(f"There is no session {ref.session_key!r}.", id=ref.session_key)
    session, agent = rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])
    if once is not None:
        made = keys.made(db, session.tenant_id, rules.inputs_of(session.id), once, now)
        if made is not None:
            return log.turn_again(db, session, made)
    admit(agent, session)
    if session.running_turn is not None:
        raise rules.running(session)
    rules.check_last_event(session, if_match)
    asked, message = order
    up_to = _end_of(db, session, asked, compaction.settings(agent.document).keep_recent_inputs)
    wanted = summaries.order(up_to, message)
    started = draft(TurnStartedRecord(compaction=wanted))
    head = session.last_sequence + 1
    entry = Entry(ids.event_id(head), session.key, head, turn_id, started.type, now, VISIBLE, started.body)
    values = (session.tenant_id, session.id, turn_id, head, "", now, now + lease)
    turn = db.execute(QUERIES["insert_turn"], values).lastrowid or 0
    insert(db, session.tenant_id, session.id, [entry])
    db.execute(QUERIES["start_compaction"], {"turn_id": turn_id, "head": head, "now": now, "session_id": session.id})
    if once is not None:
        keys.keep(db, session.tenant_id, rules.inputs_of(session.id), once, turn, now)
    fence = Fence(session.id, turn, 1)
    return Claim(agent=agent, session=session, turn_id=turn_id, fence=fence, opened=[entry], order=wanted)


def _end_of(db: sqlite3.Connection, session: SessionRow, asked: str | None, keep: int) -> str:
    """The last event that an order covers. Raises InvalidRequest, NothingToCompact."""
    if asked is None:
        through = _before_recent(db, session.id, keep)
    else:
        through = ids.sequence_of(asked) or 0
        if id_at(db, session.id, through) != asked:
            raise summaries.no_such_event(asked)
    after = _summary(db, session.id).through
    values = {"session_id": session.id, "after": after, "through": through}
    if db.execute(QUERIES["span_has_input"], values).fetchone() is None:
        raise summaries.nothing(asked, keep)
    return id_at(db, session.id, through) or ""


def _before_recent(db: sqlite3.Connection, session_id: int, keep: int) -> int:
    """The place before the newest inputs that are kept; 0 when there are not more than these."""
    row = db.execute(QUERIES["recent_input"], {"session_id": session_id, "skip": min(keep, 2**62) - 1}).fetchone()
    return 0 if row is None else row[0] - 1


def id_at(db: sqlite3.Connection, session_id: int, sequence: int) -> str | None:
    """The id of the event at a place."""
    row = db.execute(QUERIES["get_event"], {"session_id": session_id, "sequence": sequence}).fetchone()
    return None if row is None else row[0]


def _summary(db: sqlite3.Connection, session_id: int) -> Summary:
    """`Store.summary` within a transaction: the newest one that is not stale."""
    found = db.execute(QUERIES["summaries"], {"session_id": session_id})
    return summaries.summary(rows.entry("", row) for row in found)


def _span(db: sqlite3.Connection, session_id: int, keep: int | None, through: int | None) -> Span | None:
    """`Store.span` within a transaction."""
    if through is None:
        through = _before_recent(db, session_id, keep or 1)
    after = _summary(db, session_id).through
    values = {"session_id": session_id, "after": after, "through": through}
    turns, events = db.execute(QUERIES["span_counts"], values).fetchone()
    last = id_at(db, session_id, through)
    enough = events if keep is None else turns
    return Span(after, through, last, turns, events) if enough and last is not None else None
