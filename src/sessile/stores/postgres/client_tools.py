"""Turns that wait for client tools, in PostgreSQL: park one, answer its calls, list them."""

from collections.abc import Sequence

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
from sessile.stores.postgres import once as keys
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.log import Append, append_all
from sessile.stores.postgres.opening import insert
from sessile.stores.postgres.verbs import Verbs, session_row, with_agent
from sessile.stores.postgres.waiting import rejoined
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
        call = Append(
            fence=fence,
            drafts=drafts,
            progress=progress,
            end=None,
            artifacts=artifacts,
            now=self._clock.now(),
            lease_until=0,
        )
        return await self._write(lambda db: _park(db, call, outstanding))

    async def answer_calls(
        self, ref: SessionRef, outputs: Sequence[CallOutput], admit: Admit, once: Once | None = None
    ) -> Answered | Rejoined:
        now, until = self._clock.now(), self._until()
        return await self._write(lambda db: _answer(db, ref, outputs, admit, once, now, until))

    async def outstanding_calls(self, ref: SessionRef) -> list[Entry]:
        async def verb(db: Db) -> list[Entry]:
            session = await session_row(db, ref)
            waiting = (await _waiting(db, session))[2]
            return [entry for event_id in waiting if (entry := await _event(db, session, event_id)) is not None]

        return await self._read(verb)


async def _park(db: Db, call: Append, outstanding: Sequence[str]) -> list[Entry] | None:
    row = await db.one("wants_stop", id=call.fence.turn)
    if row is not None and row[0]:
        return None
    (appended,) = await append_all(db, [call])
    if isinstance(appended, Exception):
        raise appended
    await db.count("park_session", session_id=call.fence.session_id)
    await db.count("park_turn", id=call.fence.turn, outstanding=_encoded(outstanding))
    return appended.entries


async def _answer(
    db: Db,
    ref: SessionRef,
    outputs: Sequence[CallOutput],
    admit: Admit,
    once: Once | None,
    now: int,
    lease_until: int,
) -> Answered | Rejoined:
    session, agent = await with_agent(db, ref)
    scope = rules.inputs_of(session.id)
    if once is not None:
        made = (await keys.made_in(db, session.tenant_id, {scope: once}, now)).get(scope)
        if made is not None:
            return await rejoined(db, session, "made_outputs", session_id=session.id, made=made)
    admit(agent, session)
    turn, usage, waiting = await _waiting(db, session)
    if not waiting:
        await _raise_if_it_may_park(db, session, outputs)
    events, left = [], list(waiting)
    for index, output in enumerate(outputs):
        events.append(draft(answered(await _outstanding(db, session, output, left, index), output)))
        left.remove(output.event_id)
    if left:
        found = [await _event(db, session, event_id) for event_id in left]
        events.append(draft(pending(_call(entry) for entry in found if entry is not None)))
    entries = await _append(db, session, events, left, now)
    encoded = _encoded(left) if left else None
    ((token,),) = await db.change("answer_turn", id=turn, outstanding=encoded, lease_until=lease_until)
    if once is not None:
        await keys.keep(db, session.tenant_id, scope, once, entries[0].sequence, now)
    return _answered(session, agent, entries, None if left else Fence(session.id, turn, token), usage)


async def _append(db: Db, session: SessionRow, events: Sequence[Draft], left: Sequence[str], now: int) -> list[Entry]:
    entries = rules.placed(events, session.key, session.last_sequence, session.running_turn or "", now)
    await insert(db, session.tenant_id, session.id, entries)
    await db.count(
        "answer_session",
        stop_reason="requires_action" if left else None,
        head=entries[-1].sequence,
        last_event_id=entries[-1].id,
        session_id=session.id,
        now=now,
    )
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


async def _waiting(db: Db, session: SessionRow) -> tuple[int, bytes, list[str]]:
    """The turn of a session that has not ended, its usage and what it waits for; nothing where there is none."""
    row = await db.one("waiting_turn", turn_id=session.running_turn)
    if row is None:
        return 0, b"{}", []
    return row[0], row[1], msgspec.json.decode(row[2], type=list[str]) if row[2] else []


async def _outstanding(
    db: Db, session: SessionRow, output: CallOutput, left: Sequence[str], index: int
) -> ToolInputEvent:
    """The call that an output answers. Raises ToolCallNotOutstanding, also for one that was answered just before."""
    entry = await _event(db, session, output.event_id) if output.event_id in left else None
    if entry is None:
        message = f"No client tool call {output.event_id[:100]!r} waits for an output."
        raise ToolCallNotOutstanding(message, field_errors={f"tool_outputs[{index}].event_id": message})
    return _call(entry)


async def _raise_if_it_may_park(db: Db, session: SessionRow, outputs: Sequence[CallOutput]) -> None:
    """Raise SessionRunning when all outputs are for calls of the running turn, which has not waited for them yet."""
    for output in outputs:
        entry = await _event(db, session, output.event_id)
        if entry is None or entry.type != "tool_input" or entry.turn_id != session.running_turn:
            return
        values = {"session_id": session.id, "sequence": entry.sequence, "turn_id": entry.turn_id}
        if await db.one("parked_after", **values) is not None:
            return
    raise rules.running(session)


async def _event(db: Db, session: SessionRow, event_id: str) -> Entry | None:
    row = await db.one("get_event", session_id=session.id, sequence=ids.sequence_of(event_id))
    return None if row is None or row[0] != event_id else rows.entry(session.key, row)


def _call(entry: Entry) -> ToolInputEvent:
    event = entry.event()
    assert isinstance(event, ToolInputEvent)
    return event


def _encoded(event_ids: Sequence[str]) -> str:
    return codec.encode(event_ids).decode()
