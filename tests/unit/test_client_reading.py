"""Answers of this server, and of newer ones; lists page by page."""

import json
from typing import Any, get_type_hints

import msgspec
import pytest

from sessile.client import documents
from sessile.client.agents import Agent, AsyncAgents
from sessile.client.artifacts import Artifact
from sessile.client.errors import RequestTimedOut, UnexpectedAnswer
from sessile.client.events import Answer, AsyncEvents
from sessile.client.pages import Page
from sessile.client.reading import read, read_page
from sessile.client.sessions import Session
from sessile.client.turns import AsyncTurns
from sessile.client.unknown import UnknownEvent
from sessile.wire import agents, artifacts, inputs, sessions
from sessile.wire.errors import SessileError
from sessile.wire.events import AgentOutputEvent, Turn
from unit.client_script import Reply, Script, Waits, caller

TURN = {"id": "trn_0a", "session_key": "s", "agent_key": "a", "status": "stopped", "stop_reason": "end_turn"}
TURN |= {"error": None, "usage": {}, "input_event_id": "aev_1", "created_at": "x", "ended_at": None}
SAID = {"type": "agent_output", "id": "aev_2", "sequence": 2, "content": "Hello", "output_id": "out_1"}


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [
        (Agent, agents.Agent, {"inactive_tools"}),
        (Session, sessions.Session, {"etag"}),
        (Answer, inputs.InputResponse, set()),
        (Artifact, artifacts.SessionArtifact, set()),
    ],
)
def test_the_client_shows_every_field_of_the_wire(ours: Any, theirs: Any, more: set[str]) -> None:
    assert fields(ours) == fields(theirs) | more


@pytest.mark.parametrize(
    ("document", "request_type", "refused"),
    [
        (documents.AgentDocument, agents.CreateAgentRequest, set()),
        (documents.AgentChanges, agents.UpdateAgentRequest, set()),
        (documents.SessionDocument, sessions.CreateSessionRequest, set()),
        (documents.SessionChanges, sessions.UpdateSessionRequest, set()),
        (documents.ModelDocument, agents.AgentModel, set()),
        (documents.RetryDocument, agents.RetryConfiguration, set()),
        (documents.StepDocument, agents.FirstAgentStep, set()),
        (documents.StepDocument, agents.UpdateFirstAgentStep, set()),
    ],
)
def test_a_caller_can_give_every_field_that_the_server_takes(
    document: Any, request_type: Any, refused: set[str]
) -> None:
    assert get_type_hints(document).keys() == fields(request_type) - refused


def test_instruction_documents() -> None:
    both = fields(agents.InlineInstruction) | fields(agents.ReferenceInstruction) | {"type"}
    assert get_type_hints(documents.InstructionDocument).keys() == both


def test_values_that_a_newer_server_has() -> None:
    newer = {**TURN, "id": "turn:7", "stop_reason": "out_of_coffee", "mood": "good", "usage": {"model_calls": 1}}
    turn: Any = read(Turn, json.dumps(newer).encode())
    assert (turn.id, turn.stop_reason, turn.status, turn.usage.model_calls) == ("turn:7", "out_of_coffee", "stopped", 1)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"id":"\xff"}', b"{}", b'{"id": 7}'])
