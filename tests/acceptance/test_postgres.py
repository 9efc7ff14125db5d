"""Server processes on PostgreSQL: killed, stopped, two at a time. What every database does is in the other modules."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.stage import WAIT_SECONDS, eventually, model_config, types
from log_rules import problems
from sessile.testing.postgres import PostgresServer
from sessile.testing.script import hang, say, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = pytest.mark.acceptance

SECONDS = 3
"""A lease: long enough for a busy machine to renew it in time."""
LEASE = f"lease_seconds = {SECONDS}\n"
SECRET = "hunter2-hunter2"
EVENTS = "/v2/agents/a/sessions/s/events"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


def server(folder: Path, database: str, upstream: Upstream, settings: str = LEASE) -> ServerProcess:
    """A server process that is not started yet."""
    folder.mkdir(exist_ok=True)
    return ServerProcess(folder, settings + model_config(upstream), env={"SESSILE_DATABASE": database})


def client(server: ServerProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS)


async def prepare(server: ServerProcess) -> None:
    async with client(server) as http:
        agent = {"key": "a", "name": "A", "model": {"name": "scripted"}}
        assert (await http.post("/v2/agents", json=agent)).status_code == 201
        assert (await http.post("/v2/agents/a/sessions", json={"key": "s"})).status_code == 201


async def post(server: ServerProcess, text: str, **body: Any) -> httpx.Response:
    async with client(server) as http:
        return await http.post(EVENTS, json={"content": text, **body}, headers={"idempotency-key": text.encode().hex()})


async def log(server: ServerProcess) -> list[dict[str, Any]]:
    async with client(server) as http:
        answer = await http.get(EVENTS, params={"records": True, "limit": 100})
    events: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
    return events


async def ended(server: ServerProcess) -> bool:
    return types(await log(server))[-1:] == ["turn_ended"]


async def test_a_killed_servers_turn_goes_on_within_a_lease(
    tmp_path: Path, new_database: str, upstream: Upstream
) -> None:
    with server(tmp_path, new_database, upstream) as mortal:
        await prepare(mortal)
        upstream.add(say("Half of "), hang())
        upstream.add(say("All of it."))
        cut = asyncio.create_task(post(mortal, "Hello"))
        await upstream.arrived(1)
        mortal.kill()
        with pytest.raises(httpx.TransportError):
            await cut
        mortal.start()
        await eventually(lambda: ended(mortal))
        events = await log(mortal)
        assert types(events)[0] == "input_message"
        assert events[-1]["stop_reason"] == "end_turn"
        assert problems(events) == []
        again = (await post(mortal, "Hello")).raise_for_status().json()
        assert again["events"][-1]["content"] == "All of it."
        assert [event["sequence"] for event in await log(mortal)] == [event["sequence"] for event in events]
        assert len(upstream.requests) == 2


async def test_a_second_server_takes_up_what_a_killed_one_has_left(
    tmp_path: Path, new_database: str, upstream: Upstream
) -> None:
    """And leaves alone what a living one runs, however long that takes."""
    with (
        server(tmp_path / "one", new_database, upstream) as one,
        server(tmp_path / "two", new_database, upstream) as two,
    ):
        await prepare(one)
        goes_on = asyncio.Event()
        upstream.add(wait_for(goes_on), say("First."))
        first = asyncio.create_task(post(one, "Hello"))
        await upstream.arrived(1)
        await asyncio.sleep(1.5 * SECONDS)  # the first server renews its claim
        goes_on.set()
        assert (await first).json()["stop_reason"] == "end_turn"
        assert len(upstream.requests) == 1

        upstream.add(hang())
        upstream.add(say("Second."))
        cut = asyncio.create_task(post(one, "And then?"))
        await upstream.arrived(2)
        one.kill()
        with pytest.raises(httpx.TransportError):
            await cut
        await eventually(lambda: ended(two))
        events = await log(two)
        assert problems(events) == []
        assert [event["content"] for event in events if event["type"] == "agent_output"] == ["First.", "Second."]
        upstream.add(say("Third."))
        assert (await post(two, "Go on.")).json()["events"][-1]["content"] == "Third."


async def test_a_server_that_is_stopped_leaves_its_turn_to_the_next_at_once(
    tmp_path: Path, new_database: str, upstream: Upstream
) -> None:
    settings = "lease_seconds = 600\ndrain_seconds = 0\n"
    with server(tmp_path, new_database, upstream, settings) as stopped:
        await prepare(stopped)
        upstream.add(hang())
        upstream.add(say("Here I am."))
        cut = asyncio.create_task(post(stopped, "Hello"))
        await upstream.arrived(1)
        await asyncio.to_thread(stopped.terminate)
        await asyncio.gather(cut, return_exceptions=True)
        stopped.start()
        await eventually(lambda: ended(stopped))
        assert types(await log(stopped)) == ["input_message", "turn_started", "agent_output", "turn_ended"]


async def test_the_password_is_in_no_log(tmp_path: Path, new_database: str, upstream: Upstream) -> None:
    url = new_database.replace("postgres@", f"postgres:{SECRET}@")
    with server(tmp_path, url, upstream) as private:
        await prepare(private)
        private.terminate()
        told = private.stdout + private.stderr
        assert "Database: postgresql://postgres@127.0.0.1" in told
        assert SECRET not in told


def test_a_server_without_its_database_says_so_without_the_password(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url("no_such_database").replace("postgres@", f"postgres:{SECRET}@")
    with pytest.raises(RuntimeError, match="The database cannot be opened: InvalidCatalogNameError 3D000") as caught:
        ServerProcess(tmp_path, env={"SESSILE_DATABASE": url}).start()
    assert SECRET not in str(caught.value)
    assert "Traceback" not in str(caught.value)
