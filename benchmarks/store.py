"""The store in this process: fill a database with long logs and many sessions, look at query plans, time a page.

`python -m benchmarks.store DATABASE AGENT SESSIONS EVENTS` prints Findings as JSON. No server may own the database.
"""

import asyncio
import sqlite3
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop
from msgspec import Struct

from sessile.domain.filter_parser import parse
from sessile.domain.log import Draft, draft
from sessile.domain.turn import history_chars
from sessile.rows import Claim, Cover, NewSession, SessionQuery, SessionRef, SessionRow, TurnEnd, TurnProgress
from sessile.runner.history import Histories
from sessile.stores.queries import load_queries
from sessile.stores.sqlite.store import SqliteStore
from sessile.wire import ids
from sessile.wire.events import AgentOutputEvent, CompactionEvent, InputMessageEvent, TextPart
from sessile.wire.sessions import Usage

LONG = "long"
PAGE = 20
SHORT = [f"short_{number}" for number in range(64)]
SHORT_TURNS = PAGE // 2
_BULK_TURN = 1000
_LAST_TURNS = 200
_QUESTION = "Where is the order of last week, and when is it going to be delivered to the new address?"
_ANSWER = "It left the warehouse on Monday; the carrier expects to deliver it on Thursday before noon."
_TIMES = 1500
_WINDOW = 128_000
_FEW_TIMES = 100
_PER_USER = PAGE
INDEXED, SCANNED = "channel = 'web' AND end_user_id = 'user_17'", "end_user_id LIKE 'user\\_17' ESCAPE '\\'"
"""Two filters that find the same page of old sessions: by the index of equal values, and one after the other."""
FORKED = "forked"
_FORKED_TURN, _FORKED_TURNS = 23, 400
"""Turns of 25 events: 10,000 in all."""
_FORKS = 5
COMPACTED_EVENTS = 10_000
_READING = (
    "get_session",
    "locate_session",
    "list_sessions",
    "list_events_asc",
    "list_events_desc",
    "get_event",
    "summaries",
)
_LISTS = tuple(
    f"candidates_{kind}" for kind in ("running", "of_agent", "of_tenant", "of_agent_by_term", "of_tenant_by_term")
)
_TURN = ("session_for_input", "fenced_turn", "start_turn", "advance_session", "stop_session", "end_turn")


class Findings(Struct):
    """`plans`: bad steps by query. Times are medians in microseconds; `raw` runs without any thread between."""

    sessions: int
    events: int
    plans: dict[str, list[str]]
    raw_us: float
    raw_on_thread_us: float
    store_us: float
    store_few_us: float
    """The same page for the agent `flat`, which has few sessions."""
    indexed_us: float
    scanned_us: float
    """A page with a filter that has to look at sessions one after the other, as many as a page may."""
    all_agents_us: float
    """A page of all agents' sessions."""
    fork_events: int
    fork_ms: float
    """A fork of a session of so many events."""
    fork_wait_ms: float
    """The longest that another writer had to wait for its commit meanwhile."""
    cover_ms: float
    """The commit of a summary that covers all these events at once."""
    history_ms: float
    """Reading what a model is given afterwards."""
    compact_events: int
    compact_ms: float
    """The same commit over so many events."""
    compact_wait_ms: float
    """The longest that another writer had to wait for its commit meanwhile."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> int:
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def fill(store: SqliteStore, agent: str, sessions: int, events: int) -> int:
    """A long and some short sessions of the agent `flat`, and many empty ones of `agent`. Returns the tenant."""
    (tenant,) = await store.list_tenants()
    for key in (LONG, *SHORT):
        await store.create_session(tenant.id, "flat", _new_session(key))
    await asyncio.gather(*(_talk(store, SessionRef(tenant.id, "flat", key), [2] * SHORT_TURNS) for key in SHORT))
    bulk = max(0, events - 2 * _LAST_TURNS)
    turns = [_BULK_TURN] * (bulk // _BULK_TURN) + [2] * ((events - bulk // _BULK_TURN * _BULK_TURN) // 2)
    await _talk(store, SessionRef(tenant.id, "flat", LONG), turns)
    for start in range(0, sessions, 2000):
        keys = [f"many_{number}" for number in range(start, min(start + 2000, sessions))]
        await asyncio.gather(
            *(
                store.create_session(tenant.id, agent, _new_session(key, number // _PER_USER))
                for number, key in enumerate(keys, start)
            )
        )
    return tenant.id


async def _talk(store: SqliteStore, ref: SessionRef, turns: list[int]) -> None:
    """Append turns, each of one input and otherwise outputs."""
    question = draft(InputMessageEvent(messages=[TextPart(content=_QUESTION)], content=_QUESTION))
    usage = Usage(input_tokens=10, output_tokens=10, model_calls=1)
    progress = TurnProgress(turn_usage=usage, session_usage=usage, context_usage=None)
    for size in turns:
        claim = await store.accept_input(ref, question, ids.turn_id(), lambda agent, session: None)
        answers: list[Draft] = [
            draft(AgentOutputEvent(content=_ANSWER, output_id=ids.output_id())) for _ in range(size - 1)
        ]
        await store.append(claim.fence, answers, progress, TurnEnd("end_turn"))


async def _compaction_ms(store: SqliteStore, tenant_id: int, events: int, key: str) -> tuple[float, float, float]:
    """Milliseconds to cover a log that was never compacted, that another writer waits, and to read the history then."""
    await store.create_session(tenant_id, "flat", _new_session(key))
    ref = SessionRef(tenant_id, "flat", key)
    await _talk(store, ref, [_BULK_TURN] * (events // _BULK_TURN) + [2])
    claim = await store.accept_compaction(ref, None, None, ids.turn_id(), lambda agent, session: None)
    assert isinstance(claim, Claim)
    span = await store.span(claim.session.id, keep=1)
    assert span is not None
    summary = CompactionEvent(
        turns_compacted=span.turns,
        events_compacted=span.events,
        summary_key=ids.summary_key(),
        summary_text=_ANSWER,
        up_to_event_id=span.last_event_id,
    )
    progress = TurnProgress(turn_usage=Usage(), session_usage=Usage(), context_usage=None)
    cover = Cover(span, claim.opened[-1].sequence)
    start = time.perf_counter()
    covering = asyncio.ensure_future(store.append(claim.fence, [draft(summary)], progress, TurnEnd("end_turn"), cover))
    waits = await _waits(store, covering)
    await covering
    covered = time.perf_counter()
    await Histories(store).read(claim.session.id, history_chars(_WINDOW))
    return (covered - start) * 1e3, max(waits) * 1e3, (time.perf_counter() - covered) * 1e3


async def _waits(store: SqliteStore, work: "asyncio.Future[Any]") -> list[float]:
    """How long another writer waits for its commits until some work is done, in seconds."""
    waits = []
    while not work.done():
        asked = time.perf_counter()
        await store.ping()
        waits.append(time.perf_counter() - asked)
    return waits


def _new_session(key: str, user: int = 0) -> NewSession:
    return NewSession(
        key=key,
        name="A session of the benchmark",
        description=None,
        metadata=b'{"end_user_id":"user_%d","channel":"web"}' % user,
        enabled=True,
        tti_minutes=0,
    )


def bad_steps(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Steps that scan or sort, in the queries of pages and turns."""
    queries = load_queries("sessile.stores.sqlite")
    found = {}
    for name in (*_READING, *_LISTS, *_TURN):
        query = queries[name]
        values: Any = _Anything() if ":" in query else [1] * query.count("?")
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
        found[name] = [step for step in steps if "SCAN" in step or "USE TEMP B-TREE" in step]
    return {name: steps for name, steps in found.items() if steps}


