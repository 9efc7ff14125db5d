"""A turn as its caller sees it: streamed or whole, through retries, faults, time limits and tools that fail."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from acceptance.databases import database as database
from acceptance.stage import Stage, frame_types, instructions, lambdas, refused, text_of, types
from sessile.testing.script import (
    Step,
    break_connection,
    call,
    finish,
    raw,
    say,
    status,
    think,
    usage,
    wait_for,
)
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

TOOLS = ("first", "second", "breaks", "too_slow")
SOURCE = '''
import asyncio

_second_is_done = asyncio.Event()


async def first() -> str:
    """Answers only after `second` has."""
    await asyncio.wait_for(_second_is_done.wait(), 20)
    return "one"


async def second() -> str:
    """Lets `first` go on."""
    _second_is_done.set()
    return "two"


def breaks(number: int) -> str:
    """Raises."""
    raise ValueError(f"no luck with {number}")


async def too_slow() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return "never"
'''
QUICK_RETRIES = {"enabled": True, "max_retries": 3, "initial_backoff_ms": 100, "max_backoff_ms": 1000}
NO_RETRIES = {"enabled": False}


def model(retries: dict[str, Any]) -> dict[str, Any]:
    return {"name": "scripted", "retry_configuration": retries}


@pytest.fixture(scope="module")
def settings() -> str:
    return "heartbeat_seconds = 0.2\nmax_model_calls = 3"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"acceptance_tools": SOURCE}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return "\n".join(f'[tools.{n}]\nfunction = "acceptance_tools:{n}"\ntimeout_seconds = {t}' for n, t in timeouts())


def timeouts() -> list[tuple[str, float]]:
    return [(name, 0.2 if name == "too_slow" else 30) for name in TOOLS]


async def test_the_first_delta_arrives_before_the_model_ends(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(say("One "), wait_for(release), say("two."))
    async with stage.stream(session) as stream:
        delta = await stream.until("streaming_agent_output")
        assert not upstream.requests[0].ended.is_set()
        assert delta["content"].startswith("One")
        assert (await stage.get(session))["status"] == "running"
        release.set()
        assert text_of(await stream.rest()) == "One two."


async def test_the_headers_come_before_the_first_delta(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(release), say("Hi."))
    async with stage.stream(session, headers={"x-request-id": "my-own.1"}) as stream:
        headers = stream.response.headers
        assert headers["x-request-id"] == "my-own.1"
        question = await stream.until("input_message")
        assert headers["x-event-id"] == question["id"]
        assert headers["x-turn-id"] == question["turn_id"]
        assert (await stage.get(f"{session}/turns/{headers['x-turn-id']}"))["status"] == "running"
        release.set()
        await stream.rest()


async def test_headers_of_the_whole_answer(stage: Stage, upstream: Upstream) -> None:
    upstream.add(say("Hi."))
    answer = await stage.client.post(f"{await stage.conversation()}/events", json={"content": "Hello."})
    body = answer.json()
    assert answer.headers["x-turn-id"] == body["turn_id"]
    assert answer.headers["x-event-id"] == body["events"][0]["id"]
    assert answer.headers["x-request-id"].startswith("req_")


async def test_frames_come_in_the_order_and_shape_of_the_protocol(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("second"))
    upstream.add(think("I should look it up."), call("second"), usage(10, 5))
    upstream.add(say("The answer is two, of course."), usage(20, 6))
    async with stage.stream(session) as stream:
        frames = await stream.rest()
    assert frame_types(frames) == [
        "input_message",
        "streaming_thinking",
        "streaming_thinking_end",
        "context_consumed",
        "thinking",
        "tool_input",
        "tool_output",
        "streaming_agent_output",
        "context_consumed",
        "streaming_agent_output_end",
        "end",
    ]
    assert all(data["type"] == name for name, data in frames)
    assert "\nid:" not in stream.text
    assert {data["turn_id"] for name, data in frames if name != "end"} == {stream.response.headers["x-turn-id"]}
    assert frames[-1][1] == {"type": "end", "status": "stopped", "stop_reason": "end_turn"}
    consumed = [data["session_context_usage"] for name, data in frames if name == "context_consumed"]
    assert [(one["input_tokens"]["count"], one["total_tokens"]) for one in consumed] == [(10, 15), (20, 26)]


async def test_deltas_joined_are_the_durable_text(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    thought, text = "Ein Gedanke. 🤔 " * 5, "Grüße aus Köln 🎉, e\u0301! " * 20
    upstream.add(think(thought), say(text))
    async with stage.stream(session) as stream:
        frames = await stream.rest()
    log = {event["type"]: event for event in await stage.log(session)}
    for kind, content in (("streaming_thinking", thought), ("streaming_agent_output", text)):
        deltas = [data for name, data in frames if name == kind]
        durable = log["thinking" if kind == "streaming_thinking" else "agent_output"]
        assert len(deltas) > 5
        assert {delta["output_id"] for delta in deltas} == {durable["output_id"]}
        shown = ""
        for delta in deltas:
            assert delta["offset"] == len(shown)
            shown += delta["content"]
        assert shown == durable["content"] == content
    (end,) = [data for name, data in frames if name == "streaming_agent_output_end"]
    assert end["event_id"] == log["agent_output"]["id"]
    assert end["output_id"] == log["agent_output"]["output_id"]
    assert await stage.get(f"{session}/events/{end['event_id']}") == log["agent_output"]


async def test_heartbeats_are_comment_lines_without_a_blank_line(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(release), say("Hi."))

    async with stage.stream(session) as stream:
        reading = asyncio.create_task(stream.rest())
        while stream.comments < 3:
            assert not reading.done()
            await asyncio.sleep(0.02)
        release.set()
        frames = await reading
    comments = [line for line in stream.text.split("\n") if line.startswith(":")]
    assert len(comments) >= 3
    assert all(f"{comment}\n\n" not in stream.text for comment in comments)
    assert text_of(frames) == "Hi."


async def test_faults_before_the_first_delta_are_retried(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(model=model(QUICK_RETRIES))
    upstream.add(status(429, {"error": {"message": "Slow down."}}, {"Retry-After": "0.5"}))
    upstream.add(status(500, b"oops")).add(break_connection()).add(say("At last."), usage(3, 2))
    started = time.monotonic()
    async with stage.stream(session) as stream:
        frames = await stream.rest()
    assert time.monotonic() - started > 0.5
    assert len(upstream.requests) == 4
    bodies = [request.body for request in upstream.requests]
    assert bodies == [bodies[0]] * 4
    assert [name for name in frame_types(frames) if name != "context_consumed"] == [
        *("input_message", "streaming_agent_output", "streaming_agent_output_end", "end")
    ]
    assert text_of(frames) == "At last."


@pytest.mark.parametrize(
    ("retries", "answers", "calls", "code"),
    [
        (QUICK_RETRIES | {"max_retries": 1}, [status(500, b"oops")] * 3, 2, "model_unavailable"),
        (NO_RETRIES, [status(429, b"slow")] * 2, 1, "model_rate_limited"),
        (QUICK_RETRIES, [status(401, b"who?")] * 2, 1, "model_unauthorized"),
        (QUICK_RETRIES, [status(400, b"what?")] * 2, 1, "model_rejected"),
        (NO_RETRIES, [raw(b"data: {not json\n\n")], 1, "model_protocol"),
        (NO_RETRIES, [raw(b"\xff\xfe\x00garbage\n\n")], 1, "model_protocol"),
        (NO_RETRIES, [raw(b"data: [1, 2]\n\ndata: [DONE]\n\n")], 1, "model_protocol"),
        (NO_RETRIES, [raw(b"<html>Not a model</html>")], 1, "model_protocol"),
        (NO_RETRIES, [finish(None, done=False)], 1, "model_protocol"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_fault_ends_the_turn_with_an_error(
    stage: Stage,
    upstream: Upstream,
    retries: dict[str, Any],
    answers: list[Step],
    calls: int,
    code: str,
    streamed: bool,
) -> None:
    session = await stage.conversation(model=model(retries))
    for answer in answers:
        upstream.add(answer)
    if streamed:
        async with stage.stream(session) as stream:
            frames = await stream.rest()
        assert frame_types(frames) == ["input_message", "error", "end"]
        assert frames[1][1]["code"] == code
        assert frames[1][1]["messages"][0]
        assert frames[2][1]["stop_reason"] == "error"
    else:
        body = await stage.post(session)
        assert (body["status"], body["stop_reason"], body["error"]["code"]) == ("stopped", "error", code)
        assert types(body["events"]) == ["input_message"]
    assert len(upstream.requests) == calls
    upstream.reset()
    upstream.add(say("Better now."))
    assert (await stage.post(session))["stop_reason"] == "end_turn"


@pytest.mark.parametrize("fault", [break_connection(), raw(b"data: {not json\n\n"), finish(None, done=False)])
async def test_a_fault_after_a_delta_keeps_the_output_as_partial(stage: Stage, upstream: Upstream, fault: Step) -> None:
    session = await stage.conversation(model=model(QUICK_RETRIES))
    seen = asyncio.Event()
    upstream.add(say("Half an answ", whole=True), wait_for(seen), fault)
    async with stage.stream(session) as stream:
        await stream.until("streaming_agent_output")
        seen.set()
        frames = await stream.rest()
    assert len(upstream.requests) == 1
    assert frame_types(frames) == [
        *("input_message", "streaming_agent_output", "streaming_agent_output_end", "error", "end")
    ]
    assert text_of(frames) == "Half an answ"
    question, output = await stage.log(session)
    assert (output["content"], output["partial"]) == ("Half an answ", True)
    assert frames[-3][1]["event_id"] == output["id"]
    turn = await stage.get(f"{session}/turns/{question['turn_id']}")
    assert (turn["stop_reason"], turn["error"]["code"]) == ("error", frames[-2][1]["code"])
    upstream.add(say("A whole one."))
    assert (await stage.post(session))["events"][-1]["content"] == "A whole one."


async def test_a_client_that_goes_away_does_not_stop_the_turn(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(say("One "), wait_for(release), say("two."))
    async with stage.stream(session) as stream:
        await stream.until("streaming_agent_output")
    release.set()
    shown = await stage.stopped(session)
    assert shown["stop_reason"] == "end_turn"
    assert not upstream.requests[0].disconnected.is_set()
    output = (await stage.log(session))[-1]
    assert output["content"] == "One two."
    assert "partial" not in output


async def test_a_whole_answer_that_nobody_waits_for_is_in_the_log(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(release), say("Done."))
    posting = asyncio.create_task(stage.post(session))
    await upstream.arrived(1)
    posting.cancel()
    await asyncio.wait([posting])
    release.set()
    await stage.stopped(session)
    assert (await stage.log(session))[-1]["content"] == "Done."


@pytest.mark.parametrize("header", [{"Request-Timeout-Millis": "200"}, {"Request-Timeout": "1"}])
async def test_a_request_timeout_answers_while_the_turn_goes_on(
    stage: Stage, upstream: Upstream, header: dict[str, str]
) -> None:
    session, release = await stage.conversation(tool_configurations=lambdas("second")), asyncio.Event()
    upstream.add(call("second")).add(wait_for(release), say("Done."))
    body = await stage.post(session, headers=header)
    assert types(body["events"]) == ["input_message", "tool_input", "tool_output"]
    assert (body["status"], body["stop_reason"], body["error"]) == ("running", None, None)
    assert (await stage.get(f"{session}/turns/{body['turn_id']}"))["status"] == "running"
    release.set()
    await stage.stopped(session)
    assert (await stage.log(session))[-1]["content"] == "Done."


async def test_a_request_timeout_ends_the_stream_while_the_turn_goes_on(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(say("Wait "), wait_for(release), say("for it."))
    async with stage.stream(session, headers={"Request-Timeout-Millis": "300"}) as stream:
        frames = await stream.rest()
    assert frames[-1][1] == {"type": "end", "status": "running"}
    release.set()
    await stage.stopped(session)
    assert (await stage.log(session))[-1]["content"] == "Wait for it."


async def test_parallel_calls_run_together_and_are_reported_in_order(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("first", "second"))
    upstream.add(call("first", id="a"), call("second", id="b")).add(say("Both."))
    events = (await stage.post(session))["events"]
    assert types(events[1:-1]) == ["tool_input", "tool_input", "tool_output", "tool_output"]
    assert [event["tool_configuration_name"] for event in events[1:-1]] == ["first", "second"] * 2
    assert [event["tool_output"] for event in events[3:5]] == [{"result": "one"}, {"result": "two"}]
    assert [message["tool_call_id"] for message in upstream.requests[1].messages[-2:]] == ["a", "b"]


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        (call("breaks", {"number": 7}), "tool_failed", "no luck with 7"),
        (call("too_slow"), "tool_timeout", "0.2 seconds"),
        (call("breaks", {"number": "seven"}), "tool_arguments_invalid", "number"),
        (call("breaks", {}), "tool_arguments_invalid", "number"),
        (call("breaks", {"number": 7, "more": 1}), "tool_arguments_invalid", "more"),
        (call("breaks", '{"number": '), "tool_arguments_invalid", "JSON"),
        (call("breaks", "[7]"), "tool_arguments_invalid", "object"),
        (call("imaginary", {"x": 1}), "tool_unknown", "imaginary"),
        (call("first"), "tool_unknown", "first"),
    ],
)
async def test_a_tool_that_fails_is_an_answer_to_the_model(
    stage: Stage, upstream: Upstream, step: Step, code: str, words: str
) -> None:
    session = await stage.conversation(tool_configurations=lambdas("breaks", "too_slow"))
    upstream.add(step).add(say("I am sorry."))
    body = await stage.post(session)
    assert types(body["events"]) == ["input_message", "tool_input", "tool_output", "agent_output"]
    output = body["events"][2]
    assert output["error"] is True
    assert output["tool_output"]["code"] == code
    assert words in output["tool_output"]["error"]
    assert output["tool_call_id"] == body["events"][1]["tool_call_id"]
    assert body["stop_reason"] == "end_turn"
    told = upstream.requests[1].messages[-1]
    assert told["role"] == "tool"
    assert words in told["content"]


async def test_the_limit_of_model_calls_ends_the_turn(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("second"))
    for _ in range(4):
        upstream.add(call("second"))
    async with stage.stream(session) as stream:
        frames = await stream.rest()
    assert len(upstream.requests) == 3
    assert frame_types(frames[-2:]) == ["error", "end"]
    assert frames[-1][1]["stop_reason"] == "limit"
    log = await stage.log(session)
    assert types(log) == ["input_message"] + ["tool_input", "tool_output"] * 3
    assert (await stage.get(session))["stop_reason"] == "limit"
    upstream.reset()
    upstream.add(say("Enough."))
    assert (await stage.post(session))["stop_reason"] == "end_turn"


async def test_a_turn_shows_how_it_stands(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(release), say("Hi."), usage(100, 20, cached_tokens=40, reasoning_tokens=5))
    async with stage.stream(session) as stream:
        question = await stream.until("input_message")
        path = f"{session}/turns/{question['turn_id']}"
        running = await stage.get(path)
        assert (running["status"], running["stop_reason"], running["ended_at"]) == ("running", None, None)
        assert running["input_event_id"] == question["id"]
        release.set()
        await stream.rest()
    stopped = await stage.get(path)
    assert (stopped["status"], stopped["stop_reason"], stopped["error"]) == ("stopped", "end_turn", None)
    assert stopped["usage"] == {
        "input_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 20,
        "reasoning_tokens": 5,
        "model_calls": 1,
    }
    assert stopped["ended_at"] >= stopped["created_at"]
    shown = await stage.get(session)
    assert shown["usage"] == stopped["usage"]
    assert shown["session_context_usage"]["total_tokens"] == 120


async def test_the_next_turn_knows_the_one_before(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("second"))
    upstream.add(call("second", id="c1")).add(say("It is two."), usage(5, 5)).add(say("Still two."), usage(7, 1))
    await stage.post(session, "What is it?")
    await stage.post(session, "And now?")
    asked, called, result, said, again = upstream.requests[2].messages
    assert (asked["role"], asked["content"]) == ("user", "What is it?")
    assert [one["id"] for one in called["tool_calls"]] == ["c1"]
    assert (result["role"], result["tool_call_id"]) == ("tool", "c1")
    assert (said["role"], said["content"]) == ("assistant", "It is two.")
    assert (again["role"], again["content"]) == ("user", "And now?")
    assert (await stage.get(session))["usage"]["input_tokens"] == 12


async def test_an_output_that_was_cut_off_is_known_to_the_next_turn(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(model=model(NO_RETRIES))
    seen = asyncio.Event()
    upstream.add(say("It is tw", whole=True), wait_for(seen), break_connection()).add(say("Two."))
    async with stage.stream(session, "What is it?") as stream:
        await stream.until("streaming_agent_output")
        seen.set()
        await stream.rest()
    await stage.post(session, "Go on.")
    assert [message["content"] for message in upstream.requests[1].messages] == ["What is it?", "It is tw", "Go on."]


async def test_instructions_are_rendered_for_each_turn(stage: Stage, upstream: Upstream) -> None:
    template = "You are ${agent.name}. User ${session.metadata.end_user.id}. Today: ${currentDate}. $5."
    agent = await stage.agent(name="Ada", first_step=instructions(template))
    session = await stage.session(agent, metadata={"end_user": {"id": "${agent.key}"}})
    upstream.add(say("Hi.")).add(say("Hi again."))
    await stage.post(session)
    today = datetime.now(UTC)
    await stage.client.patch(session, json={"metadata": {"end_user": {"id": 7}}})
    await stage.post(session)
    texts = [request.messages[0]["content"] for request in upstream.requests]
    days = [f"{day:%Y-%m-%d}" for day in (today, today - timedelta(days=1))]
    assert texts[0] in [f"You are Ada. User ${{agent.key}}. Today: {day}. $5." for day in days]
    assert "User 7." in texts[1]
    assert upstream.requests[0].messages[0]["role"] == "system"


async def test_a_template_without_its_value_refuses_the_input_and_stores_nothing(
    stage: Stage, upstream: Upstream
) -> None:
    session = await stage.conversation(first_step=instructions("For ${session.metadata.plan}."))
    for streamed in (False, True):
        answer = await stage.client.post(f"{session}/events", json={"content": "Hi.", "stream_response": streamed})
        body = refused(answer, 422, "template_invalid")
        assert "session.metadata.plan" in body["messages"][0]
    assert await stage.log(session, records="true") == []
    assert (await stage.get(session))["status"] == "unstarted"
    assert upstream.requests == []
    await stage.client.patch(session, json={"metadata": {"plan": "premium"}})
    upstream.add(say("Hi."))
    assert (await stage.post(session))["stop_reason"] == "end_turn"


async def test_a_directive_in_a_template_is_refused_with_the_agent(stage: Stage) -> None:
    body = {"name": "A", "model": {"name": "scripted"}, "first_step": instructions("#if(1)x#end")}
    assert "#if" in refused(await stage.client.post("/v2/agents", json=body), 422, "template_invalid")["messages"][0]


async def test_many_turns_at_once_do_not_mix(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent()
    sessions = [await stage.session(agent) for _ in range(20)]
    for number in range(20):
        upstream.add(say(f"{number} " * 30))

    async def ask(session: str) -> str:
        async with stage.stream(session) as stream:
            said = text_of(await stream.rest())
        assert (await stage.log(session))[-1]["content"] == said
        return said

    answers = await asyncio.gather(*map(ask, sessions))
    assert sorted(answers) == sorted(f"{number} " * 30 for number in range(20))


async def test_a_reader_that_does_not_read_gets_it_all_later(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    text = "x" * 900_000
    upstream.add(say(text, whole=True), say("!" * 99_000, whole=True))
    async with stage.stream(session) as stream:
        await stage.stopped(session)
        assert text_of(await stream.rest()) == text + "!" * 99_000
    assert (await stage.log(session))[-1]["content"] == text + "!" * 99_000
