"""Talking with an agent: one input in a pipe, or a conversation on a terminal, with Ctrl-C."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import pytest
import pytest_asyncio

from acceptance.cli_support import Done, environment, run, terminal
from acceptance.stage import Stage, eventually, lambdas, types
from sessile.cli import admin
from sessile.config import Config
from sessile.testing.script import break_connection, call, hang, say, status, think, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

TOOLS = '''
def stock(item: str) -> dict:
    """How many there are."""
    return {"item": item, "left": 3}


def broken() -> dict:
    """Never works."""
    raise ValueError("out of order")
'''
DIM, END = b"\x1b[2m", b"\x1b[0m"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"shop": TOOLS}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.stock]\nfunction = "shop:stock"\n[tools.broken]\nfunction = "shop:broken"\n'


@pytest_asyncio.fixture(loop_scope="module")
async def agent(stage: Stage, upstream: Upstream) -> str:
    """An agent with tools, whose model takes a fault as final."""
    model = {"name": "scripted", "retry_configuration": {"enabled": False}}
    return await stage.agent(model=model, tool_configurations=lambdas("stock", "broken"))


async def chat(stage: Stage, *arguments: str, stdin: bytes | None = None) -> Done:
    """Run `sessile chat` without a terminal."""
    return await run(environment(stage.server.url), "chat", *arguments, stdin=stdin)


async def only_session(stage: Stage, agent: str) -> str:
    """The path of the one session that the agent has."""
    (session,) = (await stage.get(f"/v2/agents/{agent}/sessions"))["sessions"]
    return f"/v2/agents/{agent}/sessions/{session['key']}"


async def logged(stage: Stage, session: str, type: str, number: int = 1) -> None:
    """Wait until the log has so many events of a type."""

    async def probe() -> bool:
        return len(await stage.log(session, type=type)) >= number

    await eventually(probe)


@contextlib.contextmanager
def suspended(server: ServerProcess) -> Iterator[None]:
    """Hold the server's process: it takes what is sent to it, and does nothing."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


# One input


async def test_one_input_prints_the_answer_and_nothing_else(stage: Stage, agent: str, upstream: Upstream) -> None:
    upstream.add(think("Hm."), say("One moment. "), call("stock", {"item": "hat"})).add(say("Three hats."))
    done = await chat(stage, agent, "-m", "How many hats?")
    assert (done.code, done.stdout) == (0, "One moment. \nThree hats.\n")
    key = (await only_session(stage, agent)).split("/")[-1]
    assert done.stderr == f"New session {key} with {agent}.\n"


async def test_all_of_stdin_is_one_input(stage: Stage, agent: str, upstream: Upstream) -> None:
    session = await stage.session(agent, key="s")
    upstream.add(say("Yes."))
    done = await chat(stage, agent, "--session", "s", stdin="Zwei\n\nZeilen: größer\n".encode())
    assert (done.code, done.stdout, done.stderr) == (0, "Yes.\n", "")
    assert (await stage.log(session))[0]["content"] == "Zwei\n\nZeilen: größer"


async def test_asides_of_one_input_go_to_a_terminal_on_stderr(stage: Stage, agent: str, upstream: Upstream) -> None:
    upstream.add(think("Hm."), call("stock", {"item": "hat"})).add(say("Three hats."))
    async with terminal(environment(stage.server.url), "chat", agent, "-m", "How many hats?") as shown:
        assert await shown.ended() == 0
        await shown.until("Three hats.\n")
    assert DIM + b"Hm." + END in shown.raw
    assert shown.screen.splitlines()[1:] == [
        "Hm.",
        '  stock(item="hat")',
        '  stock -> {"item": "hat", "left": 3}',
        "Three hats.",
    ]


async def test_the_exit_code_tells_how_the_turn_ended(stage: Stage, agent: str, upstream: Upstream) -> None:
    upstream.add(say("Half an"), break_connection())
    done = await chat(stage, agent, "-m", "Hello?")
    assert (done.code, done.stdout) == (5, "Half an\n")
    assert "The turn ended with an error" in done.stderr
    assert "(model_unavailable)" in done.stderr


async def test_a_single_input_does_not_wait_for_others(stage: Stage, agent: str, upstream: Upstream) -> None:
    session = await stage.session(agent, key="busy")
    upstream.add(hang())
    async with stage.stream(session, "Mine") as stream:
        await stream.next()
        done = await chat(stage, agent, "--session", "busy", "-m", "Hello?")
    assert (done.code, done.stdout) == (1, "")
    assert "session_running" in done.stderr
    await stage.client.delete(session)


