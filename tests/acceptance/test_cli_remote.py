"""Commands over HTTP: agents, sessions, events, turns, health. What people see, what programs read, and exit codes."""

import asyncio
import json
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from acceptance.cli_support import SESSILE, Done, environment, run, terminal
from acceptance.stage import Stage, eventually, lambdas
from sessile.testing.script import call, hang, say, status, wait_for
from sessile.testing.server import OWNER_KEY
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

MISSING = [
    "agents get nobody",
    "agents update nobody --disabled",
    "agents delete nobody --yes",
    "sessions list nobody",
    "sessions create nobody",
    "events list nobody nothing",
    "events send nobody nothing Hello",
    "events interrupt nobody nothing",
    "events get nobody nothing aev_000000000000000000000000000000",
    "inputs list nobody nothing",
    "inputs withdraw nobody nothing aev_0",
    "turns get nobody nothing trn_0",
    "turns wait nobody nothing trn_0",
    "chat nobody -m Hello",
    "chat nobody --session nothing -m Hello",
]
HOSTILE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {
        "shop": 'def stock(item: str) -> dict:\n    """How many there are."""\n    return {"item": item, "left": 3}\n'
    }


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.stock]\nfunction = "shop:stock"\n'


async def sessile(stage: Stage, *arguments: str, stdin: bytes | None = None, **variables: str | None) -> Done:
    return await run(environment(stage.server.url, **variables), *arguments, stdin=stdin)


async def done(stage: Stage, *arguments: str, stdin: bytes | None = None) -> Done:
    """Run a command that must succeed."""
    result = await sessile(stage, *arguments, stdin=stdin)
    assert result.code == 0, result.stderr
    return result


async def conversation(stage: Stage, **fields: Any) -> tuple[str, str]:
    """A new agent and session, by their keys."""
    path = (await stage.conversation(**fields)).split("/")
    return path[3], path[5]


async def test_an_agent_from_options_lives_its_whole_life(stage: Stage) -> None:
    told = ["--description", "For tests", "--instructions", "Be brief."]
    made = await done(stage, "agents", "create", "--key", "life", "--name", "Life", "--model", "scripted", *told)
    assert made.stdout == "life\n"
    assert "sessile chat life" in made.stderr
    shown = (await done(stage, "agents", "get", "life", "--json")).json()
    assert shown == await stage.get("/v2/agents/life")
    assert shown["first_step"]["instructions"][0]["template"] == "Be brief."
    assert (await done(stage, "agents", "update", "life", "--disabled", "--name", "Limbo")).stdout == ""
    lines = dict((await done(stage, "agents", "get", "life")).rows())
    assert (lines["name"], lines["enabled"], lines["model"]) == ("Limbo", "no", "scripted")
    assert (await done(stage, "agents", "delete", "life", "--yes")).stdout == ""
    assert (await sessile(stage, "agents", "get", "life")).code == 4


async def test_an_agent_that_was_printed_can_be_sent_back(stage: Stage, tmp_path: Path) -> None:
    agent = await stage.agent(tool_configurations=lambdas("stock"), metadata={"ü": [1, None]})
    printed = (await done(stage, "agents", "get", agent, "--json")).stdout.encode()
    copied = await done(stage, "agents", "create", "-f", "-", "--key", "copy", "--json", stdin=printed)
    changing = ("key", "id", "created_at", "updated_at")
    original = {name: value for name, value in json.loads(printed).items() if name not in changing}
    assert {name: value for name, value in copied.json().items() if name not in changing} == original
    document = json.loads(printed) | {"name": "Replaced"}
    (tmp_path / "agent.json").write_text(json.dumps(document))
    replaced = await done(stage, "agents", "replace", agent, "--file", str(tmp_path / "agent.json"))
    assert (replaced.stdout, "is replaced" in replaced.stderr) == ("", True)
    assert (await stage.get(f"/v2/agents/{agent}"))["name"] == "Replaced"


async def test_tools_that_the_server_does_not_run_are_told(stage: Stage) -> None:
    document = {"name": "Reader", "model": {"name": "scripted"}, "tool_configurations": {"web": {"type": "image_read"}}}
    made = await done(stage, "agents", "create", "--file", "-", stdin=json.dumps(document).encode())
    assert "web (image_read)" in made.stderr
    key = made.stdout.strip()
    assert dict((await done(stage, "agents", "get", key)).rows())["not run"] == "web (image_read)"
    assert (await done(stage, "agents", "get", key, "--json")).json()["inactive_tools"] == {"web": "image_read"}