def test_what_is_no_such_answer(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        read(Turn, body)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"turns":[]}', b'{"turns":{},"metadata":{}}', b'{"turns":[],"metadata":7}']
)
def test_what_is_no_page(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        read_page("turns", body, lambda item: read(Turn, item))


@pytest.mark.parametrize(("metadata", "key"), [({}, None), ({"page_key": "k"}, "k"), ({"page_key": None}, None)])
def test_pages(metadata: dict[str, Any], key: str | None) -> None:
    page = read_page("turns", json.dumps({"turns": [TURN], "metadata": metadata}).encode(), lambda i: read(Turn, i))
    assert [turn.id for turn in page.items] == ["trn_0a"]
    assert page.page_key == key


def page(events: list[Any], key: str | None = None) -> Reply:
    return Reply(200, {"events": events, "metadata": {} if key is None else {"page_key": key}})


async def test_a_list_goes_on_until_a_page_has_no_key() -> None:
    first, second = {**SAID, "id": "aev_2"}, {**SAID, "id": "aev_3"}
    script = Script(page([first], "k1"), page([], "k2"), page([second]))
    events = AsyncEvents(caller(script)).list(
        "a", "s", order="desc", types=["agent_output", "x"], records=True, limit=1
    )
    assert script.requests == []
    assert [event.id async for event in events] == ["aev_2", "aev_3"]
    path = "/v2/agents/a/sessions/s/events?order=desc&type=agent_output%2Cx&records=true&limit=1"
    assert script.asked == [("GET", path), ("GET", f"{path}&page_key=k1"), ("GET", f"{path}&page_key=k2")]


async def test_pages_one_by_one() -> None:
    script = Script(page([SAID], "k1"), page([SAID]))
    events = AsyncEvents(caller(script)).list("a", "s")
    pages = [page async for page in events.pages()]
    assert [page.page_key for page in pages] == ["k1", None]
    assert isinstance(await events.page("k7"), Page)
    assert script.asked[-1][1].endswith("page_key=k7")
    assert [event async for event in events]  # a list may be gone through again


async def test_a_list_that_turns_in_a_circle_ends() -> None:
    script = Script(page([SAID], "k"))
    with pytest.raises(UnexpectedAnswer, match="page key"):
        _ = [event async for event in AsyncEvents(caller(script)).list("a", "s")]
    assert len(script.requests) == 2


async def test_lists_of_agents_ask_for_what_was_chosen() -> None:
    script = Script(Reply(200, {"agents": [], "metadata": {}}))
    assert [agent async for agent in AsyncAgents(caller(script)).list(enabled=False, limit=3)] == []
    assert script.asked == [("GET", "/v2/agents?enabled=false&limit=3")]


async def test_events_that_cannot_be_read_are_kept() -> None:
    newer = {"type": "agent_mood", "id": "aev_9", "sequence": 9, "mood": "good"}
    changed = {**SAID, "content": ["not", "a", "text"]}
    script = Script(page([SAID, newer, changed]), Reply(200, newer))
    events = AsyncEvents(caller(script))
    said, mood, odd = [event async for event in events.list("a", "s")]
    assert isinstance(said, AgentOutputEvent)
    assert mood == UnknownEvent(type="agent_mood", id="aev_9", sequence=9, data=newer)
    assert odd == UnknownEvent(type="agent_output", id="aev_2", sequence=2, data=changed)
    assert await events.get("a", "s", "aev_9") == mood


async def test_the_text_of_an_answer() -> None:
    other = {**SAID, "id": "aev_3", "content": " world."}
    body = {"events": [SAID, {"type": "agent_mood"}, other], "session_key": "s", "turn_id": "trn_1"}
    script = Script(Reply(201, {**body, "status": "stopped", "stop_reason": "end_turn", "error": None}))
    answer = await AsyncEvents(caller(script)).send("a", "s", "Hi")
    assert answer.text == "Hello world."
    assert (answer.status, answer.stop_reason, answer.error) == ("stopped", "end_turn", None)


async def test_waiting_for_a_turn_asks_ever_less_often() -> None:
    waits = Waits()
    script = Script(*[Reply(200, {**TURN, "status": "running", "stop_reason": None})] * 12, Reply(200, TURN))
    turn = await AsyncTurns(caller(script), waits).wait("a", "s", "trn_0a")
    assert turn.status == "stopped"
    assert waits.seconds == sorted(waits.seconds)
    assert (waits.seconds[0], waits.seconds[-1], len(waits.seconds)) == (0.05, 2.0, 12)


async def test_waiting_for_a_turn_ends_in_time() -> None:
    waits = Waits()
    script = Script(Reply(200, {**TURN, "status": "running", "stop_reason": None}))
    with pytest.raises(RequestTimedOut, match=r"trn_0a has not stopped within 0\.01 seconds"):
        await AsyncTurns(caller(script), waits).wait("a", "s", "trn_0a", timeout=0.01)
    assert len(script.requests) == 1
    assert issubclass(RequestTimedOut, SessileError)
