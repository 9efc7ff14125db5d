"""Turns that wait for client tools, in SQLite: park one, answer its calls, list them."""

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from sessile.domain.client_tools import CallOutput, answered, pending
from sessile.domain.log import Draft, Entry, draft
from sessile.ports import Admit
from sessile.rows import (
    AgentRow,
    Answered,
    Claim,
    Fence,
    NewArtifact,
    Once,
    Rejoined,
    SessionRef,
    SessionRow,
    TurnProgress,
)
from sessile.stores import rows, rules
from sessile.stores.sqlite import log
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite.opening import insert
from sessile.stores.sqlite.verbs import QUERIES, Verbs, one, place, session_row
from sessile.wire import codec, ids
from sessile.wire.errors import ToolCallNotOutstanding
from sessile.wire.events import ToolInputEvent


class ClientTools(Verbs):
    """Verbs of the `Store` port."""

    async def park(
        self,
        fence: Fence,
        drafts: Sequence[Draft],
        progress: TurnProgress,
        outstanding: Sequence[str],
        artifacts: Sequence[NewArtifact] = (),
    ) -> list[Entry] | None:
        now = self._clock.now()
        return await self._writer.run(lambda db: _park(db, fence, drafts, progress, outstanding, artifacts, now))

    async def answer_calls(
        self, ref: SessionRef, outputs: Sequence[CallOutput], admit: Admit, once: Once | None = None
    ) -> Answered | Rejoined:
        now = self._clock.now()
        return await self._writer.run(lambda db: _answer(db, ref, outputs, admit, once, now, self._lease))

    async def outstanding_calls(self, ref: SessionRef) -> list[Entry]:
        def verb(db: sqlite3.Connection) -> list[Entry]:
            session = session_row(db, ref)
            waiting = _waiting(db, session)[2]
            return [entry for event_id in waiting if (entry := _event(db, session, event_id)) is not None]

        return await self._readers.run(verb)


def _park(
    db: sqlite3.Connection,
    fence: Fence,
    drafts: Sequence[Draft],
    progress: TurnProgress,
    outstanding: Sequence[str],
    artifacts: Sequence[NewArtifact],
    now: int,
) -> list[Entry] | None:
    if (row := db.execute(QUERIES["wants_stop"], {"id": fence.turn}).fetchone()) and row[0]:
        return None
    entries = log.append(db, fence, drafts, progress, None, now, 0, artifacts).entries
    db.execute(QUERIES["park_session"], {"session_id": fence.session_id})
    db.execute(QUERIES["park_turn"], {"id": fence.turn, "outstanding": _encoded(outstanding)})
    return entries


def _answer(
    db: sqlite3.Connection,
    ref: SessionRef,
    outputs: Sequence[CallOutput],
    admit: Admit,
    once: Once | None,
    now: int,
    lease: int,
) -> Answered | Rejoined:
    row = one(db, "session_for_input", place(ref), "session", ref.session_key)
    session, agent = rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])
    if once is not None:
        made = keys.made(db, session.tenant_id, rules.inputs_of(session.id), once, now)
        if made is not None:
            return _rejoin(db, session, made)
    admit(agent, session)
    turn, usage, waiting = _waiting(db, session)
    if not waiting:
        _raise_if_it_may_park(db, session, outputs)
    events, left = [], list(waiting)
    for index, output in enumerate(outputs):
        events.append(draft(answered(_outstanding(db, session, output, left, index), output)))
        left.remove(output.event_id)
    if left:
        events.append(draft(pending(_call(entry) for id in left if (entry := _event(db, session, id)) is not None)))
    entries = _append(db, session, events, left, now)
    claimed = {"id": turn, "outstanding": _encoded(left) if left else None, "lease_until": now + lease}
    token = db.execute(QUERIES["answer_turn"], claimed).fetchone()[0]
    if once is not None:
        keys.keep(db, session.tenant_id, rules.inputs_of(session.id), once, entries[0].sequence, now)
    return _answered(session, agent, entries, None if left else Fence(session.id, turn, token), usage)