async def test_a_session_lives_its_whole_life(stage: Stage) -> None:
    agent = await stage.agent()
    fields = ["--name", "First", "--metadata", '{"vip": true}', "--tti-minutes", "5"]
    made = await done(stage, "sessions", "create", agent, "--key", "first", *fields)
    assert made.stdout == "first\n"
    assert f"sessile chat {agent} --session first" in made.stderr
    shown = (await done(stage, "sessions", "get", agent, "first", "--json")).json()
    assert (shown["name"], shown["metadata"], shown["tti_minutes"], shown["etag"]) == ("First", {"vip": True}, 5, '"1"')
    update = ["sessions", "update", agent, "first", "--if-match", '"1"', "--json"]
    changed = (await done(stage, *update, "--disabled")).json()
    assert (changed["enabled"], changed["etag"]) == (False, '"2"')
    late = await sessile(stage, *update, "--name", "Late")
    assert (late.code, late.error()["code"], late.error()["status"]) == (1, "precondition_failed", 412)
    lines = dict((await done(stage, "sessions", "get", agent, "first")).rows())
    assert (lines["status"], lines["enabled"], lines["metadata"]) == ("unstarted", "no", '{"vip":true}')
    assert (await sessile(stage, "sessions", "delete", agent, "first", "--yes", "--if-match", '"1"')).code == 1
    assert (await done(stage, "sessions", "delete", agent, "first", "--yes")).stdout == ""
    assert (await sessile(stage, "sessions", "get", agent, "first")).code == 4


async def test_an_input_is_answered_and_its_log_can_be_read(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage, tool_configurations=lambdas("stock"))
    upstream.add(say("Let me see. "), call("stock", {"item": "hat"})).add(say("Three\nhats."))
    answered = await done(stage, "events", "send", agent, session, "How many hats?")
    assert answered.stdout == "Let me see. Three\nhats.\n"
    assert answered.stderr == ""
    rows = (await done(stage, "events", "list", agent, session)).rows()
    assert [row[1] for row in rows] == ["input_message", "agent_output", "tool_input", "tool_output", "agent_output"]
    assert [row[2] for row in rows] == [
        "How many hats?",
        "Let me see.",
        'stock(item="hat")',
        'stock -> {"item": "hat", "left": 3}',
        "Three hats.",
    ]
    log = await stage.log(f"/v2/agents/{agent}/sessions/{session}")
    assert (await done(stage, "events", "list", agent, session, "--json")).json_lines() == log
    assert [row[3] for row in rows] == [event["id"] for event in log]
    records = await done(stage, "events", "list", agent, session, "--records", "--order", "desc", "--limit", "1")
    assert records.rows()[0][1:3] == ["turn_ended", "end_turn"]
    assert "more than 1" in records.stderr
    types = ["--type", "tool_input", "--type", "tool_output"]
    calls = await done(stage, "events", "list", agent, session, *types, "--json")
    assert calls.json_lines() == log[2:4]
    one = await done(stage, "events", "get", agent, session, log[2]["id"], "--json")
    assert one.json() == log[2]
    assert dict((await done(stage, "events", "get", agent, session, log[4]["id"])).rows())["text"] == "Three hats."
    turn = (await done(stage, "turns", "get", agent, session, log[0]["turn_id"], "--json")).json()
    assert turn == await stage.get(f"/v2/agents/{agent}/sessions/{session}/turns/{log[0]['turn_id']}")
    waited = await done(stage, "turns", "wait", agent, session, turn["id"])
    assert dict(waited.rows())["status"] == "stopped (end_turn)"


async def test_an_input_may_come_from_stdin_and_its_answer_be_json(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage)
    for arguments in ([], ["-"]):
        upstream.add(say("Yes."))
        answered = await done(stage, "events", "send", agent, session, *arguments, "--json", stdin="Größe?\n".encode())
        document = answered.json()
        assert [event["type"] for event in document["events"]] == ["input_message", "agent_output"]
        assert document["events"][0]["content"] == "Größe?"
        assert (document["status"], document["stop_reason"], document["error"]) == ("stopped", "end_turn", None)


async def test_a_turn_that_ends_badly_is_exit_code_five(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage, model={"name": "scripted", "retry_configuration": {"enabled": False}})
    upstream.add(status(400, {"error": {"message": "No."}}))
    answered = await sessile(stage, "events", "send", agent, session, "Hello?", "--json")
    assert (answered.code, answered.json()["error"]["code"]) == (5, "model_rejected")
    assert "model_rejected" in answered.stderr
    waited = await sessile(stage, "turns", "wait", agent, session, answered.json()["turn_id"])
    assert waited.code == 5
    assert dict(waited.rows())["status"] == "stopped (error)"


