"""Forks, exports and structured output combined with parked turns, waiting inputs and hidden events; a real server."""

import asyncio
import json
import secrets
from typing import Any

import httpx
import pytest

from acceptance.stage import Stage, eventually, refused, types
from sessile.testing.script import call, say, wait_for
from sessile.testing.upstream import Upstream
from sessile.wire.secrets import MASK

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

JSONL = {"content-type": "application/jsonl"}
APPROVE = {"type": "client", "tool_id": "tol_form", "description": "Ask for an approval."}
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
STRUCTURED = {
    "first_step": {"output_parser": {"type": "structured", "json_schema": {"name": "verdict", "schema": SCHEMA}}}
}


async def parked(stage: Stage, upstream: Upstream, **fields: Any) -> tuple[str, str]:
    """The path of a session whose turn waits for an approval, and the call that waits."""
    session = await stage.conversation(tool_configurations={"approve": APPROVE}, **fields)
    upstream.add(call("approve", {}))
    body = await stage.post(session, "May I?")
    assert body["stop_reason"] == "requires_action"
    return session, body["events"][1]["id"]


async def approved(stage: Stage, session: str, event_id: str) -> dict[str, Any]:
    outputs = [{"type": "success", "event_id": event_id, "output": {"yes": True}}]
    answer = await stage.client.post(f"{session}/events", json={"type": "tool_output", "tool_outputs": outputs})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def forked(stage: Stage, session: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    agent, key = session.split("/")[3::2]
    body = {"from_session": {"session_key": key}, **fields}
    answer = await stage.client.post(f"/v2/agents/{agent}/sessions", json=body)
    assert answer.status_code == 201, answer.text
    path = f"/v2/agents/{agent}/sessions/{answer.json()['key']}"
    await sound(stage, path)
    return path, answer.json()


async def exported(stage: Stage, session: str) -> bytes:
    answer = await stage.client.get(f"{session}/export")
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.content.splitlines()[-1])["kind"] == "end"
    return answer.content


async def post(stage: Stage, session: str, data: bytes, **params: Any) -> httpx.Response:
    """Import a session beside another one."""
    path = f"/v2/agents/{session.split('/')[3]}/session_imports"
    return await stage.client.post(path, content=data, headers=JSONL, params={"key": secrets.token_hex(8), **params})


async def imported(stage: Stage, session: str, data: bytes, **params: Any) -> str:
    answer = await post(stage, session, data, **params)
    assert answer.status_code == 201, answer.text
    path = f"{session.rsplit('/', 1)[0]}/{answer.json()['key']}"
    await sound(stage, path)
    return path


async def sound(stage: Stage, session: str) -> None:
    check = await stage.get(f"{session}/check")
    assert check["ok"], check


async def test_a_fork_of_a_parked_session_goes_on_without_the_approval(stage: Stage, upstream: Upstream) -> None:
    session, waits = await parked(stage, upstream)
    copy, shown = await forked(stage, session)
    assert (shown["status"], shown["stop_reason"]) == ("stopped", "interrupted")
    assert (await stage.get(f"{copy}/outstanding_client_tool_calls"))["client_tool_calls"] == []
    upstream.add(say("Never mind."))
    assert (await stage.post(copy, "Forget it."))["stop_reason"] == "end_turn"
    upstream.add(say("Done."))
    body = await approved(stage, session, waits)
    assert (types(body["events"]), body["stop_reason"]) == (["tool_output", "agent_output"], "end_turn")
    await sound(stage, session)


async def test_an_export_with_a_parked_turn_is_imported_with_a_repair(stage: Stage, upstream: Upstream) -> None:
    session, waits = await parked(stage, upstream)
    data = await exported(stage, session)
    assert "has not ended" in refused(await post(stage, session, data), 422, "transcript_invalid")["messages"][0]
    copy = await imported(stage, session, data, repair="true")
    assert types(await stage.log(copy))[-3:] == ["client_tool_pending", "tool_output", "session_interrupted"]
    upstream.add(say("Done."))
    assert (await approved(stage, session, waits))["stop_reason"] == "end_turn"


