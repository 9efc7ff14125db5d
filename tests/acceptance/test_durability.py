"""Nothing is acknowledged before it is durable, and nothing acknowledged is lost: slow disk, broken disk, kill -9.

That a killed process keeps what it wrote proves little, because the system's cache survives it. So the syncs themselves
are made slow and broken under the running server.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.stage import eventually
from sessile.testing.fsync_shim import FsyncShim
from sessile.testing.server import ServerProcess

pytestmark = pytest.mark.acceptance

WAIT_SECONDS = 30.0
DELAY = 0.2
CALLERS = 8
ROUNDS = 8
SLOW_AGENT, FAST_AGENT = "slow", "fast"


class Disk:
    """A server whose disk can be switched, and a client."""

    def __init__(self, folder: Path) -> None:
        self.shim = FsyncShim(folder, folder / "data")
        self.server = ServerProcess(folder, env=self.shim.env)
        self._clients: list[httpx.AsyncClient] = []

    @property
    def client(self) -> httpx.AsyncClient:
        """A client of the server as it runs now."""
        return self._clients[-1]

    def connect(self) -> httpx.AsyncClient:
        """Another client; all are closed at the end."""
        self._clients.append(
            httpx.AsyncClient(base_url=self.server.url, headers=self.server.headers, timeout=WAIT_SECONDS)
        )
        return self.client

    def restart(self) -> None:
        """Start the server again after a kill, on a disk that works."""
        self.shim.work()
        self.server.start()
        self.connect()

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            await client.aclose()

    async def create(self, session: str, agent: str = FAST_AGENT) -> httpx.Response:
        """Create a session."""
        return await self.client.post(f"/v2/agents/{agent}/sessions", json={"key": session})

    async def say(self, session: str, text: str = "Hello", agent: str = FAST_AGENT) -> httpx.Response:
        """Post an input and wait for its turn."""
        return await self.client.post(path(session, agent), json={"content": text, "stream_response": False})

    async def log(self, session: str, agent: str = FAST_AGENT) -> list[dict[str, Any]]:
        """Every event and record of a session, page by page."""
        return await read_log(self.client, session, agent)


def path(session: str, agent: str = FAST_AGENT) -> str:
    return f"/v2/agents/{agent}/sessions/{session}/events"


async def read_log(client: httpx.AsyncClient, session: str, agent: str = FAST_AGENT) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"records": True, "limit": 100}
    while True:
        response = await client.get(path(session, agent), params=parameters)
        assert response.status_code == 200, response.text
        page = response.json()
        events += page["events"]
        if "page_key" not in page["metadata"]:
            return events
        parameters["page_key"] = page["metadata"]["page_key"]


def document(key: str, word_delay: float) -> dict[str, Any]:
    return {
        "key": key,
        "name": key,
        "model": {"name": "demo", "parameters": {"word_delay": word_delay}},
        "first_step": {
            "name": "main",
            "instructions": [{"type": "inline", "name": "persona", "template": "Be kind."}],
            "output_parser": {"type": "default"},
        },
    }


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    disk = Disk(tmp_path)
    with disk.server:
        disk.connect()
        for key, word_delay in ((FAST_AGENT, 0), (SLOW_AGENT, 0.01)):
            response = await disk.client.post("/v2/agents", json=document(key, word_delay))
            assert response.status_code == 201, response.text
        yield disk
        await disk.close()


async def seconds(asking: Awaitable[httpx.Response], status: int = 201) -> float:
    """How long the answer took."""
    started = time.perf_counter()
    response = await asking
    assert response.status_code == status, response.text
    return time.perf_counter() - started


async def frames(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The server-sent events of an answer: type and data."""
    kind = ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


async def stream_seconds(disk: Disk, session: str) -> tuple[float, float]:
    """How long the head, and the end, of a streamed turn took."""
    started = time.perf_counter()
    async with disk.client.stream("POST", path(session), json={"content": "Hi", "stream_response": True}) as response:
        assert response.status_code == 201
        head = time.perf_counter() - started
        kinds = [kind async for kind, _ in frames(response)]
    assert kinds[-1] == "end"
    return head, time.perf_counter() - started


