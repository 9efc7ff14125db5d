"""Copies of sessions in SQLite, made in many short transactions.

A copy is filled under an internal id that no session has, so that nobody sees it; its session's row comes with the last
transaction. A copy that nobody goes on with stays in `copies`, and the purge takes it.
"""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import pairwise
from os import urandom
from typing import Any

from msgspec import Struct

from sessile.domain import copies
from sessile.domain.log import Entry
from sessile.ports import Admit, Clock, Seal
from sessile.rows import LEASE_SECONDS, Claim, EventQuery, NewSession, Once, SessionRef, SessionRow
from sessile.stores import copying, rows, rules, summaries
from sessile.stores.sqlite import compactions, log, secrets, terms
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite.lanes import WriteLane
from sessile.stores.sqlite.opening import insert as insert_entries
from sessile.stores.sqlite.verbs import QUERIES, Verbs, insert, one, place, session_row
from sessile.stores.sqlite.waiting import place_of
from sessile.wire import codec, ids
from sessile.wire.errors import NotFound

_SLICE_EVENTS = 800
_SLICE_BYTES = 1024 * 1024
_SLICE_TURNS = 1000
_SLICE_FILES = 200
_REFERRING = f",{','.join(sorted(copies.REFERRING))},"


class _Order(Struct, frozen=True):
    """The compaction that a copy begins with."""

    up_to: str
    turn_id: str
    admit: Admit
    lease: int


class _Source(Struct, frozen=True):
    """The session that is copied, where the copy ends, and where what is compacted of it ends."""

    session: SessionRow
    cut: int
    through: int = 0