async def test_a_turn_that_takes_too_long_goes_on_and_can_be_waited_for(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage)
    released = asyncio.Event()
    upstream.add(wait_for(released), say("At last."))
    answered = await sessile(stage, "events", "send", agent, session, "Hello?", "--timeout", "0.2", "--json")
    document = answered.json()
    assert (answered.code, document["status"]) == (1, "running")
    assert f"sessile turns wait {agent} {session} {document['turn_id']}" in answered.stderr
    assert dict((await done(stage, "turns", "get", agent, session, document["turn_id"])).rows())["status"] == "running"
    impatient = await sessile(stage, "turns", "wait", agent, session, document["turn_id"], "--timeout", "0.2", "--json")
    assert (impatient.code, impatient.error()["code"]) == (1, "request_timed_out")
    second = await sessile(stage, "events", "send", agent, session, "Hello?")
    assert (second.code, "session_running" in second.stderr, "turns wait" in second.stderr) == (1, True, True)
    waiting = asyncio.ensure_future(done(stage, "turns", "wait", agent, session, document["turn_id"]))
    released.set()
    assert dict((await waiting).rows())["status"] == "stopped (end_turn)"


async def test_inputs_wait_and_are_withdrawn(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage)
    released = asyncio.Event()
    upstream.add(wait_for(released), say("One.")).add(say("Two.")).add(say("Three."))
    await sessile(stage, "events", "send", agent, session, "1", "--timeout", "0.2")
    options = ("--behavior", "follow_up", "--timeout", "0.2")
    late = await sessile(stage, "events", "send", agent, session, "2", *options)
    assert (late.code, late.stderr) == (1, f"It waits. See: sessile inputs list {agent} {session}\n")
    other = asyncio.create_task(sessile(stage, "events", "send", agent, session, "3", "--behavior", "steer"))

    async def both() -> Any:
        lines = (await done(stage, "inputs", "list", agent, session, "--json")).json_lines()
        return lines if len(lines) == 2 else None

    first, second = await eventually(both)
    assert (first["content"], first["behavior"], second["turn_id"]) == ("2", "follow_up", None)
    assert (await done(stage, "inputs", "withdraw", agent, session, second["id"])).stderr == "Withdrawn.\n"
    assert ((await other).code, (await other).stderr) == (1, "It was withdrawn.\n")
    rows = (await done(stage, "inputs", "list", agent, session)).rows()
    assert [row[1:3] for row in rows] == [["follow_up", "2"]]
    released.set()
    assert (await done(stage, "events", "send", agent, session, "4", "--behavior", "follow_up")).code == 0
    taken = await sessile(stage, "inputs", "withdraw", agent, session, first["id"])
    assert (taken.code, "input_taken" in taken.stderr) == (1, True)


async def test_a_turn_is_interrupted(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage)
    idle = await done(stage, "events", "interrupt", agent, session)
    assert (idle.stdout, idle.stderr) == ("", "No turn was running.\n")
    upstream.add(say("Half an answer", whole=True), hang())
    sending = asyncio.create_task(sessile(stage, "events", "send", agent, session, "Hello?"))
    await upstream.arrived(len(upstream.requests) or 1)

    async def spoken() -> bool:
        return upstream.requests[-1].steps_done > 0

    await eventually(spoken)
    stopped = await done(stage, "events", "interrupt", agent, session)
    assert stopped.stderr == "Interrupted.\n"
    assert (await sending).code == 5
    assert dict((await done(stage, "sessions", "get", agent, session)).rows())["status"] == "stopped (interrupted)"
    document = (await done(stage, "events", "interrupt", agent, session, "--json")).json()
    assert (document["events"], document["turn_id"], document["stop_reason"]) == ([], "", "interrupted")


async def test_ctrl_c_while_waiting_is_exit_code_130(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage)
    upstream.add(hang())
    async with terminal(environment(stage.server.url), "events", "send", agent, session, "Hello?") as shown:
        await upstream.arrived(1)
        shown.interrupt()
        assert await shown.ended() == 130
    await stage.client.delete(f"/v2/agents/{agent}")


