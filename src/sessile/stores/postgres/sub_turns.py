"""Turns that tool calls start in sessions of other agents, in PostgreSQL, and the interrupt that reaches them.

Who starts a turn below another one locks the sessions of both, and an interrupt those of all turns that it reaches, in
the order of internal ids, until there are no others: so none is started below a turn that is being interrupted.
"""

from msgspec import json

from sessile.domain.log import Draft
from sessile.ports import Admit, CallsTooDeep, TooManyCalls
from sessile.rows import AgentRow, Claim, Creator, Interruption, NewSession, Rejoined, SessionRef, SessionRow, SubCall
from sessile.stores import copying, rows, rules
from sessile.stores.postgres import log, terms
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.opening import Opening, open_turns
from sessile.stores.postgres.verbs import Verbs, check, insert, not_found, place, session_row
from sessile.stores.postgres.waiting import rejoined
from sessile.wire import codec, ids
from sessile.wire.errors import FenceLost, KeyTaken, NotFound
from sessile.wire.limits import MAX_SUB_AGENT_DEPTH, MAX_SUB_AGENT_TURNS

_SCOPE = "turns below"
"""The scope of the advisory lock that keeps turns from being started below the same one at the same moment."""


class SubTurns(Verbs):
    """Verbs of the `Store` port."""

    async def start_sub_turn(
        self, call: SubCall, new: NewSession, input: Draft, turn_id: str, admit: Admit
    ) -> Claim | Rejoined:
        check("agent", call.agent_key)
        check("session", new.key)
        now, until = self._clock.now(), self._until()
        while True:
            try:
                return await self._write(lambda db: _start(db, call, new, input, turn_id, admit, now, until))
            except KeyTaken:  # another call has just made the session: it is there now
                continue


async def interrupt(db: Db, ref: SessionRef, now: int, lease_until: int) -> Interruption:
    """`Store.interrupt` within a transaction."""
    session = await session_row(db, ref)
    below = await _below(db, session)
    standing: set[int] = set()
    while not standing.issuperset([session.id, *below]):  # whoever we waited for may have started one more
        standing = {session.id, *below}
        await db.all("lock_running", ids=list(standing))
        session = await session_row(db, ref)
        below = await _below(db, session)
    found = []
    for agent_key, session_key in below.values():
        found.append(await log.interrupt(db, SessionRef(ref.tenant_id, agent_key, session_key), now, lease_until))
    return await log.interrupt(db, ref, now, lease_until, found)


async def _below(db: Db, session: SessionRow) -> dict[int, tuple[str, str]]:
    """The sessions of the turns below a session's running one, and the keys of their agents and their own."""
    if session.running_turn is None:
        return {}
    return {row[0]: (row[1], row[2]) for row in await db.all("turns_below", turn_id=session.running_turn)}


async def _start(
    db: Db,
    call: SubCall,
    new: NewSession,
    input: Draft,
    turn_id: str,
    admit: Admit,
    now: int,
    lease_until: int,
) -> Claim | Rejoined:
    ref = SessionRef(call.tenant_id, call.agent_key, new.key)
    if (again := await _again(db, call)) is not None:
        return again
    uppermost = await _uppermost(db, call.turn_id)
    await db.one("once_at_a_time", tenant_id=call.tenant_id, scope=_SCOPE, key=uppermost)
    there = await db.one("locate_session", **place(ref))
    await db.all("lock_sessions", ids=[call.creator.session_id, *([] if there is None else [there[0]])])
    if (again := await _again(db, call)) is not None:
        return again
    await _check_the_tree(db, call.turn_id)
    session, agent = await _session(db, call, new, None if there is None else there[0], now)
    creator = None if session.creator is None else json.decode(session.creator, type=Creator)
    if creator is None or not creator.shares(call.creator, call.shared_by):
        raise _not_ours(new)
    admit(agent, session)
    if session.running_turn is not None:
        raise rules.running(session)
    opening = Opening(
        agent=agent,
        session=session,
        turn_id=turn_id,
        event_id=ids.event_id(session.last_sequence + 1),
        input=input,
        now=now,
        lease_until=lease_until,
    )
    (claim,) = await open_turns(db, [opening])
    await db.count("start_below", id=claim.fence.turn, turn_id=call.turn_id, event_id=call.event_id)
    return claim


async def _again(db: Db, call: SubCall) -> Rejoined | None:
    """The turn that the call has started already."""
    made = await db.one("turn_of_call", turn_id=call.turn_id, event_id=call.event_id)
    if made is None:
        return None
    turn, agent_key, session_key = made
    session = await session_row(db, SessionRef(call.tenant_id, agent_key, session_key))
    return await rejoined(db, session, "made_turn", made=turn)


async def _uppermost(db: Db, turn_id: str) -> str:
    """The turn at the top of the tree that a turn is in. Raises FenceLost, CallsTooDeep."""
    above = await db.one("turns_above", turn_id=turn_id, limit=MAX_SUB_AGENT_DEPTH + 1)
    if above is None:
        raise FenceLost
    if above[0] > MAX_SUB_AGENT_DEPTH:
        raise CallsTooDeep
    uppermost: str = above[1]
    return uppermost


async def _check_the_tree(db: Db, turn_id: str) -> None:
    """Whether a turn may start another one. Raises FenceLost, CallsTooDeep, TooManyCalls."""
    uppermost = await _uppermost(db, turn_id)
    row = await db.one("turns_in_tree", turn_id=uppermost, limit=MAX_SUB_AGENT_TURNS + 1)
    if row is not None and row[0] > MAX_SUB_AGENT_TURNS:
        raise TooManyCalls


async def _session(
    db: Db, call: SubCall, new: NewSession, session_id: int | None, now: int
) -> tuple[SessionRow, AgentRow]:
    """The session of a call, made if it is not there, and its agent. Raises NotFound, KeyTaken."""
    if session_id is None:
        session_id = await _added(db, call, new, now)
    row = await db.one("session_to_run", session_id=session_id)
    if row is None:  # it was deleted just now
        raise _not_ours(new)
    return rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])


async def _added(db: Db, call: SubCall, new: NewSession, now: int) -> int:
    if not call.creates:
        raise _not_ours(new)
    values = copying.settings(new) | {"creator": codec.encode(call.creator), "now": now}
    where = {"tenant_id": call.tenant_id, "agent_key": call.agent_key}
    added = await insert(db, "insert_sub_session", "session", **where, **values)
    if not added:
        raise not_found("agent", call.agent_key)
    session_id, agent_id = added[0]
    await terms.keep(db, session_id, call.tenant_id, agent_id, new.metadata)
    await terms.look_when_idle(db, session_id, now, new.tti_minutes)
    return int(session_id)


def _not_ours(new: NewSession) -> NotFound:
    return NotFound(f"There is no session {new.key!r} that this session has created.", id=new.key)