class _Plan(Struct, frozen=True, kw_only=True):
    """What the log of the source says before anything of it is copied."""

    edges: list[int]
    """The last event of each slice."""
    turn_edges: list[int]
    usages: list[bytes]
    ending: copies.Ending
    files: list[str]
    """The ids of the artifacts that the copy tells of, in slices: each a JSON list."""
    covered: int
    """The last place that a summary stands for."""

    def slices(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The queries that copy, and the part that each run of them copies."""
        for query, edges in (("copy_turns", self.turn_edges), ("copy_events", self.edges)):
            for after, until in pairwise([0, *edges]):
                yield query, {"after": after, "until": until}
        for slice in self.files:
            yield "copy_artifacts", {"ids": slice}


class Copies(Verbs):
    """Verbs of the `Store` port."""

    def __init__(
        self, connections: list[sqlite3.Connection], clock: Clock, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        super().__init__(connections, clock, lease_seconds)
        self._one_at_a_time = asyncio.Lock()

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
        order = _Order(up_to, turn_id, admit, self._lease)
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
        async with self._one_at_a_time:
            made, now = None, self._clock.now()
            begun = await self._writer.run(
                lambda db: _begin_fork(db, tenant_id, agent_key, new, source, up_to, once, order, now)
            )
            if isinstance(begun, SessionRow):
                return begun
            copy_id, origin = begun
            try:
                made = await self._fill(copy_id, origin, tenant_id, agent_key, new, once, seal, order)
            finally:
                if made is None:
                    give_up(self._writer, copy_id)
            return made

    async def _fill(
        self,
        copy_id: int,
        source: _Source,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        once: Once | None,
        seal: Seal | None,
        order: _Order | None,
    ) -> SessionRow | Claim:
        plan = await self._readers.run(lambda db: _plan(db, source))
        fixed: dict[str, Any] = {
            "copy_id": copy_id,
            "source_id": source.session.id,
            "cut": source.cut,
            "salt": urandom(copies.SALT_BYTES),
            "referring": _REFERRING,
            "covered": plan.covered,
        }
        for query, part in plan.slices():
            values = fixed | part | {"now": self._clock.now()}
            await self._writer.run(lambda db, query=query, values=values: _copy_slice(db, query, values))  # type: ignore[misc]
        now = self._clock.now()

        def finish(db: sqlite3.Connection) -> SessionRow | Claim:
            row = _finish_fork(db, fixed | {"now": now}, source, plan, tenant_id, agent_key, new, once, seal)
            return row if order is None or row.id != copy_id else _start(db, row, source, order, now)

        return await self._writer.run(finish)


def give_up(writer: WriteLane, copy_id: int) -> None:
    """Let the purge remove what was copied; when even that cannot be stored, it finds the copy later by its age."""
    given_up = writer.run(lambda db: _give_up(db, copy_id))
    given_up.add_done_callback(lambda done: done.cancelled() or done.exception())


def begin(db: sqlite3.Connection, now: int) -> int:
    """Start to fill a session: the internal id that it will have."""
    row = db.execute(QUERIES["next_session_id"]).fetchall() or db.execute(QUERIES["first_session_id"]).fetchall()
    copy_id: int = row[0][0]
    db.execute(QUERIES["begin_copy"], {"copy_id": copy_id, "now": now})
    return copy_id


def touch(db: sqlite3.Connection, copy_id: int, now: int) -> None:
    """Go on to fill a session. Raises StorageUnavailable when it was given up because that took too long."""
    if db.execute(QUERIES["touch_copy"], {"copy_id": copy_id, "now": now}).rowcount == 0:
        raise copying.given_up()


def free(db: sqlite3.Connection, tenant_id: int, agent_key: str, key: str) -> None:
    """Raise NotFound unless the agent is there, KeyTaken unless it has no session of this key."""
    one(db, "get_agent_id", {"tenant_id": tenant_id, "key": agent_key}, "agent", agent_key)
    found = db.execute(QUERIES["locate_session"], place(SessionRef(tenant_id, agent_key, key))).fetchone()
    copying.check_free(found is not None, key)


def finish(
    db: sqlite3.Connection, copy_id: int, now: int, tenant_id: int, agent_key: str, values: dict[str, Any]
) -> int:
    """The session is filled: it is there from this commit on. Returns the internal id of its agent."""
    touch(db, copy_id, now)
    values = values | {"copy_id": copy_id, "tenant_id": tenant_id, "agent_key": agent_key, "now": now}
    row = insert(db, "insert_copied_session", "session", values)
    if row is None:
        raise NotFound(f"There is no agent {agent_key!r}.", id=agent_key)
    agent_id: int = row[0]
    terms.keep(db, copy_id, tenant_id, agent_id, values["metadata"])
    db.execute(QUERIES["end_copy"], {"copy_id": copy_id})
    return agent_id


def give_up_stale(db: sqlite3.Connection, now: int) -> None:
    """Let the purge remove copies that nobody goes on with: their process has gone."""
    stale = {"stale": now - copying.STALE_SECONDS * 1_000_000}
    if db.execute(QUERIES["purge_stale_copies_later"], stale).rowcount:
        db.execute(QUERIES["end_stale_copies"], stale)


def _give_up(db: sqlite3.Connection, copy_id: int) -> None:
    if db.execute(QUERIES["end_copy"], {"copy_id": copy_id}).rowcount:
        db.execute(QUERIES["purge_session_later"], {"session_id": copy_id})


def _begin_fork(
    db: sqlite3.Connection,
    tenant_id: int,
    agent_key: str,
    new: NewSession,
    source: SessionRef,
    up_to: str | None,
    once: Once | None,
    order: _Order | None,
    now: int,
) -> SessionRow | tuple[int, _Source]:
    if once is not None and (made := keys.made(db, tenant_id, rules.SESSIONS, once, now)) is not None:
        return rows.session(keys.still(db, "made_session", made, once))
    free(db, tenant_id, agent_key, new.key)
    session = session_row(db, source)
    cut = session.last_sequence if up_to is None else _cut(db, session.id, up_to)
    copying.check_length(cut)
    through = 0 if order is None else _found(db, session.id, order.up_to, "compact_up_to_event_id")[0].sequence
    return begin(db, now), _Source(session, cut, through)


def _start(db: sqlite3.Connection, copy: SessionRow, source: _Source, order: _Order, now: int) -> Claim:
    """Start the turn that compacts a copy, in the commit that shows it."""
    ref = SessionRef(copy.tenant_id, copy.agent_key, copy.key)
    claim = compactions.accept(
        db, ref, (compactions.id_at(db, copy.id, source.through), None), order.turn_id, order.admit, now, order.lease
    )
    assert isinstance(claim, Claim)
    return claim


def _cut(db: sqlite3.Connection, source_id: int, event_id: str) -> int:
    """The last place of the log that a fork up to this event has."""
    found = _found(db, source_id, event_id, "include_up_to_event_id")
    return copies.cut(found[0].event(), found[1].event() if len(found) > 1 else None)


def _found(db: sqlite3.Connection, source_id: int, event_id: str, field: str) -> list[Entry]:
    """An event of the source, and the one after it if there is one. Raises InvalidRequest."""
    waited = ids.is_waiting(event_id)
    sequence = (place_of(db, source_id, event_id) if waited else ids.sequence_of(event_id)) or 0
    found = [
        rows.entry("", row)
        for at in (sequence, sequence + 1)
        if (row := db.execute(QUERIES["get_event"], {"session_id": source_id, "sequence": at}).fetchone())
    ]
    copying.check_found(found, event_id, waited, field)
    return found


def _plan(db: sqlite3.Connection, source: _Source) -> _Plan:
    values = {"source_id": source.session.id, "cut": source.cut}
    turns = db.execute(QUERIES["turns_up_to"], values).fetchall()
    ending = copies.ending([entry.event() for entry in _tail(db, source)])
    kept = db.execute(QUERIES["summaries_up_to"], values).fetchall()
    return _Plan(
        edges=list(_edges(db.execute(QUERIES["sizes_of_events"], values))),
        turn_edges=[turn[0] for turn in (*turns[_SLICE_TURNS - 1 :: _SLICE_TURNS], *turns[-1:])],
        usages=[rows.stored_json(usage) for _, _, usage in (turns[:-1] if ending.turn_id else turns)],
        ending=ending,
        files=_files(db, values),
        covered=max((summaries.through(rows.entry("", row)) for row in kept), default=0),
    )


def _files(db: sqlite3.Connection, values: dict[str, Any]) -> list[str]:
    """The ids of the files that the events to be copied tell of, some in each."""
    if db.execute(QUERIES["has_artifacts"], values).fetchone() is None:
        return []
    told = [body for (body,) in db.execute(QUERIES["uploads_up_to"], values)]
    found = [artifact["artifact_id"] for body in told for artifact in codec.decode(body)["artifacts"]]
    return [codec.encode(found[at : at + _SLICE_FILES]).decode() for at in range(0, len(found), _SLICE_FILES)]


def _edges(sizes: Iterator[tuple[int, int]]) -> Iterator[int]:
    """Where slices end, so that none holds the writer for long."""
    events = total = sequence = 0
    for sequence, size in sizes:
        events, total = events + 1, total + size
        if events == _SLICE_EVENTS or total >= _SLICE_BYTES:
            yield sequence
            events = total = 0
    if events:
        yield sequence


def _tail(db: sqlite3.Connection, source: _Source) -> Sequence[Entry]:
    """The last events of the log, as many as its ending follows from."""
    entries: list[Entry] = []
    cursor: int | None = source.cut + 1
    while cursor is not None and not copies.complete(entries):
        query = EventQuery(cursor=cursor, limit=copying.TAIL, order="desc", records=True, include_deleted=True)
        page = log.read(db, source.session.id, query)
        entries += page.rows
        cursor = page.next
    return entries[::-1]


def _copy_slice(db: sqlite3.Connection, query: str, values: dict[str, Any]) -> None:
    touch(db, values["copy_id"], values["now"])
    _check_source(db, values["source_id"])
    db.execute(QUERIES[query], values)


def _check_source(db: sqlite3.Connection, source_id: int) -> None:
    """Raise NotFound when the source is gone: its events are being removed."""
    one(db, "is_there", {"session_id": source_id}, "session", "that is to be forked")


def _finish_fork(
    db: sqlite3.Connection,
    fixed: dict[str, Any],
    source: _Source,
    plan: _Plan,
    tenant_id: int,
    agent_key: str,
    new: NewSession,
    once: Once | None,
    seal: Seal | None,
) -> SessionRow:
    copy_id, now, salt, state = fixed["copy_id"], fixed["now"], fixed["salt"], plan.ending.state
    if once is not None and (made := keys.made(db, tenant_id, rules.SESSIONS, once, now)) is not None:
        _give_up(db, copy_id)
        return rows.session(keys.still(db, "made_session", made, once))
    _check_source(db, source.session.id)
    last_event_id = state.last_event_id and copies.renamed(state.last_event_id, salt)
    head = source.cut
    if plan.ending.turn_id is not None:
        turn_id = copies.renamed(plan.ending.turn_id, salt)
        closing = copying.closing(plan.ending, head, turn_id, salt, now)
        insert_entries(db, tenant_id, copy_id, closing)
        db.execute(QUERIES["break_off_copied_turn"], {"copy_id": copy_id, "turn_id": turn_id, "now": now})
        head, last_event_id = closing[-1].sequence, rules.last_shown(closing)
    at_head = head == source.session.last_sequence
    values = copying.settings(new) | {
        "stop_reason": state.stop_reason,
        "last_sequence": head,
        "last_event_id": last_event_id,
        "usage": codec.encode(copies.total(plan.usages)),
        "context_usage": source.session.context_usage if at_head else None,
    }
    agent_id = finish(db, copy_id, now, tenant_id, agent_key, values)
    if seal is not None:
        secrets.write(db, agent_id, copy_id, seal(agent_id, copy_id))
    if once is not None:
        keys.keep(db, tenant_id, rules.SESSIONS, once, copy_id, now)
    return session_row(db, SessionRef(tenant_id, agent_key, new.key))
