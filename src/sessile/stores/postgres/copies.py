"""Copies of sessions in PostgreSQL, made in many short transactions.

A copy is filled under an internal id that no session has, so that nobody sees it; its session's row comes with the last
transaction. A copy that nobody goes on with stays in `copies`, and the purge takes it. Bodies are copied inside the
server; ids are renamed here.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from os import urandom
from typing import Any, TypeVar

from msgspec import Struct

from sessile.domain import copies
from sessile.domain.log import Entry
from sessile.ports import Admit, Clock, Seal
from sessile.rows import Claim, EventQuery, NewSession, Once, SessionRef, SessionRow
from sessile.stores import copying, rows, rules, summaries
from sessile.stores.postgres import compactions, log, secrets, terms
from sessile.stores.postgres import once as keys
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.opening import insert as insert_entries
from sessile.stores.postgres.pool import Connections, Verb
from sessile.stores.postgres.verbs import Verbs, check, insert, is_text, not_found, one, place, session_row
from sessile.stores.postgres.waiting import place_of
from sessile.wire import codec, ids
from sessile.wire.errors import StorageUnavailable

Begun = TypeVar("Begun")

_SLICE_EVENTS = 800
_SLICE_BYTES = 1024 * 1024
_SLICE_TURNS = 1000
_SLICE_FILES = 200
_AT_ONCE = 2
"""Copies that one process makes at once; the others wait."""
_REFERRING = sorted(copies.REFERRING)


class _Order(Struct, frozen=True):
    """The compaction that a copy begins with."""

    up_to: str
    turn_id: str
    admit: Admit


class _Plan(Struct, frozen=True, kw_only=True):
    """What the log of the source says before anything of it is copied."""

    files: list[list[str]]
    """The ids of the artifacts that the copy tells of, in slices."""
    covered: int
    """The last place that a summary stands for."""


class _Job(Struct, frozen=True, kw_only=True):
    """A copy that is being made."""

    copy_id: int
    source: SessionRow
    cut: int
    """The last place of the source's log that is copied."""
    through: int
    """The last place of the source's log that is compacted then."""
    order: _Order | None
    salt: bytes
    new: NewSession
    tenant_id: int
    agent_key: str
    once: Once | None
    seal: Seal | None

    def id(self, id: str) -> str:
        """The id that something has in the copy."""
        return copies.renamed(id, self.salt)


class Copies(Verbs):
    """Verbs of the `Store` port."""

    def __init__(
        self, connections: Connections, clock: Clock, lease_now: Callable[[], int], lease_seconds: float
    ) -> None:
        super().__init__(connections, clock, lease_now, lease_seconds)
        self._some_at_a_time = asyncio.Semaphore(_AT_ONCE)

    async def fork_session(
        self,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        source: SessionRef,
        up_to: str | None,
        once: Once | None = None,
        seal: Seal | None = None,
    ) -> SessionRow:
        made = await self._fork(tenant_id, agent_key, new, source, up_to, once, seal, None)
        assert isinstance(made, SessionRow)
        return made

    async def fork_compacted(
        self,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        source: SessionRef,
        up_to: str,
        turn_id: str,
        admit: Admit,
        once: Once | None = None,
        seal: Seal | None = None,
    ) -> SessionRow | Claim:
        order = _Order(up_to, turn_id, admit)
        return await self._fork(tenant_id, agent_key, new, source, None, once, seal, order)

    async def _fork(
        self,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        source: SessionRef,
        up_to: str | None,
        once: Once | None,
        seal: Seal | None,
        order: _Order | None,
    ) -> SessionRow | Claim:
        check("agent", agent_key)
        async with self._some_at_a_time:
            made, now = None, self._clock.now()
            begun = await begin_for(
                self._connections,
                lambda db: _begin_fork(db, tenant_id, agent_key, new, source, up_to, once, order, now),
                lambda begun: None if isinstance(begun, SessionRow) else begun[0],
            )
            if isinstance(begun, SessionRow):
                return begun
            copy_id, session, cut, through = begun
            job = _Job(
                copy_id=copy_id,
                source=session,
                cut=cut,
                through=through,
                order=order,
                salt=urandom(copies.SALT_BYTES),
                new=new,
                tenant_id=tenant_id,
                agent_key=agent_key,
                once=once,
                seal=seal,
            )
            try:
                made = await self._fill(job)
            finally:
                if made is None:
                    await give_up(self._connections, copy_id)
            return made

    async def _fill(self, job: _Job) -> SessionRow | Claim:
        plan = await self._read(lambda db: _plan(db, job))
        usages: list[bytes] = []
        after: int | None = 0
        while after is not None:
            after, used = await self._write(partial(_copy_turns, job=job, after=after, now=self._clock.now()))
            usages += used
        after = 0
        while after is not None:
            after = await self._write(
                partial(_copy_events, job=job, covered=plan.covered, after=after, now=self._clock.now())
            )
        for files in plan.files:
            await self._write(partial(_copy_files, job=job, files=files, now=self._clock.now()))
        now, until = self._clock.now(), self._until()
        return await self._write(lambda db: _finish(db, job, usages, now, until))


