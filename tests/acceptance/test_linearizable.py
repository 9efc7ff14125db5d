"""One session at three servers: appends, reads and followers at all of them are one log, whatever fails meanwhile."""

import asyncio
import itertools
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio

from acceptance.following import following
from acceptance.stage import WAIT_SECONDS, model_config
from linearizable import Append, Entry, Head, History, Read, Sighting, problems
from sessile.testing.postgres import PostgresServer, postgres_server
from sessile.testing.script import say
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

LEASE_SECONDS = 1.0
SETTINGS = f"lease_seconds = {LEASE_SECONDS}\nheartbeat_seconds = 0.5\n[limits]\nrequests_per_second = 0\n"
TALKERS = 3
BEFORE, AFTER = 4, 6
"""Inputs that are acknowledged before something fails, and after it was mended."""
IMPATIENT = 1.5
"""Seconds without a byte after which a talker asks another server."""


class Cluster:
    """Three servers on a PostgreSQL of their own."""

    def __init__(self, servers: list[ServerProcess], database: PostgresServer) -> None:
        self.servers = servers
        self.database = database

    def client(self, number: int, timeout: float = WAIT_SECONDS) -> httpx.AsyncClient:
        server = self.servers[number]
        return httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=timeout)


async def nothing(cluster: Cluster) -> None:
    await asyncio.sleep(0)


async def node_killed(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.servers[0].kill)
    await asyncio.sleep(LEASE_SECONDS)
    await asyncio.to_thread(cluster.servers[0].start)


async def node_stalled(cluster: Cluster) -> None:
    cluster.servers[1].process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(2 * LEASE_SECONDS)
    cluster.servers[1].process.send_signal(signal.SIGCONT)


async def database_restarted(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.database.kill)
    await asyncio.to_thread(cluster.database.start)


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:  # type: ignore[override]
    with postgres_server() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory, database: PostgresServer) -> AsyncIterator[Cluster]:
    async with Upstream(lambda received: [say("Yes. "), say("No.")]) as upstream, AsyncExitStack() as running:
        servers = []
        for number in range(3):
            folder = tmp_path_factory.mktemp(f"node{number}")
            config = SETTINGS + model_config(upstream)
            servers.append(ServerProcess(folder, config, env={"SESSILE_DATABASE": database.url()}))
            running.enter_context(servers[-1])
        cluster = Cluster(servers, database)
        async with cluster.client(0) as client:
            agent = {"key": "a", "name": "A", "model": {"name": "scripted"}}
            (await client.post("/v2/agents", json=agent)).raise_for_status()
        yield cluster


