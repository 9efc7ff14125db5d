"""Forks and time to idle, over a real server."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import httpx
import pytest

import sessile
from acceptance.following import following
from acceptance.stage import WAIT_SECONDS, Stage, lambdas, refused, types
from sessile.cli import admin
from sessile.config import Config
from sessile.testing.script import call, say, usage, wait_for
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

ENVELOPE = ("id", "session_key", "turn_id", "input_event_id")


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"fork_tools": 'def stock(item: str) -> dict:\n    """How many there are."""\n    return {"left": 3}\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.stock]\nfunction = "fork_tools:stock"\n'


async def fork(stage: Stage, session: str, headers: dict[str, str] | None = None, **source: Any) -> httpx.Response:
    agent, key = session.split("/")[3::2]
    body = {"from_session": {"session_key": key, **source}}
    return await stage.client.post(f"/v2/agents/{agent}/sessions", json=body, headers=headers)


async def forked(stage: Stage, session: str, **source: Any) -> tuple[dict[str, Any], str]:
    """A fork of a session: how it was answered, and its path."""
    answer = await fork(stage, session, **source)
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    path = f"{session.rsplit('/', 1)[0]}/{shown['key']}"
    assert (await stage.get(f"{path}/check"))["violations"] == []
    return shown, path


def said(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events without what a copy has anew."""
    return [{name: value for name, value in event.items() if name not in ENVELOPE} for event in events]


async def talked(stage: Stage, upstream: Upstream) -> str:
    """A session with a turn that called a tool, and a second turn."""
    session = await stage.conversation(tool_configurations=lambdas("stock"))
    upstream.add(say("Let me see."), call("stock", {"item": "hat"}), usage(10, 5)).add(say("Three."), usage(20, 2))
    upstream.add(say("You are welcome."), usage(30, 4))
    await stage.post(session, "How many hats?")
    await stage.post(session, "Thank you.")
    return session