async def test_a_session_that_is_deleted_meanwhile_ends_the_chat(stage: Stage, agent: str, upstream: Upstream) -> None:
    session = await stage.session(agent, key="gone")
    upstream.add(say("Wait"), hang())
    running = asyncio.ensure_future(chat(stage, agent, "--session", "gone", "-m", "Hello?"))
    await upstream.arrived(1)
    await stage.client.delete(session)
    done = await running
    assert done.code == 5
    assert "The session was deleted." in done.stderr


# On a terminal


async def test_a_conversation_on_a_terminal(stage: Stage, agent: str, upstream: Upstream) -> None:
    released = asyncio.Event()
    async with terminal(environment(stage.server.url), "chat", agent) as shown:
        await shown.until("> ")
        upstream.add(think("Hats, he says."), call("stock", {"item": "hat"}), call("broken"))
        upstream.add(say("There are "), wait_for(released), say("three."))
        shown.enter("How many hats?")
        await shown.until("There are ")
        released.set()
        await shown.until("three.\n")
        await shown.until("> ")
        shown.enter("/help")
        await shown.until("/exit")
        await shown.until("> ")
        shown.enter("/nonsense")
        await shown.until("There is no /nonsense")
        await shown.until("> ")
        shown.enter("")
        await shown.until("> ")
        upstream.add(say("A path."))
        shown.enter(" /etc")
        await shown.until("A path.\n")
        await shown.until("> ")
        shown.enter("/exit")
        assert await shown.ended() == 0
        await shown.until("Come back with: sessile chat")
    assert DIM + b"Hats," + END in shown.raw
    lines = shown.screen.splitlines()
    assert [line for line in lines if line.startswith("  stock")] == [
        '  stock(item="hat")',
        '  stock -> {"item": "hat", "left": 3}',
    ]
    assert any(line.startswith("  broken failed: ") and line.endswith("(tool_failed)") for line in lines)
    session = await only_session(stage, agent)
    said = [event["content"] for event in await stage.log(session, type="input_message")]
    assert said == ["How many hats?", "/etc"]
    assert f"--session {session.split('/')[-1]}" in lines[-1]


async def test_thinking_can_be_left_out(stage: Stage, agent: str, upstream: Upstream) -> None:
    async with terminal(environment(stage.server.url), "chat", agent, "--no-thinking") as shown:
        await shown.until("> ")
        upstream.add(think("Secret."), say("Public."))
        shown.enter("Hello?")
        await shown.until("Public.\n")
        await shown.until("> ")
        shown.type("\x04")
        assert await shown.ended() == 0
    assert "Secret" not in shown.screen


async def test_a_terminal_without_styles_gets_none(stage: Stage, agent: str, upstream: Upstream) -> None:
    for variable in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        async with terminal(environment(stage.server.url, **variable), "chat", agent) as shown:
            await shown.until("> ")
            upstream.add(think("Hm."), say("Hello."))
            shown.enter("Hello?")
            await shown.until("(thinking) Hm.\nHello.\n")
            await shown.until("> ")
            shown.enter("/exit")
            assert await shown.ended() == 0
        assert not shown.styled


async def test_history_is_shown_and_the_conversation_goes_on(stage: Stage, agent: str, upstream: Upstream) -> None:
    session = await stage.session(agent, key="old")
    upstream.add(think("Hm."), call("stock", {"item": "hat"})).add(say("Three."))
    await stage.post(session, "How many\nhats?")
    upstream.add(status(400, {"error": {"message": "No."}}))
    await stage.post(session, "And shoes?")
    async with terminal(environment(stage.server.url), "chat", agent, "--session", "old") as shown:
        *before, _ = (await shown.until("/exit leaves")).splitlines()
        assert before == [
            "> How many",
            "hats?",
            "Hm.",
            '  stock(item="hat")',
            '  stock -> {"item": "hat", "left": 3}',
            "Three.",
            "",
            "> And shoes?",
            *[line for line in before if line.endswith("(model_rejected)")],
            "",
        ]
        await shown.until("> ")
        upstream.add(say("Two."))
        shown.type("\x1b[A")  # The key for the line before.
        await shown.until("And shoes?")
        shown.enter("")
        await shown.until("Two.\n")
        shown.enter("/exit")
        assert await shown.ended() == 0
    said = [event["content"] for event in await stage.log(session, type="input_message")]
    assert said == ["How many\nhats?", "And shoes?", "And shoes?"]
    assert shown.screen.count("Three.") == 1


