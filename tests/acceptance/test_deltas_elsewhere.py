"""Deltas of a turn for followers on another server: in order, from the middle, over a cut, and of a turn that moves.

Heartbeats and leases are longer than any test with the servers of the module: what is shown came at once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio

from acceptance.following import Following, following, joined
from acceptance.stage import WAIT_SECONDS, EventStream, Stage, model_config
from log_rules import problems
from sessile.testing.script import call, hang, say, sleep, think, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SETTINGS = "lease_seconds = 600\nheartbeat_seconds = 600\n"
QUICK = "lease_seconds = 2\nheartbeat_seconds = 1\n"
TEXT = "It left the warehouse on Monday and is expected on Thursday before noon. "


async def stage(opened: AsyncExitStack, folder: Path, database: str, upstream: Upstream, settings: str) -> Stage:
    await asyncio.to_thread(folder.mkdir)
    server = ServerProcess(folder, settings + model_config(upstream), env={"SESSILE_DATABASE": database})
    opened.enter_context(server)
    client = httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS)
    return Stage(server, upstream, await opened.enter_async_context(client))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, module_database: str
) -> AsyncIterator[tuple[Stage, Stage, Upstream]]:
    folder = tmp_path_factory.mktemp("nodes")
    async with Upstream() as upstream, AsyncExitStack() as opened:
        a, b = [await stage(opened, folder / name, module_database, upstream, SETTINGS) for name in "ab"]
        yield a, b, upstream
        for one in (a, b):
            one.server.terminate()
            assert one.defects() == []


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


async def shown(there: Following, text: str) -> None:
    """Read until all deltas together are this text."""
    while joined(there.deltas()) != text:
        await there.next()


async def test_a_follower_elsewhere_sees_the_deltas_in_order(a: Stage, b: Stage, upstream: Upstream) -> None:
    session, begun = await a.conversation(), asyncio.Event()
    upstream.add(think("Hm. Well."), say("So: "), wait_for(begun), say(TEXT * 20))
    async with following(b.client, session) as there:
        turn = asyncio.create_task(a.post(session))
        await shown(there, "So: ")
        begun.set()
        await there.until("turn_ended")
        await turn
        assert len(there.deltas()) > 10
        assert joined(there.deltas()) == "So: " + TEXT * 20
        assert there.types.index("agent_output") > there.types.index("streaming_agent_output_end")
        assert [event["id"] for event in there.durable] == [event["id"] for event in await a.log(session, records=True)]
    assert problems(await b.log(session, records=True)) == []


async def test_every_turn_of_a_followed_session_is_shown(a: Stage, b: Stage, upstream: Upstream) -> None:
    session = await a.conversation()
    async with following(b.client, session) as there:
        for where in (a, b, a, a):
            go_on = asyncio.Event()
            upstream.add(say("Half "), wait_for(go_on), say("and half."))
            turn = asyncio.create_task(where.post(session))
            begun = await there.until("streaming_agent_output")
            assert "Half ".startswith(begun["content"])
            go_on.set()
            ended = await there.until("agent_output")
            assert joined(there.deltas(begun["output_id"])) == ended["content"] == "Half and half."
            await there.until("turn_ended")
            await turn


async def test_who_joins_in_the_middle_gets_the_text_so_far(a: Stage, b: Stage, upstream: Upstream) -> None:
    session, go_on = await a.conversation(), asyncio.Event()
    upstream.add(say(TEXT * 300, whole=True), wait_for(go_on), say("The end."))
    async with following(a.client, session) as here:
        turn = asyncio.create_task(a.post(session))
        await shown(here, TEXT * 300)
        async with following(b.client, session) as there:
            first = await there.until("streaming_agent_output")
            assert (first["snapshot"], first["content"]) == (True, TEXT * 300)
            go_on.set()
            await there.until("agent_output")
            assert joined(there.deltas()) == TEXT * 300 + "The end."
        await turn


async def test_an_answer_that_is_asked_for_again_elsewhere_streams_on(a: Stage, b: Stage, upstream: Upstream) -> None:
    session, go_on = await a.conversation(), asyncio.Event()
    upstream.add(say("One two three"), wait_for(go_on), say(" four."))
    body, key = {"content": "Count.", "stream_response": True}, {"idempotency-key": "count"}
    async with (
        a.client.stream("POST", f"{session}/events", json=body, headers=key) as first,
        b.client.stream("POST", f"{session}/events", json=body, headers=key) as second,
    ):
        again = EventStream(second)
        await again.until("streaming_agent_output")
        go_on.set()
        for stream in (again, EventStream(first)):
            frames = await stream.rest()
            assert joined([data for type, data in frames if type == "streaming_agent_output"]) == "One two three four."
            assert frames[-1][1]["stop_reason"] == "end_turn"


async def test_thinking_and_what_tools_report_are_shown_elsewhere(a: Stage, b: Stage, upstream: Upstream) -> None:
    helper = await a.agent()
    asks = {"type": "sub_agent", "sub_agent_configuration": {"agent_key": helper}}
    session = await a.conversation(tool_configurations={"helper": asks})
    begun, seen = asyncio.Event(), asyncio.Event()
    upstream.add(say("Wait. "), wait_for(begun), call("helper", {"message": "Is it so?"}))
    upstream.add(say(TEXT * 300, whole=True)).add(think("Is that so?"), wait_for(seen), say("It is."))
    async with following(b.client, session) as there:
        turn = asyncio.create_task(a.post(session))
        await shown(there, "Wait. ")
        begun.set()
        while joined(there.deltas(type="streaming_thinking")) != "Is that so?":
            await there.next()
        seen.set()
        await there.until("turn_ended")
        await turn
        relayed = [block.data["agent_event"] for block in there.blocks if block.type == "tool_activity"]
        assert [event["content"] for event in relayed] == ["Is it so?", TEXT * 300]
        assert there.types.index("tool_activity") < there.types.index("tool_output")
        assert joined(there.deltas(type="streaming_thinking")) == "Is that so?"


async def test_a_cut_connection_heals_in_the_middle_of_a_turn(
    a: Stage, b: Stage, upstream: Upstream, module_database: str
) -> None:
    session, cut, go_on = await a.conversation(), asyncio.Event(), asyncio.Event()
    more = [step for number in range(40) for step in (sleep(0.1), say(f"{number} "))]
    upstream.add(say("Before. "), wait_for(cut), *more, wait_for(go_on), say("After."))
    async with following(b.client, session) as there:
        turn = asyncio.create_task(a.post(session))
        await shown(there, "Before. ")
        assert len(await end_listeners(module_database)) >= 2
        cut.set()
        until_now = "Before. " + "".join(f"{number} " for number in range(40))
        await shown(there, until_now)
        go_on.set()
        await there.until("turn_ended")
        await turn
        assert joined(there.deltas()) == until_now + "After."


async def test_a_turn_whose_server_is_killed_is_shown_from_the_next_one(
    tmp_path: Path, module_database: str, a: Stage, b: Stage
) -> None:
    async with Upstream() as upstream, AsyncExitStack() as opened:
        first, second = [
            await stage(opened, tmp_path / name, module_database, upstream, QUICK) for name in ("first", "second")
        ]
        session, go_on = await first.conversation(), asyncio.Event()
        upstream.add(say("Never kept."), hang()).add(say("Once "), wait_for(go_on), say("more."))
        async with following(second.client, session) as there:
            turn = asyncio.create_task(first.client.post(f"{session}/events", json={"content": "Hello."}))
            await shown(there, "Never kept.")
            void = there.deltas()[0]["output_id"]
            first.server.kill()
            with pytest.raises(httpx.HTTPError):
                await turn
            ended = await there.until("streaming_agent_output_end")
            assert (ended["output_id"], "event_id" in ended) == (void, False)
            go_on.set()
            output = await there.until("agent_output")
            assert output["content"] == joined(there.deltas(output["output_id"])) == "Once more."
            await there.until("turn_ended")
        assert problems(await second.log(session, records=True)) == []


async def end_listeners(database: str) -> list[object]:
    """End the connections on which servers listen."""
    connection = await asyncpg.connect(database)
    ended = await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')"
    )
    await connection.close()
    return list(ended)
