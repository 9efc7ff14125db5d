"""The log of a session in SQLite: accept, append, read. Functions of a connection, run inside a lane's transaction."""

import sqlite3
from collections.abc import Collection, Sequence

from sessile.domain.log import Draft, Entry
from sessile.ports import Admit
from sessile.rows import (
    Appended,
    Claim,
    EventQuery,
    Fence,
    Interruption,
    NewArtifact,
    Once,
    Page,
    Queued,
    Rejoined,
    SessionRef,
    SessionRow,
    Standing,
    TurnEnd,
    TurnProgress,
    Uploaded,
)
from sessile.stores import rows, rules
from sessile.stores.sqlite import artifacts as files
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite import waiting
from sessile.stores.sqlite.opening import insert, open_turn
from sessile.stores.sqlite.verbs import QUERIES
from sessile.wire import codec, ids
from sessile.wire.errors import FenceLost, NotFound
from sessile.wire.inputs import Behavior


def accept_input(
    db: sqlite3.Connection,
    ref: SessionRef,
    input: Draft,
    turn_id: str,
    admit: Admit,
    now: int,
    once: Once | None,
    if_match: str | None,
    behavior: Behavior | None,
    lease: int,
    uploaded: Uploaded | None = None,
) -> Claim | Rejoined | Queued:
    """`Store.accept_input` within a transaction."""
    where = {"tenant_id": ref.tenant_id, "agent_key": ref.agent_key, "session_key": ref.session_key}
    row = db.execute(QUERIES["session_for_input"], where).fetchone()
    if row is None:
        raise NotFound(f"There is no session {ref.session_key!r}.", id=ref.session_key)
    session, agent = rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])
    if once is not None:
        made = keys.made(db, session.tenant_id, rules.inputs_of(session.id), once, now)
        if made is not None:
            return _rejoin(db, session, made)
    admit(agent, session)
    if uploaded is not None and (session.running_turn is None or behavior is not None):
        files.take(db, session.tenant_id, session.id, uploaded.artifacts, now)
    told = None if uploaded is None else uploaded.event
    accepted: Claim | Queued
    if session.running_turn is not None:
        if behavior is None:
            raise rules.running(session)
        accepted, queued = waiting.put(db, session, input, turn_id, behavior, now, told)
        made = rules.of_waiting(queued)
    else:
        rules.check_last_event(session, if_match)
        event_id = ids.event_id(session.last_sequence + 1)
        accepted = open_turn(db, agent, session, turn_id, event_id, input, now, lease, told)
        made = accepted.fence.turn
    if once is not None:
        keys.keep(db, session.tenant_id, rules.inputs_of(session.id), once, made, now)
    return accepted


def _rejoin(db: sqlite3.Connection, session: SessionRow, made: int) -> Rejoined | Queued:
    if (queued := rules.waiting_of(made)) is not None:
        return waiting.again(db, session, queued)
    return turn_again(db, session, made)


def turn_again(db: sqlite3.Connection, session: SessionRow, made: int) -> Rejoined:
    """The turn that an idempotency key has made, as it stands."""
    turn_id, running, *event = db.execute(QUERIES["made_turn"], {"made": made}).fetchone()
    entry = rows.entry(session.key, tuple(event))
    return Rejoined(session=session, turn_id=turn_id, opened=[entry], running=bool(running))


def interrupt(
    db: sqlite3.Connection, ref: SessionRef, now: int, lease: int, below: Sequence[Interruption] = ()
) -> Interruption:
    """`Store.interrupt` of one session within a transaction; `below` is done already."""
    where = {"tenant_id": ref.tenant_id, "agent_key": ref.agent_key, "session_key": ref.session_key}
    row = db.execute(QUERIES["get_session"], where).fetchone()
    if row is None:
        raise NotFound(f"There is no session {ref.session_key!r}.", id=ref.session_key)
    session = rows.session(row)
    if session.running_turn is None:
        return Interruption(session, None)
    db.execute(QUERIES["interrupt_turn"], {"turn_id": session.running_turn, "now": now})
    claimed = {"turn_id": session.running_turn, "lease_until": now + lease}
    parked = db.execute(QUERIES["unpark_turn"], claimed).fetchone()
    if parked is None:
        return Interruption(session, session.running_turn, None, below)
    turn, token, usage = parked
    agent = rows.agent(db.execute(QUERIES["session_for_input"], where).fetchone()[rows.SESSION_COLUMNS :])
    claim = Claim(
        agent=agent,
        session=session,
        turn_id=session.running_turn,
        fence=Fence(session.id, turn, token),
        opened=[],
        usage=rows.stored_json(usage),
        interrupted=True,
    )
    return Interruption(session, session.running_turn, claim, below)