async def give_up(connections: Connections, copy_id: int) -> None:
    """Let the purge remove what was copied; when even that cannot be stored, it finds the copy later by its age."""
    with contextlib.suppress(StorageUnavailable):
        await connections.write(lambda db: _give_up(db, copy_id))


async def begin_for(connections: Connections, verb: Verb[Begun], copy_of: Callable[[Begun], int | None]) -> Begun:
    """Begin a copy, which is given up when the caller is cancelled meanwhile; `copy_of`: which one."""
    beginning = connections.start(connections.transact(verb))
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        beginning.add_done_callback(lambda done: _abandon(connections, done, copy_of))
        raise


def _abandon(connections: Connections, done: "asyncio.Task[Begun]", copy_of: Callable[[Begun], int | None]) -> None:
    if not done.cancelled() and done.exception() is None and (copy_id := copy_of(done.result())) is not None:
        connections.follow(connections.transact(lambda db: _give_up(db, copy_id)))


async def begin(db: Db, now: int) -> int:
    """Start to fill a session: the internal id that it will have."""
    ((copy_id,),) = await db.change("next_session_id")
    await db.count("begin_copy", copy_id=copy_id, now=now)
    return int(copy_id)


async def touch(db: Db, copy_id: int, now: int) -> None:
    """Go on to fill a session. Raises StorageUnavailable when it was given up because that took too long."""
    if await db.count("touch_copy", copy_id=copy_id, now=now) == 0:
        raise copying.given_up()


async def check_free(db: Db, tenant_id: int, agent_key: str, key: str) -> None:
    """Raise NotFound unless the agent is there, KeyTaken unless it has no session of this key."""
    await one(db, "get_agent_id", "agent", agent_key, tenant_id=tenant_id, key=agent_key)
    found = await db.one("locate_session", **place(SessionRef(tenant_id, agent_key, key)))
    copying.check_free(found is not None, key)


async def finish(db: Db, copy_id: int, now: int, tenant_id: int, agent_key: str, values: dict[str, Any]) -> int:
    """The session is filled: it is there from this commit on. Returns the internal id of its agent."""
    await touch(db, copy_id, now)
    place = {"copy_id": copy_id, "tenant_id": tenant_id, "agent_key": agent_key, "now": now}
    added = await insert(db, "insert_copied_session", "session", **place, **values)
    if not added:
        raise not_found("agent", agent_key)
    agent_id: int = added[0][0]
    await terms.keep(db, copy_id, tenant_id, agent_id, values["metadata"])
    await terms.look_when_idle(db, copy_id, now, values["tti_minutes"])
    await db.count("end_copy", copy_id=copy_id)
    return agent_id


async def give_up_stale(db: Db, now: int) -> None:
    """Let the purge remove copies that nobody goes on with: their process has gone."""
    await db.count("give_up_stale_copies", stale=now - copying.STALE_SECONDS * 1_000_000)