async def test_lists_are_cut_for_people_and_whole_for_programs(stage: Stage) -> None:
    agent = await stage.agent()
    names = [f"s{number:03}" for number in range(120)]
    for name in names:
        await stage.session(agent, key=name)
    piped = await done(stage, "sessions", "list", agent)
    assert [row[0] for row in piped.rows()] == names[::-1]
    assert piped.stderr == ""
    assert [one["key"] for one in (await done(stage, "sessions", "list", agent, "--json")).json_lines()] == names[::-1]
    cut = await done(stage, "sessions", "list", agent, "--limit", "101")
    assert [row[0] for row in cut.rows()] == names[:-102:-1]
    assert "more than 101" in cut.stderr
    exact = await done(stage, "sessions", "list", agent, "--limit", "120", "--json")
    assert (len(exact.json_lines()), exact.stderr) == (120, "")
    async with terminal(environment(stage.server.url), "sessions", "list", agent) as shown:
        assert await shown.ended() == 0
        await shown.until("more than 20")
        assert [line.split()[0] for line in shown.screen.splitlines()[:21]] == ["KEY", *names[:-21:-1]]
    async with terminal(environment(stage.server.url), "sessions", "list", agent, "--all") as shown:
        assert await shown.ended() == 0
        await shown.until(names[0])
        assert "more than" not in shown.screen


@pytest.mark.parametrize(("form", "reader"), [("--json", "head -c 1"), ("--json", "true"), ("", "true")])
async def test_a_reader_that_goes_away_ends_a_list_quietly(stage: Stage, form: str, reader: str) -> None:
    agent = await stage.agent()
    for number in range(30):
        await stage.session(agent, name="x" * 250, description=f"{number}" * 2000, metadata={"x": "y" * 5000})
    command = f"{shlex.join(SESSILE)} sessions list {agent} {form} | {reader} >&2; echo ${{PIPESTATUS[0]}}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env=environment(stage.server.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert out.decode() == "141\n"
    assert len(err) <= 1


async def test_only_the_chosen_agents_are_listed(stage: Stage) -> None:
    on, off = await stage.agent(), await stage.agent(enabled=False)
    enabled = [row[0] for row in (await done(stage, "agents", "list", "--enabled")).rows()]
    disabled = [row[0] for row in (await done(stage, "agents", "list", "--disabled")).rows()]
    assert (on in enabled, off in enabled) == (True, False)
    assert (on in disabled, off in disabled) == (False, True)


async def test_empty_lists_say_so_to_people_only(stage: Stage) -> None:
    agent = await stage.agent()
    nothing = await done(stage, "sessions", "list", agent)
    assert (nothing.stdout, nothing.stderr) == ("", "")
    assert (await done(stage, "sessions", "list", agent, "--json")).stdout == ""
    async with terminal(environment(stage.server.url), "sessions", "list", agent) as shown:
        assert await shown.ended() == 0
        await shown.until("There are none.")


async def test_names_of_others_cannot_drive_a_terminal(stage: Stage, upstream: Upstream) -> None:
    agent, session = await conversation(stage)
    await stage.session(agent, key="odd", name=HOSTILE, description=HOSTILE, metadata={"x": HOSTILE})
    upstream.add(say(HOSTILE))
    for arguments in (
        ["sessions", "list", agent],
        ["sessions", "get", agent, "odd"],
        ["events", "send", agent, session, "Hello?"],
        ["events", "list", agent, session],
    ):
        async with terminal(environment(stage.server.url), *arguments) as shown:
            assert await shown.ended() == 0
            await shown.until("owned")
        assert b"\x1b]" not in shown.raw
        assert b"\x1b[2J" not in shown.raw
        assert "\\x1b]0;owned\\x07" in shown.screen
    exact = (await done(stage, "sessions", "get", agent, "odd", "--json")).json()
    assert exact["name"] == HOSTILE


async def test_a_locale_that_lacks_a_character_fails_no_command(stage: Stage) -> None:
    agent = await stage.agent(description="größer 日本")
    shown = await sessile(stage, "agents", "get", agent, PYTHONIOENCODING="ascii")
    assert (shown.code, dict(shown.rows())["description"]) == (0, "gr\\xf6\\xdfer \\u65e5\\u672c")
    exact = await sessile(stage, "agents", "get", agent, "--json", PYTHONIOENCODING="ascii")
    assert exact.json()["description"] == "größer 日本"


