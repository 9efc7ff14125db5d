"""Compaction over HTTP against a real server with a scripted model whose window is small."""

import asyncio
import json
import sqlite3
from typing import Any

import pytest

import sessile
from acceptance.following import following
from acceptance.stage import Stage, frame_types, lambdas, refused, types
from sessile.testing.script import call, hang, say, status, usage, wait_for
from sessile.testing.upstream import Upstream
from sessile.wire import ids

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

WINDOW = 1000
FULL = usage(850, 10)
TOO_LONG = status(400, {"error": {"message": "Too big.", "code": "context_length_exceeded"}})
REJECTED = status(400, {"error": {"message": "No."}})
COMPACT = {"type": "compact"}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"tools": 'def find() -> str:\n    """Find."""\n    return "found a hare"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    # The first line still belongs to the table of the model, which comes right before.
    return f'context_window = {WINDOW}\n[tools.find]\nfunction = "tools:find"\n'


async def talk(stage: Stage, session: str, *pairs: str) -> list[dict[str, Any]]:
    """One turn for each text; the model answers `Yes to …`."""
    events: list[dict[str, Any]] = []
    for text in pairs:
        stage.upstream.add(say(f"Yes to {text}"))
        events += (await stage.post(session, text))["events"]
    stage.upstream.reset()
    return events


