"""Structured output, over a real server and the provider's wire."""

import json
from typing import Any

import pytest

import sessile
from acceptance.stage import Stage, frame_types, lambdas, refused, types
from sessile.testing.script import break_connection, call, say, think, usage
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
SPEC = {"name": "weather", "schema": SCHEMA, "description": "The weather", "strict": True}
STEP = {"output_parser": {"type": "structured", "json_schema": SPEC}}
RIGHT, WRONG = '{"city": "Oslo", "degrees": -3}', '{"city": "Oslo"}'
CONTENT = {"city": "Oslo", "degrees": -3}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"weather_tools": 'def look(city: str) -> dict:\n    """Look out."""\n    return {"seen": "snow"}\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.look]\nfunction = "weather_tools:look"\n'


def asked(upstream: Upstream, number: int = -1) -> Any:
    return upstream.requests[number].body


async def test_the_answer_is_one_event(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(first_step=STEP)
    upstream.add(think("Cold."), say(RIGHT), usage(10, 5))
    answer = await stage.post(session, "How is the weather in Oslo?")
    assert types(answer["events"]) == ["input_message", "thinking", "structured_output"]
    assert (answer["stop_reason"], answer["error"]) == ("end_turn", None)
    event = answer["events"][-1]
    assert (event["schema_name"], event["content"]) == ("weather", CONTENT)
    assert asked(upstream)["response_format"] == {"type": "json_schema", "json_schema": SPEC}
    assert json.dumps(SCHEMA, separators=(",", ":")) in asked(upstream)["messages"][0]["content"]
    assert (await stage.get(f"{session}/check"))["violations"] == []
    assert (await stage.get(session))["last_event_id"] == event["id"]
    upstream.add(say(RIGHT))
    await stage.post(session, "And now?")
    roles = [(message["role"], message["content"]) for message in asked(upstream)["messages"][1:]]
    assert roles[1] == ("assistant", json.dumps(CONTENT, separators=(",", ":")))


async def test_a_stream_shows_it_whole(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(first_step=STEP)
    upstream.add(think("Cold."), say(f"```json\n{RIGHT}\n```"), usage(10, 5))
    async with stage.stream(session) as answer:
        frames = await answer.rest()
    assert frame_types(frames) == [
        "input_message",
        "streaming_thinking",
        "streaming_thinking_end",
        "context_consumed",
        "thinking",
        "structured_output",
        "end",
    ]
    assert frames[-2][1]["content"] == CONTENT


async def test_tools_come_first(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(first_step=STEP, tool_configurations=lambdas("look"))
    upstream.add(say("Let me look."), call("look", {"city": "Oslo"})).add(say(RIGHT))
    answer = await stage.post(session)
    expected = ["input_message", "agent_output", "tool_input", "tool_output", "structured_output"]
    assert types(answer["events"]) == expected


async def test_a_wrong_answer_is_sent_back(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(first_step=STEP)
    upstream.add(think("Hm."), say(WRONG), usage(1, 1)).add(say("It is cold."), usage(1, 1)).add(
        say(RIGHT), usage(1, 1)
    )
    answer = await stage.post(session)
    assert types(answer["events"]) == ["input_message", "thinking", "structured_output"]
    assert answer["events"][-1]["content"] == CONTENT
    told = [message["content"] for message in asked(upstream)["messages"] if message["role"] != "system"]
    assert told[1] == WRONG
    assert "degrees" in told[2]
    assert told[3] == "It is cold."
    assert "not JSON" in told[4]
    assert (await stage.get(session))["usage"]["model_calls"] == 3
    assert (await stage.get(f"{session}/check"))["violations"] == []
    upstream.add(say(RIGHT))
    await stage.post(session, "Again.")
    assert len(asked(upstream)["messages"]) == 4


async def test_an_answer_that_never_follows_ends_the_turn(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(first_step=STEP)
    upstream.add(say("One.")).add(say("Two.")).add(say(WRONG))
    async with stage.stream(session) as answer:
        frames = await answer.rest()
    assert frames[-2][0] == "error"
    assert frames[-2][1]["code"] == "structured_output_invalid"
    (output,) = await stage.log(session, type="agent_output")
    assert (output["content"], output["partial"]) == (WRONG, True)
    shown = await stage.get(session)
    assert (shown["stop_reason"], shown["usage"]["model_calls"]) == ("error", 3)
    assert (await stage.get(f"{session}/check"))["violations"] == []


async def test_nothing_of_half_an_answer_is_shown_or_kept(stage: Stage, upstream: Upstream) -> None:
    retry = {"name": "scripted", "retry_configuration": {"initial_backoff_ms": 100}}
    session = await stage.conversation(first_step=STEP, model=retry)
    upstream.add(say('{"city": "Os'), break_connection()).add(say(RIGHT))
    async with stage.stream(session) as answer:
        frames = await answer.rest()
    assert frame_types(frames) == ["input_message", "structured_output", "end"]
    alone = {"name": "scripted", "retry_configuration": {"enabled": False}}
    session = await stage.conversation(first_step=STEP, model=alone)
    upstream.add(say('{"city": "Os'), break_connection())
    assert types((await stage.post(session))["events"]) == ["input_message"]


async def test_a_schema_that_cannot_be_is_refused(stage: Stage) -> None:
    remote = {
        "output_parser": {"type": "structured", "json_schema": {**SPEC, "schema": {"$ref": "http://127.0.0.1/x"}}}
    }
    agent = {"name": "A", "model": {"name": "scripted"}}
    place = "output_parser.json_schema.schema"
    answer = await stage.client.post("/v2/agents", json={**agent, "first_step": remote})
    refused(answer, 400, "invalid_request", f"first_step.{place}")
    answer = await stage.client.post("/v2/agents", json={**agent, "steps": {"later": remote}})
    refused(answer, 400, "invalid_request", f"steps.later.{place}")
    key = await stage.agent()
    answer = await stage.client.patch(f"/v2/agents/{key}", json={"first_step": remote})
    refused(answer, 400, "invalid_request", f"first_step.{place}")


async def test_the_demo_model_and_the_client_have_it(stage: Stage) -> None:
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        agent = await client.agents.create(name="Weather", model="demo", first_step=STEP)
        session = await client.sessions.create(agent.key)
        answer = await client.events.send(agent.key, session.key, "Is it 7 degrees in Oslo?")
        assert answer.output["degrees"] == 7
        assert isinstance(answer.output["city"], str)
        assert (answer.text, answer.stop_reason) == ("", "end_turn")