async def test_what_was_hidden_and_deleted_travels_so(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    for answer in ("One.", "The tortoise.", "Three."):
        upstream.add(say(answer))
        await stage.post(session)
    outputs = await stage.log(session, type="agent_output")
    assert (await stage.client.post(f"{session}/events/{outputs[0]['id']}/hide")).status_code == 200
    assert (await stage.client.delete(f"{session}/events/{outputs[1]['id']}")).status_code == 204
    data = await exported(stage, session)
    assert b"tortoise" not in data
    copy = await imported(stage, session, data)
    assert [
        (event["type"], event.get("hidden"), event["sequence"], "turn_id" in event)
        for event in await stage.log(copy, records="true", include_hidden="true")
    ] == [
        (event["type"], event.get("hidden"), event["sequence"], "turn_id" in event)
        for event in await stage.log(session, records="true", include_hidden="true")
    ]
    again = (await exported(stage, copy)).splitlines()
    deleted = [line["event"]["sequence"] for line in map(json.loads, again) if line.get("visibility") == "deleted"]
    assert deleted == [outputs[1]["sequence"]]
    fork, _ = await forked(stage, session)
    for path in (copy, fork):
        upstream.add(say("Four."))
        await stage.post(path, "And?")
        said = [message["content"] for message in upstream.requests[-1].body["messages"]]
        assert "Three." in said
        assert "One." not in said


async def test_a_line_that_hides_what_cannot_be_hidden_is_refused(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(say("One."))
    await stage.post(session)
    lines = (await exported(stage, session)).splitlines()
    for place, change in ((2, {"visibility": "deleted"}), (3, {"visibility": "deleted", "hidden": True})):
        line = json.loads(lines[place])
        line["event"]["hidden"] = change.pop("hidden", False)
        changed = [*lines[:place], json.dumps(line | change).encode(), *lines[place + 1 :]]
        refused(await post(stage, session, b"\n".join(changed) + b"\n"), 400, "invalid_request", f"line {place + 1}")


async def test_secrets_neither_follow_a_fork_nor_stand_in_an_export(stage: Stage, upstream: Upstream) -> None:
    secret, other = (f"hush-{secrets.token_hex(12)}" for _ in range(2))
    session = await stage.session(await stage.agent(), metadata={"team": secret[-6:]}, secrets={"token": secret})
    upstream.add(say("One."))
    await stage.post(session)
    copy, shown = await forked(stage, session)
    assert "secrets" not in shown
    own, shown = await forked(stage, session, secrets={"own": other}, metadata={"team": secret[-6:]})
    assert shown["secrets"] == (await stage.get(own))["secrets"] == {"own": MASK}
    data = await exported(stage, session) + await exported(stage, own)
    assert secret.encode() not in data
    assert other.encode() not in data
    assert "secrets" not in await stage.get(copy)
    there = await imported(stage, session, await exported(stage, session))
    assert "secrets" not in await stage.get(there)
    found = (await stage.get("/v2/sessions", metadata_filter=f"team = '{secret[-6:]}'"))["sessions"]
    assert {one["key"] for one in found} == {path.rsplit("/", 1)[1] for path in (session, own, there)}


async def test_structured_output_comes_after_client_tools(stage: Stage, upstream: Upstream) -> None:
    session, waits = await parked(stage, upstream, **STRUCTURED)
    upstream.add(say("Fine.")).add(say('{"ok": true}'))
    body = await approved(stage, session, waits)
    assert types(body["events"]) == ["tool_output", "structured_output"]
    assert body["events"][-1]["content"] == {"ok": True}
    await sound(stage, session)


async def test_who_steers_while_an_answer_is_sent_back_is_heard(stage: Stage, upstream: Upstream) -> None:
    session, go_on = await stage.conversation(**STRUCTURED), asyncio.Event()
    upstream.add(wait_for(go_on), say("Fine.")).add(say('{"ok": false}'))

    async def waits() -> bool:
        return bool((await stage.get(f"{session}/inputs"))["inputs"])

    async with stage.stream(session, "Well?") as first:
        await first.until("input_message")
        body = {"content": "Say no.", "behavior": "steer"}
        steering = asyncio.create_task(stage.client.post(f"{session}/events", json=body))
        await eventually(waits)
        go_on.set()
        frames = [name for name, _ in await first.rest()]
        assert frames == ["input_message", "input_message", "structured_output", "end"]
    assert types((await steering).json()["events"]) == ["input_message", "structured_output"]
    said = [(message["role"], message["content"]) for message in upstream.requests[-1].body["messages"][1:]]
    assert [role for role, _ in said] == ["user", "assistant", "user"]
    assert said[0][1] == "Well?\nSay no."
    assert said[1][1] == "Fine."
    await sound(stage, session)


async def test_a_structured_output_can_be_hidden_and_deleted(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(**STRUCTURED)
    for _ in range(2):
        upstream.add(say('{"ok": true}'))
        await stage.post(session)
    hidden, deleted = (event["id"] for event in await stage.log(session, type="structured_output"))
    assert (await stage.client.post(f"{session}/events/{hidden}/hide")).status_code == 200
    assert (await stage.client.delete(f"{session}/events/{deleted}")).status_code == 204
    await sound(stage, session)
    upstream.add(say('{"ok": true}'))
    await stage.post(session)
    assert '"ok":true' not in json.dumps(upstream.requests[-1].body["messages"][1:])


async def test_what_waited_for_a_client_can_be_deleted(stage: Stage, upstream: Upstream) -> None:
    session, waits = await parked(stage, upstream)
    upstream.add(say("Done."))
    await approved(stage, session, waits)
    (pending,) = await stage.log(session, type="client_tool_pending")
    assert (await stage.client.delete(f"{session}/events/{pending['id']}")).status_code == 204
    await sound(stage, session)
    await sound(stage, await imported(stage, session, await exported(stage, session)))
