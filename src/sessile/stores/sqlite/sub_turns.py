"""Turns that tool calls start in sessions of other agents, in SQLite, and the interrupt that reaches them."""

import sqlite3

from msgspec import json

from sessile.domain.log import Draft
from sessile.ports import Admit, CallsTooDeep, TooManyCalls
from sessile.rows import Claim, Creator, Interruption, NewSession, Rejoined, SessionRef, SubCall
from sessile.stores import rows, rules
from sessile.stores.sqlite import log, terms
from sessile.stores.sqlite.opening import open_turn
from sessile.stores.sqlite.verbs import QUERIES, Verbs, insert, place
from sessile.wire import codec, ids
from sessile.wire.errors import FenceLost, NotFound
from sessile.wire.limits import MAX_SUB_AGENT_DEPTH, MAX_SUB_AGENT_TURNS


class SubTurns(Verbs):
    """Verbs of the `Store` port."""

    async def start_sub_turn(
        self, call: SubCall, new: NewSession, input: Draft, turn_id: str, admit: Admit
    ) -> Claim | Rejoined:
        now, lease = self._clock.now(), self._lease
        return await self._writer.run(lambda db: _start(db, call, new, input, turn_id, admit, now, lease))


def interrupt(db: sqlite3.Connection, ref: SessionRef, now: int, lease: int) -> Interruption:
    """`Store.interrupt` within a transaction."""
    below = []
    row = db.execute(QUERIES["get_session"], place(ref)).fetchone()
    if row is not None and (turn_id := rows.session(row).running_turn) is not None:
        for agent_key, session_key in db.execute(QUERIES["turns_below"], {"turn_id": turn_id}).fetchall():
            below.append(log.interrupt(db, SessionRef(ref.tenant_id, agent_key, session_key), now, lease))
    return log.interrupt(db, ref, now, lease, below)


def _start(
    db: sqlite3.Connection,
    call: SubCall,
    new: NewSession,
    input: Draft,
    turn_id: str,
    admit: Admit,
    now: int,
    lease: int,
) -> Claim | Rejoined:
    by = {"turn_id": call.turn_id, "event_id": call.event_id}
    made = db.execute(QUERIES["turn_of_call"], by).fetchone()
    if made is not None:
        turn, *keys = made
        again = db.execute(QUERIES["get_session"], place(SessionRef(call.tenant_id, *keys))).fetchone()
        return log.turn_again(db, rows.session(again), turn)
    _check_the_tree(db, call.turn_id)
    where = place(SessionRef(call.tenant_id, call.agent_key, new.key))
    row = db.execute(QUERIES["session_for_input"], where).fetchone()
    if row is None:
        row = _added(db, call, new, now)
    session, agent = rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])
    creator = None if session.creator is None else json.decode(session.creator, type=Creator)
    if creator is None or not creator.shares(call.creator, call.shared_by):
        raise NotFound(f"There is no session {new.key!r} that this session has created.", id=new.key)
    admit(agent, session)
    if session.running_turn is not None:
        raise rules.running(session)
    event_id = ids.event_id(session.last_sequence + 1)
    claim = open_turn(db, agent, session, turn_id, event_id, input, now, lease)
    db.execute(QUERIES["start_below"], {**by, "id": claim.fence.turn})
    return claim


def _check_the_tree(db: sqlite3.Connection, turn_id: str) -> None:
    """Whether a turn may start another one. Raises FenceLost, CallsTooDeep, TooManyCalls."""
    above = db.execute(QUERIES["turns_above"], {"turn_id": turn_id, "limit": MAX_SUB_AGENT_DEPTH + 1}).fetchone()
    if above is None:
        raise FenceLost
    level, uppermost = above
    if level > MAX_SUB_AGENT_DEPTH:
        raise CallsTooDeep
    tree = {"turn_id": uppermost, "limit": MAX_SUB_AGENT_TURNS + 1}
    if db.execute(QUERIES["turns_in_tree"], tree).fetchone()[0] > MAX_SUB_AGENT_TURNS:
        raise TooManyCalls


def _added(db: sqlite3.Connection, call: SubCall, new: NewSession, now: int) -> rows.Row:
    """A new session for the call, and its agent. Raises NotFound."""
    if not call.creates:
        raise NotFound(f"There is no session {new.key!r} that this session has created.", id=new.key)
    values = {
        "tenant_id": call.tenant_id,
        "agent_key": call.agent_key,
        "key": new.key,
        "name": new.name,
        "description": new.description,
        "metadata": new.metadata,
        "enabled": new.enabled,
        "tti_minutes": new.tti_minutes,
        "now": now,
        "creator": codec.encode(call.creator),
    }
    row = insert(db, "insert_sub_session", "session", values)
    if row is None:
        raise NotFound(f"There is no agent {call.agent_key!r}.", id=call.agent_key)
    terms.keep(db, row[0], call.tenant_id, row[1], new.metadata)
    found: rows.Row = db.execute(
        QUERIES["session_for_input"], place(SessionRef(call.tenant_id, call.agent_key, new.key))
    ).fetchone()
    return found