async def test_deletes_ask_on_a_terminal(stage: Stage) -> None:
    agent, session = await conversation(stage)
    async with terminal(environment(stage.server.url), "sessions", "delete", agent, session) as shown:
        await shown.until("[y/N]")
        shown.enter("n")
        assert await shown.ended() == 1
    await stage.get(f"/v2/agents/{agent}/sessions/{session}")
    async with terminal(environment(stage.server.url), "agents", "delete", agent) as shown:
        await shown.until("[y/N]")
        shown.enter("y")
        assert await shown.ended() == 0
        await shown.until("is deleted")
    assert (await stage.client.get(f"/v2/agents/{agent}")).status_code == 404


async def test_health_says_who_answers(stage: Stage) -> None:
    healthy = await done(stage, "health")
    assert stage.server.url in healthy.stdout
    assert (await done(stage, "health", "--json")).json() == {"url": stage.server.url, "ready": True}


async def test_a_server_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        lines = [["health"], ["agents", "list", "--json"], ["chat", "helper", "-m", "Hello?"]]
        people, programs, chat = await asyncio.gather(*(run(environment(nowhere), *line) for line in lines))
    words = f"No Sessile server answers at {nowhere}. "
    words += "Start one with `sessile serve` (or `make run`), or set SESSILE_URL."
    assert (people.code, people.stdout, people.stderr) == (3, "", f"sessile: {words}\n")
    assert (programs.code, programs.stdout) == (3, "")
    assert programs.error() == {"code": "server_unreachable", "messages": [words]}
    assert (chat.code, chat.stdout, words in chat.stderr) == (3, "", True)


async def test_a_missing_key_is_told_with_what_to_do(stage: Stage) -> None:
    refused = await sessile(stage, "agents", "list", SESSILE_API_KEY=None)
    assert (refused.code, refused.stdout) == (1, "")
    first, second = refused.stderr.splitlines()
    assert "(unauthenticated, request req_" in first
    assert "SESSILE_API_KEY" in second
    assert (await sessile(stage, "agents", "list", "--api-key", OWNER_KEY, SESSILE_API_KEY="sk-wrong")).code == 0


async def test_refusals_are_told_to_people_and_to_programs(stage: Stage) -> None:
    people = await sessile(stage, "agents", "create", "--name", "X", "--model", "nonsense")
    assert (people.code, people.stdout) == (1, "")
    assert "unknown_model" in people.stderr
    programs = await sessile(stage, "agents", "create", "--name", "", "--model", "scripted", "--json")
    assert programs.code == 1
    assert programs.error()["code"] == "invalid_request"
    assert "name" in programs.error()["field_errors"]
    assert programs.error()["request_id"].startswith("req_")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def missing(stage: Stage) -> dict[str, Done]:
    """What every command of MISSING did; side by side, because each costs a start of the interpreter."""
    return dict(zip(MISSING, await asyncio.gather(*(sessile(stage, *line.split()) for line in MISSING)), strict=True))


@pytest.mark.parametrize("line", MISSING)
async def test_what_is_not_there_is_exit_code_four(missing: dict[str, Done], line: str) -> None:
    done = missing[line]
    assert (done.code, done.stdout) == (4, "")
    assert "(not_found, request req_" in done.stderr


@pytest.mark.parametrize("url", ["localhost:8700", "ftp://x", "http://", "no url"])
async def test_an_url_that_is_none_is_wrong_usage(url: str) -> None:
    refused = await run(environment(url), "health")
    assert (refused.code, refused.stdout) == (2, "")


async def test_tool_servers(stage: Stage, tmp_path: Path) -> None:
    document = {"name": "Clock", "uri": "http://127.0.0.1:1/mcp", "headers": {"x-key": "s3cret-value"}}
    (tmp_path / "server.json").write_text(json.dumps(document))
    made = await done(stage, "tool-servers", "create", "--file", str(tmp_path / "server.json"), "--name", "Watch")
    key = made.stdout.strip()
    assert key.startswith("tsr_watch_")
    shown = dict((await done(stage, "tool-servers", "get", key)).rows())
    assert (shown["name"], shown["headers"], shown["transport"]) == ("Watch", "x-key", "streamable-http")
    listed = await done(stage, "tool-servers", "list", "--json")
    assert key in listed.stdout
    assert "s3cret-value" not in listed.stdout + made.stdout + made.stderr
    refused = await sessile(stage, "tool-servers", "sync", key)
    assert refused.code == 1
    assert "not a public address" in refused.stderr
    assert "tol_stock" in (await done(stage, "tool-servers", "tools")).stdout
    assert (await done(stage, "tool-servers", "tools", key, "--json")).stdout == ""
    await done(stage, "tool-servers", "delete", key, "--yes")
    assert (await sessile(stage, "tool-servers", "get", key)).code == 4