async def _give_up(db: Db, copy_id: int) -> None:
    if await db.count("end_copy", copy_id=copy_id):
        await db.count("purge_copy_later", copy_id=copy_id)


async def _begin_fork(
    db: Db,
    tenant_id: int,
    agent_key: str,
    new: NewSession,
    source: SessionRef,
    up_to: str | None,
    once: Once | None,
    order: _Order | None,
    now: int,
) -> SessionRow | tuple[int, SessionRow, int, int]:
    if once is not None and (made := await keys.made(db, tenant_id, rules.SESSIONS, once, now)) is not None:
        return rows.session(await keys.still(db, "made_session", made, once))
    await check_free(db, tenant_id, agent_key, new.key)
    session = await session_row(db, source)
    cut = session.last_sequence if up_to is None else await _cut(db, session.id, up_to)
    copying.check_length(cut)
    through = 0 if order is None else (await _found(db, session.id, order.up_to, "compact_up_to_event_id"))[0].sequence
    return await begin(db, now), session, cut, through


async def _cut(db: Db, source_id: int, event_id: str) -> int:
    """The last place of the log that a fork up to this event has."""
    found = await _found(db, source_id, event_id, "include_up_to_event_id")
    return copies.cut(found[0].event(), found[1].event() if len(found) > 1 else None)


async def _found(db: Db, source_id: int, event_id: str, field: str) -> list[Entry]:
    """An event of the source, and the one after it if there is one. Raises InvalidRequest."""
    waited = ids.is_waiting(event_id)
    known = is_text(event_id)
    sequence = (await place_of(db, source_id, event_id) if known and waited else ids.sequence_of(event_id)) or 0
    there = [await db.one("get_event", session_id=source_id, sequence=at) for at in (sequence, sequence + 1)]
    found = [rows.entry("", row) for row in there if row is not None]
    copying.check_found(found, event_id, waited, field)
    return found


async def _plan(db: Db, job: _Job) -> _Plan:
    place = {"source_id": job.source.id, "cut": job.cut}
    kept = [rows.entry("", row) for row in await db.all("summaries_up_to", **place)]
    files: list[str] = []
    if await db.one("has_artifacts", source_id=job.source.id) is not None:
        files = copying.files_told(body for (body,) in await db.all("uploads_up_to", **place))
    return _Plan(
        files=[files[at : at + _SLICE_FILES] for at in range(0, len(files), _SLICE_FILES)],
        covered=max(map(summaries.through, kept), default=0),
    )


async def _copy_files(db: Db, job: _Job, files: list[str], now: int) -> None:
    await _hold(db, job, now)
    await db.count("copy_artifacts", source_id=job.source.id, copy_id=job.copy_id, ids=files, now=now)


async def _hold(db: Db, job: _Job, now: int) -> None:
    """Go on with a copy. Raises NotFound when the source is gone; else it stays until the transaction ends."""
    await touch(db, job.copy_id, now)
    await one(db, "hold_session", "session", "that is to be forked", session_id=job.source.id)


async def _copy_turns(db: Db, job: _Job, after: int, now: int) -> tuple[int | None, list[bytes]]:
    """Copy a slice of turns; returns where it ends, if more may follow, and what each of them has used."""
    await _hold(db, job, now)
    span = {"source_id": job.source.id, "after": after, "cut": job.cut, "slice": _SLICE_TURNS}
    found = await db.all("turns_to_copy", **span)
    new = {"turn_ids": [job.id(row[1]) for row in found], "event_ids": [job.id(row[2]) for row in found]}
    await db.count("copy_turns", copy_id=job.copy_id, turns=[row[0] for row in found], **new)
    return found[-1][0] if len(found) == _SLICE_TURNS else None, [row[3] for row in found]