async def compact(stage: Stage, session: str, **fields: Any) -> Any:
    answer = await stage.client.post(f"{session}/events", json=COMPACT | fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


def read_by(upstream: Upstream, number: int) -> list[tuple[str, str]]:
    """What the model got in a call: roles and texts."""
    return [(m["role"], m.get("content")) for m in upstream.requests[number - 1].body["messages"]]


async def holds(stage: Stage, session: str) -> None:
    found = await stage.get(f"{session}/check")
    assert found["ok"], found


async def test_a_session_is_compacted_on_demand(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    old = await talk(stage, session, "One.", "Two.", "Three.")
    upstream.add(say("They counted."), usage(100, 5))
    answer = await compact(stage, session)
    assert (answer["status"], answer["stop_reason"], answer["error"]) == ("stopped", "end_turn", None)
    (event,) = answer["events"]
    assert event["type"] == "compaction"
    assert (event["summary_text"], event["turns_compacted"], event["events_compacted"]) == ("They counted.", 2, 4)
    assert event["up_to_event_id"] < old[4]["id"]
    assert [message[0] for message in read_by(upstream, 1)] == ["system", "user"]
    asked = read_by(upstream, 1)[1][1]
    assert asked == "User: One.\nAssistant: Yes to One.\nUser: Two.\nAssistant: Yes to Two."
    assert "tools" not in upstream.requests[0].body
    assert types(await stage.log(session)) == ["input_message", "agent_output", "compaction"]
    everything = await stage.log(session, include_hidden=True)
    assert [event.get("hidden", False) for event in everything] == [True] * 4 + [False] * 3
    turn = await stage.get(f"{session}/turns/{answer['turn_id']}")
    assert (turn["input_event_id"], turn["usage"]["model_calls"], turn["usage"]["input_tokens"]) == (None, 1, 100)
    upstream.add(say("Yes."))
    await stage.post(session, "Four.")
    roles = read_by(upstream, 2)
    assert [role for role, _ in roles] == ["user", "assistant", "user", "assistant", "user"]
    assert roles[0][1].endswith("They counted.")
    assert [text for _, text in roles[2:]] == ["Three.", "Yes to Three.", "Four."]
    await holds(stage, session)


async def test_the_frames_and_the_records_of_a_compaction(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.", "Two.")
    async with following(stage.client, session, since="now") as follower:
        await follower.until("session_state")
        upstream.add(say("Short."))
        body = COMPACT | {"stream_response": True}
        answer = await stage.client.post(f"{session}/events", json=body)
        assert "x-event-id" not in answer.headers
        lines = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
        assert lines == ["compaction_started", "compaction", "end"]
        ended = await follower.until("turn_ended")
    assert (ended["stop_reason"], ended["turn_id"]) == ("end_turn", answer.headers["x-turn-id"])
    assert follower.types == ["session_state", "turn_started", "compaction_started", "compaction", "turn_ended"]
    started, live = follower.durable[0], follower.blocks[3].data
    assert started["compaction"]["up_to_event_id"]
    assert live["id"].startswith("aev_live_")
    assert live["session_key"] == session.rsplit("/", 1)[-1]


async def test_a_full_window_is_compacted_at_the_next_turn(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.")
    upstream.add(say("Yes to Two."), FULL)
    await stage.post(session, "Two.")
    assert (await stage.get(session))["session_context_usage"]["total_tokens"] == 860
    upstream.add(say("Counted to two.")).add(say("Yes."), usage(50, 2))
    async with stage.stream(session, "Three.") as stream:
        frames = await stream.rest()
    assert frame_types(frames) == [
        "input_message",
        "compaction_started",
        "compaction",
        "streaming_agent_output",
        "context_consumed",
        "streaming_agent_output_end",
        "end",
    ]
    (summary,) = [data for name, data in frames if name == "compaction"]
    assert (summary["turns_compacted"], summary["turn_id"]) == (2, frames[0][1]["turn_id"])
    assert [role for role, _ in read_by(upstream, 3)] == ["user", "assistant", "user"]
    assert read_by(upstream, 3)[2][1] == "Three."
    shown = await stage.get(session)
    assert shown["session_context_usage"]["total_tokens"] == 52
    assert shown["usage"]["model_calls"] == 4
    upstream.add(say("Yes."))
    await stage.post(session, "Four.")
    assert len(upstream.requests) == 4
    await holds(stage, session)


async def test_a_turn_is_compacted_between_its_model_calls(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("find"))
    await talk(stage, session, "One.")
    upstream.add(call("find", {}), FULL).add(say("It began.")).add(say("Done."), usage(60, 2))
    events = (await stage.post(session, "Find it."))["events"]
    assert types(events) == ["input_message", "tool_input", "tool_output", "compaction", "agent_output"]
    assert [role for role, _ in read_by(upstream, 3)] == ["user", "assistant", "user", "assistant", "tool"]
    await holds(stage, session)


@pytest.mark.parametrize("fields", [{"enabled": False}, {"threshold_percent": 95}, {"keep_recent_inputs": 3}])
async def test_what_the_agent_says_is_done(stage: Stage, upstream: Upstream, fields: dict[str, Any]) -> None:
    session = await stage.conversation(compaction=fields)
    await talk(stage, session, "One.")
    upstream.add(say("Yes."), FULL).add(say("Yes."))
    await stage.post(session, "Two.")
    await stage.post(session, "Three.")
    assert len(upstream.requests) == 2
    shown = (await stage.get(session))["effective_compaction"]
    defaults = {"enabled": True, "threshold_percent": 80, "keep_recent_inputs": 1}
    assert shown == defaults | {"tool_event_policy": "include_outputs"} | fields


async def test_how_the_model_is_asked(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(compaction={"compaction_message": "As a poem."})
    session = await stage.session(agent)
    await talk(stage, session, "One.", "Two.", "Three.")
    upstream.add(say("First.")).add(say("Second."))
    await compact(stage, session)
    await talk(stage, session, "Four.")
    upstream.add(say("Second."))
    await compact(stage, session, compaction_message="As a list.")
    assert read_by(upstream, 1)[0] == ("system", "As a list.")
    assert read_by(upstream, 1)[1][1].startswith("Summary of what came before:\nFirst.\n\nUser: Three.")
    assert types(await stage.log(session)) == ["input_message", "agent_output", "compaction"]


@pytest.mark.parametrize(
    ("policy", "calls", "results"),
    [("exclude", False, False), ("include_outputs", False, True), ("include_all", True, True)],
)
async def test_what_of_tools_is_summarised(
    stage: Stage, upstream: Upstream, policy: str, calls: bool, results: bool
) -> None:
    fields = {"tool_configurations": lambdas("find"), "compaction": {"tool_event_policy": policy}}
    session = await stage.conversation(**fields)
    upstream.add(call("find", {})).add(say("Found."))
    await stage.post(session, "Find it.")
    await talk(stage, session, "Two.")
    upstream.add(say("Short."))
    await compact(stage, session)
    text = read_by(upstream, 1)[1][1]
    assert ("Tool call find" in text, "found a hare" in text) == (calls, results)


async def test_up_to_an_event(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    events = await talk(stage, session, "One.", "Two.", "Three.")
    upstream.add(say("One.")).add(say("All."))
    answer = await compact(stage, session, compact_up_to_event_id=events[1]["id"])
    assert answer["events"][0]["up_to_event_id"] == events[1]["id"]
    assert [event["id"] for event in await stage.log(session)][:4] == [event["id"] for event in events[2:]]
    refused(
        await stage.client.post(f"{session}/events", json=COMPACT | {"compact_up_to_event_id": events[0]["id"]}),
        400,
        "nothing_to_compact",
    )
    await compact(stage, session, compact_up_to_event_id=events[-1]["id"])
    upstream.add(say("Yes."))
    await stage.post(session, "Four.")
    assert [role for role, _ in read_by(upstream, 3)] == ["user", "assistant", "user"]
    await holds(stage, session)


@pytest.mark.parametrize("cut", range(2, 6))
async def test_a_place_in_the_middle_of_a_turn_leaves_no_half_of_a_call(
    stage: Stage, upstream: Upstream, cut: int
) -> None:
    session = await stage.conversation(tool_configurations=lambdas("find"))
    upstream.add(call("find", {})).add(say("Found."))
    await stage.post(session, "Find it.")
    log = await stage.log(session, records=True)
    upstream.reset()
    upstream.add(say("Short.")).add(say("Yes."))
    await compact(stage, session, compact_up_to_event_id=log[cut]["id"])
    await stage.post(session, "Go on.")
    messages = upstream.requests[1].body["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert "tool_calls" not in messages[1]
    await holds(stage, session)


async def test_refusals(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    refused(await stage.client.post(f"{session}/events", json=COMPACT), 400, "nothing_to_compact")
    await talk(stage, session, "One.")
    refused(await stage.client.post(f"{session}/events", json=COMPACT), 400, "nothing_to_compact")
    for place in ("aev_1", ids.event_id(1), ""):
        body = COMPACT | {"compact_up_to_event_id": place}
        refused(
            await stage.client.post(f"{session}/events", json=body), 400, "invalid_request", "compact_up_to_event_id"
        )
    for fields in ({"compaction_message": ""}, {"content": "x"}, {"since": "start"}):
        answer = await stage.client.post(f"{session}/events", json=COMPACT | fields)
        assert answer.status_code == 400
    assert len(await stage.log(session, records=True)) == 4
    go_on = asyncio.Event()
    upstream.add(wait_for(go_on), say("Yes."))
    turn = asyncio.create_task(stage.post(session, "Two."))
    await upstream.arrived(1)
    refused(await stage.client.post(f"{session}/events", json=COMPACT), 409, "session_running")
    go_on.set()
    await turn


async def test_the_same_order_is_carried_out_once(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.", "Two.")
    upstream.add(say("Short."))
    key = {"idempotency-key": "once"}
    answers = [await stage.client.post(f"{session}/events", json=COMPACT, headers=key) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert [answer.status_code for answer in answers] == [201, 201]
    streamed = await stage.client.post(f"{session}/events", json=COMPACT | {"stream_response": True}, headers=key)
    assert "event: compaction\n" in streamed.text
    other = {"compaction_message": "Else."}
    refused(
        await stage.client.post(f"{session}/events", json=COMPACT | other, headers=key), 422, "idempotency_key_reused"
    )
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("steps", "code"),
    [([say("  ")], "compaction_failed"), ([say("x" * 800)], "compaction_failed"), ([REJECTED], "model_rejected")],
)
async def test_a_summary_that_is_no_good_leaves_the_session_as_it_was(
    stage: Stage, upstream: Upstream, steps: list[Any], code: str
) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.", "Two.")
    before = await stage.log(session)
    upstream.add(*steps)
    answer = await compact(stage, session)
    assert (answer["stop_reason"], answer["error"]["code"], answer["events"]) == ("error", code, [])
    assert await stage.log(session) == before
    # In a turn of its own accord the same is no reason to end: it goes on without.
    upstream.add(say("Yes."), FULL).add(*steps).add(say("Fine."))
    await stage.post(session, "Three.")
    events = (await stage.post(session, "Four."))["events"]
    assert types(events) == ["input_message", "agent_output"]
    assert [role for role, _ in read_by(upstream, 4)] == ["user", "assistant"] * 3 + ["user"]
    await holds(stage, session)


async def test_what_does_not_fit_is_compacted_or_told(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.")
    upstream.add(TOO_LONG).add(say("Short.")).add(say("Yes."))
    events = (await stage.post(session, "Two."))["events"]
    assert types(events) == ["input_message", "compaction", "agent_output"]
    upstream.reset()
    upstream.add(TOO_LONG).add(say("Shorter.")).add(TOO_LONG)
    async with stage.stream(session, "Three.") as stream:
        frames = await stream.rest()
    assert frame_types(frames)[-3:] == ["context_limit_exceeded", "error", "end"]
    told = frames[-3][1]
    assert (told["context_limit"], told["actual_tokens"] > 0) == (WINDOW, True)
    assert (frames[-2][1]["code"], frames[-1][1]["stop_reason"]) == ("model_context_exceeded", "limit")
    assert types(await stage.log(session))[-1] == "context_limit_exceeded"
    assert (await stage.get(session))["stop_reason"] == "limit"
    await holds(stage, session)


async def test_an_input_that_is_too_long_alone(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(TOO_LONG)
    answer = await stage.post(session, "x" * 5000)
    assert types(answer["events"]) == ["input_message", "context_limit_exceeded"]
    assert (answer["stop_reason"], answer["error"]["code"]) == ("limit", "model_context_exceeded")
    assert len(upstream.requests) == 1


async def test_a_request_for_a_summary_that_is_too_long_is_made_shorter(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(compaction={"enabled": False})
    await talk(stage, session, "a" * 900, "b" * 900, "Three.")
    upstream.add(TOO_LONG).add(say("Short."))
    await compact(stage, session)
    long, short = (len(read_by(upstream, number)[1][1]) for number in (1, 2))
    assert 0 < short < long


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_interrupt_during_compaction(stage: Stage, upstream: Upstream, ordered: bool) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.", "Two.")
    upstream.add(say("Yes."), FULL)
    await stage.post(session, "Three.")
    upstream.reset()
    upstream.add(say("Half a summ"), hang())
    body = COMPACT if ordered else {"content": "Four."}
    turn = asyncio.create_task(stage.client.post(f"{session}/events", json=body))
    await upstream.arrived(1)
    stopped = await stage.client.post(f"{session}/events", json={"type": "interrupt"})
    assert stopped.json()["stop_reason"] == "interrupted"
    assert types(stopped.json()["events"]) == ["session_interrupted"]
    assert (await turn).json()["stop_reason"] == "interrupted"
    assert "Half" not in json.dumps(await stage.log(session, include_hidden=True))
    assert not [event for event in await stage.log(session, include_hidden=True) if event.get("hidden")]
    await holds(stage, session)


async def test_what_was_deleted_leaves_the_summaries_that_covered_it(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    events = await talk(stage, session, "A tortoise.", "Two.", "Three.")
    upstream.add(say("It was a tortoise."))
    (summary,) = (await compact(stage, session))["events"]
    upstream.reset()
    answer = await stage.client.delete(f"{session}/events/{events[0]['id']}")
    assert answer.status_code == 204
    stale = await stage.get(f"{session}/events/{summary['id']}")
    assert (stale["stale"], "summary_text" in stale) == (True, False)
    with sqlite3.connect(stage.server.data / "sessile.db") as db:
        query = "SELECT body FROM events WHERE session_id = (SELECT id FROM sessions WHERE key = ?)"
        bodies = b"".join(body for (body,) in db.execute(query, [session.rsplit("/", 1)[-1]]))
    db.close()
    assert b"It was a" not in bodies
    upstream.add(say("Something was said.")).add(say("Yes."))
    told = (await stage.post(session, "Four."))["events"]
    assert types(told) == ["input_message", "compaction", "agent_output"]
    assert read_by(upstream, 1)[1][1] == "Assistant: Yes to A tortoise.\nUser: Two.\nAssistant: Yes to Two."
    assert read_by(upstream, 2)[0][1].endswith("Something was said.")
    upstream.add(say("Yes."))
    await stage.post(session, "Five.")
    assert len(upstream.requests) == 3
    await holds(stage, session)


async def test_a_change_while_the_model_summarises_makes_another_summary(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    events = await talk(stage, session, "A tortoise.", "Two.", "Three.")
    go_on = asyncio.Event()
    upstream.add(wait_for(go_on), say("It was a tortoise.")).add(say("Something."))
    turn = asyncio.create_task(compact(stage, session))
    await upstream.arrived(1)
    assert (await stage.client.delete(f"{session}/events/{events[0]['id']}")).status_code == 204
    go_on.set()
    assert (await turn)["events"][0]["summary_text"] == "Something."
    assert "tortoise." not in read_by(upstream, 2)[1][1].splitlines()[0].removeprefix("Assistant: Yes to A tortoise.")
    await holds(stage, session)


async def test_an_unhidden_event_is_shown_and_the_model_keeps_its_summary(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    events = await talk(stage, session, "One.", "Two.")
    upstream.add(say("Short.")).add(say("Yes."))
    await compact(stage, session)
    await stage.client.post(f"{session}/events/{events[0]['id']}/unhide")
    assert types(await stage.log(session)) == ["input_message", "input_message", "agent_output", "compaction"]
    await stage.post(session, "Three.")
    assert [text for _, text in read_by(upstream, 2)][2:] == ["Two.", "Yes to Two.", "Three."]


async def test_the_client_does_it_too(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    await talk(stage, session, "One.", "Two.")
    agent, key = session.split("/")[3], session.split("/")[5]
    upstream.add(say("Short."))
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        answer = await client.events.compact(agent, key, message="Briefly.")
        assert [event.summary_text for event in answer.events] == ["Short."]  # type: ignore[union-attr]
        with pytest.raises(sessile.NothingToCompact):
            await client.events.compact(agent, key)
        assert (await client.sessions.get(agent, key)).effective_compaction["enabled"]  # type: ignore[index]