def append(
    db: sqlite3.Connection,
    fence: Fence,
    drafts: Sequence[Draft],
    progress: TurnProgress,
    end: TurnEnd | None,
    now: int,
    lease: int,
    artifacts: Sequence[NewArtifact] = (),
) -> Appended:
    """`Store.append` within a transaction; with `end`, the last draft is the turn's `turn_ended`."""
    row = db.execute(QUERIES["fenced_turn"], (fence.turn, fence.session_id, fence.token)).fetchone()
    if row is None:
        raise FenceLost
    turn_id, tenant_id, session_key, head, last_event_id, steers = row
    if artifacts:
        files.take(db, tenant_id, fence.session_id, artifacts, now)
    entries = rules.placed(drafts, session_key, head, turn_id, now)
    insert(db, tenant_id, fence.session_id, entries)
    last_event_id = rules.last_shown(entries) or last_event_id
    turn_usage, usage = codec.encode(progress.turn_usage), codec.encode(progress.session_usage)
    context = codec.encode(progress.context_usage) if progress.context_usage else None
    head += len(entries)
    if end is None:
        db.execute(QUERIES["advance_session"], (head, last_event_id, usage, context, now, fence.session_id))
        db.execute(QUERIES["advance_turn"], (turn_usage, fence.turn))
        return Appended(entries, steered=bool(steers))
    error = codec.encode(end.error) if end.error else None
    db.execute(QUERIES["stop_session"], (end.stop_reason, head, last_event_id, usage, context, now, fence.session_id))
    db.execute(QUERIES["end_turn"], (end.stop_reason, error, turn_usage, now, fence.turn))
    return Appended(entries, next=None if steers is None else waiting.take_next(db, fence.session_id, now, lease))


def read(db: sqlite3.Connection, session_id: int, query: EventQuery) -> Page[Entry]:
    """`Store.read_log` within a transaction: looks at no more than a fixed number of places from the cursor on."""
    row = db.execute(QUERIES["session_key"], {"session_id": session_id}).fetchone()
    if row is None:
        return Page([], None)
    session_key, head = row
    window = rules.window(query, head)
    values = {
        "session_id": session_id,
        "after": window.after,
        "before": window.before,
        "records": query.records,
        "most_hidden": rules.most_hidden(query),
        "types": f",{','.join(query.types)}," if query.types is not None else None,
        "limit": query.limit + 1,
    }
    found = [rows.entry(session_key, row) for row in db.execute(QUERIES[f"list_events_{query.order}"], values)]
    return window.page(found, query.limit)


def renew(db: sqlite3.Connection, fences: Collection[Fence], until: int) -> list[Fence]:
    """`Store.renew` within a transaction."""
    renewal = QUERIES["renew_lease"]
    return [f for f in fences if not db.execute(renewal, (until, f.turn, f.session_id, f.token)).rowcount]


def standing(db: sqlite3.Connection, fences: Collection[Fence]) -> dict[Fence, Standing]:
    """`Store.standing` within a transaction."""
    query = QUERIES["standing_turn"]
    rows = ((fence, db.execute(query, (fence.turn, fence.session_id, fence.token)).fetchone()) for fence in fences)
    return {fence: Standing(bool(row[0]), bool(row[1])) for fence, row in rows if row is not None}


def take_turns(db: sqlite3.Connection, by: int, until: int, limit: int | None) -> list[Claim]:
    """Claim the running turns whose lease has run out `by` a time, all or some, under a new one."""
    claims = []
    for row in db.execute(QUERIES["unfinished_turns"], {"by": by, "limit": -1 if limit is None else limit}).fetchall():
        session = rows.session(row)
        turn, turn_id, token, usage, interrupted_at, takes, waited = row[rows.SESSION_COLUMNS + rows.AGENT_COLUMNS :]
        db.execute(QUERIES["take_up"], {"id": turn, "lease_until": until})
        claims.append(
            Claim(
                agent=rows.agent(row[rows.SESSION_COLUMNS :]),
                session=session,
                turn_id=turn_id,
                fence=Fence(session.id, turn, token + 1),
                opened=[],
                usage=rows.stored_json(usage),
                interrupted=interrupted_at is not None,
                takes=takes + 1,
                waited=bool(waited),
            )
        )
    return claims
