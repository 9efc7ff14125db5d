"""Client tools over a real server: the turn parks, the client answers, the turn goes on; and all that can go wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

import sessile
from acceptance.databases import database as database
from acceptance.following import following
from acceptance.stage import (
    WAIT_SECONDS,
    EventStream,
    Frame,
    Stage,
    eventually,
    frame_types,
    lambdas,
    model_config,
    refused,
    text_of,
    types,
)
from sessile.testing.script import WaitFor, call, hang, say
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

TOOLS = '''
import asyncio
from pathlib import Path


def twice(number: int) -> int:
    """Doubles."""
    return 2 * number


async def waits() -> str:
    """Waits until it is let go."""
    Path("started").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return "over"
'''
TABLES = "\n".join(f'[tools.{name}]\nfunction = "client_tools:{name}"' for name in ("twice", "waits"))
APPROVE = {
    "type": "client",
    "tool_id": "tol_form",
    "description": "Ask for an approval.",
    "input_schema": {"properties": {"amount": {"type": "number"}}, "required": ["amount"]},
}
CLIENT_TOOLS = {"approve": APPROVE, "sign": {"type": "client", "tool_id": "tol_sign", "description_template": "Sign."}}


@pytest.fixture(scope="module")
def settings() -> str:
    return "max_model_calls = 4"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"client_tools": TOOLS}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return TABLES


@asynccontextmanager
async def started(server: ServerProcess, upstream: Upstream) -> AsyncIterator[Stage]:
    with server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            yield Stage(server, upstream, client)


@pytest_asyncio.fixture(loop_scope="module")
async def mortal(tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, Upstream]]:
    """A server of its own that is not started yet, and its model."""
    (tmp_path / "client_tools.py").write_text(TOOLS)
    async with Upstream() as upstream:
        yield ServerProcess(tmp_path, model_config(upstream) + TABLES), upstream


async def conversation(stage: Stage, *server_tools: str) -> str:
    return await stage.conversation(tool_configurations={**CLIENT_TOOLS, **lambdas(*server_tools)})


async def outstanding(stage: Stage, session: str) -> list[dict[str, Any]]:
    body = await stage.get(f"{session}/outstanding_client_tool_calls")
    assert body.keys() == {"client_tool_calls"}
    calls: list[dict[str, Any]] = body["client_tool_calls"]
    return calls


async def ids(stage: Stage, session: str) -> list[str]:
    return [call["event_id"] for call in await outstanding(stage, session)]


def approved(event_id: str, **output: Any) -> dict[str, Any]:
    return {"type": "success", "event_id": event_id, "output": output or {"ok": True}}


async def send(stage: Stage, session: str, *outputs: dict[str, Any], **headers: str) -> httpx.Response:
    body = {"type": "tool_output", "tool_outputs": list(outputs)}
    return await stage.client.post(f"{session}/events", json=body, headers=headers)


async def answer(stage: Stage, session: str, *outputs: dict[str, Any], **headers: str) -> dict[str, Any]:
    given = await send(stage, session, *outputs, **headers)
    assert given.status_code == 201, given.text
    body: dict[str, Any] = given.json()
    assert given.headers["x-turn-id"] == body["turn_id"]
    assert given.headers["x-event-id"] == body["events"][0]["id"]
    return body


async def sound(stage: Stage, session: str) -> None:
    check = await stage.get(f"{session}/check")
    assert check["ok"], check


async def parked(stage: Stage, session: str) -> dict[str, Any]:
    """Post an input, and check that its turn waits."""
    body: dict[str, Any] = await stage.post(session)
    assert (body["status"], body["stop_reason"], body["error"]) == ("stopped", "requires_action", None)
    assert body["events"][-1]["type"] == "client_tool_pending"
    await sound(stage, session)
    return body


async def test_an_approval(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(say("I ask. "), call("approve", '{"amount": 5}', id="one"))
    upstream.add(say("Paid."))
    body = await parked(stage, session)
    assert types(body["events"]) == ["input_message", "agent_output", "tool_input", "client_tool_pending"]
    made, pending = body["events"][2:]
    assert (made["tool_call_id"], made["tool_configuration_name"], made["tool_name"]) == ("one", "approve", "form")
    waiting = {
        "event_id": made["id"],
        "tool_configuration_name": "approve",
        "tool_name": "form",
        "arguments": {"amount": 5},
    }
    assert pending["pending_calls"] == await outstanding(stage, session) == [waiting]
    shown = await stage.get(session)
    assert (shown["status"], shown["stop_reason"]) == ("stopped", "requires_action")
    assert shown["last_event_id"] == pending["id"]
    turn = await stage.get(f"{session}/turns/{body['turn_id']}")
    assert (turn["status"], turn["stop_reason"], turn["ended_at"]) == ("stopped", "requires_action", None)
    refusal = refused(await stage.client.post(f"{session}/events", json={"content": "And?"}), 409, "session_running")
    assert refusal["id"] == body["turn_id"]
    assert "answer them, interrupt" in refusal["messages"][0]

    rest = await answer(stage, session, approved(made["id"], by="Ann"))
    assert types(rest["events"]) == ["tool_output", "agent_output"]
    assert (rest["status"], rest["stop_reason"], rest["turn_id"]) == ("stopped", "end_turn", body["turn_id"])
    output = rest["events"][0]
    assert (output["tool_call_id"], output["tool_output"], output["error"]) == ("one", {"by": "Ann"}, False)
    assert await outstanding(stage, session) == []
    messages = upstream.requests[1].messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[-1]["content"] == '{"by":"Ann"}'
    turn = await stage.get(f"{session}/turns/{body['turn_id']}")
    assert (turn["status"], turn["stop_reason"], turn["usage"]["model_calls"]) == ("stopped", "end_turn", 2)
    await sound(stage, session)
    offered = {tool["function"]["name"]: tool["function"] for tool in upstream.requests[0].body["tools"]}
    assert offered["approve"]["description"] == "Ask for an approval."
    assert offered["approve"]["parameters"] == {"type": "object", **APPROVE["input_schema"]}  # type: ignore[dict-item]
    assert (offered["sign"]["description"], offered["sign"]["parameters"]["type"]) == ("Sign.", "object")


async def test_tools_of_the_server_run_first_and_outputs_come_in_parts(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage, "twice")
    upstream.add(
        call("approve", '{"amount": 1}', id="a"), call("twice", '{"number": 4}', id="b"), call("sign", "{}", id="c")
    )
    upstream.add(say("Done."))
    body = await parked(stage, session)
    expected = ["input_message", "tool_input", "tool_input", "tool_input", "tool_output", "client_tool_pending"]
    assert types(body["events"]) == expected
    assert (body["events"][4]["tool_call_id"], body["events"][4]["tool_output"]) == ("b", {"result": 8})
    first, second = await ids(stage, session)
    part = await answer(stage, session, {"type": "error", "event_id": second, "error": {"why": "no pen"}})
    assert types(part["events"]) == ["tool_output", "client_tool_pending"]
    assert (part["status"], part["stop_reason"]) == ("stopped", "requires_action")
    output = part["events"][0]
    assert (output["error"], output["tool_output"]) == (True, {"error": {"why": "no pen"}, "code": "tool_failed"})
    assert await ids(stage, session) == [first]
    assert len(upstream.requests) == 1
    await sound(stage, session)
    rest = await answer(stage, session, approved(first))
    assert types(rest["events"]) == ["tool_output", "agent_output"]
    assert [message["role"] for message in upstream.requests[1].messages] == ["user", "assistant", *["tool"] * 3]
    await sound(stage, session)


async def test_a_turn_may_park_again_and_again(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    for _ in range(3):
        upstream.add(call("sign", "{}", id="same"))
    upstream.add(say("Enough."))
    turn_id = (await parked(stage, session))["turn_id"]
    for _ in range(2):
        body = await answer(stage, session, approved((await ids(stage, session))[0]))
        assert types(body["events"]) == ["tool_output", "tool_input", "client_tool_pending"]
        assert (body["stop_reason"], body["turn_id"]) == ("requires_action", turn_id)
    body = await answer(stage, session, approved((await ids(stage, session))[0]))
    assert (body["stop_reason"], body["turn_id"]) == ("end_turn", turn_id)


async def test_the_last_model_call_of_a_turn_is_waited_for_too(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    for number in range(4):
        upstream.add(call("sign", "{}", id=f"c{number}"))
    await parked(stage, session)
    for _ in range(4):
        body = await answer(stage, session, approved((await ids(stage, session))[0]))
    assert (body["stop_reason"], body["error"]["code"]) == ("limit", "model_call_limit")
    assert types(body["events"]) == ["tool_output"]
    assert len(upstream.requests) == 4
    await sound(stage, session)


async def test_arguments_that_make_no_sense_wait_for_nobody(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("approve", "[1]", id="a"))
    upstream.add(say("Sorry."))
    body = await stage.post(session)
    assert types(body["events"]) == ["input_message", "tool_input", "tool_output", "agent_output"]
    assert body["events"][2]["tool_output"]["code"] == "tool_arguments_invalid"


async def test_as_streams(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(say("I ask. "), call("approve", '{"amount": 5}', id="one"))
    upstream.add(say("It is paid."))
    async with stage.stream(session) as stream:
        frames = await stream.rest()
    assert frame_types(frames) == [
        *["input_message", "streaming_agent_output", "streaming_agent_output_end"],
        *["tool_input", "client_tool_pending", "end"],
    ]
    assert frames[-1][1] == {"type": "end", "status": "stopped", "stop_reason": "requires_action"}
    (waiting,) = await ids(stage, session)
    body = {"type": "tool_output", "tool_outputs": [approved(waiting)], "stream_response": True}
    async with stage.client.stream("POST", f"{session}/events", json=body) as response:
        assert response.status_code == 201
        assert response.headers["x-turn-id"] == frames[0][1]["turn_id"]
        frames = await EventStream(response).rest()
    assert response.headers["x-event-id"] == frames[0][1]["id"]
    assert frame_types(frames) == [*["tool_output", "streaming_agent_output", "streaming_agent_output_end", "end"]]
    assert text_of(frames) == "It is paid."
    assert frames[-1][1] == {"type": "end", "status": "stopped", "stop_reason": "end_turn"}


async def test_a_part_as_a_stream(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("sign", "{}", id="a"), call("sign", "{}", id="b"))
    await parked(stage, session)
    first, _ = await ids(stage, session)
    body = {"type": "tool_output", "tool_outputs": [approved(first)], "stream_response": True}
    async with stage.client.stream("POST", f"{session}/events", json=body) as response:
        frames = await EventStream(response).rest()
    assert [name for name, _ in frames] == ["tool_output", "client_tool_pending", "end"]
    assert frames[-1][1]["stop_reason"] == "requires_action"


async def test_a_follower_sees_it_all_once(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("sign", "{}", id="a"))
    upstream.add(say("Done."))
    async with following(stage.client, session) as stream:
        await parked(stage, session)
        await stream.until("client_tool_pending")
        async with following(stage.client, session) as late:
            state = await late.until("session_state")
            assert (state["status"], state["stop_reason"]) == ("stopped", "requires_action")
            await late.until("client_tool_pending")
            await answer(stage, session, approved((await ids(stage, session))[0]))
            await late.until("turn_ended")
        await stream.until("turn_ended")
    log = [event["id"] for event in await stage.log(session, records="true")]
    for followed in (stream, late):
        assert [block.id for block in followed.blocks if block.type and block.id] == log


async def test_what_is_refused_stores_nothing(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("sign", "{}", id="a"), call("sign", "{}", id="b"))
    upstream.add(say("Done."))
    code = "tool_call_not_outstanding"
    refused(await send(stage, session, approved("aev_none")), 400, code, "tool_outputs[0].event_id")
    await parked(stage, session)
    before = await stage.log(session, records="true")
    first, second = await ids(stage, session)
    for wrong in ("aev_none", "", first, before[0]["id"], "x" * 5000):
        answer_ = await send(stage, session, approved(first), approved(wrong))
        refused(answer_, 400, code, "tool_outputs[1].event_id")
    for outputs in (
        [],
        [approved(first)] * 129,
        [{"type": "success", "event_id": first}],
        [{"type": "success", "event_id": first, "output": [1]}],
        [{"type": "success", "event_id": first, "output": {}, "more": 1}],
        [{"type": "error", "event_id": first}],
        [{"type": "maybe", "event_id": first}],
        [approved(first, text="x" * 1024 * 1024)],
        [{"type": "error", "event_id": first, "error": "x" * 1024 * 1024}],
    ):
        given = await send(stage, session, *outputs)
        assert (given.status_code, given.json()["code"]) == (400, "invalid_request"), given.text
    refused(await send(stage, session, approved(first), **{"if-match": '"start"'}), 400, "not_supported")
    assert await stage.log(session, records="true") == before
    await answer(stage, session, approved(first))
    refused(await send(stage, session, approved(first)), 400, code, "tool_outputs[0].event_id")
    await answer(stage, session, approved(second))
    refused(await send(stage, session, approved(second)), 400, code, "tool_outputs[0].event_id")
    await sound(stage, session)


async def test_an_output_that_comes_too_early(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage, "waits")
    upstream.add(call("sign", "{}", id="a"), call("waits", "{}", id="b"))
    upstream.add(say("Done."))
    async with stage.stream(session) as stream:
        made = await stream.until("tool_input")
        assert await outstanding(stage, session) == []
        refusal = refused(await send(stage, session, approved(made["id"])), 409, "session_running")
        assert refusal["id"] == made["turn_id"]
        (stage.server.folder / "go").touch()
        await stream.rest()
    await answer(stage, session, approved(made["id"]))


async def test_disabled_agents_and_sessions_take_no_outputs(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("sign", "{}", id="a"))
    upstream.add(say("Done."))
    await parked(stage, session)
    agent = session.split("/")[3]
    (waiting,) = await ids(stage, session)
    changed = await stage.client.patch(f"/v2/agents/{agent}", json={"enabled": False})
    assert changed.status_code == 200
    refused(await send(stage, session, approved(waiting)), 422, "agent_disabled")
    await stage.client.patch(f"/v2/agents/{agent}", json={"enabled": True})
    await stage.client.patch(session, json={"enabled": False})
    refused(await send(stage, session, approved(waiting)), 422, "session_disabled")
    await stage.client.patch(session, json={"enabled": True})
    assert (await answer(stage, session, approved(waiting)))["stop_reason"] == "end_turn"


async def test_a_killed_server_keeps_what_waits(mortal: tuple[ServerProcess, Upstream]) -> None:
    server, upstream = mortal
    async with started(server, upstream) as stage:
        session = await conversation(stage)
        upstream.add(call("sign", "{}", id="a"), call("sign", "{}", id="b"))
        upstream.add(say("Done."))
        body = await parked(stage, session)
        first, second = await ids(stage, session)
        await answer(stage, session, approved(first))
        before = await stage.log(session, records="true")
        await asyncio.to_thread(server.kill)
    async with started(server, upstream) as stage:
        assert await ids(stage, session) == [second]
        assert await stage.log(session, records="true") == before
        assert len(upstream.requests) == 1
        assert (await stage.get(session))["stop_reason"] == "requires_action"
        rest = await answer(stage, session, approved(second))
        assert (rest["stop_reason"], rest["turn_id"]) == ("end_turn", body["turn_id"])
        await sound(stage, session)
        assert stage.defects() == []


async def test_a_server_killed_before_the_turn_parks(mortal: tuple[ServerProcess, Upstream]) -> None:
    server, upstream = mortal
    async with started(server, upstream) as stage:
        session = await conversation(stage, "waits")
        upstream.add(call("sign", "{}", id="a"), call("waits", "{}", id="b"))
        async with stage.stream(session) as stream:
            await stream.until("tool_input")
            await stream.until("tool_input")
            await asyncio.to_thread(server.kill)
    async with started(server, upstream) as stage:

        async def probe() -> Any:
            return await outstanding(stage, session)

        (waiting,) = await eventually(probe)
        upstream.add(say("Done."))
        body = await answer(stage, session, approved(waiting["event_id"]))
        assert body["stop_reason"] == "end_turn"
        log = await stage.log(session)
        assert types(log)[1:5] == ["tool_input", "tool_input", "tool_output", "client_tool_pending"]
        assert log[3]["tool_output"]["code"] == "tool_outcome_unknown"
        await sound(stage, session)
        assert stage.defects() == []


async def test_a_server_killed_after_the_last_output_goes_on(mortal: tuple[ServerProcess, Upstream]) -> None:
    server, upstream = mortal
    async with started(server, upstream) as stage:
        session = await conversation(stage)
        upstream.add(call("sign", "{}", id="a"))
        upstream.add(hang())
        await parked(stage, session)
        outputs = [approved((await ids(stage, session))[0])]
        body = {"type": "tool_output", "tool_outputs": outputs, "stream_response": True}
        async with stage.client.stream("POST", f"{session}/events", json=body) as response:
            await EventStream(response).until("tool_output")
            await upstream.arrived(2)
            await asyncio.to_thread(server.kill)
    upstream.reset()
    upstream.add(say("Done."))
    async with started(server, upstream) as stage:
        shown = await stage.stopped(session)
        assert shown["stop_reason"] == "end_turn"
        expected = ["input_message", "tool_input", "client_tool_pending", "tool_output", "agent_output"]
        assert types(await stage.log(session)) == expected
        await sound(stage, session)


STOP = {"type": "interrupt"}


async def closed(stage: Stage, session: str, late: str) -> None:
    """Check that the interrupted turn has its end, and that the next input works at once."""
    log = await stage.log(session, records="true")
    assert types(log)[-4:] == ["tool_output", "tool_output", "session_interrupted", "turn_ended"]
    assert {event["tool_output"]["code"] for event in log[-4:-2]} == {"turn_interrupted"}
    assert log[-1]["stop_reason"] == "interrupted"
    refused(await send(stage, session, approved(late)), 400, "tool_call_not_outstanding", "tool_outputs[0].event_id")
    assert await outstanding(stage, session) == []
    stage.upstream.reset()
    stage.upstream.add(say("I am back."))
    assert (await stage.post(session))["stop_reason"] == "end_turn"
    await sound(stage, session)


async def test_an_interrupt_while_it_waits(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("sign", "{}", id="a"), call("sign", "{}", id="b"))
    turn_id = (await parked(stage, session))["turn_id"]
    first, _ = await ids(stage, session)
    bodies = [
        given.json()
        for given in await asyncio.gather(*(stage.client.post(f"{session}/events", json=STOP) for _ in range(5)))
    ]
    ended = [body for body in bodies if body["turn_id"] == turn_id]
    assert ended
    for body in ended:
        assert body["stop_reason"] == "interrupted"
    assert types(bodies[0]["events"]) == ["tool_output", "tool_output", "session_interrupted"]
    await closed(stage, session, first)
    assert len(upstream.requests) == 1


async def test_a_server_killed_while_it_interrupts(mortal: tuple[ServerProcess, Upstream]) -> None:
    server, upstream = mortal
    async with started(server, upstream) as stage:
        session = await conversation(stage)
        upstream.add(call("sign", "{}", id="a"), call("sign", "{}", id="b"))
        await parked(stage, session)
        first, _ = await ids(stage, session)
        posting = asyncio.create_task(
            stage.client.post(f"{session}/events", json=STOP, headers={"request-timeout-millis": "1"})
        )
        await asyncio.wait([posting])
        await asyncio.to_thread(server.kill)
        assert posting.result().status_code == 201
    async with started(server, upstream) as stage:
        await closed(stage, session, first)
        assert stage.defects() == []


async def test_deleting_a_session_that_waits(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("sign", "{}", id="a"))
    await parked(stage, session)
    (waiting,) = await ids(stage, session)
    assert (await stage.client.delete(session)).status_code == 204
    refused(await send(stage, session, approved(waiting)), 404, "not_found")
    refused(await stage.client.get(f"{session}/outstanding_client_tool_calls"), 404, "not_found")


async def test_the_same_outputs_again_with_their_key(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    upstream.add(call("sign", "{}", id="a"), call("sign", "{}", id="b"))
    upstream.add(say("I go on. "), call("sign", "{}", id="c"))
    upstream.add(say("Done."))
    keyed = {"idempotency-key": "input"}
    first_answer = (await stage.client.post(f"{session}/events", json={"content": "Hello."}, headers=keyed)).json()
    first, second = await ids(stage, session)
    answers: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for event_id in (first, second):
        given = await answer(stage, session, approved(event_id), **{"idempotency-key": event_id})
        answers.append((given, [approved(event_id)]))
    assert types(answers[1][0]["events"]) == ["tool_output", "agent_output", "tool_input", "client_tool_pending"]
    (third,) = await ids(stage, session)
    answers.append((await answer(stage, session, approved(third), **{"idempotency-key": third}), [approved(third)]))
    before = await stage.log(session, records="true")
    for given, outputs in answers:
        again = await answer(stage, session, *outputs, **{"idempotency-key": outputs[0]["event_id"]})
        assert again == given
        frames = await streamed(stage, session, outputs, outputs[0]["event_id"])
        assert frames[0][1] == given["events"][0]
        assert frames[-1][1]["stop_reason"] == given["stop_reason"]
    again = (await stage.client.post(f"{session}/events", json={"content": "Hello."}, headers=keyed)).json()
    assert again == first_answer
    other = await send(stage, session, approved(first, other=1), **{"idempotency-key": first})
    refused(other, 422, "idempotency_key_reused")
    assert await stage.log(session, records="true") == before
    assert len(upstream.requests) == 3


async def streamed(stage: Stage, session: str, outputs: list[dict[str, Any]], key: str) -> list[Frame]:
    body = {"type": "tool_output", "tool_outputs": outputs, "stream_response": True}
    headers = {"idempotency-key": key}
    async with stage.client.stream("POST", f"{session}/events", json=body, headers=headers) as response:
        return await EventStream(response).rest()


async def test_a_repeat_joins_the_turn_that_goes_on(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    go = asyncio.Event()
    upstream.add(call("sign", "{}", id="a"))
    upstream.add(say("I go ", whole=True), WaitFor(go), say("on."))
    await parked(stage, session)
    outputs = [approved((await ids(stage, session))[0])]
    readers = [asyncio.create_task(streamed(stage, session, outputs, "same")) for _ in range(2)]
    await upstream.arrived(2)
    readers.append(asyncio.create_task(streamed(stage, session, outputs, "same")))
    go.set()
    answers = await asyncio.gather(*readers)
    assert [text_of(frames) for frames in answers] == ["I go on."] * 3
    assert {frames[-1][1]["stop_reason"] for frames in answers} == {"end_turn"}
    assert types(await stage.log(session)).count("tool_output") == 1


async def test_a_schema_that_is_no_object_is_refused(stage: Stage) -> None:
    wrong = {"approve": {**APPROVE, "input_schema": {"type": "string"}}}
    body = {"name": "Shop", "model": {"name": "scripted"}, "tool_configurations": wrong}
    refused(
        await stage.client.post("/v2/agents", json=body),
        400,
        "invalid_request",
        "tool_configurations.approve.input_schema",
    )


async def test_disabled_configurations_are_not_offered(stage: Stage, upstream: Upstream) -> None:
    configurations = {**CLIENT_TOOLS, "sign": {**CLIENT_TOOLS["sign"], "enabled": False}}  # type: ignore[dict-item]
    agent = await stage.agent(tool_configurations=configurations)
    shown = await stage.client.get(f"/v2/agents/{agent}")
    assert shown.headers["x-sessile-inactive"] == "sign=client"
    upstream.add(say("Hi."))
    await stage.post(await stage.session(agent))
    assert [tool["function"]["name"] for tool in upstream.requests[0].body["tools"]] == ["approve"]


async def test_the_python_client(stage: Stage, upstream: Upstream) -> None:
    session = await conversation(stage)
    agent, key = session.split("/")[3], session.split("/")[5]
    upstream.add(call("approve", '{"amount": 5}', id="a"), call("sign", "{}", id="b"))
    upstream.add(say("I go on. "), call("sign", "{}", id="c"))
    upstream.add(say("Done."))
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        answer = await client.events.send(agent, key, "Hello.")
        assert (answer.status, answer.stop_reason) == ("stopped", "requires_action")
        assert answer.pending_calls == await client.sessions.outstanding_client_tool_calls(agent, key)
        first, second = answer.pending_calls
        assert (first.arguments, first.tool_name) == ({"amount": 5}, "form")
        part = await client.events.send_tool_outputs(agent, key, {}, errors={first.event_id: "no"})
        assert [call.event_id for call in part.pending_calls] == [second.event_id]
        with pytest.raises(sessile.ToolCallNotOutstanding):
            await client.events.send_tool_outputs(agent, key, {first.event_id: {}})
        async with client.events.stream_tool_outputs(agent, key, {second.event_id: {"ok": True}}) as turn:
            assert "".join([text async for text in turn.text()]) == "I go on. "
        assert (turn.turn_id, turn.status, turn.stop_reason) == (answer.turn_id, "stopped", "requires_action")
        (third,) = turn.pending_calls
        rest = await client.events.send_tool_outputs(agent, key, {third.event_id: {}})
        assert (rest.text, rest.stop_reason, rest.pending_calls) == ("Done.", "end_turn", [])
        assert await client.sessions.outstanding_client_tool_calls(agent, key) == []
