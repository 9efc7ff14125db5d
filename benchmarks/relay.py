"""How deltas can get from the node that runs a turn to one that shows it: three ways, by turns, on one machine.

`python -m benchmarks.relay SECONDS` prints a table: how late a delta is on the other node, and what the two nodes and
PostgreSQL take of a core. Each way gathers what comes within two milliseconds.

- `notify`: pg_notify to a channel of the node, up to 7,900 bytes each
- `ring`: rows of an unlogged table, a notification without a payload, and a read of what is new
- `http`: one streamed answer of the first node to the second
"""

import asyncio
import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from msgspec import Struct

from benchmarks.load import quantile
from benchmarks.processes import free_port
from sessile.testing.postgres import postgres_server

LOADS = ((1, 20), (50, 20), (200, 20))
"""Sessions, and deltas a second of each."""
_GATHER_SECONDS = 0.002
_WARM_UP_SECONDS = 1.5
_TEXT = "x" * 80
_PAYLOAD = 7900
_UNSAFE = {"synchronous_commit": "off"}
_TABLE = "CREATE UNLOGGED TABLE ring (id bigserial PRIMARY KEY, body text NOT NULL)"
_TO_RING = """WITH added AS (INSERT INTO ring (body) SELECT * FROM unnest($1::text[]))
    SELECT pg_notify('ring', '')"""


class Batches:
    """What waits to be sent: lines of a time, a session and text, joined up to a size."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._some = asyncio.Event()

    def put(self, session: int) -> None:
        """Add a delta."""
        self._lines.append(f"{time.monotonic():.6f} {session} {_TEXT}")
        self._some.set()

    async def take(self) -> list[str]:
        """What has gathered, once there is something."""
        await self._some.wait()
        await asyncio.sleep(_GATHER_SECONDS)
        self._some.clear()
        lines, self._lines = self._lines, []
        bodies, size = [[lines[0]]], len(lines[0])
        for line in lines[1:]:
            size += 1 + len(line)
            if size > _PAYLOAD:
                bodies.append([])
                size = len(line)
            bodies[-1].append(line)
        return ["\n".join(body) for body in bodies]


class Delays:
    """How late each delta was, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def note(self, body: str) -> None:
        """Some lines have arrived."""
        now = time.monotonic()
        self.seconds += [now - float(line.partition(" ")[0]) for line in body.splitlines()]


async def notify_out(url: str, batches: Batches) -> None:
    """Send by notification. Nobody waits for the disk."""
    db = await asyncpg.connect(url, server_settings=_UNSAFE)
    while True:
        for body in await batches.take():
            await db.execute("SELECT pg_notify('node', $1)", body)


async def notify_in(url: str, delays: Delays) -> None:
    """Listen."""
    db = await asyncpg.connect(url)
    await db.add_listener("node", lambda *given: delays.note(given[3]))
    await asyncio.Event().wait()


async def ring_out(url: str, batches: Batches) -> None:
    """Write rows, and say so. Nobody waits for the disk."""
    db = await asyncpg.connect(url, server_settings=_UNSAFE)
    while True:
        await db.execute(_TO_RING, await batches.take())


async def ring_in(url: str, delays: Delays) -> None:
    """Read and remove what is new whenever that is said."""
    db, listener, some, last = await asyncpg.connect(url), await asyncpg.connect(url), asyncio.Event(), 0
    await listener.add_listener("ring", lambda *given: some.set())
    while True:
        await some.wait()
        some.clear()
        rows = await db.fetch("SELECT id, body FROM ring WHERE id > $1 ORDER BY id", last)
        for row in rows:
            delays.note(row["body"])
        if rows:
            last = rows[-1]["id"]
            await db.execute("DELETE FROM ring WHERE id <= $1", last)


async def http_out(port: str, batches: Batches) -> None:
    """Answer one request for ever."""

    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        while True:
            for body in await batches.take():
                await stream.write(body.encode() + b"\n")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    await asyncio.Event().wait()