async def test_nothing_is_acknowledged_before_it_is_synced(disk: Disk) -> None:
    quick = [await seconds(disk.create(f"quick-{n}")) for n in range(6)]
    assert min(quick) < DELAY
    assert min([await seconds(disk.say(f"quick-{n}")) for n in range(6)]) < DELAY

    disk.shim.delay(DELAY)

    async def visit(number: int) -> list[tuple[str, float, int]]:
        """What was waited for, how long, and how many syncs must have happened in that time."""
        session = f"slow-{number}"
        created = await seconds(disk.create(session))
        whole = await seconds(disk.say(session))
        head, end = await stream_seconds(disk, session)
        url = f"/v2/agents/{FAST_AGENT}/sessions/{session}"
        changed = await seconds(disk.client.patch(url, json={"name": "changed"}), 200)
        deleted = await seconds(disk.client.delete(url), 204)
        return [
            ("create", created, 1),
            ("input and turn", whole, 2),
            ("input", head, 1),
            ("turn end", end, 2),
            ("change", changed, 1),
            ("delete", deleted, 1),
        ]

    waits = await asyncio.gather(*map(visit, range(CALLERS)))
    for what, waited, syncs in (wait for visitor in waits for wait in visitor):
        assert waited >= DELAY * syncs, what
    disk.shim.work()
    assert min([await seconds(disk.create(f"again-{n}")) for n in range(6)]) < DELAY


async def refused(asking: Awaitable[httpx.Response]) -> None:
    response = await asking
    assert response.status_code == 503, response.text
    assert response.json()["code"] == "storage_unavailable"
    assert int(response.headers["retry-after"]) >= 1


async def logged(disk: Disk, word: str) -> None:
    """Wait until the server has logged a word."""
    deadline = time.perf_counter() + WAIT_SECONDS
    while word not in disk.server.stdout + disk.server.stderr:
        assert time.perf_counter() < deadline, word
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "full"])
async def test_a_disk_that_fails_loses_nothing_and_takes_nothing(disk: Disk, error: str) -> None:
    assert (await disk.create("kept")).status_code == 201
    assert (await disk.say("kept")).json()["stop_reason"] == "end_turn"
    assert (await disk.create("running", SLOW_AGENT)).status_code == 201
    kept = await disk.log("kept")

    body = {"content": "Hello", "stream_response": True}
    async with disk.client.stream("POST", path("running", SLOW_AGENT), json=body) as response:
        assert response.status_code == 201
        turn_url = f"/v2/agents/{SLOW_AGENT}/sessions/running/turns/{response.headers['x-turn-id']}"
        stream = frames(response)
        while (await anext(stream))[0] != "streaming_thinking":
            pass
        disk.shim.fill() if error == "full" else disk.shim.fail(error)
        attempts = [disk.create(f"refused-{n}") for n in range(CALLERS)] + [disk.say("kept", "refused")]
        await asyncio.gather(*map(refused, attempts))
        await refused(disk.client.get("/readyz"))
        assert (await disk.client.get("/healthz")).status_code == 200
        await logged(disk, "turn_waits_for_storage")
        assert (await disk.client.get(turn_url)).json()["status"] == "running"
        assert disk.server.process.poll() is None
        assert await disk.log("kept") == kept

        disk.shim.work()
        ending = [frame async for frame in stream]
    assert ending[-1] == ("end", {"type": "end", "status": "stopped", "stop_reason": "end_turn"})
    spoken = "".join(data["content"] for kind, data in ending if kind == "streaming_agent_output")
    assert (await disk.client.get(turn_url)).json()["stop_reason"] == "end_turn"
    assert (await disk.client.get("/readyz")).status_code == 200
    running = await disk.log("running", SLOW_AGENT)
    assert [event["type"] for event in running][2:] == ["thinking", "agent_output", "turn_ended"]
    assert running[3]["content"] == spoken

    for number in range(CALLERS):
        url = f"/v2/agents/{FAST_AGENT}/sessions/refused-{number}"
        assert (await disk.client.get(url)).status_code == 404
        assert (await disk.create(f"refused-{number}")).status_code == 201
    assert (await disk.say("kept", "accepted")).status_code == 201
    kept = await disk.log("kept")
    assert [event["content"] for event in kept if event["type"] == "input_message"] == ["Hello", "accepted"]

    disk.server.kill()
    disk.restart()
    assert await disk.log("kept") == kept
    assert await disk.log("running", SLOW_AGENT) == running
    for number in range(CALLERS):
        assert await disk.log(f"refused-{number}") == []