async def test_a_long_history_begins_with_an_input(stage: Stage, agent: str, upstream: Upstream) -> None:
    session = await stage.session(agent, key="long")
    for number in range(20):
        upstream.add(say(f"Answer {number}."))
        await stage.post(session, f"Question {number}?")
    async with terminal(environment(stage.server.url), "chat", agent, "--session", "long") as shown:
        lines = [line for line in (await shown.until("/exit leaves")).splitlines() if line]
        shown.enter("/exit")
        assert await shown.ended() == 0
    assert f"sessile events list {agent} long" in lines[0]
    assert lines[1].startswith("> Question ")
    assert lines[-2] == "Answer 19."


async def test_ctrl_c_stops_the_answer_and_keeps_what_was_shown(stage: Stage, agent: str, upstream: Upstream) -> None:
    async with terminal(environment(stage.server.url), "chat", agent) as shown:
        await shown.until("> ")
        upstream.add(say("A long "), hang())
        shown.enter("Tell me something.")
        await shown.until("A long ")
        shown.interrupt()
        await shown.until("(Interrupted.)\n")
        await shown.until("> ")
        upstream.add(say("Good night."))
        shown.enter("And now?")
        await shown.until("Good night.\n")
        await shown.until("> ")
        shown.enter("/exit")
        assert await shown.ended() == 0
    log = await stage.log(await only_session(stage, agent))
    assert types(log) == ["input_message", "agent_output", "session_interrupted", "input_message", "agent_output"]
    assert (log[1]["content"], log[1]["partial"]) == ("A long ", True)
    assert shown.screen.count("A long ") == shown.screen.count("(Interrupted.)") == 1
    assert "goes on" not in shown.screen


async def test_a_second_ctrl_c_does_not_wait_for_the_end(stage: Stage, agent: str, upstream: Upstream) -> None:
    released = asyncio.Event()
    async with terminal(environment(stage.server.url), "chat", agent) as shown:
        await shown.until("> ")
        upstream.add(say("A long "), wait_for(released))
        shown.enter("Tell me something.")
        await shown.until("A long ")
        with suspended(stage.server):
            shown.interrupt()
            await shown.until("Ctrl-C once more")
            shown.interrupt()
            await shown.until("The turn goes on on the server")
            await shown.until("> ")
        released.set()
        await stage.stopped(await only_session(stage, agent))
        upstream.add(say("Good night."))
        shown.enter("And now?")
        await shown.until("Good night.\n")
        await shown.until("> ")
        shown.enter("/exit")
        assert await shown.ended() == 0
    assert shown.screen.count("A long ") == 1


async def test_ctrl_c_stops_a_single_input(stage: Stage, agent: str, upstream: Upstream) -> None:
    upstream.add(say("Half"), hang())
    async with terminal(environment(stage.server.url), "chat", agent, "-m", "Hello?") as shown:
        await shown.until("Half")
        shown.interrupt()
        await shown.until("(Interrupted.)\n")
        assert await shown.ended() == 130
    log = await stage.log(await only_session(stage, agent))
    assert types(log) == ["input_message", "agent_output", "session_interrupted"]


async def test_who_may_not_read_the_log_sees_what_was_kept(stage: Stage, agent: str, upstream: Upstream) -> None:
    config = Config(data=str(stage.server.data))
    user = await asyncio.to_thread(admin.create_key, config, "default", "user", ["agent_user"], [])
    async with terminal(environment(stage.server.url, SESSILE_API_KEY=user), "chat", agent) as shown:
        await shown.until("> ")
        upstream.add(say("Half"), hang())
        shown.enter("Hello?")
        await shown.until("Half")
        shown.interrupt()
        await shown.until("(Interrupted.)\n")
        await shown.until("> ")
        shown.enter("/exit")
        assert await shown.ended() == 0
    assert shown.screen.count("Half") == 1


async def test_ctrl_c_while_waiting_keeps_the_input_for_later(stage: Stage, agent: str, upstream: Upstream) -> None:
    session = await stage.session(agent, key="kept")
    released = asyncio.Event()
    async with terminal(environment(stage.server.url), "chat", agent, "--session", "kept") as shown:
        await shown.until("> ")
        upstream.add(say("Once"), wait_for(released))
        async with stage.stream(session, "One?") as stream:
            await stream.until("streaming_agent_output")
            shown.enter("Two?")
            await shown.until("[Y/n]")
            shown.enter("y")
            await shown.until("Waiting for a turn")
            shown.interrupt()
            await shown.until("was not sent")
            await shown.until("> Two?")
            released.set()
            await stream.rest()
        upstream.add(say("Second."))
        shown.enter("")
        await shown.until("Second.\n")
        shown.enter("/exit")
        assert await shown.ended() == 0
    said = [event["content"] for event in await stage.log(session, type="input_message")]
    assert said == ["One?", "Two?"]