class _Anything(dict[str, int]):
    def __missing__(self, name: str) -> int:
        return 1


async def _median_us(verb: Callable[[], Awaitable[object]], times: int = _TIMES) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        await verb()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e6


async def _fork(store: SqliteStore, tenant_id: int) -> tuple[int, float, float]:
    """Fork a session several times: its events, the median of the times, and the longest wait of another writer."""
    source = SessionRef(tenant_id, "flat", FORKED)
    await store.create_session(tenant_id, "flat", _new_session(FORKED))
    await _talk(store, source, [_FORKED_TURN] * _FORKED_TURNS)
    spent: list[float] = []
    waits: list[float] = []
    for number in range(_FORKS):
        new = _new_session(f"{FORKED}_{number}")
        start = time.perf_counter()
        forking = asyncio.ensure_future(store.fork_session(tenant_id, "flat", new, source, None))
        waits += await _waits(store, forking)
        made = await forking
        spent.append(time.perf_counter() - start)
    return made.last_sequence, statistics.median(spent) * 1e3, max(waits) * 1e3


async def run(path: str, agent: str, sessions: int, events: int) -> Findings:
    """Fill, look and measure."""
    store = await SqliteStore.open(path, SystemClock())
    tenant_id = await fill(store, agent, sessions, events)
    agent_id = (await store.get_agent(tenant_id, agent)).id
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    query = load_queries("sessile.stores.sqlite")["list_sessions"]
    values = {"agent_key": agent, "agent_id": agent_id, "cursor": 2**62, "limit": PAGE + 1}
    loop = asyncio.get_running_loop()

    def raw() -> list[Any]:
        return connection.execute(query, values).fetchall()

    async def raw_here() -> None:
        raw()

    async def listed(where: str | None = None) -> list[SessionRow]:
        agents = None if where is None else [agent]
        query = SessionQuery(limit=PAGE, agent_keys=agents, metadata=None if where is None else parse(where))
        return (await store.find_sessions(tenant_id, query)).rows

    assert len(await listed(INDEXED)) == PAGE
    await _median_us(raw_here)
    fork_events, fork_ms, fork_wait_ms = await _fork(store, tenant_id)
    cover_ms, _, history_ms = await _compaction_ms(store, tenant_id, events, "compacted")
    compact_ms, compact_wait_ms, _ = await _compaction_ms(store, tenant_id, COMPACTED_EVENTS, "compacted_ten")
    findings = Findings(
        sessions=sessions,
        events=events,
        plans=bad_steps(connection),
        raw_us=await _median_us(raw_here),
        raw_on_thread_us=await _median_us(lambda: loop.run_in_executor(None, raw)),
        store_us=await _median_us(lambda: store.list_sessions(tenant_id, agent, cursor=None, limit=PAGE)),
        fork_events=fork_events,
        fork_ms=fork_ms,
        fork_wait_ms=fork_wait_ms,
        store_few_us=await _median_us(lambda: store.list_sessions(tenant_id, "flat", cursor=None, limit=PAGE)),
        indexed_us=await _median_us(lambda: listed(INDEXED)),
        scanned_us=await _median_us(lambda: listed(SCANNED), _FEW_TIMES),
        all_agents_us=await _median_us(listed),
        cover_ms=cover_ms,
        history_ms=history_ms,
        compact_events=COMPACTED_EVENTS,
        compact_ms=compact_ms,
        compact_wait_ms=compact_wait_ms,
    )
    connection.close()
    await store.close()
    return findings


if __name__ == "__main__":
    found = uvloop.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    sys.stdout.buffer.write(msgspec.json.encode(found))