async def test_an_interrupt_that_a_broken_disk_refused_stops_nothing(disk: Disk) -> None:
    assert (await disk.create("running", SLOW_AGENT)).status_code == 201
    url = path("running", SLOW_AGENT)
    body = {"content": "Hello", "stream_response": True}
    async with disk.client.stream("POST", url, json=body) as response:
        stream = frames(response)
        while (await anext(stream))[0] != "streaming_thinking":
            pass
        disk.shim.fail("EIO")
        await asyncio.gather(*(refused(disk.client.post(url, json={"type": "interrupt"})) for _ in range(CALLERS)))
        disk.shim.work()
        ending = [frame async for frame in stream]
    assert ending[-1] == ("end", {"type": "end", "status": "stopped", "stop_reason": "end_turn"})
    assert "session_interrupted" not in [event["type"] for event in await disk.log("running", SLOW_AGENT)]


async def test_what_a_broken_disk_refused_is_not_there_after_a_crash(disk: Disk) -> None:
    """SQLite keeps the frames of a commit whose sync failed, and would take them for committed after a crash."""
    assert (await disk.create("kept")).status_code == 201
    assert (await disk.say("kept")).status_code == 201
    kept = await disk.log("kept")
    disk.shim.fail("EIO")
    attempts = [disk.create(f"refused-{n}") for n in range(CALLERS)] + [disk.say("kept", "refused")]
    await asyncio.gather(*map(refused, attempts))
    disk.server.kill()
    disk.restart()
    assert await disk.log("kept") == kept
    for number in range(CALLERS):
        assert (await disk.create(f"refused-{number}")).status_code == 201, "it was refused, so its key is free"
    assert (await disk.say("kept")).status_code == 201


@pytest.mark.parametrize("crash", [False, True], ids=["and works again", "and the server is killed"])
async def test_a_key_lives_and_dies_with_what_it_creates_on_a_disk_that_fails(disk: Disk, crash: bool) -> None:
    assert (await disk.create("kept")).status_code == 201
    before, meanwhile = {"idempotency-key": "before"}, {"idempotency-key": "meanwhile"}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v2/agents", {"name": "Once", "model": {"name": "demo"}}),
        (f"/v2/agents/{FAST_AGENT}/sessions", {}),
        (path("kept"), {"content": "Once"}),
    ]
    made = [(await disk.client.post(url, json=body, headers=before)).json() for url, body in requests]
    disk.shim.fail("EIO")
    for (url, body), first in zip(requests, made, strict=True):
        await refused(disk.client.post(url, json=body, headers=meanwhile))
        known = await disk.client.post(url, json=body, headers=before)
        assert (known.status_code, known.json()) == (201, first), "nothing is written for it"
    if crash:
        disk.server.kill()
        disk.restart()
    disk.shim.work()
    for (url, body), first in zip(requests, made, strict=True):
        again = await disk.client.post(url, json=body, headers=before)
        assert (again.status_code, again.json()) == (201, first)
        late = [await disk.client.post(url, json=body, headers=meanwhile) for _ in range(2)]
        assert [answer.status_code for answer in late] == [201, 201]
        assert late[0].json() == late[1].json() != first
    texts = [event["content"] for event in await disk.log("kept") if event["type"] == "input_message"]
    assert texts == ["Once", "Once"], "one for each key"


async def test_a_turn_that_waits_for_the_disk_goes_on_after_a_crash(disk: Disk) -> None:
    assert (await disk.create("running", SLOW_AGENT)).status_code == 201
    body = {"content": "Hello", "stream_response": True}
    with contextlib.suppress(httpx.TransportError):
        async with disk.client.stream("POST", path("running", SLOW_AGENT), json=body) as response:
            assert response.status_code == 201
            disk.shim.fail("EIO")
            await logged(disk, "turn_waits_for_storage")
            disk.server.kill()
    disk.restart()

    async def ended() -> bool:
        return (await disk.log("running", SLOW_AGENT))[-1]["type"] == "turn_ended"

    await eventually(ended)
    log = await disk.log("running", SLOW_AGENT)
    assert [event["type"] for event in log][2:] == ["thinking", "agent_output", "turn_ended"]
    assert log[-1]["stop_reason"] == "end_turn"


