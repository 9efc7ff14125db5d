"""Summaries in PostgreSQL: what stands for the beginning of a log, what one covers, and the turn that makes one."""

from sessile.domain import compaction
from sessile.domain.log import draft
from sessile.ports import Admit, LogMovedOn
from sessile.rows import Appended, Claim, Cover, Fence, Once, Rejoined, SessionRef, SessionRow, Span, Summary
from sessile.stores import rows, rules, summaries
from sessile.stores.postgres import once as keys
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.log import Append, append_all
from sessile.stores.postgres.opening import insert
from sessile.stores.postgres.verbs import Verbs, with_agent
from sessile.stores.postgres.waiting import rejoined
from sessile.wire import ids
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
        now, until = self._clock.now(), self._until()
        order = (up_to_event_id, message)
        return await self._write(lambda db: accept(db, ref, order, turn_id, admit, now, until, once, if_match))

    async def summary(self, session_id: int) -> Summary:
        return await self._read(lambda db: _summary(db, session_id))

    async def span(self, session_id: int, *, keep: int | None = None, through: int | None = None) -> Span | None:
        return await self._read(lambda db: _span(db, session_id, keep, through))


async def covering(db: Db, call: Append, cover: Cover) -> Appended:
    """`Store.append` with a `cover` within a transaction."""
    await db.all("fenced_turns", turns=[call.fence.turn])  # from here on the log stands still
    values = {"session_id": call.fence.session_id, "after": cover.span.after, "through": cover.span.through}
    if await db.one("changed_since", session_id=call.fence.session_id, seen=cover.seen) is not None:
        raise LogMovedOn
    (added,) = await append_all(db, [call])
    if isinstance(added, Exception):
        raise added
    await db.count("cover_events", **values)
    return added


async def mark_stale(db: Db, session: SessionRow, sequence: int) -> None:
    """Erase the texts of the summaries that cover a place."""
    for row in await db.all("summaries_after", session_id=session.id, sequence=sequence):
        entry = rows.entry(session.key, row)
        if (bare := summaries.made_stale(entry, sequence)) is not None:
            values = {"session_id": session.id, "sequence": entry.sequence, "hidden": entry.visibility}
            await db.count("erase_event", **values, body=bare)


async def accept(
    db: Db,
    ref: SessionRef,
    order: tuple[str | None, str | None],
    turn_id: str,
    admit: Admit,
    now: int,
    lease_until: int,
    once: Once | None = None,
    if_match: str | None = None,
) -> Claim | Rejoined:
    """`Store.accept_compaction` within a transaction."""
    session, agent = await with_agent(db, ref)
    scope = rules.inputs_of(session.id)
    if once is not None:
        made = (await keys.made_in(db, session.tenant_id, {scope: once}, now)).get(scope)
        if made is not None:
            return await rejoined(db, session, "made_turn", made=made)
    admit(agent, session)
    if session.running_turn is not None:
        raise rules.running(session)
    rules.check_last_event(session, if_match)
    asked, message = order
    up_to = await _end_of(db, session, asked, compaction.settings(agent.document).keep_recent_inputs)
    wanted = summaries.order(up_to, message)
    started = draft(TurnStartedRecord(compaction=wanted))
    (entry,) = rules.placed([started], session.key, session.last_sequence, turn_id, now)
    place = {"turn_id": turn_id, "head": entry.sequence, "now": now, "session_id": session.id}
    ((turn,),) = await db.change("insert_turn", **place, tenant_id=session.tenant_id, lease_until=lease_until)
    await insert(db, session.tenant_id, session.id, [entry])
    await db.count("start_compaction", **place)
    if once is not None:
        await keys.keep(db, session.tenant_id, scope, once, turn, now)
    fence = Fence(session.id, turn, 1)
    return Claim(agent=agent, session=session, turn_id=turn_id, fence=fence, opened=[entry], order=wanted)


async def _end_of(db: Db, session: SessionRow, asked: str | None, keep: int) -> str:
    """The last event that an order covers. Raises InvalidRequest, NothingToCompact."""
    if asked is None:
        through = await _before_recent(db, session.id, keep)
    else:
        through = ids.sequence_of(asked) or 0
        if await id_at(db, session.id, through) != asked:
            raise summaries.no_such_event(asked)
    after = (await _summary(db, session.id)).through
    if await db.one("span_has_input", session_id=session.id, after=after, through=through) is None:
        raise summaries.nothing(asked, keep)
    return await id_at(db, session.id, through) or ""


async def _before_recent(db: Db, session_id: int, keep: int) -> int:
    """The place before the newest inputs that are kept; 0 when there are not more than these."""
    row = await db.one("recent_input", session_id=session_id, skip=min(keep, 2**62) - 1)
    return 0 if row is None else row[0] - 1


async def id_at(db: Db, session_id: int, sequence: int) -> str | None:
    """The id of the event at a place."""
    row = await db.one("get_event", session_id=session_id, sequence=sequence)
    return None if row is None else row[0]


async def _summary(db: Db, session_id: int) -> Summary:
    """`Store.summary` within a transaction."""
    return summaries.summary([rows.entry("", row) for row in await db.all("summaries", session_id=session_id)])


async def _span(db: Db, session_id: int, keep: int | None, through: int | None) -> Span | None:
    """`Store.span` within a transaction."""
    if through is None:
        through = await _before_recent(db, session_id, keep or 1)
    after = (await _summary(db, session_id)).through
    row = await db.one("span_counts", session_id=session_id, after=after, through=through)
    turns, events = row or (0, 0)
    last = await id_at(db, session_id, through)
    enough = events if keep is None else turns
    return Span(after, through, last, turns, events) if enough and last is not None else None
