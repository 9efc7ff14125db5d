"""Other agents as tools: a call becomes an ordinary turn in a session of theirs, and its caller waits for it."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from sessile.domain.log import Draft, Entry, draft
from sessile.ports import CallsTooDeep, Clock, Follow, LiveSink, Store, SubAnswer, ToolFault, TooManyCalls, TurnQueue
from sessile.rows import Claim, NewSession, Rejoined, SubCall
from sessile.service.inputs import Inputs
from sessile.service.room import Room
from sessile.wire import ids
from sessile.wire.errors import FenceLost, Overloaded, SessileError, StorageUnavailable
from sessile.wire.events import (
    RECORD_TYPES,
    AgentOutputEvent,
    InputMessageEvent,
    StructuredOutputEvent,
    TextPart,
    TurnEndedRecord,
)
from sessile.wire.limits import MAX_SUB_AGENT_DEPTH, MAX_SUB_AGENT_TURNS

RETRY_SECONDS = 1.0
Started = Claim | Rejoined


class SubAgentSessions:
    """The `SubAgents` port: their turns are accepted, run, left and taken up like those of any other input."""

    def __init__(
        self, store: Store, queue: TurnQueue, live: LiveSink, follow: Follow, inputs: Inputs, clock: Clock
    ) -> None:
        self._store = store
        self._queue = queue
        self._live = live
        self._follow = follow
        self._inputs = inputs
        self._clock = clock
        self._starting: set[asyncio.Future[Started]] = set()

    async def ask(self, call: SubCall, session: NewSession, message: str, relay: Callable[[Entry], None]) -> SubAnswer:
        """Start the turn of a call, or find it again, and wait for its end. Raises ToolFault."""
        starting = asyncio.ensure_future(self._start(call, session, message))
        self._starting.add(starting)  # a turn that is durable is handed on, also when its caller is cancelled
        starting.add_done_callback(self._forget)
        started = await asyncio.shield(starting)
        answer: Any = None
        async with aclosing(self._follow(started.session.id, started.opened[0].sequence - 1)) as entries:
            async for entry in entries:
                if entry.turn_id != started.turn_id or entry.deleted:
                    continue
                if entry.type not in RECORD_TYPES:
                    relay(entry)
                match entry.event():
                    case AgentOutputEvent(content=content, partial=partial) if not partial:
                        answer = content
                    case StructuredOutputEvent(content=content):
                        answer = content
                    case TurnEndedRecord() as end:
                        return _answered(started.session.key, end, answer)
        return await self._cut_off(started)

    async def _start(self, call: SubCall, session: NewSession, message: str) -> Started:
        input = draft(InputMessageEvent(messages=[TextPart(content=message)], content=message))
        while True:
            try:
                return await self._submit(call, session, input)
            except StorageUnavailable:
                await self._clock.sleep(RETRY_SECONDS)
            except Overloaded as error:  # the caller has no slot meanwhile, so it may wait
                await self._clock.sleep(error.retry_after or RETRY_SECONDS)
            except FenceLost:
                raise ToolFault("turn_interrupted", "The turn was interrupted; nothing was started.") from None
            except CallsTooDeep:
                reason = f"Sub-agents may call each other {MAX_SUB_AGENT_DEPTH} levels deep."
                raise ToolFault("sub_agent_too_deep", reason) from None
            except TooManyCalls:
                reason = f"Calls may start {MAX_SUB_AGENT_TURNS} turns below one turn, at all levels together."
                raise ToolFault("sub_agent_too_many", reason) from None
            except SessileError as error:
                raise ToolFault("sub_agent_refused", error.message) from None

    async def _submit(self, call: SubCall, session: NewSession, input: Draft) -> Started:
        with Room(self._queue, call.tenant_id) as room:
            admit = self._inputs.admitting(room, len(input.body), drains=False)
            started = await self._store.start_sub_turn(call, session, input, ids.turn_id(), admit)
            if isinstance(started, Claim):
                self._live.announce(started.session.id, started.opened)
                self._queue.submit(started)
        return started

    async def _cut_off(self, started: Started) -> SubAnswer:
        """The log ends before the turn: its session is gone, or the server stops and will stop the caller too."""
        while True:
            try:
                there = await self._store.heads([started.session.id])
                break
            except StorageUnavailable:
                await self._clock.sleep(RETRY_SECONDS)
        if there:
            await asyncio.get_running_loop().create_future()
        raise ToolFault("sub_agent_failed", f"The session {started.session.key!r} was deleted.")

    def _forget(self, starting: "asyncio.Future[Started]") -> None:
        self._starting.discard(starting)
        if not starting.cancelled():
            starting.exception()  # whoever waited for it was told


def _answered(session_key: str, end: TurnEndedRecord, answer: Any) -> SubAnswer:
    """The last answer of a turn that has ended well. Raises ToolFault for any other."""
    if end.stop_reason == "end_turn" and answer is not None:
        return SubAnswer(session_key, answer)
    why = f"{end.error.code}: {end.error.message}" if end.error else end.stop_reason
    raise ToolFault("sub_agent_failed", f"The turn in the session {session_key!r} ended without an answer: {why}")
