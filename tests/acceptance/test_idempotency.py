"""One Idempotency-Key, one effect: cut, repeated, concurrent and killed requests; and inputs on a condition."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from acceptance.databases import database as database
from acceptance.stage import WAIT_SECONDS, Frame, Stage, lambdas, model_config, refused, text_of, types
from sessile.cli import admin
from sessile.config import Config
from sessile.testing.script import call, say, think, usage, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

MANY = 20
JSON = {"content-type": "application/json"}
LIVE_ONLY = ("streaming_thinking", "streaming_thinking_end", "context_consumed")


@pytest.fixture(scope="module")
def settings() -> str:
    return "heartbeat_seconds = 0.2"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"key_tools": 'def add(a: int, b: int) -> int:\n    """Add."""\n    return a + b\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.add]\nfunction = "key_tools:add"\n'


def a_key() -> dict[str, str]:
    return {"idempotency-key": secrets.token_hex(8)}


async def cut_off(stage: Stage, session: str, body: dict[str, Any], key: dict[str, str], after: bytes) -> str:
    """Post an input as `curl` does, and cut the connection when `after` has come; what came until then."""
    parts = urlsplit(stage.server.url)
    content = json.dumps(body).encode()
    head = [f"POST {session}/events HTTP/1.1", "host: localhost", f"x-api-key: {stage.server.key}"]
    head += ["content-type: application/json", f"content-length: {len(content)}"]
    head += [f"{name}: {value}" for name, value in key.items()]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + content)
    seen = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while after not in seen:
            seen += await reader.read(65536)
    writer.transport.abort()
    return seen.decode()


def durable(frames: list[Frame]) -> list[Frame]:
    """What a stream tells of the log: frames without what is shown live only, and the text of each output as one."""
    told: list[Frame] = []
    for name, data in frames:
        if name in LIVE_ONLY:
            continue
        last = told[-1] if told else ("", {})
        if name == last[0] == "streaming_agent_output" and last[1]["output_id"] == data["output_id"]:
            assert data["offset"] == len(last[1]["content"])
            told[-1] = (name, {**last[1], "content": last[1]["content"] + data["content"]})
        else:
            told.append((name, {field: value for field, value in data.items() if field != "created_at"}))
    return told


async def inputs_of(stage: Stage, session: str) -> list[str]:
    return [event["content"] for event in await stage.log(session, type="input_message")]


async def test_a_stream_that_was_cut_joins_the_same_turn_and_tells_its_whole_text(
    stage: Stage, upstream: Upstream
) -> None:
    session, key, goes_on = await stage.conversation(), a_key(), asyncio.Event()
    upstream.add(think("Hm."), say("One two"), wait_for(goes_on), say(" three."), usage(5, 5))
    body = {"content": "Hello.", "stream_response": True}
    seen = await cut_off(stage, session, body, key, after=b'" two"')
    async with stage.stream(session, headers=key) as stream:
        assert stream.response.headers["x-turn-id"] in seen
        assert stream.response.headers["x-event-id"] in seen
        assert (await stream.next())[0] == "input_message"
        first = await stream.until("streaming_agent_output")
        assert (first["content"], first["offset"], first.get("snapshot")) == ("One two", 0, None)
        goes_on.set()
        frames = await stream.rest()
    assert text_of(frames) == "One two three."
    assert frames[-1] == ("end", {"type": "end", "status": "stopped", "stop_reason": "end_turn"})
    assert await inputs_of(stage, session) == ["Hello."]
    assert types(await stage.log(session)) == ["input_message", "thinking", "agent_output"]
    assert len(upstream.requests) == 1


async def test_a_whole_answer_that_was_cut_is_given_again(stage: Stage, upstream: Upstream) -> None:
    session, key, goes_on = await stage.conversation(), a_key(), asyncio.Event()
    upstream.add(wait_for(goes_on), say("Done."))
    parts = asyncio.ensure_future(stage.client.post(f"{session}/events", json={"content": "Hello."}, headers=key))
    await upstream.arrived(1)
    parts.cancel()
    waiting = asyncio.ensure_future(stage.post(session, headers=key))
    await asyncio.sleep(0)
    goes_on.set()
    joined = await waiting
    assert types(joined["events"]) == ["input_message", "agent_output"]
    assert (joined["status"], joined["stop_reason"], joined["error"]) == ("stopped", "end_turn", None)
    assert await stage.post(session, headers=key) == joined
    assert await stage.post(session, headers={**key, "request-timeout-millis": "1"}) == joined
    assert await inputs_of(stage, session) == ["Hello."]


async def test_a_stopped_turn_is_told_again_as_it_was(stage: Stage, upstream: Upstream) -> None:
    session, key = await stage.conversation(tool_configurations=lambdas("add")), a_key()
    upstream.add(think("Sum."), say("Let me see."), call("add", {"a": 1, "b": 2}), usage(5, 5))
    upstream.add(say("It is three."), usage(7, 3))
    async with stage.stream(session, headers=key) as stream:
        first = await stream.rest()
    upstream.add(say("Later."))
    await stage.post(session, "Another.")
    async with stage.stream(session, headers=key) as stream:
        again = await stream.rest()
    by_content = [sorted(durable(frames), key=json.dumps) for frames in (first, again)]
    assert by_content[0] == by_content[1], "only the order differs: what was live came before what it became"
    assert [name for name, _ in again] == [
        "input_message",
        "thinking",
        "streaming_agent_output",
        "streaming_agent_output_end",
        "tool_input",
        "tool_output",
        "streaming_agent_output",
        "streaming_agent_output_end",
        "end",
    ]
    whole = await stage.post(session, headers=key)
    spoken = ["agent_output", "tool_input", "tool_output", "agent_output"]
    assert types(whole["events"]) == ["input_message", "thinking", *spoken]
    assert await inputs_of(stage, session) == ["Hello.", "Another."]


async def test_a_turn_is_joined_between_its_model_calls(stage: Stage, upstream: Upstream) -> None:
    session, key, goes_on = await stage.conversation(tool_configurations=lambdas("add")), a_key(), asyncio.Event()
    upstream.add(say("Let me see."), call("add", {"a": 1, "b": 2}))
    upstream.add(wait_for(goes_on), say("It is three."))
    async with stage.stream(session, headers=key) as one, stage.stream(session, headers=key) as other:
        await one.until("tool_output")
        await other.until("tool_output")
        async with stage.stream(session, headers=key) as late:
            await late.until("tool_output")
            goes_on.set()
            told = [durable(await stream.rest()) for stream in (one, other, late)]
    assert told[0] == told[1] == told[2]
    assert text_of(told[0]) == "Let me see.It is three."


async def test_a_failed_turn_is_told_again_with_its_error(stage: Stage, upstream: Upstream) -> None:
    model = {"name": "scripted", "retry_configuration": {"enabled": False}}
    session, key = await stage.conversation(model=model), a_key()
    first = await stage.post(session, headers=key)
    assert first["error"]["code"].startswith("model_")
    assert await stage.post(session, headers=key) == first
    async with stage.stream(session, headers=key) as stream:
        assert [name for name, _ in await stream.rest()] == ["input_message", "error", "end"]


async def test_one_key_and_many_at_once_are_one_turn(stage: Stage, upstream: Upstream) -> None:
    session, key = await stage.conversation(), a_key()
    upstream.add(say("Only once."))

    async def read_stream() -> tuple[str, str]:
        async with stage.stream(session, headers=key) as stream:
            return stream.response.headers["x-turn-id"], text_of(await stream.rest())

    async def read_whole() -> tuple[str, str]:
        answer = await stage.post(session, headers=key)
        return answer["turn_id"], answer["events"][-1]["content"]

    told = await asyncio.gather(*(read_stream() if n % 2 else read_whole() for n in range(MANY)))
    assert len(set(told)) == 1
    assert told[0][1] == "Only once."
    assert types(await stage.log(session, records="true")) == [
        "input_message",
        "turn_started",
        "agent_output",
        "turn_ended",
    ]


async def test_another_request_with_the_key_is_refused_and_stores_nothing(
    stage: Stage, upstream: Upstream, database: str | None
) -> None:
    session, key, goes_on = await stage.conversation(), a_key(), asyncio.Event()
    upstream.add(wait_for(goes_on), say("Done."))
    events = f"{session}/events"
    running = asyncio.ensure_future(stage.client.post(events, json={"content": "Hello."}, headers=key))
    await upstream.arrived(1)
    for body in ({"content": "Hello!"}, {"messages": [{"type": "text", "content": "Hello."}]}):
        refused(await stage.client.post(events, json=body, headers=key), 422, "idempotency_key_reused")
    other = {**key, "x-api-key": await new_key(stage, database)}
    refused(await stage.client.post(events, json={"content": "Hello."}, headers=other), 422, "idempotency_key_reused")
    goes_on.set()
    first = (await running).json()
    for body in ({"content": "Hello.", "stream_response": False}, {"stream_response": False, "content": "Hello."}):
        again = await stage.client.post(events, content=json.dumps(body, indent=1), headers={**key, **JSON})
        assert again.json() == first
    assert await inputs_of(stage, session) == ["Hello."]


async def new_key(stage: Stage, database: str | None) -> str:
    config = Config(data=str(stage.server.data), database=database)
    return await asyncio.to_thread(admin.create_key, config, "default", "second", ["owner"], [])


async def test_the_same_key_in_two_sessions_is_two_turns(stage: Stage, upstream: Upstream) -> None:
    agent, key = await stage.agent(), a_key()
    sessions = [await stage.session(agent) for _ in range(2)]
    upstream.add(say("A."))
    upstream.add(say("B."))
    turns = [(await stage.post(session, headers=key))["turn_id"] for session in sessions]
    assert len(set(turns)) == 2


async def test_a_refused_input_leaves_its_key_free(stage: Stage, upstream: Upstream) -> None:
    session, key, goes_on = await stage.conversation(), a_key(), asyncio.Event()
    upstream.add(wait_for(goes_on), say("First."))
    upstream.add(say("Second."))
    first = asyncio.ensure_future(stage.post(session, "First?"))
    await upstream.arrived(1)
    second = {"content": "Second?"}
    refused(await stage.client.post(f"{session}/events", json=second, headers=key), 409, "session_running")
    goes_on.set()
    await first
    await stage.client.patch(session, json={"enabled": False})
    refused(await stage.client.post(f"{session}/events", json=second, headers=key), 422, "session_disabled")
    await stage.client.patch(session, json={"enabled": True})
    answer = await stage.post(session, "Another text now.", headers=key)
    assert answer["events"][-1]["content"] == "Second."
    await stage.client.patch(session, json={"enabled": False})
    assert await stage.post(session, "Another text now.", headers=key) == answer


async def test_creates_answer_again_with_what_they_made(stage: Stage) -> None:
    key, name = a_key(), f"agt_{secrets.token_hex(6)}"
    body = {"key": name, "name": "Once", "model": {"name": "scripted"}}
    first = await stage.client.post("/v2/agents", json=body, headers=key)
    again = await stage.client.post("/v2/agents", json=body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    refused(await stage.client.post("/v2/agents", json=body), 400, "key_taken", "key")
    refused(
        await stage.client.post("/v2/agents", json={**body, "name": "x"}, headers=key), 422, "idempotency_key_reused"
    )
    changed = (await stage.client.patch(f"/v2/agents/{name}", json={"name": "Changed"})).json()
    assert (await stage.client.post("/v2/agents", json=body, headers=key)).json() == changed

    sessions = f"/v2/agents/{name}/sessions"
    made = [await stage.client.post(sessions, json={}, headers=key) for _ in range(3)]
    assert {answer.status_code for answer in made} == {201}
    assert len({answer.json()["key"] for answer in made}) == 1
    session = f"{sessions}/{made[0].json()['key']}"
    await stage.client.patch(session, json={"name": "Changed"})
    later = await stage.client.post(sessions, json={}, headers=key)
    assert (later.json()["name"], later.headers["etag"]) == ("Changed", '"2"')
    other = await stage.agent()
    refused(
        await stage.client.post(f"/v2/agents/{other}/sessions", json={}, headers=key), 422, "idempotency_key_reused"
    )
    assert len((await stage.get(sessions))["sessions"]) == 1

    assert (await stage.client.delete(session)).status_code == 204
    refused(await stage.client.post(sessions, json={}, headers=key), 404, "not_found")
    assert (await stage.client.delete(f"/v2/agents/{name}")).status_code == 204
    refused(await stage.client.post("/v2/agents", json=body, headers=key), 404, "not_found")
    assert (await stage.client.post("/v2/agents", json=body, headers=a_key())).status_code == 201


async def test_a_tool_server_is_made_once(stage: Stage) -> None:
    key, body = a_key(), {"name": "Once", "type": "mcp", "uri": "https://mcp.example.com/mcp", "transport": "sse"}
    made = [await stage.client.post("/v2/tool_servers", json=body, headers=key) for _ in range(2)]
    assert {answer.status_code for answer in made} == {201}
    first, again = (answer.json() for answer in made)
    assert again == first
    other = {**body, "name": "x"}
    refused(await stage.client.post("/v2/tool_servers", json=other, headers=key), 422, "idempotency_key_reused")
    assert (await stage.client.delete(f"/v2/tool_servers/{first['id']}")).status_code == 204
    refused(await stage.client.post("/v2/tool_servers", json=body, headers=key), 404, "not_found")


async def test_many_creates_at_once_make_one(stage: Stage) -> None:
    key = a_key()
    body = {"name": "Once", "model": {"name": "scripted"}}
    agents = await asyncio.gather(*(stage.client.post("/v2/agents", json=body, headers=key) for _ in range(MANY)))
    assert {answer.status_code for answer in agents} == {201}
    (agent,) = {answer.json()["key"] for answer in agents}
    posts = (stage.client.post(f"/v2/agents/{agent}/sessions", json={}, headers=key) for _ in range(MANY))
    assert len({answer.json()["key"] for answer in await asyncio.gather(*posts)}) == 1


async def test_an_input_is_taken_only_while_nothing_else_has_happened(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    events = f"{session}/events"
    shown = await stage.get(session)
    assert shown["last_event_id"] is None

    async def post(condition: str, text: str = "Hello.", **headers: str) -> httpx.Response:
        return await stage.client.post(events, json={"content": text}, headers={"if-match": condition, **headers})

    refused(await post('"aev_0000000001"'), 412, "precondition_failed")
    assert (await stage.get(session)) == shown
    upstream.add(say("One."))
    key = a_key()
    first = await post('"start"', **key)
    assert first.status_code == 201
    refused(await post('"start"'), 412, "precondition_failed")
    assert (await post('"start"', **key)).json() == first.json()
    last = (await stage.get(session))["last_event_id"]
    assert last == first.json()["events"][-1]["id"]
    upstream.add(say("Two."))
    assert (await post(f'"{last}"')).status_code == 201
    refused(await post(f'"{last}"'), 412, "precondition_failed")
    upstream.add(say("Three."))
    assert (await post("*")).status_code == 201
    assert len(await inputs_of(stage, session)) == 3


async def test_of_many_inputs_on_one_condition_one_is_taken(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(say("One."))
    posts = (
        stage.client.post(f"{session}/events", json={"content": str(n)}, headers={"if-match": '"start"'})
        for n in range(MANY)
    )
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*posts))
    assert statuses[0] == 201
    assert set(statuses[1:]) <= {409, 412}
    assert len(await inputs_of(stage, session)) == 1


async def test_after_a_kill_the_key_still_names_the_same_turn(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        with ServerProcess(tmp_path, model_config(upstream)) as server:
            key, agent_key = a_key(), a_key()
            agent = {"name": "Once", "model": {"name": "scripted"}}

            def connected() -> httpx.AsyncClient:
                return httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS)

            async with connected() as client:
                stage = Stage(server, upstream, client)
                made = (await client.post("/v2/agents", json=agent, headers=agent_key)).json()
                session = await stage.session(made["key"])
                hangs = asyncio.Event()
                upstream.add(say("One two"), wait_for(hangs))
                async with stage.stream(session, headers=key) as stream:
                    turn_id = stream.response.headers["x-turn-id"]
                    await stream.until("streaming_agent_output")
                    await asyncio.to_thread(server.kill)
            upstream.add(say("One two three"))
            await asyncio.to_thread(server.start)
            async with connected() as client:
                stage = Stage(server, upstream, client)
                assert (await client.post("/v2/agents", json=agent, headers=agent_key)).json() == made
                answer = await stage.post(session, headers=key)
                assert answer["turn_id"] == turn_id
                assert answer["stop_reason"] == "end_turn"
                assert answer["events"][-1]["content"] == "One two three"
                async with stage.stream(session, headers=key) as stream:
                    names = [name for name, _ in await stream.rest()]
                assert (names[0], names[-1], "error" in names) == ("input_message", "end", False)
                assert await inputs_of(stage, session) == ["Hello."]
                assert len(upstream.requests) == 2
