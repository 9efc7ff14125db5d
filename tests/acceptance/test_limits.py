"""More than a server can do at once: who waits, who is refused, what of it is stored, what clients make of it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.cli_support import environment, run
from acceptance.following import following
from acceptance.stage import WAIT_SECONDS, Stage, eventually, model_config, refused, types
from acceptance.test_bad_input import client_with
from sessile.cli import admin
from sessile.client import AsyncClient
from sessile.config import Config
from sessile.testing.script import Step, call, say, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Decide, Received, Upstream
from sessile.wire.errors import Overloaded, TooManyRequests
from sessile.wire.events import ToolOutputEvent, TurnEndedRecord

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

RUNNING, WAITING = 2, 300
LIMITS = f"""
[limits]
running_turns = {RUNNING}
waiting_turns_per_tenant = {WAITING}
waiting_turns = {WAITING + 1}
followers = 3
followers_per_key = 2
"""
AT_ONCE = {"request-timeout-millis": "1"}
"""An answer that does not wait for the turn."""
GATE = asyncio.Event()


def decide(received: Received) -> Sequence[Step]:
    """`ask` calls a client tool, `delegate` another agent, everything else is answered when the gate is open."""
    said = received.messages[-1]["content"]
    if said == "delegate":
        return [call("helper", {"message": "now"})]
    if said == "ask":
        return [call("ask", {})]
    return [say("Done.")] if said == "now" else [wait_for(GATE), say("Done.")]


@pytest.fixture(scope="module", name="decide")
def decide_fixture() -> Decide:
    return decide


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return LIMITS


@asynccontextmanager
async def other_tenant(stage: Stage, name: str) -> AsyncIterator[Stage]:
    config = Config(data=str(stage.server.data))
    secret = await asyncio.to_thread(admin.create_tenant, config, name, name)
    async with client_with(stage, secret) as client:
        yield Stage(stage.server, stage.upstream, client)


async def send(stage: Stage, session: str, content: str = "wait", **headers: str) -> httpx.Response:
    return await stage.client.post(f"{session}/events", json={"content": content}, headers=AT_ONCE | headers)


async def fill(stage: Stage, sessions: list[str]) -> None:
    """Start a turn in each session."""
    answers = await asyncio.gather(*(send(stage, session) for session in sessions))
    assert Counter(answer.status_code for answer in answers) == {201: len(sessions)}


def refused_for_load(answer: httpx.Response) -> None:
    refused(answer, 503, "overloaded")
    assert 1 <= int(answer.headers["retry-after"]) <= 30


async def test_one_tenants_turns_wait_are_refused_and_do_not_hold_up_anothers(stage: Stage) -> None:
    GATE.clear()
    tools = {"ask": {"type": "client", "tool_id": "tol_ask"}}
    agent = await stage.agent(tool_configurations=tools)
    sessions = [await stage.session(agent) for _ in range(RUNNING + WAITING)]
    asked, spoken, late = [await stage.session(agent) for _ in range(3)]
    assert (await stage.post(asked, "ask"))["stop_reason"] == "requires_action"
    for _ in range(3):
        await stage.post(spoken, "now")
    before = {session: await stage.log(session, records=True) for session in (asked, spoken, late)}

    await fill(stage, sessions[:-1])
    repeated = {"idempotency-key": "the-same"}
    assert (await send(stage, sessions[-1], **repeated)).status_code == 201

    call_id = (await stage.get(f"{asked}/outstanding_client_tool_calls"))["client_tool_calls"][0]["event_id"]
    output = {"type": "tool_output", "tool_outputs": [{"type": "success", "event_id": call_id, "output": {}}]}
    refused_for_load(await send(stage, late))
    refused_for_load(await send(stage, late, **{"idempotency-key": "another"}))
    refused_for_load(await stage.client.post(f"{asked}/events", json=output))
    refused_for_load(await stage.client.post(f"{spoken}/events", json={"type": "compact"}))
    assert before == {session: await stage.log(session, records=True) for session in before}, "it was refused"
    assert (await stage.get(late))["status"] == "unstarted"

    again = await send(stage, sessions[-1], **repeated)
    assert (again.status_code, len(await stage.log(sessions[-1]))) == (201, 1)
    waits = {"content": "wait", "behavior": "follow_up"}
    assert (await stage.client.post(f"{sessions[-1]}/events", json=waits, headers=AT_ONCE)).status_code == 201
    answer = await stage.client.post(f"{sessions[5]}/events", json={"type": "interrupt"})
    assert answer.json()["stop_reason"] == "interrupted", "an interrupt of a turn that waits ends it at once"
    assert (await stage.client.delete(sessions[6])).status_code == 204

    async with other_tenant(stage, "patient") as other:
        theirs = await other.conversation()
        turn = (await send(other, theirs, "now")).headers["x-turn-id"]
        mark = len(stage.upstream.requests)
        GATE.set()
        answer = await eventually(lambda: _ended(other, theirs, turn))
        assert answer["stop_reason"] == "end_turn"
        place = next(
            n for n, r in enumerate(stage.upstream.requests) if r.messages[-1]["content"] == "now" and n >= mark
        )
        assert place - mark <= RUNNING, "no other turn of the first tenant came before it"

    left = [session for session in sessions if session != sessions[6]]
    for session in left:
        await stage.stopped(session)
    ends = {session: types(await stage.log(session, records=True)).count("turn_ended") for session in left}
    assert ends == dict.fromkeys(left, 1) | {sessions[-1]: 2}
    assert (await stage.post(late))["stop_reason"] == "end_turn"
    assert (await stage.client.post(f"{asked}/events", json=output)).json()["stop_reason"] == "end_turn"


async def _ended(stage: Stage, session: str, turn: str) -> Any:
    shown = await stage.get(f"{session}/turns/{turn}")
    return shown if shown["status"] == "stopped" else None


async def test_streams_beyond_the_limit_are_refused_and_others_go_on(stage: Stage) -> None:
    GATE.set()
    session = await stage.conversation()
    stream = {"accept": "text/event-stream"}
    async with other_tenant(stage, "followers") as other, following(stage.client, session) as first:
        theirs = await other.conversation()
        async with following(stage.client, session):
            answer = await stage.client.get(f"{session}/events", headers=stream)
            refused(answer, 429, "too_many_requests")
            assert int(answer.headers["retry-after"]) >= 1
            async with following(other.client, theirs):
                refused_for_load(await other.client.get(f"{theirs}/events", headers=stream))
        await stage.post(session, "now")
        await first.until("turn_ended")

        async def free() -> bool:
            async with stage.client.stream("GET", f"{session}/events", headers=stream) as answer:
                return answer.status_code == 200

        assert await eventually(free), "the place of one that has gone is free again"


@asynccontextmanager
async def small_server(folder: Path, limits: str) -> AsyncIterator[tuple[ServerProcess, Upstream]]:
    async with Upstream(decide) as upstream:
        with ServerProcess(folder, model_config(upstream) + "[limits]\n" + limits) as server:
            yield server, upstream


async def prepared(client: AsyncClient, sessions: int) -> None:
    await client.agents.create(name="A", key="a", model={"name": "scripted"})
    for number in range(sessions):
        await client.sessions.create("a", key=f"s{number}")


async def test_the_client_waits_as_long_as_an_overloaded_server_asks(tmp_path: Path) -> None:
    GATE.clear()
    async with (
        small_server(tmp_path, "running_turns = 1\nwaiting_turns = 1\n") as (server, _),
        AsyncClient(server.url, server.key, retries=9) as client,
    ):
        await prepared(client, 3)
        held = [asyncio.create_task(client.events.send("a", f"s{number}", "wait")) for number in range(2)]

        async def full() -> bool:
            return all([(await client.sessions.get("a", f"s{n}")).status == "running" for n in range(2)])

        await eventually(full)
        async with AsyncClient(server.url, server.key, retries=0) as hasty:
            with pytest.raises(Overloaded) as told:
                await hasty.events.send("a", "s2", "now")
        assert (told.value.status, 1 <= (told.value.retry_after or 0) <= 30) == (503, True)
        said = await run(environment(server.url), "events", "send", "a", "s2", "now")
        assert said.code == 1
        assert "overloaded" in said.stderr
        assert "try again in" in said.stderr
        late = asyncio.create_task(client.events.send("a", "s2", "now"))
        await asyncio.sleep(0.2)
        GATE.set()
        assert (await late).stop_reason == "end_turn"
        assert [(await turn).stop_reason for turn in held] == ["end_turn"] * 2


async def test_a_key_that_sends_too_fast_is_told_when_and_the_client_waits(tmp_path: Path) -> None:
    async with small_server(tmp_path, "requests_per_second = 2\nrequests_burst = 4\n") as (server, _):
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as raw:
            answers = [
                await raw.post("/v2/agents", json={"key": f"a{n}", "name": "A", "model": {"name": "demo"}})
                for n in range(12)
            ]
            kinds = [answer.status_code for answer in answers]
            assert kinds[:4] == [201] * 4
            over = answers[kinds.index(429)]
            refused(over, 429, "too_many_requests")
            assert int(over.headers["retry-after"]) >= 1
            assert (await raw.get("/healthz")).status_code == 200
            assert (await raw.get("/v2/agents", headers={"x-api-key": "sk-wrong"})).status_code == 401
        async with AsyncClient(server.url, server.key, retries=5) as client:
            names = [agent.key async for agent in client.agents.list()]
            assert len(names) == kinds.count(201)
            for number in range(5):
                await client.agents.create(name="B", key=f"b{number}", model={"name": "demo"})
        async with AsyncClient(server.url, server.key, retries=0) as hasty:
            with pytest.raises(TooManyRequests) as told:
                await asyncio.gather(*(hasty.agents.get("b0") for _ in range(10)))
        assert told.value.retry_after == 1


async def test_turns_that_wait_for_sub_agents_leave_them_their_slot(tmp_path: Path) -> None:
    """All slots, and all places to wait, belong to turns that ask others: nobody would ever get one."""
    GATE.set()
    async with (
        small_server(tmp_path, "running_turns = 1\nwaiting_turns = 2\n") as (server, _),
        AsyncClient(server.url, server.key, retries=9) as client,
    ):
        await client.agents.create(name="Helper", key="helper", model={"name": "scripted"})
        tools: Any = {"helper": {"type": "sub_agent", "sub_agent_configuration": {"agent_key": "helper"}}}
        await client.agents.create(name="A", key="a", model={"name": "scripted"}, tool_configurations=tools)
        for number in range(3):
            await client.sessions.create("a", key=f"s{number}")
        answers = await asyncio.gather(*(client.events.send("a", f"s{n}", "delegate") for n in range(3)))
        assert [answer.stop_reason for answer in answers] == ["end_turn"] * 3
        for number in range(3):
            log = [event async for event in client.events.list("a", f"s{number}")]
            (output,) = [event for event in log if isinstance(event, ToolOutputEvent)]
            assert (output.error, output.tool_output["sub_agent_response"]) == (False, "Done.")


async def test_requests_in_flight_are_bounded(tmp_path: Path) -> None:
    GATE.clear()
    async with (
        small_server(tmp_path, "requests_in_flight = 3\n") as (server, upstream),
        httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as raw,
    ):
        async with AsyncClient(server.url, server.key) as client:
            await prepared(client, 3)
        held = [
            asyncio.create_task(raw.post(f"/v2/agents/a/sessions/s{n}/events", json={"content": "wait"}))
            for n in range(3)
        ]
        async with asyncio.timeout(WAIT_SECONDS):
            while len(upstream.requests) < 3:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        refused_for_load(await raw.get("/v2/agents"))
        assert (await raw.get("/healthz")).status_code == 200
        GATE.set()
        assert [(await turn).status_code for turn in held] == [201] * 3
        assert (await raw.get("/v2/agents")).status_code == 200


async def test_what_bodies_take_in_memory_is_bounded_until_they_are_answered(tmp_path: Path) -> None:
    GATE.clear()
    async with (
        small_server(tmp_path, "request_bytes = 100000\n") as (server, upstream),
        httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as raw,
    ):
        async with AsyncClient(server.url, server.key) as client:
            await prepared(client, 2)
        large = {"messages": [{"type": "text", "content": "x" * 70_000}, {"type": "text", "content": "wait"}]}
        held = asyncio.create_task(raw.post("/v2/agents/a/sessions/s0/events", json=large))
        async with asyncio.timeout(WAIT_SECONDS):
            while not upstream.requests:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        refused_for_load(await raw.post("/v2/agents/a/sessions/s1/events", json=large))
        assert (await raw.get("/v2/agents/a/sessions/s1/events")).json()["events"] == []
        assert (await raw.post("/v2/agents/a/sessions", json={"key": "small"})).status_code == 201
        GATE.set()
        assert (await held).status_code == 201
        assert (await raw.post("/v2/agents/a/sessions/s1/events", json=large)).status_code == 201


async def test_a_page_of_large_events_ends_early(stage: Stage) -> None:
    GATE.set()
    session = await stage.conversation()
    for _ in range(4):
        await stage.post(session, "\U0001f4a1" * 999_000)
    found: list[str] = []
    pages = 0
    for order in ("asc", "desc"):
        key = ""
        while True:
            page = await stage.get(
                f"{session}/events", type="input_message", include_hidden=True, order=order, page_key=key
            )
            found += [event["id"] for event in page["events"]]
            pages += 1
            if (key := page["metadata"].get("page_key", "")) == "":
                break
    assert (len(found), len(set(found)), pages) == (8, 4, 4)


async def test_turns_that_wait_survive_a_crash_and_a_stop(tmp_path: Path) -> None:
    GATE.clear()
    count = 12
    async with small_server(tmp_path, "running_turns = 2\nwaiting_turns = 3\n") as (server, _):
        async with AsyncClient(server.url, server.key) as client:
            await prepared(client, count)
        for stop in (server.kill, server.terminate):
            async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as raw:
                for number in range(count):
                    path = f"/v2/agents/a/sessions/s{number}/events"
                    await raw.post(path, json={"content": "wait"}, headers=AT_ONCE | {"idempotency-key": f"k{number}"})
            await asyncio.to_thread(stop)
            await asyncio.to_thread(server.start)
        GATE.set()
        async with AsyncClient(server.url, server.key) as client:
            ended = Counter[int]()
            for number in range(count):
                shown = await client.sessions.get("a", f"s{number}")
                if shown.status == "unstarted":
                    continue
                await eventually(lambda number=number: _stopped(client, number))
                log = [event async for event in client.events.list("a", f"s{number}", records=True)]
                ended[sum(isinstance(event, TurnEndedRecord) for event in log)] += 1
            assert ended == {1: 5}
        assert '"turn_taken_up"' in server.stderr
        assert json.loads(server.stderr.splitlines()[0])


async def _stopped(client: AsyncClient, number: int) -> bool:
    return (await client.sessions.get("a", f"s{number}")).status == "stopped"
