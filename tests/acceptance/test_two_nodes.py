"""Two servers on one PostgreSQL: either takes any request and follows any session, whoever runs the turn.

Heartbeats and leases are longer than any test here: what one server does reaches the other by a wake-up, or not at all.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from acceptance.following import following
from acceptance.stage import WAIT_SECONDS, EventStream, Stage, eventually, lambdas, model_config, types
from log_rules import problems
from sessile.testing.script import call, hang, say, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SETTINGS = "lease_seconds = 600\nheartbeat_seconds = 600\n"
TOOLS = 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'
TABLE = '[tools.ping]\nfunction = "tools:ping"\n'
APPROVE = {"type": "client", "tool_id": "tol_form", "description": "Ask.", "input_schema": {"properties": {}}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, module_database: str
) -> AsyncIterator[tuple[Stage, Stage, Upstream]]:
    async with Upstream() as upstream, AsyncExitStack() as running:
        stages = []
        for name in ("a", "b"):
            folder = tmp_path_factory.mktemp(name)
            (folder / "tools.py").write_text(TOOLS)
            config = SETTINGS + model_config(upstream) + TABLE
            server = ServerProcess(folder, config, env={"SESSILE_DATABASE": module_database})
            running.enter_context(server)
            client = httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS)
            stages.append(Stage(server, upstream, await running.enter_async_context(client)))
        yield stages[0], stages[1], upstream
        for stage in stages:
            stage.server.terminate()
            assert stage.defects() == []


@pytest.fixture
def a(nodes: tuple[Stage, Stage, Upstream]) -> Stage:
    return nodes[0]


@pytest.fixture
def b(nodes: tuple[Stage, Stage, Upstream]) -> Stage:
    return nodes[1]


@pytest.fixture
def upstream(nodes: tuple[Stage, Stage, Upstream]) -> Upstream:
    nodes[2].reset()
    return nodes[2]


async def sound(stage: Stage, session: str) -> None:
    assert problems(await stage.log(session, records=True)) == []


async def test_a_follower_elsewhere_sees_every_event_of_a_turn(a: Stage, b: Stage, upstream: Upstream) -> None:
    session, go_on = await a.conversation(tool_configurations=lambdas("ping")), asyncio.Event()
    upstream.add(call("ping")).add(wait_for(go_on), say("Pong."))
    async with following(b.client, session) as there:
        turn = asyncio.create_task(a.post(session))
        await there.until("tool_output")
        go_on.set()
        await there.until("turn_ended")
        await turn
        assert [event["id"] for event in there.durable] == [event["id"] for event in await a.log(session, records=True)]
    await sound(b, session)


async def test_an_interrupt_reaches_the_server_that_runs_the_turn(a: Stage, b: Stage, upstream: Upstream) -> None:
    session = await a.conversation()
    upstream.add(say("Half"), hang())
    turn = asyncio.create_task(a.post(session))
    await upstream.arrived(1)
    body = {"type": "interrupt"}
    answer = await b.client.post(f"{session}/events", json=body)
    assert answer.status_code == 201, answer.text
    assert (await turn)["stop_reason"] == "interrupted"
    assert (await b.get(session))["stop_reason"] == "interrupted"
    await sound(b, session)


async def test_an_input_that_waits_elsewhere_is_taken(a: Stage, b: Stage, upstream: Upstream) -> None:
    session, go_on = await a.conversation(), asyncio.Event()
    upstream.add(wait_for(go_on), say("One.")).add(say("Two."))
    first = asyncio.create_task(a.post(session, "1"))
    await upstream.arrived(1)
    body = {"content": "2", "behavior": "follow_up", "stream_response": True}
    async with b.client.stream("POST", f"{session}/events", json=body) as response:
        second = EventStream(response)
        go_on.set()
        assert (await first)["events"][-1]["content"] == "One."
        frames = await second.rest()
    assert frames[-1][1]["stop_reason"] == "end_turn"
    outputs = [event["content"] for event in await b.log(session) if event["type"] == "agent_output"]
    assert outputs == ["One.", "Two."]
    await sound(a, session)


async def test_an_input_steers_a_turn_that_runs_elsewhere(a: Stage, b: Stage, upstream: Upstream) -> None:
    session, go_on = await a.conversation(tool_configurations=lambdas("ping")), asyncio.Event()
    upstream.add(wait_for(go_on), call("ping")).add(say("As you like."))
    turn = asyncio.create_task(a.post(session))
    await upstream.arrived(1)
    answer = await b.client.post(
        f"{session}/events",
        json={"content": "Be brief.", "behavior": "steer"},
        headers={"request-timeout-millis": "50"},
    )
    assert answer.status_code in (201, 202), answer.text
    go_on.set()
    await turn
    expected = ["input_message", "tool_input", "tool_output", "input_message", "agent_output"]
    assert types(await b.log(session)) == expected
    await sound(b, session)


async def test_a_withdrawal_ends_who_waits_elsewhere(a: Stage, b: Stage, upstream: Upstream) -> None:
    session, go_on = await a.conversation(), asyncio.Event()
    upstream.add(wait_for(go_on), say("One."))
    first = asyncio.create_task(a.post(session, "1"))
    await upstream.arrived(1)
    body = {"content": "2", "behavior": "follow_up"}
    waits = asyncio.create_task(b.client.post(f"{session}/events", json=body))

    async def waiting() -> list[dict[str, Any]]:
        inputs: list[dict[str, Any]] = (await a.get(f"{session}/inputs"))["inputs"]
        return inputs

    (queued,) = await eventually(waiting)
    assert (await a.client.delete(f"{session}/inputs/{queued['id']}")).status_code == 204
    assert (await waits).json()["reason"] == "withdrawn"
    go_on.set()
    await first


async def test_outputs_of_client_tools_resume_a_turn_that_was_parked_elsewhere(
    a: Stage, b: Stage, upstream: Upstream
) -> None:
    session = await a.conversation(tool_configurations={"approve": APPROVE})
    upstream.add(call("approve")).add(say("Done."))
    async with following(a.client, session) as there:
        assert (await a.post(session))["stop_reason"] == "requires_action"
        (pending,) = (await b.get(f"{session}/outstanding_client_tool_calls"))["client_tool_calls"]
        output = {"type": "success", "event_id": pending["event_id"], "output": {"ok": True}}
        answer = await b.client.post(f"{session}/events", json={"type": "tool_output", "tool_outputs": [output]})
        assert answer.json()["stop_reason"] == "end_turn", answer.text
        await there.until("turn_ended")
        assert [event["id"] for event in there.durable] == [event["id"] for event in await a.log(session, records=True)]
    await sound(a, session)


@pytest.mark.parametrize("what", ["session", "agent"])
async def test_a_deletion_ends_the_turn_and_the_followers_elsewhere(
    a: Stage, b: Stage, upstream: Upstream, what: str
) -> None:
    session = await a.conversation()
    upstream.add(say("Half"), hang())
    async with following(a.client, session) as there:
        turn = asyncio.create_task(a.client.post(f"{session}/events", json={"content": "Hello."}))
        received = await upstream.arrived(1)
        path = session if what == "session" else session.partition("/sessions")[0]
        assert (await b.client.delete(path)).status_code == 204
        await turn
        await there.rest()
    await received.gone()


async def test_who_missed_wake_ups_looks_when_it_listens_again(
    a: Stage, b: Stage, upstream: Upstream, module_database: str
) -> None:
    session, go_on = await a.conversation(), asyncio.Event()
    upstream.add(wait_for(go_on), say("Still here."))
    async with following(b.client, session) as there:
        turn = asyncio.create_task(a.post(session))
        await there.until("turn_started")
        connection = await asyncpg.connect(module_database)
        ended = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')"
        )
        await connection.close()
        assert len(ended) >= 2
        go_on.set()
        await turn
        await there.until("turn_ended")
