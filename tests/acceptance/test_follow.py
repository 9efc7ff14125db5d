"""Following a session over server-sent events: replay and live without a seam, from turn to turn, for any number."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from acceptance.cli_support import environment, run
from acceptance.following import Block, following, joined
from acceptance.stage import Stage, lambdas, refused, types
from sessile.testing.script import call, say, think, wait_for
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def settings() -> str:
    return "heartbeat_seconds = 0.2"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"tools": 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.ping]\nfunction = "tools:ping"\n'


async def whole_log(stage: Stage, session: str) -> list[Any]:
    return await stage.log(session, records="true")


async def test_it_opens_with_a_position_and_the_state_then_replays_the_log(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(say("One.")).add(say("Two."))
    await stage.post(session)
    last = (await stage.post(session))["events"][-1]
    async with following(stage.client, session) as stream:
        first, second = await stream.next(), await stream.next()
        assert first == Block(id="start")
        assert (second.id, second.type) == (None, "session_state")
        assert second.data == {
            "type": "session_state",
            "status": "stopped",
            "stop_reason": "end_turn",
            "turn_id": None,
            "last_event_id": last["id"],
        }
        await stream.until("turn_ended", 2)
        blocks = stream.blocks[2:]
    assert [block.data for block in blocks] == await whole_log(stage, session)
    assert all((block.id, block.type) == (block.data["id"], block.data["type"]) for block in blocks)


async def test_it_goes_on_from_turn_to_turn(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("ping"))
    async with following(stage.client, session) as stream:
        assert await stream.next() == Block(id="start")
        assert (await stream.until("session_state"))["status"] == "unstarted"
        upstream.add(think("Hm."), say("Let me see."), call("ping")).add(say("It is there.")).add(say("Again."))
        await stage.post(session)
        await stream.until("turn_ended")
        await stage.post(session)
        await stream.until("turn_ended")
    assert stream.durable == await whole_log(stage, session)
    outputs = [event for event in stream.durable if event["type"] == "agent_output"]
    assert [joined(stream.deltas(event["output_id"])) for event in outputs] == ["Let me see.", "It is there.", "Again."]
    ends = [block.data["event_id"] for block in stream.blocks if block.type == "streaming_agent_output_end"]
    assert ends == [event["id"] for event in outputs]
    assert all(block.id is None for block in stream.blocks if block.type and block.type.startswith("streaming"))


async def test_a_follower_that_comes_in_the_middle_gets_the_text_so_far(stage: Stage, upstream: Upstream) -> None:
    session, release = await stage.conversation(), asyncio.Event()
    upstream.add(say("One two three "), wait_for(release), say("four five."))
    async with stage.stream(session) as turn:
        while "three" not in turn.text:
            await turn.next()
        log = await whole_log(stage, session)
        async with (
            following(stage.client, session, since="now") as late,
            following(stage.client, session) as early,
            following(stage.client, session, deltas="false") as without,
        ):
            state = await late.until("session_state")
            assert (state["status"], state["turn_id"]) == ("running", turn.response.headers["x-turn-id"])
            assert late.blocks[0] == Block(id=log[-1]["id"])
            snapshot = await late.until("streaming_agent_output")
            assert (snapshot["content"], snapshot["offset"], snapshot["snapshot"]) == ("One two three ", 0, True)
            assert await early.until("streaming_agent_output") == snapshot
            assert early.durable == log
            release.set()
            for stream in (late, early, without):
                await stream.until("turn_ended")
                if stream is not without:
                    assert joined(stream.deltas()) == "One two three four five."
    log = await whole_log(stage, session)
    assert early.durable == without.durable == log
    assert late.durable == log[2:]
    assert without.types == ["session_state", *types(log)]
    assert sum(delta.get("snapshot", False) for delta in late.deltas()) == 1


async def test_where_it_starts(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    async with following(stage.client, session, since="now") as stream:
        assert await stream.next() == Block(id="start")
    upstream.add(say("Hi."))
    await stage.post(session)
    log = await whole_log(stage, session)
    for since, last_event_id in [
        (log[1]["id"], None),
        ("now", log[1]["id"]),
        ("start", log[1]["id"]),
        ("aev_nonsense", log[1]["id"]),
        (log[1]["id"], ""),
    ]:
        async with following(stage.client, session, last_event_id, since=since) as stream:
            assert await stream.next() == Block(id=log[1]["id"])
            await stream.until("turn_ended")
            assert stream.durable == log[2:]
    async with following(stage.client, session, "start", since="now") as stream:
        await stream.until("turn_ended")
        assert stream.durable == log
    async with following(stage.client, session, "now", since="start") as stream:
        assert await stream.next() == Block(id=log[-1]["id"])


async def test_a_cursor_that_never_was_is_refused(stage: Stage, upstream: Upstream) -> None:
    session, other = await stage.conversation(), await stage.conversation()
    upstream.add(say("Hi.")).add(say("Hi."))
    await stage.post(session)
    foreign = (await stage.post(other))["events"][0]["id"]
    own = (await stage.log(session))[0]["id"]
    forged = own[:-1] + ("0" if own[-1] != "0" else "1")
    stream = {"accept": "text/event-stream"}
    for cursor in (foreign, forged, "aev_", "x", "Start", "1", f"{own} ", "aev_" + "f" * 30):
        answer = await stage.client.get(f"{session}/events", params={"since": cursor}, headers=stream)
        refused(answer, 400, "unknown_cursor", "since")
        answer = await stage.client.get(f"{session}/events", headers=stream | {"last-event-id": cursor.strip() + "?"})
        refused(answer, 400, "unknown_cursor", "since")
    answer = await stage.client.get(f"{session}/events", params={"since": ""}, headers=stream)
    refused(answer, 400, "unknown_cursor", "since")


@pytest.mark.parametrize("name", ["limit", "page_key", "order", "type", "records", "nonsense"])
async def test_parameters_of_the_list_are_none_of_the_stream(stage: Stage, name: str) -> None:
    answer = await stage.client.get(
        f"{await stage.conversation()}/events", params={name: "1"}, headers={"accept": "text/event-stream"}
    )
    refused(answer, 400, "invalid_parameter", name)


@pytest.mark.parametrize(("name", "value"), [("since", "start"), ("deltas", "true")])
async def test_parameters_of_the_stream_are_none_of_the_list(stage: Stage, name: str, value: str) -> None:
    refused(
        await stage.client.get(f"{await stage.conversation()}/events", params={name: value}),
        *(400, "invalid_parameter", name),
    )


async def test_what_is_not_there_cannot_be_followed(stage: Stage) -> None:
    session = await stage.conversation()
    stream = {"accept": "text/event-stream"}
    refused(await stage.client.get(f"{session}x/events", headers=stream), 404, "not_found")
    refused(await stage.client.get(f"{session}/events", headers=stream | {"x-api-key": "no"}), 401, "unauthenticated")


async def test_a_quiet_stream_sends_comments(stage: Stage) -> None:
    async with following(stage.client, await stage.conversation()) as stream:
        await stream.until("session_state")
        assert await stream.next() == await stream.next() == Block(comment="heartbeat")


async def deleted(stage: Stage, path: str, stream: Any) -> None:
    await stream.until("session_state")
    assert (await stage.client.delete(path)).status_code == 204
    blocks = await stream.rest()
    assert blocks[-1] == Block(type="end", data={"type": "end", "reason": "deleted"})


async def test_it_ends_with_the_session_and_with_the_agent(stage: Stage) -> None:
    session = await stage.conversation()
    async with following(stage.client, session) as stream:
        await deleted(stage, session, stream)
    session = await stage.conversation()
    async with following(stage.client, session) as stream:
        await deleted(stage, session.rpartition("/sessions")[0], stream)


async def test_a_session_that_is_deleted_while_it_runs_ends_its_followers(stage: Stage, upstream: Upstream) -> None:
    session, never = await stage.conversation(), asyncio.Event()
    upstream.add(say("One "), wait_for(never))
    async with stage.stream(session) as turn, following(stage.client, session) as stream:
        await turn.until("streaming_agent_output")
        await stream.until("streaming_agent_output")
        assert (await stage.client.delete(session)).status_code == 204
        assert (await stream.rest())[-1].data == {"type": "end", "reason": "deleted"}
        assert (await turn.rest())[-1][1]["reason"] == "deleted"
    never.set()


async def test_replay_and_live_have_no_seam_while_turns_run(stage: Stage, upstream: Upstream) -> None:
    session, turns = await stage.conversation(), 12
    for number in range(turns):
        upstream.add(say(f"This is answer number {number}. " * 5))

    async def follow(since: str) -> list[Any]:
        async with following(stage.client, session, since=since) as stream:
            while stream.types.count("turn_ended") < turns:
                await stream.next()
            for event in stream.durable:
                if event["type"] == "agent_output":
                    assert joined(stream.deltas(event["output_id"])) in ("", event["content"])
            return stream.durable

    followers = []
    for _ in range(turns):
        followers.append(asyncio.create_task(follow("start")))
        await stage.post(session)
    followers.append(asyncio.create_task(follow("start")))
    log = await whole_log(stage, session)
    for follower in followers:
        assert await follower == log


async def test_a_follower_that_reconnects_at_every_frame_sees_exactly_the_log(stage: Stage, upstream: Upstream) -> None:
    """Cut after each frame of a live stream, and come back with the last id: nothing is lost or doubled."""
    steps = 6
    cut_after, complete = 1, False
    while not complete:
        session = await stage.conversation(tool_configurations=lambdas("ping"))
        release = [asyncio.Event() for _ in range(steps)]
        script: list[Any] = [think("Hm.")]
        for number, event in enumerate(release):
            script += [say(f"piece {number}, "), wait_for(event)]
        upstream.reset()
        upstream.add(*script, call("ping")).add(say("Done."))
        posting = asyncio.create_task(stage.post(session))
        for event in release[:3]:
            event.set()
        first, complete = await read_some(stage, session, None, cut_after, release)
        second = [] if complete else (await read_some(stage, session, last_id(first), None, release))[0]
        await posting
        log = await whole_log(stage, session)
        seen = [block.data for block in first + second if block.type and block.id]
        assert seen == log, cut_after
        for event in log:
            if event["type"] == "agent_output":
                text = merged(first + second, event["output_id"])
                assert event["content"].startswith(text), cut_after
                assert text == event["content"] or not ended(second, event["id"]), cut_after
        cut_after += 1
    assert cut_after > 20


async def read_some(
    stage: Stage, session: str, cursor: str | None, count: int | None, release: list[asyncio.Event]
) -> tuple[list[Block], bool]:
    """The blocks of one connection, at most `count`, and whether the turn ended in it; lets the model go on."""
    async with following(stage.client, session, cursor) as stream:
        while count is None or len(stream.blocks) < count:
            block = await stream.next()
            text = "".join(delta["content"] for delta in stream.deltas())
            for number, event in enumerate(release):
                if f"piece {number}" in text or count is None:
                    event.set()
            if block.type == "turn_ended":
                return stream.blocks, True
        for event in release:
            event.set()
        return list(stream.blocks), False


def ended(blocks: list[Block], event_id: str) -> bool:
    """Whether an output ended on this connection with the event it became."""
    ends = [block.data for block in blocks if block.type == "streaming_agent_output_end"]
    return event_id in [end.get("event_id") for end in ends]


def last_id(blocks: list[Block]) -> str | None:
    ids = [block.id for block in blocks if block.id is not None]
    return ids[-1] if ids else None


def merged(blocks: list[Block], output_id: str) -> str:
    """The text of an output, as a client puts it together that knows what it has: a snapshot is the text so far."""
    text = ""
    for block in blocks:
        if block.type == "streaming_agent_output" and block.data["output_id"] == output_id:
            assert block.data["offset"] <= len(text)
            text = text[: block.data["offset"]] + block.data["content"]
    return text


async def test_a_reader_that_does_not_read_costs_the_others_nothing(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    piece, turns = "0123456789" * 20_000, 12
    async with following(stage.client, session) as fast, contextlib.AsyncExitStack() as others:
        others.enter_context(stuck(stage, session))
        for number in range(turns):
            upstream.add(say(f"{number} " + piece))
            await stage.post(session)
        while fast.types.count("turn_ended") < turns:
            await fast.next()
        log = await whole_log(stage, session)
        assert fast.durable == log
        for event in log:
            if event["type"] == "agent_output":
                assert joined(fast.deltas(event["output_id"])) == event["content"]


@contextlib.contextmanager
def stuck(stage: Stage, session: str) -> Iterator[None]:
    """A follower that sends its request and never reads."""
    url = httpx.URL(stage.server.url)
    head = f"GET {session}/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n"
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(f"{head}x-api-key: {stage.server.key}\r\n\r\n".encode())
        yield


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--role", "agent_user"], True),
        (["--role", "viewer"], True),
        (["--agent-role", "{agent}=agent_user"], True),
        (["--agent-role", "{agent}=agent_viewer"], True),
        (["--agent-role", "another=agent_user"], False),
    ],
)
async def test_who_may_post_or_read_may_follow(stage: Stage, arguments: list[str], allowed: bool) -> None:
    session = await stage.conversation()
    named = [one.format(agent=session.split("/")[3]) for one in arguments]
    made = await run(environment(stage.server.url), "keys", "create", "k", *named, "--data", str(stage.server.data))
    assert made.code == 0, made.stderr
    secret = made.stdout.strip()
    headers = {"x-api-key": secret, "accept": "text/event-stream"}
    async with stage.client.stream("GET", f"{session}/events", headers=headers) as response:
        assert response.status_code == (200 if allowed else 403)
    listed = await stage.client.get(f"{session}/events", headers={"x-api-key": secret})
    assert listed.status_code == (200 if "viewer" in arguments[1] else 403)
