"""Appends on PostgreSQL: the store beside bare `asyncpg` batches of the same events, by turns, on a server of its own.

`python -m benchmarks.postgres ROUNDS SECONDS` prints a list of Rates as JSON. Callers append one event after the other,
each to a session of its own. The bare batches write what any log must, in one statement and so in one transaction: the
events that wait, by `unnest`, and the heads of their logs. They know no sessions, turns or fences.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import uvloop
from msgspec import Struct

from benchmarks.store import SystemClock
from sessile.domain.log import Draft, draft
from sessile.rows import Claim, NewSession, SessionRef, TurnProgress
from sessile.stores.postgres.store import PostgresStore
from sessile.testing.postgres import postgres_server
from sessile.wire import ids
from sessile.wire.events import AgentOutputEvent, InputMessageEvent, TextPart
from sessile.wire.sessions import Usage

CALLERS = (1, 16, 256)
_ANSWER = "It left the warehouse on Monday; the carrier expects to deliver it on Thursday before noon."
_PROGRESS = [
    TurnProgress(turn_usage=usage, session_usage=usage, context_usage=None) for usage in (Usage(), Usage(model_calls=1))
]
"""A turn's usage changes with every second append: that of a model's answer, not that of what its tools have said."""
_WRITERS = 2
_TABLE = """CREATE TABLE bare (session_id bigint, sequence bigint, id text NOT NULL, turn_id text NOT NULL,
    type text NOT NULL, created_at bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (session_id, sequence))"""
_HEADS = "CREATE TABLE bare_heads (session_id bigint PRIMARY KEY, head bigint NOT NULL)"
_FILL = "INSERT INTO bare_heads SELECT number, 0 FROM generate_series(0, $1 - 1) AS number"
_INSERT = """WITH added AS (INSERT INTO bare SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],
    $5::text[], $6::bigint[], $7::bytea[]))
    UPDATE bare_heads AS h SET head = n.head FROM unnest($1::bigint[], $2::bigint[]) AS n (id, head)
    WHERE h.session_id = n.id"""

Append = Callable[[int], Awaitable[object]]


class Rates(Struct):
    """Appends a second with so many callers: medians of the rounds, and of the shares within a round."""

    callers: int
    store: float
    bare: float
    share: float


class Bare:
    """Batches of what waits, on a few connections."""

    def __init__(self) -> None:
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._idle: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sequences = [0] * max(CALLERS)
        self._draft = _event()

    async def open(self, url: str) -> None:
        """Connect and make the tables."""
        self._idle = [await asyncpg.connect(url) for _ in range(_WRITERS)]
        for statement in (_TABLE, _HEADS):
            await self._idle[0].execute(statement)
        await self._idle[0].execute(_FILL, max(CALLERS))

    async def close(self) -> None:
        """Disconnect."""
        for connection in self._idle:
            await connection.close()

    def append(self, caller: int) -> Awaitable[None]:
        """Add the next event of a caller."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequences[caller] = sequence = self._sequences[caller] + 1
        now = time.time_ns() // 1000
        row = (caller, sequence, ids.event_id(sequence), "trn_0", self._draft.type, now, self._draft.body)
        self._waiting.append((row, future))
        if self._idle:
            task = asyncio.create_task(self._drain(self._idle.pop()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _drain(self, connection: Any) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await connection.execute(_INSERT, *map(list, zip(*(row for row, _ in batch), strict=True)))
            for _, future in batch:
                future.set_result(None)
        self._idle.append(connection)


def _event() -> Draft:
    return draft(AgentOutputEvent(content=_ANSWER, output_id=ids.output_id()))


async def _claims(store: PostgresStore) -> list[Claim]:
    """A running turn for each caller."""
    tenant = await store.create_tenant("bench", "Benchmark")
    await store.create_agent(tenant.id, "a", b"{}", True)
    question = draft(InputMessageEvent(messages=[TextPart(content="Where is it?")], content="Where is it?"))
    claims = []
    for number in range(max(CALLERS)):
        key = f"s{number}"
        new = NewSession(key=key, name=key, description=None, metadata=b"{}", enabled=True, tti_minutes=0)
        await store.create_session(tenant.id, "a", new)
        ref = SessionRef(tenant.id, "a", key)
        claim = await store.accept_input(ref, question, ids.turn_id(), lambda agent, session: None)
        assert isinstance(claim, Claim)
        claims.append(claim)
    return claims


async def _rate(append: Append, callers: int, seconds: float) -> float:
    """Acknowledged appends a second."""
    end = time.perf_counter() + seconds
    begun = time.perf_counter()

    async def call(caller: int) -> int:
        done = 0
        while time.perf_counter() < end:
            await append(caller)
            done += 1
        return done

    done = sum(await asyncio.gather(*map(call, range(callers))))
    return done / (time.perf_counter() - begun)


async def run(url: str, rounds: int, seconds: float) -> list[Rates]:
    """Measure both by turns."""
    store, bare = await PostgresStore.open(url, SystemClock()), Bare()
    await bare.open(url)
    claims, event = await _claims(store), _event()

    appended = [0] * max(CALLERS)

    def append(caller: int) -> Awaitable[object]:
        appended[caller] += 1
        return store.append(claims[caller].fence, [event], _PROGRESS[appended[caller] // 2 % 2])

    found: dict[int, list[tuple[float, float]]] = {callers: [] for callers in CALLERS}
    await _rate(append, max(CALLERS), seconds / 2)
    await _rate(bare.append, max(CALLERS), seconds / 2)
    for _ in range(rounds):
        for callers, rates in found.items():
            rates.append((await _rate(append, callers, seconds), await _rate(bare.append, callers, seconds)))
    await bare.close()
    await store.close()
    return [
        Rates(
            callers,
            statistics.median(ours for ours, _ in rates),
            statistics.median(theirs for _, theirs in rates),
            statistics.median(ours / theirs for ours, theirs in rates),
        )
        for callers, rates in found.items()
    ]


if __name__ == "__main__":
    with postgres_server() as server:
        measured = uvloop.run(run(server.url(), int(sys.argv[1]), float(sys.argv[2])))
    sys.stdout.buffer.write(msgspec.json.encode(measured))