async def test_a_fork_starts_with_a_copy_and_goes_its_own_way(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    source = await stage.get(session)
    shown, copy = await forked(stage, session)
    agent, key = session.split("/")[3::2]
    assert shown["from_session"] == {"agent_key": agent, "session_key": key}
    assert (shown["status"], shown["stop_reason"]) == ("stopped", "end_turn")
    assert (shown["usage"], shown["session_context_usage"]) == (source["usage"], source["session_context_usage"])
    old, new = await stage.log(session, records="true"), await stage.log(copy, records="true")
    assert said(new) == said(old)
    assert not {event["id"] for event in old} & {event["id"] for event in new}
    assert shown["last_event_id"] == new[-2]["id"]
    turn = await stage.get(f"{copy}/turns/{new[0]['turn_id']}")
    assert (turn["input_event_id"], turn["stop_reason"]) == (new[0]["id"], "end_turn")
    upstream.add(say("Blue ones."))
    answer = await stage.post(copy, "And of which colour?")
    assert [message["content"] for message in upstream.requests[-1].body["messages"] if message["role"] == "user"] == [
        "How many hats?",
        "Thank you.",
        "And of which colour?",
    ]
    assert answer["events"][0]["sequence"] == len(old) + 1
    assert await stage.log(session, records="true") == old
    assert "from_session" not in await stage.get(session)


async def test_a_fork_up_to_an_event_is_a_what_if(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    log = await stage.log(session, records="true")
    called = next(event for event in log if event["type"] == "tool_input")
    shown, copy = await forked(stage, session, include_up_to_event_id=called["id"])
    assert shown["from_session"]["include_up_to_event_id"] == called["id"]
    assert shown["stop_reason"] == "interrupted"
    assert "session_context_usage" not in shown
    assert shown["usage"]["model_calls"] == 0
    kept = types(log)[: called["sequence"]]
    events = await stage.log(copy, records="true")
    assert types(events) == [*kept, "tool_output", "session_interrupted", "turn_ended"]
    assert events[called["sequence"]]["tool_output"]["code"] == "turn_interrupted"
    output = next(event for event in log if event["type"] == "agent_output" and event["content"] == "Three.")
    whole, first_turn = await forked(stage, session, include_up_to_event_id=output["id"])
    assert whole["stop_reason"] == "end_turn"
    assert types(await stage.log(first_turn, records="true"))[-1] == "turn_ended"
    upstream.add(say("Go on."))
    assert (await stage.post(copy, "What if?"))["stop_reason"] == "end_turn"


async def test_a_fork_has_the_files_of_its_log(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    bytes_of = {"a.txt": b"early", "b.txt": b"late"}
    for name, content in bytes_of.items():
        upstream.add(say("Fine."))
        sent = await stage.client.post(f"{session}/events", files=[("files", (name, content, "text/plain"))])
        assert sent.status_code == 201
    last_of_first = next(e for e in await stage.log(session) if e["type"] == "agent_output")
    _, whole = await forked(stage, session)
    _, part = await forked(stage, session, include_up_to_event_id=last_of_first["id"])
    listed = (await stage.get(f"{session}/artifacts"))["artifacts"]
    assert (await stage.get(f"{whole}/artifacts"))["artifacts"] == listed
    assert [one["filename"] for one in (await stage.get(f"{part}/artifacts"))["artifacts"]] == ["a.txt"]
    assert (await stage.client.delete(session)).status_code == 204
    for path in (whole, part):
        told = [file for e in await stage.log(path) if e["type"] == "artifact_upload" for file in e["artifacts"]]
        for file in told:
            url = f"{path}/artifacts/{file['artifact_id']}"
            raw = await stage.client.get(url, headers={"accept": "application/octet-stream"})
            assert raw.content == bytes_of[file["filename"]]


async def test_a_fork_can_begin_with_a_summary(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    log = await stage.log(session)
    last_of_first = [event["id"] for event in log if event["type"] == "agent_output"][1]
    upstream.add(say("Three hats."))
    answer = await fork(stage, session, compact_up_to_event_id=last_of_first)
    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert shown["from_session"]["compact_up_to_event_id"] == last_of_first
    path = f"{session.rsplit('/', 1)[0]}/{shown['key']}"
    assert (await stage.stopped(path))["stop_reason"] == "end_turn"
    assert (await stage.get(f"{path}/check"))["violations"] == []
    events = await stage.log(path, records="true")
    assert types(events) == [
        *("turn_started", "turn_ended", "input_message", "turn_started", "agent_output", "turn_ended"),
        *("turn_started", "compaction", "turn_ended"),
    ]
    assert events[-2]["summary_text"] == "Three hats."
    assert await stage.log(session) == log
    again = await fork(stage, path, compact_up_to_event_id=events[0]["id"])
    refused(again, 400, "nothing_to_compact")
    upstream.add(say("Yes."))
    await stage.post(path, "Still there?")
    assert "How many hats?" not in str(upstream.requests[-1].body)
    assert "Three hats." in str(upstream.requests[-1].body)


async def test_a_fork_of_a_running_session_leaves_it_running(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    go_on = asyncio.Event()
    upstream.add(say("Well "), wait_for(go_on), say("then."))
    async with stage.stream(session, "Hello?") as answer:
        await answer.until("streaming_agent_output")
        shown, copy = await forked(stage, session)
        assert (shown["status"], shown["stop_reason"]) == ("stopped", "interrupted")
        assert types(await stage.log(copy)) == ["input_message", "session_interrupted"]
        assert (await stage.get(session))["status"] == "running"
        go_on.set()
        assert (await answer.rest())[-1] == ("end", {"type": "end", "status": "stopped", "stop_reason": "end_turn"})


async def test_a_fork_is_made_once(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    key = {"idempotency-key": "fork-once"}
    made = [(await fork(stage, session, key)).json()["key"] for _ in range(3)]
    assert len(set(made)) == 1
    upstream.add(say("Yes."))
    await stage.post(session, "Still there?")
    assert (await fork(stage, session, key)).json()["last_event_id"] != (await stage.get(session))["last_event_id"]
    log = await stage.log(session)
    other = await fork(stage, session, key, include_up_to_event_id=log[0]["id"])
    refused(other, 422, "idempotency_key_reused")


async def test_what_cannot_be_forked_says_so(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    event = (await stage.log(session))[0]["id"]
    both = await fork(stage, session, include_up_to_event_id=event, compact_up_to_event_id=event)
    refused(both, 400, "invalid_request", "from_session.compact_up_to_event_id")
    foreign = (await stage.log(await talked(stage, upstream)))[0]["id"]
    for unknown in (foreign, "aev_none"):
        answer = await fork(stage, session, include_up_to_event_id=unknown)
        refused(answer, 400, "invalid_request", "from_session.include_up_to_event_id")
        answer = await fork(stage, session, compact_up_to_event_id=unknown)
        refused(answer, 400, "invalid_request", "from_session.compact_up_to_event_id")
    for value in ("no event", 7, ""):
        answer = await fork(stage, session, include_up_to_event_id=value)
        refused(answer, 400, "invalid_request", "from_session.include_up_to_event_id")
    assert (await fork(stage, session, include_up_to_event_id=None, compact_up_to_event_id=None)).status_code == 201
    refused(await fork(stage, session, up_to="x"), 400, "invalid_request", "from_session.up_to")
    refused(await fork(stage, f"{session}x"), 404, "not_found")
    refused(await fork(stage, session, agent_key="nobody"), 404, "not_found")
    sessions = session.rsplit("/", 1)[0]
    taken = {"key": session.split("/")[5], "from_session": {"session_key": session.split("/")[5]}}
    refused(await stage.client.post(sessions, json=taken), 400, "key_taken", "key")
    refused(
        await stage.client.post(sessions, json={"from_session": {}}), 400, "invalid_request", "from_session.session_key"
    )


async def test_who_may_not_read_a_session_may_not_fork_it(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    agent, key = session.split("/")[3::2]
    own = await stage.agent()
    body = {"from_session": {"agent_key": agent, "session_key": key}}
    config = Config(data=str(stage.server.data))
    expected = {(f"{own}=agent_user",): 403, (f"{own}=agent_user", f"{agent}=agent_viewer"): 201}
    for number, (roles, status) in enumerate(expected.items()):
        secret = await asyncio.to_thread(admin.create_key, config, "default", f"forker{number}", [], list(roles))
        headers = {"x-api-key": secret}
        async with httpx.AsyncClient(base_url=stage.server.url, headers=headers, timeout=WAIT_SECONDS) as client:
            answer = await client.post(f"/v2/agents/{own}/sessions", json=body)
            assert answer.status_code == status, answer.text
    assert answer.json()["agent_key"] == own
    assert answer.json()["from_session"] == body["from_session"]
    secret = await asyncio.to_thread(admin.create_tenant, config, "forkers", "Forkers")
    headers = {"x-api-key": secret}
    async with httpx.AsyncClient(base_url=stage.server.url, headers=headers, timeout=WAIT_SECONDS) as client:
        made = await client.post("/v2/agents", json={"key": own, "name": "N", "model": {"name": "scripted"}})
        assert made.status_code == 201
        refused(await client.post(f"/v2/agents/{own}/sessions", json=body), 404, "not_found")


async def test_the_client_forks(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    agent, key = session.split("/")[3::2]
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        made = await client.sessions.create(agent, name="What if", from_session={"session_key": key})
        assert made.from_session is not None
        assert (made.name, made.from_session.session_key, made.status) == ("What if", key, "stopped")
        assert (await client.sessions.check(agent, made.key)).ok


async def test_a_session_that_nobody_uses_is_deleted_with_all_it_has(stage: Stage, upstream: Upstream) -> None:
    session = await stage.session(await stage.agent(), tti_minutes=1)
    kept = await stage.session(session.split("/")[3], tti_minutes=60)
    upstream.add(say("Hello."))
    await stage.post(session, "Hi.", {"idempotency-key": "soon-gone"})
    key = session.split("/")[5]
    async with following(stage.client, session) as followed:
        await followed.until("turn_ended")
        with closing(sqlite3.connect(stage.server.data / "sessile.db", isolation_level=None)) as database:
            (number,) = database.execute("SELECT id FROM sessions WHERE key = ?", [key]).fetchone()
            database.execute("UPDATE sessions SET updated_at = updated_at - 60000000")
        assert (await followed.until("end"))["reason"] == "deleted"
    refused(await stage.client.get(session), 404, "not_found")
    assert (await stage.get(kept))["tti_minutes"] == 60
    with closing(sqlite3.connect(stage.server.data / "sessile.db", isolation_level=None)) as database:
        left = 1
        async with asyncio.timeout(WAIT_SECONDS):
            while left:
                await asyncio.sleep(0.05)
                left = sum(
                    database.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", [value]).fetchone()[0]
                    for table, column, value in (
                        ("events", "session_id", number),
                        ("turns", "session_id", number),
                        ("purges", "session_id", number),
                        ("idempotency", "scope", f"inputs of {number}"),
                    )
                )
