"""The example this project started from, word by word, in both delivery modes."""

import json
import secrets
from typing import Any

import pytest
import pytest_asyncio

from acceptance.databases import database as database
from acceptance.stage import Frame, Stage, lambdas, refused, types
from sessile.testing.script import Step, call, say, think, usage
from sessile.testing.upstream import Decide, Received

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

AGENT = "agt_customer_support"
TOOL = f"reset_{secrets.token_hex(4)}"
NAME = "Password reset support for user 123"
QUESTION = "I need to reset my password."
SOURCE = f'''
import secrets


def {TOOL}(end_user_id: str) -> dict[str, str]:
    """Start a password reset and give the code of it."""
    return {{"end_user_id": end_user_id, "code": secrets.token_hex(16)}}
'''


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {f"module_of_{TOOL}": SOURCE}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return f'[tools.{TOOL}]\nfunction = "module_of_{TOOL}:{TOOL}"\n'


@pytest.fixture(scope="module")
def decide() -> Decide:
    def answer(request: Received) -> list[Step]:
        last = request.messages[-1]
        if last["role"] == "user":
            return [think("They cannot sign in."), call(TOOL, {"end_user_id": "user_123"}), usage(20, 10)]
        return [say(f"Your reset code is {json.loads(last['content'])['code']}."), usage(30, 8)]

    return answer


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def agent(stage: Stage) -> str:
    body = {
        "key": AGENT,
        "name": "Customer support",
        "model": {"name": "scripted"},
        "tool_configurations": lambdas(TOOL),
    }
    answer = await stage.client.post("/v2/agents", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["id"] == AGENT
    return AGENT


async def make_session(stage: Stage, agent: str) -> str:
    body = {"name": NAME, "metadata": {"end_user_id": "user_123"}}
    answer = await stage.client.post(f"/v2/agents/{agent}/sessions", json=body)
    assert answer.status_code == 201, answer.text
    session = answer.json()
    assert session["name"] == NAME
    assert session["metadata"] == {"end_user_id": "user_123"}
    assert session["agent_id"] == session["agent_key"] == AGENT
    assert session["status"] == "unstarted"
    assert session["enabled"] is True
    return f"/v2/agents/{agent}/sessions/{session['id']}"


async def ask_whole(stage: Stage, session: str) -> list[dict[str, Any]]:
    answer = await stage.client.post(f"{session}/events", json={"type": "input_message", "content": QUESTION})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["status"], body["stop_reason"], body["error"]) == ("stopped", "end_turn", None)
    events: list[dict[str, Any]] = body["events"]
    return events


async def ask_streamed(stage: Stage, session: str) -> list[dict[str, Any]]:
    async with stage.stream(session, QUESTION) as stream:
        return transcript(await stream.rest())


def transcript(frames: list[Frame]) -> list[dict[str, Any]]:
    """The durable events of a stream; the output is put together from its deltas."""
    events: list[dict[str, Any]] = []
    said: dict[str, str] = {}
    for name, data in frames:
        if name == "streaming_agent_output":
            said[data["output_id"]] = said.get(data["output_id"], "") + data["content"]
        elif name == "streaming_agent_output_end":
            output = {"type": "agent_output", "id": data["event_id"], "content": said[data["output_id"]]}
            events.append(output | {"output_id": data["output_id"]})
        elif "sequence" in data:
            events.append(data)
    return events


def told(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events without what differs from one run to the next: ids, times and the random code."""
    envelope = {"id", "session_key", "created_at", "sequence", "turn_id", "output_id", "tool_call_id"}
    (code,) = {event["tool_output"]["code"] for event in events if event["type"] == "tool_output"}
    kept = [{name: value for name, value in event.items() if name not in envelope} for event in events]
    plain: list[dict[str, Any]] = json.loads(json.dumps(kept).replace(code, "CODE"))
    return plain


@pytest.mark.parametrize("ask", [ask_whole, ask_streamed])
async def test_the_answer_is_thinking_a_tool_call_its_output_and_an_output(stage: Stage, agent: str, ask: Any) -> None:
    session = await make_session(stage, agent)
    stage.upstream.reset()
    events = await ask(stage, session)

    assert types(events) == ["input_message", "thinking", "tool_input", "tool_output", "agent_output"]
    question, thinking, tool_input, tool_output, output = events
    assert question["content"] == QUESTION
    assert question["messages"] == [{"type": "text", "content": QUESTION}]
    assert thinking["content"] == "They cannot sign in."
    assert tool_input["tool_configuration_name"] == TOOL
    assert tool_input["tool_input"] == {"end_user_id": "user_123"}
    assert tool_output["tool_call_id"] == tool_input["tool_call_id"]
    assert tool_output["error"] is False
    assert tool_output["tool_output"]["end_user_id"] == "user_123"

    code = tool_output["tool_output"]["code"]
    first, second = stage.upstream.requests
    assert [tool["function"]["name"] for tool in first.body["tools"]] == [TOOL]
    assert code in second.messages[-1]["content"]
    assert second.messages[-1]["role"] == "tool"
    assert output["content"] == f"Your reset code is {code}."


async def test_both_delivery_modes_tell_the_same(stage: Stage, agent: str) -> None:
    whole, streamed = await make_session(stage, agent), await make_session(stage, agent)
    answers = told(await ask_whole(stage, whole)), told(await ask_streamed(stage, streamed))
    assert answers[0] == answers[1]
    assert answers[0] == told(await stage.log(whole)) == told(await stage.log(streamed))
    records = types(await stage.log(whole, records="true"))
    assert records == types(await stage.log(streamed, records="true"))
    assert records == [
        *("input_message", "turn_started", "thinking", "tool_input", "tool_output", "agent_output", "turn_ended")
    ]


async def test_the_session_is_updated_listed_fetched_and_deleted(stage: Stage, agent: str) -> None:
    session = await make_session(stage, agent)
    await ask_whole(stage, session)

    patched = await stage.client.patch(session, json={"description": "Done.", "metadata": {"priority": "high"}})
    assert patched.status_code == 200, patched.text
    assert patched.json()["description"] == "Done."
    assert patched.json()["metadata"] == {"priority": "high"}
    assert patched.json()["name"] == NAME

    listed = (await stage.get(f"/v2/agents/{agent}/sessions", limit=1))["sessions"][0]
    assert listed == patched.json()
    assert await stage.get(session) == listed
    assert (listed["status"], listed["stop_reason"]) == ("stopped", "end_turn")

    assert (await stage.client.delete(session)).status_code == 204
    for path in (session, f"{session}/events"):
        refused(await stage.client.get(path), 404, "not_found")
    refused(await stage.client.post(f"{session}/events", json={"content": QUESTION}), 404, "not_found")
    refused(await stage.client.delete(session), 404, "not_found")
    assert listed["id"] not in [shown["id"] for shown in (await stage.get(f"/v2/agents/{agent}/sessions"))["sessions"]]