async def _copy_events(db: Db, job: _Job, covered: int, after: int, now: int) -> int | None:
    """Copy a slice of events, so small that it is soon done; returns where it ends, if more follow."""
    await _hold(db, job, now)
    span = {"source_id": job.source.id, "after": after, "cut": job.cut, "slice": _SLICE_EVENTS}
    found = _some(await db.all("events_to_copy", **span, referring=_REFERRING))
    if not found:
        return None
    await db.count(
        "copy_events",
        source_id=job.source.id,
        copy_id=job.copy_id,
        covered=covered,
        sequences=[row[0] for row in found],
        ids=[job.id(row[1]) for row in found],
        turns=[job.id(row[2]) for row in found],
        bodies=[None if row[4] is None else copies.renamed_within(row[4], job.salt) for row in found],
    )
    last: int = found[-1][0]
    return last if last < job.cut else None


def _some(found: Sequence[Row]) -> Sequence[Row]:
    """The first events of those that were found, until they have enough bytes together."""
    total = 0
    for count, row in enumerate(found, 1):
        total += row[3]
        if total >= _SLICE_BYTES:
            return found[:count]
    return found


async def _tail(db: Db, source_id: int, cut: int) -> Sequence[Entry]:
    """The last events of the log, as many as its ending follows from."""
    entries: list[Entry] = []
    cursor: int | None = cut + 1
    at = await db.one("session_head", session_id=source_id)
    while cursor is not None and not copies.complete(entries):
        query = EventQuery(cursor=cursor, limit=copying.TAIL, order="desc", records=True, include_deleted=True)
        page = await log.read(db, at, query)
        entries += page.rows
        cursor = page.next
    return entries[::-1]


async def _finish(db: Db, job: _Job, usages: list[bytes], now: int, lease_until: int) -> SessionRow | Claim:
    """The copy is there from this commit on, and the turn that compacts it, if one was ordered."""
    row = await _finish_fork(db, job, usages, now)
    if job.order is None or row.id != job.copy_id:
        return row
    ref = SessionRef(row.tenant_id, row.agent_key, row.key)
    up_to = await compactions.id_at(db, row.id, job.through)
    claim = await compactions.accept(db, ref, (up_to, None), job.order.turn_id, job.order.admit, now, lease_until)
    assert isinstance(claim, Claim)
    return claim


async def _finish_fork(db: Db, job: _Job, usages: list[bytes], now: int) -> SessionRow:
    if job.once is not None:
        made = await keys.made(db, job.tenant_id, rules.SESSIONS, job.once, now)
        if made is not None:
            await _give_up(db, job.copy_id)
            return rows.session(await keys.still(db, "made_session", made, job.once))
    await _hold(db, job, now)
    ending = copies.ending([entry.event() for entry in await _tail(db, job.source.id, job.cut)])
    last_event_id = ending.state.last_event_id and job.id(ending.state.last_event_id)
    head = job.cut
    if ending.turn_id is not None:
        turn_id = job.id(ending.turn_id)
        closing = copying.closing(ending, head, turn_id, job.salt, now)
        await insert_entries(db, job.tenant_id, job.copy_id, closing)
        await db.count("break_off_copied_turn", copy_id=job.copy_id, turn_id=turn_id, now=now)
        head, last_event_id, usages = closing[-1].sequence, rules.last_shown(closing), usages[:-1]
    at_head = head == job.source.last_sequence
    values = copying.settings(job.new) | {
        "stop_reason": ending.state.stop_reason,
        "last_sequence": head,
        "last_event_id": last_event_id,
        "usage": codec.encode(copies.total(usages)),
        "context_usage": job.source.context_usage if at_head else None,
    }
    agent_id = await finish(db, job.copy_id, now, job.tenant_id, job.agent_key, values)
    if job.seal is not None:
        await secrets.write(db, agent_id, job.copy_id, job.seal(agent_id, job.copy_id))
    if job.once is not None:
        await keys.keep(db, job.tenant_id, rules.SESSIONS, job.once, job.copy_id, now)
    return await session_row(db, SessionRef(job.tenant_id, job.agent_key, job.new.key))
