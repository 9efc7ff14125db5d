"""Agents and sessions over HTTP: create, show, list, change, delete, and what may be posted to them."""

import asyncio
import re
from typing import Any

import httpx
import pytest

from acceptance.databases import database as database
from acceptance.stage import Stage, instructions, lambdas, refused, types
from sessile.testing.script import hang, say, think, wait_for
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

MODEL = {"name": "scripted"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
VENDOR_TOOLS = {"corpora_search": {"type": "corpora_search", "anything": {"x": [1]}}, "web": {"type": "web_search"}}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"clock_tool": 'def now() -> str:\n    """Tell the time."""\n    return "noon"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.now]\nfunction = "clock_tool:now"\n'


async def create(stage: Stage, **fields: Any) -> httpx.Response:
    return await stage.client.post("/v2/agents", json={"name": "Support", "model": MODEL, **fields})


async def created(stage: Stage, **fields: Any) -> dict[str, Any]:
    answer = await create(stage, **fields)
    assert answer.status_code == 201, answer.text
    agent: dict[str, Any] = answer.json()
    return agent


async def patched(stage: Stage, key: str, **changes: Any) -> dict[str, Any]:
    answer = await stage.client.patch(f"/v2/agents/{key}", json=changes)
    assert answer.status_code == 200, answer.text
    agent: dict[str, Any] = answer.json()
    return agent


async def test_a_new_agent_has_defaults_and_a_generated_key(stage: Stage) -> None:
    agent = await created(stage, name="Café Support!")
    assert re.fullmatch(r"agt_caf-support_[0-9a-f]{16}", agent["key"])
    assert agent["id"] == agent["key"]
    assert (agent["enabled"], agent["metadata"], agent["tool_configurations"]) == (True, {}, {})
    assert agent["first_step"] == {"name": "first_step", "instructions": [], "output_parser": {"type": "default"}}
    assert agent["first_step_name"] == "first_step"
    assert TIME.fullmatch(agent["created_at"])
    assert agent["created_at"] == agent["updated_at"]
    assert "description" not in agent
    assert await stage.get(f"/v2/agents/{agent['key']}") == agent


async def test_two_agents_of_the_same_name_get_different_keys(stage: Stage) -> None:
    assert (await created(stage))["key"] != (await created(stage))["key"]


async def test_a_key_is_taken_once(stage: Stage) -> None:
    agent = await stage.agent()
    refused(await create(stage, key=agent), 400, "key_taken", "key")
    session = await stage.session(agent)
    again = await stage.client.post(f"/v2/agents/{agent}/sessions", json={"key": session.rpartition("/")[2]})
    refused(again, 400, "key_taken", "key")
    other = await stage.agent()
    assert await stage.session(other, key=session.rpartition("/")[2])


async def test_patch_changes_only_what_is_sent(stage: Stage) -> None:
    before = await created(stage, description="Old.", metadata={"a": 1}, first_step=instructions("Be kind."))
    after = await patched(stage, before["key"], description="New.")
    assert after["updated_at"] > before["updated_at"]
    assert after == before | {"description": "New.", "updated_at": after["updated_at"]}
    assert await patched(stage, before["key"]) | {"updated_at": ""} == after | {"updated_at": ""}


async def test_patch_with_null_goes_back_to_the_default(stage: Stage) -> None:
    agent = await created(stage, description="Old.", metadata={"a": 1}, enabled=False)
    after = await patched(stage, agent["key"], description=None, metadata=None, enabled=None)
    assert "description" not in after
    assert (after["metadata"], after["enabled"]) == ({}, True)


async def test_null_entries_are_dropped_and_remove(stage: Stage) -> None:
    agent = await created(stage, tool_configurations={**lambdas("now"), "gone": None})
    assert list(agent["tool_configurations"]) == ["now"]
    more = await patched(stage, agent["key"], tool_configurations={"same": {"type": "lambda", "tool_id": "tol_now"}})
    assert list(more["tool_configurations"]) == ["now", "same"]
    less = await patched(stage, agent["key"], tool_configurations={"now": None})
    assert list(less["tool_configurations"]) == ["same"]


async def test_put_replaces_the_whole_document(stage: Stage) -> None:
    agent = await created(stage, description="Old.", metadata={"a": 1})
    path = f"/v2/agents/{agent['key']}"
    answer = await stage.client.put(path, json={"name": "Another", "model": MODEL})
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert (after["name"], after["metadata"], after["created_at"]) == ("Another", {}, agent["created_at"])
    assert "description" not in after
    refused(
        await stage.client.put(path, json={"name": "A", "model": MODEL, "key": "other"}), 400, "invalid_request", "key"
    )
    refused(await stage.client.put("/v2/agents/none", json={"name": "A", "model": MODEL}), 404, "not_found")


async def test_the_first_step_is_made_from_the_steps(stage: Stage) -> None:
    steps = {"greet": instructions("Greet."), "help": {"instructions": [], "output_parser": {"type": "default"}}}
    agent = await created(stage, steps=steps, first_step_name="greet")
    assert agent["first_step"]["name"] == agent["first_step_name"] == "greet"
    assert agent["first_step"]["instructions"] == steps["greet"]["instructions"]
    assert set(agent["steps"]) == {"greet", "help"}
    moved = await patched(stage, agent["key"], first_step_name="help")
    assert (moved["first_step"]["name"], moved["first_step"]["instructions"]) == ("help", [])
    refused(await create(stage, steps=steps, first_step_name="absent"), 400, "invalid_request", "first_step_name")


async def test_the_instructions_of_the_first_of_the_steps_reach_the_model(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(steps={"greet": instructions("Greet.")}, first_step_name="greet")
    upstream.add(say("Hi."))
    await stage.post(await stage.session(agent))
    assert upstream.requests[0].messages[0] == {"role": "system", "content": "Greet."}


async def test_parameters_of_the_model_are_passed_on(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(model={"name": "scripted", "parameters": {"temperature": 0.5, "anything": {"x": 1}}})
    upstream.add(say("Hi."))
    await stage.post(await stage.session(agent))
    body = upstream.requests[0].body
    assert (body["model"], body["temperature"], body["anything"]) == ("m", 0.5, {"x": 1})


async def test_a_change_of_an_agent_counts_from_the_next_turn(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(first_step=instructions("One."))
    session = await stage.session(agent)
    upstream.add(say("Hi.")).add(say("Hi."))
    await stage.post(session)
    await patched(stage, agent, first_step=instructions("Two."), tool_configurations=lambdas("now"))
    await stage.post(session)
    assert [request.messages[0]["content"] for request in upstream.requests] == ["One.", "Two."]
    assert ["tools" in request.body for request in upstream.requests] == [False, True]


async def test_vendor_tools_are_kept_named_and_not_offered(stage: Stage, upstream: Upstream) -> None:
    answer = await create(stage, tool_configurations={**VENDOR_TOOLS, **lambdas("now")})
    assert answer.status_code == 201, answer.text
    assert answer.headers["x-sessile-inactive"] == "corpora_search=corpora_search, web=web_search"
    agent = answer.json()
    assert agent["tool_configurations"] == {**VENDOR_TOOLS, **lambdas("now")}
    shown = await stage.client.get(f"/v2/agents/{agent['key']}")
    assert shown.headers["x-sessile-inactive"] == answer.headers["x-sessile-inactive"]
    upstream.add(say("Hi."))
    await stage.post(await stage.session(agent["key"]))
    assert [tool["function"]["name"] for tool in upstream.requests[0].body["tools"]] == ["now"]
    assert "x-sessile-inactive" not in (await create(stage, tool_configurations=lambdas("now"))).headers


async def test_an_unknown_model_or_tool_is_refused_and_the_known_ones_are_listed(stage: Stage) -> None:
    agent = await stage.agent()
    for name in ("gpt-9", "nobody:gpt-9"):
        body = refused(await create(stage, model={"name": name}), 400, "unknown_model")
        assert "scripted" in body["messages"][0]
    changes = {"model": {"name": "gpt-9"}}
    refused(await stage.client.patch(f"/v2/agents/{agent}", json=changes), 400, "unknown_model")
    for configurations in (lambdas("nothing"), {"now": {"type": "lambda", "tool_id": "tol_nothing"}}):
        body = refused(await create(stage, tool_configurations=configurations), 400, "unknown_tool")
        assert "nothing" in body["messages"][0]
        assert "now" in body["messages"][0]


async def test_agents_are_listed_newest_first_and_by_enabled(stage: Stage) -> None:
    on, off = await stage.agent(), await stage.agent(enabled=False)
    keys = [agent["key"] for agent in (await stage.get("/v2/agents", limit=2))["agents"]]
    assert keys == [off, on]
    newest = [(await stage.get("/v2/agents", limit=1, enabled=flag))["agents"][0]["key"] for flag in ("true", "false")]
    assert newest == [on, off]


async def test_a_new_session_has_defaults_and_a_generated_key(stage: Stage) -> None:
    agent = await stage.agent()
    answer = await stage.client.post(f"/v2/agents/{agent}/sessions", json={})
    assert answer.status_code == 201, answer.text
    session = answer.json()
    assert re.fullmatch(r"ase_[0-9a-f]{16}", session["key"])
    assert session["id"] == session["key"] == session["name"]
    assert session["agent_id"] == session["agent_key"] == agent
    assert TIME.fullmatch(session["created_at"])
    expected = {"metadata": {}, "enabled": True, "tti_minutes": 0, "status": "unstarted", "stop_reason": None}
    assert session.items() >= (expected | {"last_event_id": None}).items()
    assert set(session["usage"].values()) == {0}
    assert answer.headers["etag"] == '"1"'


async def test_a_session_keeps_what_it_was_given(stage: Stage) -> None:
    fields = {
        "key": "Own_key-1",
        "name": "Grüße 🎉",
        "description": "Long story.",
        "metadata": {"a": [1, 2.5, None, {"b": "ç"}], "big": 2**63 - 1, "": ""},
        "enabled": False,
        "tti_minutes": 90,
    }
    agent = await stage.agent()
    path = await stage.session(agent, **fields)
    assert path.endswith("/Own_key-1")
    assert (await stage.get(path)).items() >= fields.items()


async def test_patch_of_a_session_changes_only_what_is_sent(stage: Stage) -> None:
    path = await stage.conversation()
    before = (await stage.client.patch(path, json={"name": "N", "description": "D", "metadata": {"a": 1}})).json()
    after = (await stage.client.patch(path, json={"metadata": {"b": 2}})).json()
    assert after == before | {"metadata": {"b": 2}, "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert "description" not in (await stage.client.patch(path, json={"description": None})).json()


async def test_sessions_are_paged_newest_first(stage: Stage) -> None:
    agent = await stage.agent()
    path = f"/v2/agents/{agent}/sessions"
    keys = [(await stage.session(agent)).rpartition("/")[2] for _ in range(27)]
    seen: list[str] = []
    sizes = []
    page_key: str | None = ""
    while page_key is not None:
        page = await stage.get(path, page_key=page_key)
        sizes.append(len(page["sessions"]))
        seen += [session["key"] for session in page["sessions"]]
        page_key = page["metadata"].get("page_key")
        if len(seen) == 10:
            await stage.session(agent)
            await stage.client.delete(f"{path}/{seen[-1]}")
    assert seen == keys[::-1]
    assert sizes == [10, 10, 7]
    assert len((await stage.get(path, limit=100))["sessions"]) == 27


async def test_an_etag_guards_patch_and_delete(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    first = (await stage.client.get(path)).headers["etag"]
    second = (await stage.client.patch(path, json={"name": "B"}, headers={"if-match": first})).headers["etag"]
    assert second != first
    stale = {"if-match": first}
    refused(await stage.client.patch(path, json={"name": "C"}, headers=stale), 412, "precondition_failed")
    refused(await stage.client.delete(path, headers=stale), 412, "precondition_failed")
    upstream.add(say("Hi."))
    await stage.post(path)
    shown = await stage.client.get(path)
    assert (shown.json()["name"], shown.headers["etag"]) == ("B", second)
    star = await stage.client.patch(path, json={"name": "D"}, headers={"if-match": "*"})
    assert star.status_code == 200
    current = {"if-match": star.headers["etag"]}
    assert (await stage.client.delete(path, headers=current)).status_code == 204


async def test_disabled_agents_and_sessions_take_no_input(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent()
    path = await stage.session(agent, enabled=False)
    ask = {"content": "Hi."}
    refused(await stage.client.post(f"{path}/events", json=ask), 422, "session_disabled")
    await patched(stage, agent, enabled=False)
    refused(await stage.client.post(f"{path}/events", json=ask), 422, "agent_disabled")
    await stage.client.patch(path, json={"enabled": True})
    refused(await stage.client.post(f"{path}/events", json=ask), 422, "agent_disabled")
    assert await stage.log(path, records="true") == []
    await patched(stage, agent, enabled=True)
    upstream.add(say("Hi."))
    assert (await stage.post(path))["stop_reason"] == "end_turn"


async def test_an_input_while_a_turn_runs_is_refused_with_the_turn(stage: Stage, upstream: Upstream) -> None:
    path, release = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(release), say("Done.")).add(say("And again."))
    async with stage.stream(path) as stream:
        turn_id = (await stream.until("input_message"))["turn_id"]
        for streamed in (False, True):
            answer = await stage.client.post(f"{path}/events", json={"content": "!", "stream_response": streamed})
            body = refused(answer, 409, "session_running")
            assert turn_id in body["messages"][0]
            assert body["id"] == turn_id
        release.set()
        await stream.rest()
    assert (await stage.post(path))["stop_reason"] == "end_turn"
    assert types(await stage.log(path)) == ["input_message", "agent_output"] * 2


async def test_one_of_many_inputs_at_once_gets_the_turn(stage: Stage, upstream: Upstream) -> None:
    path, release = await stage.conversation(), asyncio.Event()
    upstream.add(wait_for(release), say("Done."))
    posts = [asyncio.create_task(stage.client.post(f"{path}/events", json={"content": str(n)})) for n in range(12)]
    pending: set[asyncio.Task[httpx.Response]] = set(posts)
    while len(pending) > 1:
        _, pending = await asyncio.wait(pending, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    release.set()
    statuses = sorted([(await post).status_code for post in posts])
    assert statuses == [201] + [409] * 11
    assert types(await stage.log(path)) == ["input_message", "agent_output"]


async def test_deleting_a_running_session_stops_its_turn(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Hel"), hang())
    async with stage.stream(path) as stream:
        question = await stream.until("input_message")
        await stream.until("streaming_agent_output")
        assert (await stage.client.delete(path)).status_code == 204
        await upstream.requests[0].gone()
        frames = await stream.rest()
    assert frames[-1][0] == "end"
    for tail in ("", "/events", f"/events/{question['id']}", f"/turns/{question['turn_id']}"):
        refused(await stage.client.get(path + tail), 404, "not_found")
    agent = path.split("/")[3]
    again = await stage.session(agent, key=path.rpartition("/")[2])
    assert again == path
    assert await stage.log(path, records="true") == []


async def test_deleting_an_agent_deletes_its_sessions_and_stops_their_turns(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent()
    idle, running = await stage.session(agent), await stage.session(agent)
    upstream.add(hang())
    posting = asyncio.create_task(stage.client.post(f"{running}/events", json={"content": "Hi."}))
    request = await upstream.arrived(1)
    assert (await stage.client.delete(f"/v2/agents/{agent}")).status_code == 204
    await request.gone()
    answer = await posting
    assert answer.status_code == 201
    assert answer.json()["status"] == "stopped"
    for path in (f"/v2/agents/{agent}", f"/v2/agents/{agent}/sessions", idle, running, f"{running}/events"):
        refused(await stage.client.get(path), 404, "not_found")
    refused(await stage.client.delete(f"/v2/agents/{agent}"), 404, "not_found")
    assert agent not in [shown["key"] for shown in (await stage.get("/v2/agents", limit=100))["agents"]]


async def test_the_log_is_read_in_both_orders_by_type_and_page(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    for number in range(3):
        upstream.add(think("Hm."), say(f"Answer {number}."))
        await stage.post(path, f"Question {number}.")
    log = await stage.log(path)
    assert types(log) == ["input_message", "thinking", "agent_output"] * 3
    assert await stage.log(path, order="desc") == log[::-1]
    outputs = await stage.log(path, type="agent_output")
    assert [event["content"] for event in outputs] == [f"Answer {number}." for number in range(3)]
    assert types(await stage.log(path, type="input_message,agent_output")) == ["input_message", "agent_output"] * 3
    assert await stage.log(path, type="artifact_upload") == []
    records = await stage.log(path, records="true")
    assert [event["sequence"] for event in records] == list(range(1, 16))
    assert [event["id"] for event in records] == sorted(event["id"] for event in records)
    assert types(await stage.log(path, records="true", type="turn_ended")) == ["turn_ended"] * 3
    for order in ("asc", "desc"):
        pages, page_key = [], ""
        while page_key is not None:
            page = await stage.get(f"{path}/events", limit=2, order=order, page_key=page_key)
            pages += page["events"]
            page_key = page["metadata"].get("page_key")
        assert pages == (log if order == "asc" else log[::-1])
    assert await stage.get(f"{path}/events/{log[4]['id']}") == log[4]
    shown = await stage.get(path)
    assert shown["last_event_id"] == log[-1]["id"]


async def test_what_is_not_there_is_named(stage: Stage) -> None:
    path = await stage.conversation()
    other = await stage.conversation()
    agent = path.split("/")[3]
    event, turn = "aev_0000000001" + "0" * 20, "trn_" + "0" * 24
    for url, missing in (
        ("/v2/agents/nobody", "nobody"),
        ("/v2/agents/nobody/sessions", "nobody"),
        (f"/v2/agents/{agent}/sessions/nothing", "nothing"),
        (f"/v2/agents/{agent}/sessions/nothing/events", "nothing"),
        (f"/v2/agents/{agent}/sessions/{other.rpartition('/')[2]}", other.rpartition("/")[2]),
        (f"{path}/events/{event}", event),
        (f"{path}/events/garbage", "garbage"),
        (f"{path}/turns/{turn}", turn),
    ):
        assert refused(await stage.client.get(url), 404, "not_found")["id"] == missing
    for url in (f"/v2/agents/{agent}/sessions/nothing", "/v2/agents/nobody/sessions/nothing"):
        assert "id" in refused(await stage.client.patch(url, json={"name": "x"}), 404, "not_found")
        assert "id" in refused(await stage.client.delete(url), 404, "not_found")
        assert "id" in refused(await stage.client.post(f"{url}/events", json={"content": "x"}), 404, "not_found")
    assert refused(await stage.client.post("/v2/agents/nobody/sessions", json={}), 404, "not_found")["id"] == "nobody"
