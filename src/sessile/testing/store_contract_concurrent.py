"""What every Store must keep up while many write and read at once, and across a restart. Part of `store_contract`."""

import asyncio
import itertools
import random
from typing import Any

import msgspec
import pytest

from sessile.domain.log import Draft, Entry, draft
from sessile.domain.session import fold
from sessile.ports import Store
from sessile.rows import Claim, SessionChanges, SessionRef, TurnEnd, TurnProgress
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    DONE,
    EVERYTHING,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    answered,
    append,
    new_session,
    read_all,
    sequences,
    shown,
    thought,
    whole_turn,
)
from sessile.wire.errors import NotFound
from sessile.wire.events import ToolInputEvent, ToolOutputEvent, TurnError
from sessile.wire.sessions import InputTokens, OutputTokens, SessionContextUsage, StopReason, Usage

READERS, APPENDS, SESSIONS = 3, 60, 16


class ConcurrencyContract(Fixtures):
    """Commit order is reading order, and what was acknowledged is there."""

    async def test_appends_to_one_log_never_interleave(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        writing = [
            append(store, claim.fence, [thought(f"{n}.{part}") for part in range(1 + n % 4)], NOTHING)
            for n in range(APPENDS)
        ]
        written = await asyncio.gather(*writing)
        for entries in written:
            assert sequences(entries) == list(range(entries[0].sequence, entries[0].sequence + len(entries)))
        in_order = sorted(itertools.chain(claim.opened, *written), key=lambda entry: entry.sequence)
        assert sequences(in_order) == list(range(1, len(in_order) + 1))
        assert shown(await read_all(store, claim.session.id)) == shown(in_order)

    async def test_a_reader_that_goes_on_from_its_cursor_misses_nothing(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        done = asyncio.Event()

        async def follow() -> list[Entry]:
            seen: list[Entry] = []
            while True:
                last_round = done.is_set()
                cursor = seen[-1].sequence if seen else None
                page = await store.read_log(claim.session.id, msgspec.structs.replace(EVERYTHING, cursor=cursor))
                seen += page.rows
                if last_round and not page.rows:
                    return seen

        readers = [asyncio.create_task(follow()) for _ in range(READERS)]
        for _ in range(10):
            await asyncio.gather(*(append(store, claim.fence, [thought(), thought()], NOTHING) for _ in range(8)))
        done.set()
        expected = shown(await read_all(store, claim.session.id))
        assert len(expected) == 162
        for seen in await asyncio.gather(*readers):
            assert shown(seen) == expected

    async def test_many_sessions_at_once_keep_their_own_order(self, store: Store, tenant: int) -> None:
        refs = [await new_session(store, tenant, f"s{n}") for n in range(SESSIONS)]

        async def converse(ref: SessionRef) -> list[Entry]:
            entries = []
            for n in range(5):
                claim = await accept(store, ref, f"{ref.session_key} {n}")
                entries += claim.opened
                entries += await append(store, claim.fence, [thought(f"{ref.session_key} {n}")], NOTHING)
                entries += await append(store, claim.fence, [answered(f"{ref.session_key} {n}")], NOTHING, DONE)
            return entries

        written = await asyncio.gather(*map(converse, refs))
        for ref, entries in zip(refs, written, strict=True):
            assert sequences(entries) == list(range(1, 26))
            assert shown((await store.list_events(ref, EVERYTHING)).rows) == shown(entries)

    async def test_what_was_acknowledged_is_read(self, store: Store, tenant: int) -> None:
        async def write_and_read(n: int) -> None:
            ref = await new_session(store, tenant, f"s{n}")
            assert (await store.get_session(ref)).name == f"s{n}"
            claim = await accept(store, ref)
            assert (await store.get_session(ref)).status == "running"
            (entry,) = await append(store, claim.fence, [answered()], NOTHING)
            assert (await store.get_event(ref, entry.id)).json == entry.json
            await append(store, claim.fence, [], NOTHING, DONE)
            assert not (await store.get_turn(ref, claim.turn_id)).running
            assert sequences((await store.list_events(ref, EVERYTHING)).rows) == [1, 2, 3, 4]
            assert (await store.update_session(ref, SessionChanges(name="new"), 1)).version == 2
            assert (await store.get_session(ref)).name == "new"
            await store.delete_session(ref, 2)
            with pytest.raises(NotFound):
                await store.get_session(ref)

        await asyncio.gather(*(write_and_read(n) for n in range(24)))

    async def test_a_cancelled_caller_harms_nobody(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        tasks = [asyncio.create_task(append(store, claim.fence, [thought()], NOTHING)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        acknowledged = [entry for outcome in outcomes if isinstance(outcome, list) for entry in outcome]
        assert len(acknowledged) >= 10
        log = await read_all(store, claim.session.id)
        assert sequences(log) == list(range(1, len(log) + 1))
        assert set(shown(acknowledged)) <= set(shown(log))

    @pytest.mark.parametrize("seed", range(3))
    async def test_the_log_tells_what_the_session_row_caches(
        self, harness: Harness, store: Store, tenant: int, seed: int
    ) -> None:
        refs = [await new_session(store, tenant, f"s{n}") for n in range(4)]
        histories = [_History(store, ref, random.Random(f"{seed}.{ref.session_key}")) for ref in refs]
        await asyncio.gather(*(history.run(25) for history in histories))
        for history in histories:
            await history.check(store)
        store = await harness.reopen()
        for history in histories:
            await history.check(store)

    async def test_everything_survives_a_restart(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        await store.create_agent(ref.tenant_id, "second", DOCUMENT, False)
        await store.save_agent(ref.tenant_id, "second", b"{}", False, 1)
        await store.update_session(ref, SessionChanges(metadata=b'{"a":1}'), None)
        running = await new_session(store, ref.tenant_id, "running")
        gone = await new_session(store, ref.tenant_id, "gone")
        await whole_turn(store, ref)
        await whole_turn(store, gone)
        claim = await accept(store, running)
        await store.interrupt(running)
        await store.delete_session(gone, None)
        before = await _everything(store, ref.tenant_id)
        store = await harness.reopen()
        assert await _everything(store, ref.tenant_id) == before
        (taken,) = await store.take_unfinished_turns()
        assert (taken.turn_id, taken.interrupted) == (claim.turn_id, True)
        assert sequences(await append(store, taken.fence, [answered()], NOTHING, DONE)) == [3, 4]
        assert await store.purge() is True
        assert (await new_session(store, ref.tenant_id, "gone")).session_key == "gone"


class _History:
    """A random life of one session, written down as it was acknowledged."""

    def __init__(self, store: Store, ref: SessionRef, chance: random.Random) -> None:
        self._store = store
        self._ref = ref
        self._chance = chance
        self._entries: list[Entry] = []
        self._claim: Claim | None = None
        self._open: list[str] = []
        self._turn_usage = self._session_usage = Usage()
        self._context: SessionContextUsage | None = None

    async def run(self, steps: int) -> None:
        for step in range(steps):
            if self._claim is None:
                self._claim = await accept(self._store, self._ref, f"step {step}")
                self._turn_usage = Usage()
                self._entries += self._claim.opened
            elif self._chance.random() < 0.3:
                await self._end(self._claim)
            else:
                drafts = [self._event(f"{step}.{n}") for n in range(self._chance.randrange(4))]
                self._entries += await append(self._store, self._claim.fence, drafts, self._progress())

    async def check(self, store: Store) -> None:
        row = await store.get_session(self._ref)
        log = await read_all(store, row.id)
        assert shown(log) == shown(self._entries)
        state = fold(entry.event() for entry in log)
        assert (state.status, state.stop_reason) == (row.status, row.stop_reason)
        assert (state.last_sequence, state.last_event_id) == (row.last_sequence, row.last_event_id)
        assert list(state.open_tool_calls) == self._open
        assert state.running_turn == (self._claim.turn_id if self._claim else None)
        in_flight = self._turn_usage if self._claim else Usage()
        assert state.usage + in_flight == msgspec.json.decode(row.usage, type=Usage) == self._session_usage
        if row.context_usage is None:
            assert self._context is None
        else:
            assert msgspec.json.decode(row.context_usage, type=SessionContextUsage) == self._context

    async def _end(self, claim: Claim) -> None:
        reasons: list[StopReason] = ["end_turn", "error", "limit", "interrupted"]
        reason = self._chance.choice(reasons)
        error = TurnError("model_timeout", "Slow.") if reason == "error" else None
        drafts = [self._output() for _ in list(self._open)]
        ended = await append(self._store, claim.fence, drafts, self._progress(), TurnEnd(reason, error))
        self._entries += ended
        self._claim = None

    def _progress(self) -> TurnProgress:
        call = Usage(self._chance.randrange(50), 0, self._chance.randrange(9), 0, 1)
        self._turn_usage += call
        self._session_usage += call
        context = None
        if self._chance.random() < 0.5:
            context = self._context = SessionContextUsage(
                input_tokens=InputTokens(count=call.input_tokens),
                output_tokens=OutputTokens(count=call.output_tokens),
                total_tokens=call.input_tokens + call.output_tokens,
            )
        return TurnProgress(turn_usage=self._turn_usage, session_usage=self._session_usage, context_usage=context)

    def _event(self, text: str) -> Draft:
        match self._chance.randrange(4 if self._open else 3):
            case 0:
                return thought(text)
            case 1:
                return answered(text)
            case 2:
                self._open.append(text)
                return draft(
                    ToolInputEvent(tool_call_id=text, tool_configuration_name="t", tool_name="t", tool_input={})
                )
        return self._output()

    def _output(self) -> Draft:
        call_id = self._open.pop(self._chance.randrange(len(self._open)))
        return draft(
            ToolOutputEvent(
                tool_call_id=call_id, tool_configuration_name="t", tool_name="t", tool_output={}, error=False
            )
        )


async def _everything(store: Store, tenant: int) -> dict[str, Any]:
    agents = (await store.list_agents(tenant, cursor=None, limit=100, enabled=None)).rows
    sessions = (await store.list_sessions(tenant, AGENT, cursor=None, limit=100)).rows
    logs = {row.key: shown(await read_all(store, row.id)) for row in sessions}
    return {"tenants": await store.list_tenants(), "agents": agents, "sessions": sessions, "logs": logs}