def _append(
    db: sqlite3.Connection, session: SessionRow, events: Sequence[Draft], left: Sequence[str], now: int
) -> list[Entry]:
    turn_id = session.running_turn or ""
    entries = rules.placed(events, session.key, session.last_sequence, turn_id, now)
    insert(db, session.tenant_id, session.id, entries)
    values: dict[str, Any] = {
        "stop_reason": "requires_action" if left else None,
        "head": entries[-1].sequence,
        "last_event_id": entries[-1].id,
        "session_id": session.id,
        "now": now,
    }
    db.execute(QUERIES["answer_session"], values)
    return entries


def _answered(
    session: SessionRow, agent: AgentRow, entries: list[Entry], fence: Fence | None, usage: bytes
) -> Answered:
    turn_id = session.running_turn or ""
    claim = None
    if fence is not None:
        last = entries[-1]
        session = msgspec.structs.replace(
            session, status="running", stop_reason=None, last_sequence=last.sequence, last_event_id=last.id
        )
        claim = Claim(agent=agent, session=session, turn_id=turn_id, fence=fence, opened=[], usage=usage)
    return Answered(session=session, turn_id=turn_id, opened=entries, claim=claim)


def _rejoin(db: sqlite3.Connection, session: SessionRow, made: int) -> Rejoined:
    turn_id, running, *event = db.execute(QUERIES["made_outputs"], {"session_id": session.id, "made": made}).fetchone()
    entry = rows.entry(session.key, tuple(event))
    return Rejoined(session=session, turn_id=turn_id, opened=[entry], running=bool(running))


def _waiting(db: sqlite3.Connection, session: SessionRow) -> tuple[int, bytes, list[str]]:
    """The turn of a session that has not ended, its usage and what it waits for; nothing where there is none."""
    row = db.execute(QUERIES["waiting_turn"], {"turn_id": session.running_turn}).fetchone()
    if row is None:
        return 0, b"{}", []
    return row[0], rows.stored_json(row[1]), msgspec.json.decode(row[2], type=list[str]) if row[2] else []


def _outstanding(
    db: sqlite3.Connection, session: SessionRow, output: CallOutput, left: Sequence[str], index: int
) -> ToolInputEvent:
    """The call that an output answers. Raises ToolCallNotOutstanding, also for one that was answered just before."""
    entry = _event(db, session, output.event_id) if output.event_id in left else None
    if entry is None:
        message = f"No client tool call {output.event_id[:100]!r} waits for an output."
        raise ToolCallNotOutstanding(message, field_errors={f"tool_outputs[{index}].event_id": message})
    return _call(entry)


def _raise_if_it_may_park(db: sqlite3.Connection, session: SessionRow, outputs: Sequence[CallOutput]) -> None:
    """Raise SessionRunning when all outputs are for calls of the running turn, which has not waited for them yet."""
    for output in outputs:
        entry = _event(db, session, output.event_id)
        if entry is None or entry.type != "tool_input" or entry.turn_id != session.running_turn:
            return
        values = {"session_id": session.id, "sequence": entry.sequence, "turn_id": entry.turn_id}
        if db.execute(QUERIES["parked_after"], values).fetchone() is not None:
            return
    raise rules.running(session)


def _event(db: sqlite3.Connection, session: SessionRow, event_id: str) -> Entry | None:
    values = {"session_id": session.id, "sequence": ids.sequence_of(event_id)}
    row = db.execute(QUERIES["get_event"], values).fetchone()
    return None if row is None or row[0] != event_id else rows.entry(session.key, row)


def _call(entry: Entry) -> ToolInputEvent:
    event = entry.event()
    assert isinstance(event, ToolInputEvent)
    return event


def _encoded(event_ids: Sequence[str]) -> str:
    return codec.encode(event_ids).decode()