async def http_in(port: str, delays: Delays) -> None:
    """Read the answer, once the other side is there."""
    async with ClientSession(timeout=ClientTimeout()) as session:
        while True:
            with contextlib.suppress(ClientError):
                async with session.get(f"http://127.0.0.1:{port}/") as answer:
                    async for line in answer.content:
                        delays.note(line.decode())
            await asyncio.sleep(0.05)


Out = Callable[[str, Batches], Awaitable[None]]
In = Callable[[str, Delays], Awaitable[None]]
WAYS: dict[str, tuple[Out, In]] = {
    "notify": (notify_out, notify_in),
    "ring": (ring_out, ring_in),
    "http": (http_out, http_in),
}


class Trial(Struct, frozen=True):
    """One way under one load. `where` is a URL or a port."""

    way: str
    where: str
    sessions: int
    rate: float
    seconds: float


async def _speak(batches: Batches, trial: Trial, seconds: float) -> None:
    """Deltas of all sessions, evenly."""
    start, number, rate = time.monotonic(), 0, trial.rate * trial.sessions
    while (now := time.monotonic() - start) < seconds:
        while number < now * rate:
            batches.put(number % trial.sessions)
            number += 1
        await asyncio.sleep(max(0.0005, (number + 1) / rate - (time.monotonic() - start)))


async def _run_out(trial: Trial) -> float:
    batches = Batches()
    task = asyncio.ensure_future(WAYS[trial.way][0](trial.where, batches))
    await asyncio.sleep(_WARM_UP_SECONDS / 2)
    await _speak(batches, trial, _WARM_UP_SECONDS / 2)
    begun = time.process_time()
    await _speak(batches, trial, trial.seconds)
    task.cancel()
    return (time.process_time() - begun) / trial.seconds


async def _run_in(trial: Trial) -> tuple[float, list[float]]:
    delays = Delays()
    task = asyncio.ensure_future(WAYS[trial.way][1](trial.where, delays))
    await asyncio.sleep(_WARM_UP_SECONDS)
    delays.seconds.clear()
    begun = time.process_time()
    await asyncio.sleep(trial.seconds)
    task.cancel()
    return (time.process_time() - begun) / trial.seconds, delays.seconds


def _node(name: str, run: Callable[[Trial], Any], trial: Trial, results: "Queue[tuple[str, Any]]") -> None:
    results.put((name, uvloop.run(run(trial))))


def _postgres_seconds() -> float:
    """Processor time that all servers of PostgreSQL on this machine have taken; Linux only."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            if "(postgres)" in text:
                ticks += sum(map(int, text.rpartition(") ")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def try_out(trial: Trial) -> str:
    """Run two nodes; returns a line of the table."""
    context = multiprocessing.get_context("spawn")
    results: Queue[tuple[str, Any]] = context.Queue()
    before = _postgres_seconds()
    nodes = [
        context.Process(target=_node, args=(name, run, trial, results))
        for name, run in (("out", _run_out), ("in", _run_in))
    ]
    for node in nodes:
        node.start()
    found = dict(results.get(timeout=trial.seconds + 60) for _ in nodes)
    for node in nodes:
        node.join()
    receiver, delays = found["in"]
    postgres = (_postgres_seconds() - before) / (trial.seconds + _WARM_UP_SECONDS / 2)
    cells = (
        f"{trial.way:<8}{trial.sessions * trial.rate:>8.0f}{len(delays) / trial.seconds:>8.0f}",
        f"{quantile(delays, 50):>8.2f}{quantile(delays, 99):>8.2f}",
        f"{found['out']:>8.2f}{receiver:>8.2f}{postgres:>10.2f}",
    )
    return "".join(cells)


async def _prepare(url: str) -> None:
    db = await asyncpg.connect(url)
    await db.execute(_TABLE)
    await db.close()


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    with postgres_server() as server:
        asyncio.run(_prepare(server.url()))
        print("way     deltas/s     got  p50 ms  p99 ms  sender   other  postgres (cores)")
        for sessions, rate in LOADS:
            for way in WAYS:
                where = str(free_port()) if way == "http" else server.url()
                print(try_out(Trial(way, where, sessions, rate, seconds)), flush=True)


if __name__ == "__main__":
    main()