async def test_ctrl_c_at_the_prompt_empties_the_line_and_the_second_leaves(stage: Stage, agent: str) -> None:
    async with terminal(environment(stage.server.url), "chat", agent) as shown:
        await shown.until("> ")
        shown.type("never mind")
        await shown.until("never mind")
        await shown.interrupt_prompt("Ctrl-C once more leaves")
        await shown.until("> ")
        shown.enter("/help")
        await shown.until("> ")
        await shown.interrupt_prompt("Ctrl-C once more leaves")
        await shown.until("> ")
        await shown.interrupt_prompt("Come back with: sessile chat")
        assert await shown.ended() == 130
    assert await stage.log(await only_session(stage, agent)) == []


async def test_another_client_may_be_waited_for(stage: Stage, agent: str, upstream: Upstream) -> None:
    session = await stage.session(agent, key="shared")
    released = asyncio.Event()
    async with terminal(environment(stage.server.url), "chat", agent, "--session", "shared") as shown:
        await shown.until("> ")
        upstream.add(say("For them."), wait_for(released)).add(say("For us."))
        async with stage.stream(session, "Theirs") as stream:
            await stream.until("streaming_agent_output")
            shown.enter("Ours")
            await shown.until("Another client is talking")
            await shown.until("[Y/n]")
            shown.enter("n")
            await shown.until("> Ours")
            shown.enter("")
            await shown.until("[Y/n]")
            shown.enter("y")
            released.set()
            await stream.rest()
        await shown.until("> Theirs\n")
        await shown.until("For them.\n")
        await shown.until("For us.\n")
        await shown.until("> ")
        shown.enter("/exit")
        assert await shown.ended() == 0
    said = [event["content"] for event in await stage.log(session, type="input_message")]
    assert said == ["Theirs", "Ours"]


async def test_a_key_that_may_not_read_the_log_may_talk(stage: Stage, agent: str, upstream: Upstream) -> None:
    create = ["keys", "create", "talk", "--role", "agent_user", "--data", str(stage.server.data)]
    made = await run(environment(stage.server.url), *create)
    session = await stage.session(agent, key="closed")
    upstream.add(say("Old."))
    await stage.post(session)
    env = environment(stage.server.url, SESSILE_API_KEY=made.stdout.strip())
    async with terminal(env, "chat", agent, "--session", "closed") as shown:
        await shown.until("may not read the log")
        await shown.until("> ")
        upstream.add(say("New."))
        shown.enter("Hello?")
        await shown.until("New.\n")
        shown.enter("/exit")
        assert await shown.ended() == 0
    assert "Old." not in shown.screen


async def test_hostile_answers_cannot_drive_the_terminal(stage: Stage, agent: str, upstream: Upstream) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31mred\u202e"
    async with terminal(environment(stage.server.url), "chat", agent) as shown:
        await shown.until("> ")
        upstream.add(think(hostile), say(hostile + "\r\nEnd."))
        shown.enter("Hello?")
        await shown.until("\nEnd.\n")
        shown.enter("/exit")
        assert await shown.ended() == 0
    for harm in (b"\x1b]", b"\x1b[2J", b"\x07", "\x9b".encode(), "\u202e".encode()):
        assert harm not in shown.raw
    assert shown.screen.count("\\x1b]0;owned\\x07") == 2


# Client tools


ASKS = {"ask": {"type": "client", "tool_id": "tol_ask", "description": "Ask the person."}}