class Recorder:
    """Clients of one session, and all that they asked and were told."""

    def __init__(self, cluster: Cluster, session: str) -> None:
        self.history = History()
        self._cluster = cluster
        self._path = f"/v2/agents/a/sessions/{session}"
        self._chance = random.Random(session)
        self._tokens = itertools.count(1)
        self._acknowledged = asyncio.Condition()
        self._stop = asyncio.Event()

    async def until_acknowledged(self, more: int) -> None:
        """Wait for so many more inputs that a server says it has."""
        wanted = self._count() + more
        async with self._acknowledged, asyncio.timeout(WAIT_SECONDS):
            await self._acknowledged.wait_for(lambda: self._count() >= wanted)

    async def record(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """Let everybody talk, read and follow at every server until something else is done."""
        watching = [asyncio.create_task(watch(n)) for n in range(3) for watch in (self._read, self._head, self._follow)]
        async with asyncio.TaskGroup() as group:
            for number in range(TALKERS):
                group.create_task(self._talk(number))
            await meanwhile()
            self._stop.set()
        for task in watching:
            task.cancel()
        for outcome in await asyncio.gather(*watching, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome

    async def log(self) -> list[Entry]:
        """The whole log, once no turn runs."""
        async with self._cluster.client(0) as client, asyncio.timeout(WAIT_SECONDS):
            while (await self._get(client, self._path))["status"] == "running":  # noqa: ASYNC110 - it is elsewhere
                await asyncio.sleep(0.05)
            events = await self._all(client, records=True)
            shown = {event["id"] for event in await self._all(client, records=False)}
        return [Entry(event["id"], _token(event), event["id"] not in shown) for event in events]

    def _count(self) -> int:
        return sum(append.returned is not None for append in self.history.appends)

    async def _talk(self, number: int) -> None:
        while not self._stop.is_set():
            token, called = f"t{next(self._tokens)}", time.monotonic()
            returned = await self._append(number, token)
            self.history.appends.append(Append(token, called, returned))
            async with self._acknowledged:
                self._acknowledged.notify_all()

    async def _append(self, number: int, token: str) -> float | None:
        """Send an input under its key to one server after the other; returns when one has said that it has it."""
        body, headers = {"content": token, "stream_response": True}, {"idempotency-key": f"{self._path}-{token}"}
        while True:
            number = (number + 1) % 3
            try:
                async with (
                    self._cluster.client(number, IMPATIENT) as client,
                    client.stream("POST", f"{self._path}/events", json=body, headers=headers) as response,
                ):
                    if response.status_code == 201:
                        returned = time.monotonic()
                        await response.aread()
                        return returned
                    assert response.status_code in (409, 503), await response.aread()
            except httpx.TransportError:
                pass
            if self._stop.is_set():
                return None  # it may be there or not
            await asyncio.sleep(self._chance.random() * 0.05)

    async def _read(self, number: int) -> None:
        await self._again(number, self._read_once)

    async def _head(self, number: int) -> None:
        await self._again(number, self._head_once)

    async def _follow(self, number: int) -> None:
        sightings: list[Sighting] = []
        self.history.follows.append(sightings)

        async def follow(client: httpx.AsyncClient) -> None:
            last = sightings[-1].id if sightings else "start"
            async with following(client, self._path, last) as stream:
                while True:
                    block = await stream.next()
                    if block.id is not None and block.data is not None:
                        sightings.append(Sighting(time.monotonic(), block.id))

        await self._again(number, follow)

    async def _again(self, number: int, ask: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        """Ask a server again and again, also after it has gone away."""
        while True:
            try:
                async with self._cluster.client(number) as client:
                    while True:
                        await ask(client)
                        await asyncio.sleep(self._chance.random() * 0.02)
            except (httpx.TransportError, StopAsyncIteration, Unavailable):
                await asyncio.sleep(0.02)

    async def _read_once(self, client: httpx.AsyncClient) -> None:
        """What more pages read is one read too: of the moment of the last page, because nothing is ever taken away."""
        called = time.monotonic()
        ids = [event["id"] for event in await self._all(client, records=True)]
        self.history.reads.append(Read(called, time.monotonic(), ids))

    async def _head_once(self, client: httpx.AsyncClient) -> None:
        called = time.monotonic()
        last = (await self._get(client, self._path))["last_event_id"]
        self.history.heads.append(Head(called, time.monotonic(), last))

    async def _all(self, client: httpx.AsyncClient, records: bool) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        query = {"records": records, "limit": 100, "page_key": ""}
        while True:
            page = await self._get(client, f"{self._path}/events", **query)
            events += page["events"]
            query["page_key"] = page["metadata"].get("page_key", "")
            if not query["page_key"]:
                return events

    async def _get(self, client: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
        answer = await client.get(path, params=query)
        if answer.status_code == 503:
            raise Unavailable
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


class Unavailable(Exception):
    """The server cannot reach its database just now."""


def _token(event: dict[str, Any]) -> str | None:
    return event["content"] if event["type"] == "input_message" else None


@pytest.mark.parametrize("fault", [nothing, node_killed, node_stalled, database_restarted])
async def test_a_sessions_log_is_linearizable(cluster: Cluster, fault: Callable[[Cluster], Awaitable[None]]) -> None:
    session = fault.__name__
    async with cluster.client(0) as client:
        (await client.post("/v2/agents/a/sessions", json={"key": session})).raise_for_status()
    recorder = Recorder(cluster, session)

    async def meanwhile() -> None:
        await recorder.until_acknowledged(BEFORE)
        await fault(cluster)
        await recorder.until_acknowledged(AFTER)

    await recorder.record(meanwhile)
    log, history = await recorder.log(), recorder.history
    assert problems(history, log) == []
    assert min(len(follow) for follow in history.follows) > BEFORE
    assert len(history.reads) > 30 < len(history.heads)
    assert sum(entry.token is not None for entry in log) >= BEFORE + AFTER
