"""Hiding, unhiding and deleting events, over HTTP against a real server."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import sessile
from acceptance.databases import bodies_with
from acceptance.databases import database as database
from acceptance.following import following
from acceptance.stage import Stage, lambdas, refused, types
from sessile.testing.script import call, hang, say, wait_for
from sessile.testing.upstream import Upstream
from sessile.wire import ids

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SECRET = "tortoise"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"tools": 'def find() -> str:\n    """Find."""\n    return "found a hare"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.find]\nfunction = "tools:find"\n'


async def talk(stage: Stage, session: str, said: str, answer: str) -> list[dict[str, Any]]:
    stage.upstream.add(say(answer))
    events: list[dict[str, Any]] = (await stage.post(session, said))["events"]
    return events


async def change(stage: Stage, session: str, event_id: str, verb: str) -> Any:
    answer = await stage.client.post(f"{session}/events/{event_id}/{verb}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def delete(stage: Stage, session: str, event_id: str) -> None:
    answer = await stage.client.delete(f"{session}/events/{event_id}")
    assert (answer.status_code, answer.content) == (204, b"")


async def read_by_the_model(stage: Stage, session: str) -> list[tuple[str, Any]]:
    """The messages of one more turn, as the model got them, but for the new input."""
    stage.upstream.reset()
    stage.upstream.add(say("Yes."))
    await stage.post(session, "Next.")
    *messages, last = stage.upstream.requests[0].body["messages"]
    assert last["content"] == "Next."
    return [(message["role"], message.get("content")) for message in messages]


async def holds(stage: Stage, session: str) -> None:
    found = await stage.get(f"{session}/check")
    assert found["ok"], found


async def test_a_hidden_event_is_seen_by_who_asks_only(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    said, answer = await talk(stage, session, "My name is Ann.", "Hello Ann.")
    hidden = await change(stage, session, answer["id"], "hide")
    assert hidden == answer | {"hidden": True}
    assert types(await stage.log(session)) == ["input_message"]
    assert await stage.log(session, include_hidden=True) == [said, hidden]
    assert await stage.get(f"{session}/events/{answer['id']}") == hidden
    assert await read_by_the_model(stage, session) == [("user", "My name is Ann.")]
    assert await change(stage, session, answer["id"], "unhide") == answer
    assert (await stage.log(session))[:2] == [said, answer]
    messages = await read_by_the_model(stage, session)
    assert messages[:2] == [("user", "My name is Ann."), ("assistant", "Hello Ann.")]
    await holds(stage, session)


async def test_the_records_of_a_change(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    said, answer = await talk(stage, session, "One.", "Two.")
    before = await stage.get(session)
    async with following(stage.client, session, since="now") as stream:
        await stream.until("session_state")
        for verb in ("hide", "hide", "unhide", "unhide"):
            await change(stage, session, answer["id"], verb)
        await delete(stage, session, said["id"])
        record = await stream.until("event_deleted")
        assert [data["type"] for data in stream.durable] == ["event_hidden", "event_unhidden", "event_deleted"]
    assert record.keys() == {"id", "session_key", "created_at", "sequence", "type", "event_id"}
    assert record["event_id"] == said["id"]
    records = [event for event in await stage.log(session, records=True) if event["type"].startswith("event_")]
    assert [event["sequence"] for event in records] == [5, 6, 7]
    assert await stage.get(f"{session}/events/{record['id']}") == record
    after = await stage.get(session)
    for name in ("last_event_id", "status", "stop_reason", "usage"):
        assert after[name] == before[name]
    stage.upstream.add(say("Four."))
    await stage.post(session, "Three.", {"if-match": f'"{answer["id"]}"'})
    await holds(stage, session)


@pytest.mark.parametrize("half", ["tool_input", "tool_output"])
@pytest.mark.parametrize("verb", ["hide", "delete"])
async def test_one_half_of_a_call_takes_the_other_from_the_model(
    stage: Stage, upstream: Upstream, half: str, verb: str
) -> None:
    session = await stage.conversation(tool_configurations=lambdas("find"))
    upstream.add(call("find", {})).add(say("Found it."))
    events = (await stage.post(session, "Find it."))["events"]
    (chosen,) = [event for event in events if event["type"] == half]
    if verb == "hide":
        await change(stage, session, chosen["id"], "hide")
    else:
        await delete(stage, session, chosen["id"])
    assert await read_by_the_model(stage, session) == [("user", "Find it."), ("assistant", "Found it.")]
    left = [event["type"] for event in await stage.log(session)]
    assert (half in left, len(left)) == (False, 5)
    await holds(stage, session)


async def test_what_is_deleted_is_nowhere(stage: Stage, upstream: Upstream, database: str | None) -> None:
    session = await stage.conversation()
    said, answer = await talk(stage, session, f"It is a {SECRET}.", "I see.")
    await talk(stage, session, "Go on.", "Well.")
    await delete(stage, session, said["id"])
    assert types(await stage.log(session)) == ["agent_output", "input_message", "agent_output"]
    everything = await stage.log(session, include_hidden=True, records=True)
    assert [event["sequence"] for event in everything] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert SECRET not in json.dumps(everything)
    assert SECRET not in json.dumps(await read_by_the_model(stage, session))
    for answer_to in (
        await stage.client.get(f"{session}/events/{said['id']}"),
        await stage.client.post(f"{session}/events/{said['id']}/hide"),
        await stage.client.post(f"{session}/events/{said['id']}/unhide"),
        await stage.client.delete(f"{session}/events/{said['id']}"),
    ):
        assert refused(answer_to, 404, "not_found")["id"] == said["id"]
    async with following(stage.client, session, last_event_id=said["id"], include_hidden=True) as stream:
        assert (await stream.until("agent_output"))["id"] == answer["id"]
        assert stream.blocks[0].id == said["id"]
    async with following(stage.client, session, include_hidden=True) as stream:
        assert (await stream.until("event_deleted"))["event_id"] == said["id"]
        assert SECRET not in stream.text
    assert await bodies_with(SECRET, stage.server.data, database) == 0
    assert await bodies_with("I see.", stage.server.data, database) > 0
    await holds(stage, session)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_told_again_leaves_out_what_was_deleted(
    stage: Stage, upstream: Upstream, streamed: bool
) -> None:
    session = await stage.conversation()
    key = {"idempotency-key": "once"}
    upstream.add(say("Answered."))
    first = await stage.post(session, f"It is a {SECRET}.", key)
    await delete(stage, session, first["events"][0]["id"])
    body = {"content": f"It is a {SECRET}.", "stream_response": streamed}
    again = await stage.client.post(f"{session}/events", json=body, headers=key)
    assert again.status_code == 201
    assert again.headers["x-event-id"] == first["events"][0]["id"]
    assert SECRET not in again.text
    assert "Answered." in again.text


async def test_a_change_while_a_turn_runs_counts_at_its_next_model_call(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("find"))
    old = await talk(stage, session, "Old.", "Older.")
    go_on = asyncio.Event()
    upstream.reset()
    upstream.add(wait_for(go_on), call("find", {})).add(say("Done."))
    turn = asyncio.create_task(stage.post(session, "Find it."))
    first = await upstream.arrived(1)
    assert [message["content"] for message in first.body["messages"]] == ["Old.", "Older.", "Find it."]
    await change(stage, session, old[1]["id"], "hide")
    await delete(stage, session, old[0]["id"])
    go_on.set()
    assert types((await turn)["events"]) == ["input_message", "tool_input", "tool_output", "agent_output"]
    messages = upstream.requests[1].body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    await holds(stage, session)
    assert (await read_by_the_model(stage, session))[0] == ("user", "Find it.")


async def test_events_of_a_running_turn_stay(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(hang())
    async with stage.stream(session) as stream:
        said = await stream.until("input_message")
        for answer in (
            await stage.client.post(f"{session}/events/{said['id']}/hide"),
            await stage.client.delete(f"{session}/events/{said['id']}"),
        ):
            assert refused(answer, 409, "session_running")["id"] == said["turn_id"]
        await stage.client.post(f"{session}/events", json={"type": "interrupt"})
    await delete(stage, session, said["id"])
    await holds(stage, session)


async def test_records_and_strangers_are_refused(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.", "Two.")
    record = (await stage.log(session, records=True))[1]
    other = await stage.conversation()
    verbs: list[Callable[[str], Any]] = [
        lambda event: stage.client.post(f"{session}/events/{event}/hide"),
        lambda event: stage.client.post(f"{session}/events/{event}/unhide"),
        lambda event: stage.client.delete(f"{session}/events/{event}"),
    ]
    foreign = (await talk(stage, other, "Three.", "Four."))[0]["id"]
    for verb in verbs:
        refused(await verb(record["id"]), 400, "record_fixed")
        for stranger in (foreign, "aev_0", ids.event_id(99)):
            assert refused(await verb(stranger), 404, "not_found")["id"] == stranger
    assert len(await stage.log(session, records=True)) == 4


async def test_many_hide_the_same_event_once(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    said, _ = await talk(stage, session, "One.", "Two.")
    await asyncio.gather(*(change(stage, session, said["id"], "hide") for _ in range(20)))
    assert len(await stage.log(session, records=True, type="event_hidden")) == 1


async def test_the_client_does_it_too(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    said, answer = await talk(stage, session, "One.", "Two.")
    agent, key = session.split("/")[3], session.split("/")[5]
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        hidden = await client.events.hide(agent, key, answer["id"])
        assert (hidden.id, hidden.hidden) == (answer["id"], True)  # type: ignore[union-attr]
        assert not (await client.events.unhide(agent, key, answer["id"])).hidden  # type: ignore[union-attr]
        await client.events.delete(agent, key, said["id"])
        with pytest.raises(sessile.NotFound):
            await client.events.get(agent, key, said["id"])
        records = [event async for event in client.events.list(agent, key, records=True, types=["event_deleted"])]
        assert [event.event_id for event in records] == [said["id"]]  # type: ignore[union-attr]
        with pytest.raises(sessile.RecordFixed):
            await client.events.hide(agent, key, records[0].id)