async def test_a_person_answers_client_tools(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(tool_configurations=ASKS)
    upstream.add(say("I ask. "), call("ask", {"size": 1}), call("ask", {"size": 2}))
    upstream.add(call("ask", {"size": 3}))
    upstream.add(say("All known."))
    async with terminal(environment(stage.server.url), "chat", agent) as shown:
        await shown.until("> ")
        shown.enter("Order it.")
        await shown.until("ask(size=1) -> ")
        shown.enter("")
        await shown.until("ask(size=1) -> ")
        shown.enter('{"fits": true}')
        await shown.until("ask(size=2) -> ")
        shown.enter("error: too small")
        await shown.until("ask(size=3) -> ")
        shown.enter("plain words")
        await shown.until("All known.\n")
        await shown.until("> ")
        shown.enter("/exit")
        assert await shown.ended() == 0
    outputs = await stage.log(await only_session(stage, agent), type="tool_output")
    assert [(event["error"], event["tool_output"]) for event in outputs] == [
        (False, {"fits": True}),
        (True, {"error": "too small", "code": "tool_failed"}),
        (False, {"result": "plain words"}),
    ]


async def test_a_call_that_waits_is_asked_for_again(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(tool_configurations=ASKS)
    session = await stage.session(agent, key="waits")
    upstream.add(call("ask", {"size": 1}))
    upstream.add(say("Thank you."))
    upstream.add(say("You are welcome."))
    assert (await stage.post(session))["stop_reason"] == "requires_action"
    async with terminal(environment(stage.server.url), "chat", agent, "--session", "waits") as shown:
        await shown.until("ask(size=1) -> ")
        shown.type("\x04")
        await shown.until("(The turn waits. Your next input asks for this again.)")
        await shown.until("> ")
        shown.enter("Never mind.")
        await shown.until("ask(size=1) -> ")
        shown.enter("7")
        await shown.until("Thank you.\n")
        await shown.until("You are welcome.\n")
        await shown.until("> ")
        shown.enter("/exit")
        assert await shown.ended() == 0
    expected = ["tool_output", "agent_output", "input_message", "agent_output"]
    assert types(await stage.log(session))[-4:] == expected


async def test_ctrl_c_stops_a_turn_that_waits(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(tool_configurations=ASKS)
    upstream.add(call("ask", {"size": 1}))
    upstream.add(say("Fine."))
    async with terminal(environment(stage.server.url), "chat", agent) as shown:
        await shown.until("> ")
        shown.enter("Order it.")
        await shown.until("ask(size=1) -> ")
        await shown.interrupt_prompt("(Interrupted.)\n")
        await shown.until("> ")
        shown.enter("And now?")
        await shown.until("Fine.\n")
        shown.enter("/exit")
        assert await shown.ended() == 0
    log = await stage.log(await only_session(stage, agent))
    assert types(log)[-4:] == ["tool_output", "session_interrupted", "input_message", "agent_output"]


async def test_one_input_that_waits_for_client_tools(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(tool_configurations=ASKS)
    session = await stage.session(agent, key="once")
    upstream.add(say("I ask."), call("ask", {"size": 1}))
    done = await chat(stage, agent, "--session", "once", "-m", "Order it.")
    assert (done.code, done.stdout) == (5, "I ask.\n")
    assert f"sessile sessions pending {agent} once" in done.stderr
    shown = await run(environment(stage.server.url), "sessions", "pending", agent, "once")
    event_id, _, text = shown.stdout.strip().partition("\t")
    assert text == "ask(size=1)"
    (document,) = (
        await run(environment(stage.server.url), "sessions", "pending", agent, "once", "--json")
    ).json_lines()
    assert (document["event_id"], document["arguments"]) == (event_id, {"size": 1})
    wrong = await run(environment(stage.server.url), "events", "tool-output", agent, "once", "aev_0", "{}")
    assert (wrong.code, "tool_call_not_outstanding" in wrong.stderr) == (1, True)
    upstream.add(say("Too bad."))
    answer = ("events", "tool-output", agent, "once", event_id, "--error", "Nobody here.")
    done = await run(environment(stage.server.url), *answer)
    assert (done.code, done.stdout) == (0, "Too bad.\n")
    shown = await run(environment(stage.server.url), "sessions", "pending", agent, "once")
    assert (shown.stdout, shown.stderr) == ("", "Nothing waits.\n")
    (output,) = await stage.log(session, type="tool_output")
    assert output["tool_output"]["error"] == "Nobody here."


async def test_the_output_of_a_tool_from_a_shell(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(tool_configurations=ASKS)
    session = await stage.session(agent, key="shell")
    upstream.add(call("ask", {"size": 1}), call("ask", {"size": 2}))
    upstream.add(say("Good."))
    first, second = (await stage.post(session))["events"][-1]["pending_calls"]
    tool_output = ("events", "tool-output", agent, "shell")
    done = await run(environment(stage.server.url), *tool_output, first["event_id"], "[1, 2]")
    assert (done.code, done.stdout) == (5, "")
    assert f"sessile sessions pending {agent} shell" in done.stderr
    done = await run(environment(stage.server.url), *tool_output, second["event_id"], stdin=b'{"a": 1}')
    assert (done.code, done.stdout) == (0, "Good.\n")
    outputs = await stage.log(session, type="tool_output")
    assert [event["tool_output"] for event in outputs] == [{"result": [1, 2]}, {"a": 1}]
