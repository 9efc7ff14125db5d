"""Inputs that are sent while a turn runs, over HTTP: queued, steering, withdrawn, followed, and kept over a crash."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from acceptance.databases import database as database
from acceptance.following import following
from acceptance.stage import EventStream, Stage, eventually, frame_types, lambdas, refused, text_of, types
from sessile.testing.script import call, hang, say, usage, wait_for
from sessile.testing.upstream import Upstream
from sessile.wire.limits import MAX_WAITING_INPUTS

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]
SOON = {"request-timeout-millis": "50"}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"tools": 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.ping]\nfunction = "tools:ping"\n'


async def send(stage: Stage, session: str, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
    return await stage.client.post(f"{session}/events", json=body, headers=headers)


@asynccontextmanager
async def streamed(stage: Stage, session: str, **body: Any) -> AsyncIterator[EventStream]:
    body = {**body, "stream_response": True}
    async with stage.client.stream("POST", f"{session}/events", json=body) as response:
        assert response.status_code == 201, await response.aread()
        yield EventStream(response)


async def waiting(stage: Stage, session: str) -> list[dict[str, Any]]:
    inputs: list[dict[str, Any]] = (await stage.get(f"{session}/inputs"))["inputs"]
    return inputs


async def holds(stage: Stage, session: str) -> None:
    """The log of a session that has stopped keeps every rule."""
    await stage.stopped(session)
    check = await stage.get(f"{session}/check")
    assert check["ok"], check


async def test_two_inputs_follow_up_one_at_a_time(stage: Stage, upstream: Upstream) -> None:
    session, go_on = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(go_on), say("one")).add(say("two")).add(say("three"))
    async with stage.stream(session, "1") as first:
        await first.until("input_message")
        late = await send(stage, session, SOON, content="2", behavior="follow_up")
        third = asyncio.create_task(send(stage, session, content="3", behavior="follow_up"))
        await eventually(lambda: _count(stage, session, 2))
        listed = await waiting(stage, session)
        assert [(one["content"], one["behavior"], one["type"]) for one in listed] == [
            ("2", "follow_up", "input_message"),
            ("3", "follow_up", "input_message"),
        ]
        assert listed[0]["messages"] == [{"type": "text", "content": "2"}]
        assert late.headers["x-event-id"] == listed[0]["id"]
        assert late.headers["x-turn-id"] == listed[0]["turn_id"] == late.json()["turn_id"]
        assert (late.json()["status"], late.json()["events"]) == ("running", [])
        refused(await stage.client.get(f"{session}/events/{listed[0]['id']}"), 404, "not_found")
        go_on.set()
        assert types([data for _, data in (await first.rest())[-1:]]) == ["end"]
    answer = await third
    assert [event["content"] for event in answer.json()["events"]] == ["3", "three"]
    assert answer.headers["x-event-id"] == answer.json()["events"][0]["id"]
    await holds(stage, session)
    log = await stage.log(session)
    assert [event["content"] for event in log] == ["1", "one", "2", "two", "3", "three"]
    assert [event["id"] for event in log] == sorted(event["id"] for event in log)
    taken = log[2]
    assert taken["id"][-20:] == listed[0]["id"][-20:]
    assert taken["turn_id"] == listed[0]["turn_id"]
    assert await stage.get(f"{session}/events/{listed[0]['id']}") == taken
    assert await waiting(stage, session) == []


async def test_a_steering_input_joins_the_turn(stage: Stage, upstream: Upstream) -> None:
    session, go_on = await stage.conversation(tool_configurations=lambdas("ping")), asyncio.Event()
    upstream.add(wait_for(go_on), call("ping")).add(say("Pong, loudly."), usage(3, 2))
    async with stage.stream(session, "Ping.") as first:
        turn = (await first.until("input_message"))["turn_id"]
        async with streamed(stage, session, content="Loudly!", behavior="steer") as steering:
            assert "x-turn-id" not in steering.response.headers
            assert (await waiting(stage, session))[0]["turn_id"] is None
            go_on.set()
            frames = await steering.rest()
        mine = await first.rest()
    assert frame_types(frames) == [
        *["input_message", "streaming_agent_output", "context_consumed", "streaming_agent_output_end", "end"]
    ]
    assert frames[0][1]["turn_id"] == turn
    assert text_of(frames) == text_of(mine) == "Pong, loudly."
    assert frame_types(mine)[:4] == ["input_message", "tool_input", "tool_output", "input_message"]
    assert [message["role"] for message in upstream.requests[-1].body["messages"]] == [
        *["user", "assistant", "tool", "user"]
    ]
    await holds(stage, session)


async def test_with_since_a_stream_shows_the_turn_before_too(stage: Stage, upstream: Upstream) -> None:
    session, go_on = await stage.conversation(), asyncio.Event()
    upstream.add(say("one"), wait_for(go_on), say(" more")).add(say("two"))
    async with stage.stream(session, "1") as first:
        start = await first.until("input_message")
        await first.until("streaming_agent_output")
        async with streamed(stage, session, content="2", since=start["id"]) as second:
            shown = await second.until("streaming_agent_output")
            assert (shown["content"], shown["offset"], shown["turn_id"]) == ("one", 0, start["turn_id"])
            go_on.set()
            frames = await second.rest()
    assert text_of(frames) == "one moretwo"
    assert frame_types(frames) == [
        *["streaming_agent_output", "streaming_agent_output_end", "input_message"],
        *["streaming_agent_output", "streaming_agent_output_end", "end"],
    ]
    upstream.add(say("three"))
    answer = (await send(stage, session, content="3", since="start")).json()
    assert [event["content"] for event in answer["events"]] == ["1", "one more", "2", "two", "3", "three"]
    assert (answer["status"], answer["stop_reason"]) == ("stopped", "end_turn")


async def test_what_waits_can_be_withdrawn(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(hang()).add(say("three"))
    async with stage.stream(session, "1") as first:
        await first.until("input_message")
        key = {"idempotency-key": "withdrawn"}
        async with streamed(stage, session, content="2", behavior="follow_up") as second:
            whole = asyncio.create_task(send(stage, session, key, content="also", behavior="steer"))
            await eventually(lambda: _count(stage, session, 2))
            await send(stage, session, SOON, content="3", behavior="follow_up")
            ids = [one["id"] for one in await waiting(stage, session)]
            for id in ids[:2]:
                assert (await stage.client.delete(f"{session}/inputs/{id}")).status_code == 204
            assert await second.rest() == [("end", {"type": "end", "status": "stopped", "reason": "withdrawn"})]
        told = (await whole).json()
        assert (told["status"], told["reason"], told["events"], told["turn_id"]) == ("stopped", "withdrawn", [], None)
        for unknown in (ids[0], "aev_1"):
            assert refused(await stage.client.delete(f"{session}/inputs/{unknown}"), 404, "not_found")["id"] == unknown
        again = await send(stage, session, key, content="also", behavior="steer")
        assert refused(again, 410, "input_withdrawn")["id"] == ids[1]
        await send(stage, session, type="interrupt")
    await holds(stage, session)
    log = await stage.log(session)
    assert [event.get("content") for event in log] == ["1", None, "3", "three"]
    gone = refused(await stage.client.delete(f"{session}/inputs/{ids[2]}"), 409, "input_taken")
    assert gone["id"] == log[-1]["turn_id"]


async def test_what_is_refused_leaves_nothing(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(hang())
    await send(stage, session, SOON, content="1")
    turn = (await stage.get(session))["last_event_id"]
    told = refused(await send(stage, session, content="2"), 409, "session_running")
    assert told["id"].startswith("trn_")
    assert "steer" in told["messages"][0]
    assert "interrupt" in told["messages"][0]
    for extra in ({"behavior": "steer"}, {"behavior": "follow_up"}, {"since": turn}):
        refused(await send(stage, session, {"if-match": f'"{turn}"'}, content="2", **extra), 400, "invalid_parameter")
    for cursor in ("aev_1", "aev_" + "f" * 30):
        refused(await send(stage, session, content="2", since=cursor), 400, "unknown_cursor", "since")
    assert await waiting(stage, session) == []
    posts = [send(stage, session, SOON, content=str(n), behavior="follow_up") for n in range(MAX_WAITING_INPUTS)]
    assert {answer.status_code for answer in await asyncio.gather(*posts)} == {201}
    refused(await send(stage, session, content="one more", behavior="steer"), 422, "too_many_inputs")
    assert len(await waiting(stage, session)) == MAX_WAITING_INPUTS
    assert (await stage.client.delete(session)).status_code == 204
    refused(await stage.client.get(f"{session}/inputs"), 404, "not_found")


async def test_a_crash_loses_nothing_that_waits(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(hang())
    await send(stage, session, SOON, content="1")
    key = {"idempotency-key": "over-a-crash"}
    first = await send(stage, session, {**SOON, **key}, content="2", behavior="follow_up")
    await send(stage, session, SOON, content="3", behavior="follow_up")
    before = await waiting(stage, session)
    upstream.add(say("one")).add(say("two")).add(say("three"))
    await asyncio.to_thread(stage.server.kill)
    await asyncio.to_thread(stage.server.start)
    stage.client.base_url = httpx.URL(stage.server.url)
    again = await send(stage, session, key, content="2", behavior="follow_up")
    assert [event["content"] for event in again.json()["events"]] == ["2", "two"]
    assert again.headers["x-turn-id"] == first.headers["x-turn-id"]
    await holds(stage, session)
    log = await stage.log(session)
    assert [event["content"] for event in log] == ["1", "one", "2", "two", "3", "three"]
    assert [log[2]["id"][-20:], log[4]["id"][-20:]] == [one["id"][-20:] for one in before]


async def test_a_follower_sees_taken_inputs_as_events(stage: Stage, upstream: Upstream) -> None:
    session, go_on = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(go_on), say("one")).add(say("two"))
    await send(stage, session, SOON, content="1")
    waiting_id = (await send(stage, session, SOON, content="2", behavior="follow_up")).headers["x-event-id"]
    async with following(stage.client, session) as stream:
        go_on.set()
        await stream.until("turn_ended", 2)
    seen = [event["sequence"] for event in stream.durable]
    assert seen == list(range(1, len(seen) + 1))
    assert [event["content"] for event in stream.durable if event["type"] == "input_message"] == ["1", "2"]
    async with following(stage.client, session, waiting_id) as stream:
        await stream.until("turn_ended")
    taken = next(event for event in await stage.log(session) if event.get("content") == "2")
    assert stream.durable[0]["sequence"] == taken["sequence"] + 1


async def _count(stage: Stage, session: str, number: int) -> bool:
    return len(await waiting(stage, session)) == number