class Journal:
    """What the server has acknowledged: sessions, and what it said of their events, in order."""

    def __init__(self) -> None:
        self.sessions: dict[str, list[dict[str, Any]]] = {}
        self.attempted = self.inputs = self.turns = self.events = 0

    def acknowledge(self, session: str, events: list[dict[str, Any]]) -> None:
        """Events the server has shown, each at least by its id."""
        self.sessions[session] += events
        self.events += len(events)
        self.inputs += sum(event.get("type") == "input_message" for event in events)

    async def check(self, client: httpx.AsyncClient) -> None:
        """Everything acknowledged is there, in order, once, and every turn has ended."""
        limit = asyncio.Semaphore(CALLERS)

        async def one(session: str) -> None:
            async with limit:
                state = (await client.get(f"/v2/agents/{FAST_AGENT}/sessions/{session}")).json()
                log = await read_log(client, session)
            self._check_log(session, state, log)

        await asyncio.gather(*map(one, self.sessions))

    def _check_log(self, session: str, state: dict[str, Any], log: list[dict[str, Any]]) -> None:
        assert [event["sequence"] for event in log] == list(range(1, len(log) + 1)), session
        ids = [event["id"] for event in log]
        assert ids == sorted(set(ids)), session
        by_id = {event["id"]: event for event in log}
        places = []
        for acknowledged in self.sessions[session]:
            stored = by_id[acknowledged["id"]]
            assert acknowledged.items() <= stored.items(), session
            places.append(stored["sequence"])
        assert places == sorted(set(places)), session
        kinds = [event["type"] for event in log]
        assert kinds.count("input_message") == kinds.count("turn_started") == kinds.count("turn_ended"), session
        texts = [event["content"] for event in log if event["type"] == "input_message"]
        assert len(texts) == len(set(texts)), session
        assert state["key"] == session
        assert state["status"] == ("stopped" if log else "unstarted"), session
        shown = [event["id"] for event in log if event["type"] not in ("turn_started", "turn_ended")]
        assert state["last_event_id"] == (shown[-1] if shown else None), session


async def use(client: httpx.AsyncClient, journal: Journal, name: str) -> None:
    """Create sessions and talk in them until the server is gone."""
    with contextlib.suppress(httpx.TransportError):
        for number in range(10_000):
            session = f"{name}-{number}"
            journal.attempted += 1
            response = await client.post(f"/v2/agents/{FAST_AGENT}/sessions", json={"key": session})
            assert response.status_code == 201, response.text
            journal.sessions[session] = []
            for text in ("first", "second", "third"):
                await (stream if number % 2 else ask)(client, journal, session, text)


async def ask(client: httpx.AsyncClient, journal: Journal, session: str, text: str) -> None:
    """One input, answered whole."""
    journal.attempted += 1
    response = await client.post(path(session), json={"content": text, "stream_response": False})
    assert response.status_code == 201, response.text
    answer = response.json()
    assert answer["stop_reason"] == "end_turn"
    journal.acknowledge(session, answer["events"])
    journal.turns += 1


async def stream(client: httpx.AsyncClient, journal: Journal, session: str, text: str) -> None:
    """One input, answered as a stream: each frame is an acknowledgement of its own."""
    journal.attempted += 1
    async with client.stream("POST", path(session), json={"content": text, "stream_response": True}) as response:
        assert response.status_code == 201
        async for kind, data in frames(response):
            if "sequence" in data:
                journal.acknowledge(session, [data])
            elif kind == "streaming_agent_output_end":
                journal.acknowledge(session, [{"id": data["event_id"], "type": "agent_output"}])
            elif kind == "end":
                journal.turns += 1


async def test_what_was_acknowledged_survives_kill_9_under_load(disk: Disk) -> None:
    chance = random.Random()
    journals = []
    for number in range(ROUNDS):
        journal = Journal()
        journals.append(journal)
        users = [asyncio.create_task(use(disk.connect(), journal, f"round-{number}-{user}")) for user in range(CALLERS)]
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        await asyncio.to_thread(disk.server.kill)
        await asyncio.gather(*users)
        disk.restart()
    for journal in journals:
        await journal.check(disk.client)
    for name in ("attempted", "turns", "inputs", "events"):
        print(name, [getattr(journal, name) for journal in journals])
    print("sessions", [len(journal.sessions) for journal in journals])
    assert all(journal.turns for journal in journals), "a round without load proves nothing"
