"""The unmodified `vectara` SDK against a real server: only its base URL is ours."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from vectara import AsyncVectara, Vectara
from vectara import errors as sdk_errors
from vectara import types as sdk
from vectara.agent_events.types import (
    CreateAgentEventsRequestBody_Compact,
    CreateAgentEventsRequestBody_InputMessage,
    CreateAgentEventsRequestBody_Interrupt,
    CreateAgentEventsStreamRequestBody_InputMessage,
)
from vectara.agent_sessions.types import CreateAgentSessionRequestFromSession
from vectara.core.api_error import ApiError
from vectara.environment import VectaraEnvironment
from vectara.version import __version__ as sdk_version

from acceptance.sdk_support import Exchange, TappedAsyncTransport, TappedTransport, frames, heartbeats
from acceptance.stage import WAIT_SECONDS, Stage, eventually
from sessile.cli import admin
from sessile.config import Config
from sessile.testing.script import Step, break_connection, call, hang, say, sleep, status, think, usage
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = pytest.mark.acceptance
with_the_upstream = pytest.mark.asyncio(loop_scope="module")

MODEL = sdk.AgentModel(
    name="scripted", retry_configuration=sdk.RetryConfiguration(enabled=False, max_retries=0, backoff_factor=1)
)
ONCE: Any = {"max_retries": 0}
SHOP = '''
def order_status(order_number: str) -> dict:
    """Tell the status of an order."""
    return {"order_number": order_number, "status": "shipped"}
'''
STREAM_CLASSES = {
    "input_message": sdk.AgentStreamedResponse_InputMessage,
    "thinking": sdk.AgentStreamedResponse_Thinking,
    "tool_input": sdk.AgentStreamedResponse_ToolInput,
    "tool_output": sdk.AgentStreamedResponse_ToolOutput,
    "structured_output": sdk.AgentStreamedResponse_StructuredOutput,
    "streaming_thinking": sdk.AgentStreamedResponse_StreamingThinking,
    "streaming_thinking_end": sdk.AgentStreamedResponse_StreamingThinkingEnd,
    "streaming_agent_output": sdk.AgentStreamedResponse_StreamingAgentOutput,
    "streaming_agent_output_end": sdk.AgentStreamedResponse_StreamingAgentOutputEnd,
    "context_consumed": sdk.AgentStreamedResponse_ContextConsumed,
    "session_interrupted": sdk.AgentStreamedResponse_SessionInterrupted,
    "error": sdk.AgentStreamedResponse_Error,
    "end": sdk.AgentStreamedResponse_End,
}
LOG_CLASSES = {
    "input_message": sdk.AgentEvent_InputMessage,
    "thinking": sdk.AgentEvent_Thinking,
    "tool_input": sdk.AgentEvent_ToolInput,
    "tool_output": sdk.AgentEvent_ToolOutput,
    "agent_output": sdk.AgentEvent_AgentOutput,
    "structured_output": sdk.AgentEvent_StructuredOutput,
}


class Sdk:
    """The SDK's synchronous client, with a tap."""

    def __init__(self, url: str, key: str) -> None:
        self._transport = TappedTransport()
        self._http = httpx.Client(transport=self._transport, timeout=30)
        self.client = Vectara(
            environment=VectaraEnvironment(default=url, auth=url), api_key=key, httpx_client=self._http
        )

    @property
    def exchanges(self) -> list[Exchange]:
        return self._transport.exchanges

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def settings() -> str:
    return "heartbeat_seconds = 0.2"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"shop": SHOP}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.order_status]\nfunction = "shop:order_status"\n'


@pytest.fixture(scope="module")
def server(stage: Stage) -> ServerProcess:
    return stage.server


@pytest.fixture
def tapped(server: ServerProcess) -> Iterator[Sdk]:
    tapped = Sdk(server.url, server.key)
    yield tapped
    tapped.close()


@pytest.fixture
def vectara(tapped: Sdk) -> Vectara:
    return tapped.client


@pytest_asyncio.fixture(loop_scope="module")
async def session(vectara: Vectara) -> tuple[str, str]:
    """Keys of a fresh agent with one tool, and of a fresh session of it."""
    tools: Any = {"order_status": sdk.AgentToolConfiguration_Lambda(tool_id="tol_order_status")}

    def make() -> tuple[str, str]:
        agent = vectara.agents.create(name="Shop", model=MODEL, tool_configurations=tools)
        return agent.key, vectara.agent_sessions.create(agent.key).key

    return await asyncio.to_thread(make)


@pytest.fixture(autouse=True)
def _the_sdk_never_complains(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The SDK drops what it does not understand and only logs it, through the root logger and its own."""
    caplog.set_level(logging.WARNING)
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    # The scripted upstream runs in this process too, and aiohttp logs each connection that a script breaks.
    assert [record.getMessage() for record in records if record.name != "aiohttp.server"] == []


def text_input(text: str) -> CreateAgentEventsRequestBody_InputMessage:
    return CreateAgentEventsRequestBody_InputMessage(messages=[sdk.AgentInput_Text(content=text)])


def streamed_input(text: str) -> CreateAgentEventsStreamRequestBody_InputMessage:
    return CreateAgentEventsStreamRequestBody_InputMessage(messages=[sdk.AgentInput_Text(content=text)])


def play_a_whole_turn(upstream: Upstream) -> None:
    upstream.add(think("I look it up."), call("order_status", {"order_number": "A-1"}), usage(20, 9))
    upstream.add(think("It is there."), say("Your order was shipped."), usage(30, 12))


def post_count(tapped: Sdk) -> int:
    return sum(exchange.method == "POST" and exchange.path.endswith("/events") for exchange in tapped.exchanges)


def extra(event: Any, name: str) -> Any:
    """A field that the SDK's class does not have."""
    return event.model_extra[name]


@asynccontextmanager
async def async_client(server: ServerProcess) -> AsyncIterator[tuple[AsyncVectara, TappedAsyncTransport]]:
    transport = TappedAsyncTransport()
    async with httpx.AsyncClient(transport=transport, timeout=30) as http:
        environment = VectaraEnvironment(default=server.url, auth=server.url)
        yield AsyncVectara(environment=environment, api_key=server.key, httpx_client=http), transport


def test_the_sdk_is_the_one_that_was_promised() -> None:
    assert sdk_version == "0.4.3"


def test_an_agent_lives_through_all_its_operations(vectara: Vectara) -> None:
    made = vectara.agents.create(
        key="sdk-agent",
        name="Sdk",
        description="First",
        model=MODEL,
        tool_configurations={"order_status": sdk.AgentToolConfiguration_Lambda(tool_id="tol_order_status")},
        first_step=sdk.FirstAgentStep(
            name="main",
            instructions=[sdk.AgentStepInstruction_Inline(name="Tone", template="Be kind, ${session.name}.")],
            output_parser=sdk.AgentOutputParser_Default(),
        ),
        metadata={"team": "shop"},
    )
    assert isinstance(made, sdk.Agent)
    assert (made.key, made.name, made.enabled, made.metadata) == ("sdk-agent", "Sdk", True, {"team": "shop"})
    assert isinstance((made.tool_configurations or {})["order_status"], sdk.AgentToolConfiguration_Lambda)
    assert made.first_step is not None
    assert isinstance(made.first_step.instructions[0], sdk.AgentStepInstruction_Inline)
    assert vectara.agents.get("sdk-agent") == made

    changed = vectara.agents.update("sdk-agent", description="Second", enabled=False)
    assert (changed.description, changed.enabled, changed.name) == ("Second", False, "Sdk")
    assert changed.created_at == made.created_at

    replaced = vectara.agents.replace("sdk-agent", name="New", model=MODEL, tool_configurations={})
    assert (replaced.name, replaced.enabled, replaced.description) == ("New", True, None)

    assert vectara.agents.delete("sdk-agent") is None
    with pytest.raises(sdk_errors.NotFoundError):
        vectara.agents.get("sdk-agent")


def test_the_pager_of_agents_yields_each_agent_once_over_several_pages(vectara: Vectara) -> None:
    keys = [f"paged-{number}" for number in range(5)]
    for key in keys:
        vectara.agents.create(key=key, name=key, model=MODEL, tool_configurations={}, enabled=key != "paged-2")
    pages = list(vectara.agents.list(limit=2).iter_pages())
    assert len(pages) >= 3
    listed = [agent for page in pages for agent in page.items or []]
    assert all(isinstance(agent, sdk.Agent) for agent in listed)
    assert [agent.key for agent in listed if agent.key in keys] == keys[::-1]
    assert len({agent.key for agent in listed}) == len(listed)
    assert "paged-2" not in {agent.key for agent in vectara.agents.list(limit=2, enabled=True)}


def test_a_session_lives_through_all_its_operations(vectara: Vectara) -> None:
    agent = vectara.agents.create(name="Owner", model=MODEL, tool_configurations={})
    made = vectara.agent_sessions.create(
        agent.key, key="chat", name="Chat", description="A talk", metadata={"channel": "web"}, tti_minutes=60
    )
    assert isinstance(made, sdk.AgentSession)
    assert (made.key, made.agent_key, made.name, made.tti_minutes) == ("chat", agent.key, "Chat", 60)
    assert (made.enabled, made.metadata) == (True, {"channel": "web"})
    assert vectara.agent_sessions.get(agent.key, "chat") == made

    changed = vectara.agent_sessions.update(agent.key, "chat", name="Talk", enabled=False, metadata={"a": 1})
    assert (changed.name, changed.enabled, changed.metadata) == ("Talk", False, {"a": 1})
    assert changed.description == "A talk"

    others = [vectara.agent_sessions.create(agent.key).key for _ in range(4)]
    pages = list(vectara.agent_sessions.list(agent.key, limit=2).iter_pages())
    assert [len(page.items or []) for page in pages] == [2, 2, 1]
    assert [item.key for page in pages for item in page.items or []] == [*others[::-1], "chat"]

    assert vectara.agent_sessions.delete(agent.key, "chat") is None
    with pytest.raises(sdk_errors.NotFoundError):
        vectara.agent_sessions.get(agent.key, "chat")


@with_the_upstream
async def test_a_turn_is_the_same_answered_whole_listed_and_read_one_by_one(
    vectara: Vectara, session: tuple[str, str], upstream: Upstream
) -> None:
    play_a_whole_turn(upstream)

    def ask() -> None:
        answer = vectara.agent_events.create(*session, request=text_input("Where is A-1?"))
        assert isinstance(answer, sdk.AgentResponse)
        assert answer.session_key == session[1]
        types = [event.type for event in answer.events]
        expected = ["input_message", "thinking", "tool_input", "tool_output", "thinking", "agent_output"]
        assert types == expected
        assert [type(event) for event in answer.events] == [LOG_CLASSES[name] for name in types]
        assert answer.events[-1].content == "Your order was shipped."
        assert extra(answer, "stop_reason") == "end_turn"

        pages = list(vectara.agent_events.list(*session, limit=2).iter_pages())
        assert len(pages) >= 3
        listed = [event for page in pages for event in page.items or []]
        assert listed == answer.events
        assert [vectara.agent_events.get(*session, event.id) for event in listed] == listed

    await asyncio.to_thread(ask)


@with_the_upstream
async def test_a_session_is_forked(vectara: Vectara, session: tuple[str, str], upstream: Upstream) -> None:
    play_a_whole_turn(upstream)

    def ask() -> None:
        events = vectara.agent_events.create(*session, request=text_input("Where is A-1?")).events
        source = CreateAgentSessionRequestFromSession(
            session_key=session[1], include_up_to_event_id=events[-1].id, compact_up_to_event_id=None
        )
        copy = vectara.agent_sessions.create(session[0], from_session=source)
        assert (copy.status, copy.key != session[1]) == ("stopped", True)
        assert extra(copy, "from_session")["session_key"] == session[1]
        listed = [
            event for page in vectara.agent_events.list(session[0], copy.key).iter_pages() for event in page.items or []
        ]
        assert [(event.type, event.created_at) for event in listed] == [(e.type, e.created_at) for e in events]
        assert not {event.id for event in listed} & {event.id for event in events}

    await asyncio.to_thread(ask)


@with_the_upstream
async def test_events_are_hidden_shown_and_deleted(
    vectara: Vectara, session: tuple[str, str], upstream: Upstream
) -> None:
    upstream.add(say("The moon is made of rock."))

    def listed(include_hidden: bool | None = None) -> list[str]:
        pages = vectara.agent_events.list(*session, include_hidden=include_hidden).iter_pages()
        return [event.type for page in pages for event in page.items or []]

    def ask() -> None:
        said = vectara.agent_events.create(*session, request=text_input("What is the moon made of?")).events[-1]
        hidden = vectara.agent_events.hide(*session, said.id)
        assert isinstance(hidden, sdk.AgentEvent_AgentOutput)
        assert (hidden.id, hidden.hidden) == (said.id, True)
        assert (listed(), listed(True)) == (["input_message"], ["input_message", "agent_output"])
        assert vectara.agent_events.unhide(*session, said.id).content == "The moon is made of rock."
        assert listed() == ["input_message", "agent_output"]
        vectara.agent_events.delete(*session, said.id)
        assert listed(True) == ["input_message"]
        with pytest.raises(sdk_errors.NotFoundError):
            vectara.agent_events.hide(*session, said.id)

    await asyncio.to_thread(ask)


@with_the_upstream
async def test_a_session_is_compacted_and_forked_with_a_summary(
    vectara: Vectara, session: tuple[str, str], upstream: Upstream
) -> None:
    upstream.add(say("It was shipped.")).add(say("On Monday.")).add(say("Shipped on Monday.")).add(say("All said."))
    order = CreateAgentEventsRequestBody_Compact(compaction_message="Put it in three words.")

    def compact() -> tuple[str, str]:
        first = vectara.agent_events.create(*session, request=text_input("Where is A-1?")).events
        vectara.agent_events.create(*session, request=text_input("Since when?"))
        (summary,) = vectara.agent_events.create(*session, request=order).events
        assert isinstance(summary, sdk.AgentEvent_Compaction)
        assert (summary.summary_text, summary.turns_compacted) == ("Shipped on Monday.", 1)
        page = next(vectara.agent_events.list(*session).iter_pages())
        assert [event.type for event in page.items or []] == ["input_message", "agent_output", "compaction"]
        assert vectara.agent_events.get(*session, first[0].id).hidden
        source = CreateAgentSessionRequestFromSession(
            session_key=session[1], include_up_to_event_id=None, compact_up_to_event_id=(page.items or [])[1].id
        )
        copy = vectara.agent_sessions.create(session[0], from_session=source)
        return session[0], copy.key

    def summaries(agent: str, key: str) -> list[str | None]:
        pages = vectara.agent_events.list(agent, key, include_hidden=True).iter_pages()
        events = [event for page in pages for event in page.items or []]
        return [event.summary_text for event in events if isinstance(event, sdk.AgentEvent_Compaction)]

    copy = await asyncio.to_thread(compact)
    await eventually(lambda: asyncio.to_thread(lambda: len(summaries(*copy)) == 2))
    assert await asyncio.to_thread(summaries, *copy) == ["Shipped on Monday.", "All said."]
    assert "Put it in three words." in str(upstream.requests[2].messages)


@with_the_upstream
async def test_an_answer_follows_a_schema(vectara: Vectara, upstream: Upstream) -> None:
    upstream.add(say('{"status": 7}')).add(say('{"status": "shipped"}')).add(say('{"status": "lost"}'))
    schema = sdk.JsonSchemaDefinition(
        type="object", properties={"status": sdk.JsonSchemaDefinition(type="string")}, required=["status"]
    )
    parser = sdk.AgentOutputParser_Structured(json_schema=sdk.JsonSchemaSpec(name="order", schema=schema, strict=True))

    def ask() -> None:
        step = sdk.FirstAgentStep(name="main", instructions=[], output_parser=parser)
        agent = vectara.agents.create(name="Form", model=MODEL, tool_configurations={}, first_step=step)
        key = vectara.agent_sessions.create(agent.key).key
        event = vectara.agent_events.create(agent.key, key, request=text_input("Where is A-1?")).events[-1]
        assert isinstance(event, LOG_CLASSES["structured_output"])
        assert (event.schema_name, event.content) == ("order", {"status": "shipped"})
        streamed = list(vectara.agent_events.create_stream(agent.key, key, request=streamed_input("And now?")))
        assert [type(frame) for frame in streamed] == [
            STREAM_CLASSES[name] for name in ("input_message", "structured_output", "end")
        ]
        assert streamed[1].content == {"status": "lost"}

    await asyncio.to_thread(ask)


@with_the_upstream
async def test_an_agent_asks_another_one(vectara: Vectara, upstream: Upstream) -> None:
    upstream.add(call("research", {"message": "Where is A-1?"})).add(say("On its way.")).add(say("It is on its way."))

    def ask() -> None:
        helper = vectara.agents.create(name="Helper", model=MODEL, tool_configurations={})
        asks = sdk.SubAgentConfiguration(agent_key=helper.key, session_mode="session_scoped")
        tools: Any = {"research": sdk.AgentToolConfiguration_SubAgent(sub_agent_configuration=asks)}
        agent = vectara.agents.create(name="Lead", model=MODEL, tool_configurations=tools)
        assert agent.tool_configurations["research"].sub_agent_configuration == asks
        key = vectara.agent_sessions.create(agent.key).key
        events = vectara.agent_events.create(agent.key, key, request=text_input("Where is A-1?")).events
        (output,) = [event for event in events if isinstance(event, LOG_CLASSES["tool_output"])]
        (child,) = vectara.agent_sessions.list(helper.key)
        assert output.tool_output == {
            "agent_key": helper.key,
            "session_key": child.key,
            "sub_agent_response": "On its way.",
        }
        assert (extra(child, "created_by_agent_key"), extra(child, "created_by_session_key")) == (agent.key, key)
        below = list(vectara.agent_events.list(helper.key, child.key))
        assert [type(event) for event in below] == [LOG_CLASSES[name] for name in ("input_message", "agent_output")]

    await asyncio.to_thread(ask)


def _faulty_turn(upstream: Upstream) -> None:
    """Thinking and a tool call, then half an answer, heartbeats, and a broken connection."""
    upstream.add(think("I look it up."), call("order_status", {"order_number": "A-1"}), usage(20, 9))
    upstream.add(think("Now I say it."), say("Your order\u2028was\n\nshipped: id: 7"), sleep(0.9), break_connection())


def _check_stream(raw: bytes, events: list[Any]) -> None:
    on_the_wire = frames(raw)
    types = [name for name, _ in on_the_wire]
    assert heartbeats(raw) >= 3
    assert [event.type for event in events] == types
    assert [type(event) for event in events] == [STREAM_CLASSES[name] for name in types]
    assert [data["type"] for _, data in on_the_wire] == types
    assert types[0] == "input_message"
    assert types[-2:] == ["error", "end"]
    assert {"streaming_thinking", "thinking", "tool_input", "tool_output", "streaming_agent_output_end"} < set(types)
    text = "".join(event.content for event in events if event.type == "streaming_agent_output")
    assert text == "Your order\u2028was\n\nshipped: id: 7"
    assert (events[-2].messages, extra(events[-2], "code")) == (on_the_wire[-2][1]["messages"], "model_unavailable")


@with_the_upstream
async def test_a_turn_is_interrupted(server: ServerProcess, session: tuple[str, str], upstream: Upstream) -> None:
    upstream.add(say("Half an answer", whole=True), hang())
    async with async_client(server) as (client, transport):
        stream = client.agent_events.create_stream(*session, request=streamed_input("Where is A-1?"))
        events = [await anext(stream), await anext(stream)]
        answer = await client.agent_events.create(*session, request=CreateAgentEventsRequestBody_Interrupt())
        events += [event async for event in stream]
        log = (await client.agent_events.list(*session)).items or []
        idle = await client.agent_events.create(*session, request=CreateAgentEventsRequestBody_Interrupt())
    assert isinstance(answer, sdk.AgentResponse)
    assert [type(event) for event in answer.events] == [sdk.AgentEvent_AgentOutput, sdk.AgentEvent_SessionInterrupted]
    assert (extra(answer, "status"), extra(answer, "stop_reason")) == ("stopped", "interrupted")
    assert [type(event) for event in log[1:]] == [type(event) for event in answer.events]
    kinds = [type(event) for event in events]
    assert kinds[-2:] == [sdk.AgentStreamedResponse_SessionInterrupted, sdk.AgentStreamedResponse_End]
    assert [STREAM_CLASSES[kind] for kind, _ in frames(bytes(transport.exchanges[0].body))] == kinds
    assert idle.events == []


@with_the_upstream
async def test_the_sync_stream_yields_every_frame_that_was_on_the_wire(
    tapped: Sdk, session: tuple[str, str], upstream: Upstream
) -> None:
    _faulty_turn(upstream)
    stream = tapped.client.agent_events.create_stream(*session, request=streamed_input("Where is A-1?"))
    events = await asyncio.to_thread(list, stream)
    _check_stream(bytes(tapped.exchanges[-1].body), events)


@with_the_upstream
async def test_the_async_stream_yields_every_frame_that_was_on_the_wire(
    server: ServerProcess, session: tuple[str, str], upstream: Upstream
) -> None:
    _faulty_turn(upstream)
    async with async_client(server) as (vectara, transport):
        stream = vectara.agent_events.create_stream(*session, request=streamed_input("Where is A-1?"))
        events = [event async for event in stream]
        _check_stream(bytes(transport.exchanges[-1].body), events)
        listed = [event async for event in await vectara.agent_events.list(*session, limit=2)]
    assert [type(event) for event in listed] == [LOG_CLASSES[event.type] for event in listed]
    assert listed[-1].content == "Your order\u2028was\n\nshipped: id: 7"
    assert extra(listed[-1], "partial") is True


@with_the_upstream
async def test_the_async_client_does_what_the_sync_one_does(
    server: ServerProcess, session: tuple[str, str], upstream: Upstream
) -> None:
    upstream.add(say("Hello."), usage(1, 1))
    async with async_client(server) as (vectara, _):
        agent = await vectara.agents.create(name="Async", model=MODEL, tool_configurations={})
        made = await vectara.agent_sessions.create(agent.key, name="Async")
        answer = await vectara.agent_events.create(agent.key, made.key, request=text_input("Hello"))
        assert [event.type for event in answer.events] == ["input_message", "agent_output"]
        assert [item.key async for item in await vectara.agent_sessions.list(agent.key)] == [made.key]
        with pytest.raises(sdk_errors.NotFoundError):
            await vectara.agents.get("nobody")
        await vectara.agent_sessions.delete(agent.key, made.key)
        await vectara.agents.delete(agent.key)


@with_the_upstream
@pytest.mark.parametrize("fault", [status(500, {"error": {"message": "No."}}), status(409), break_connection()])
async def test_a_model_fault_never_doubles_a_turn(
    tapped: Sdk, session: tuple[str, str], upstream: Upstream, fault: Step
) -> None:
    upstream.add(fault)
    asked_before = len(upstream.requests)

    def ask() -> None:
        answer = tapped.client.agent_events.create(*session, request=text_input("Hello"))
        assert extra(answer, "stop_reason") == "error"
        listed = list(tapped.client.agent_events.list(*session))
        assert [event.type for event in listed].count("input_message") == 1

    await asyncio.to_thread(ask)
    assert post_count(tapped) == 1
    assert len(upstream.requests) == asked_before + 1


@with_the_upstream
async def test_a_wait_that_is_too_short_never_doubles_a_turn(
    server: ServerProcess, session: tuple[str, str], upstream: Upstream
) -> None:
    upstream.add(sleep(0.5), say("Late."))
    transport = TappedTransport()

    def ask() -> None:
        with httpx.Client(transport=transport, timeout=30) as http:
            environment = VectaraEnvironment(default=server.url, auth=server.url)
            vectara = Vectara(
                environment=environment, api_key=server.key, httpx_client=http, request_timeout_millis=100
            )
            answer = vectara.agent_events.create(*session, request=text_input("Hello"))
            assert extra(answer, "status") == "running"
            deadline = time.monotonic() + WAIT_SECONDS
            while extra(vectara.agent_sessions.get(*session), "status") == "running":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            types = [event.type for event in vectara.agent_events.list(*session)]
            assert types == ["input_message", "agent_output"]

    await asyncio.to_thread(ask)


@with_the_upstream
async def test_a_running_session_is_a_conflict(vectara: Vectara, session: tuple[str, str], upstream: Upstream) -> None:
    upstream.add(hang())

    def ask() -> None:
        stream = vectara.agent_events.create_stream(*session, request=streamed_input("Hello"))
        assert next(iter(stream)).type == "input_message"
        with pytest.raises(sdk_errors.ConflictError) as caught:
            vectara.agent_events.create(*session, request=text_input("Hello"), request_options=ONCE)
        assert extra(caught.value.body, "code") == "session_running"
        stream.close()
        vectara.agent_sessions.delete(*session)

    await asyncio.to_thread(ask)


def test_errors_become_the_exceptions_of_the_sdk(server: ServerProcess, vectara: Vectara) -> None:
    agent = vectara.agents.create(name="Errors", model=MODEL, tool_configurations={})
    session = vectara.agent_sessions.create(agent.key, enabled=False)

    with pytest.raises(sdk_errors.BadRequestError) as bad:
        vectara.agents.create(name="Errors", model=sdk.AgentModel(name="nobody-has-it"), tool_configurations={})
    assert bad.value.body["code"] == "unknown_model"

    with pytest.raises(sdk_errors.BadRequestError) as invalid:
        vectara.agent_sessions.create(agent.key, tti_minutes=-1)
    assert set(invalid.value.body["field_errors"]) == {"tti_minutes"}

    with pytest.raises(sdk_errors.NotFoundError) as missing:
        vectara.agent_events.create(agent.key, "no-session", request=text_input("Hello"))
    assert missing.value.body["id"] == "no-session"

    with pytest.raises(sdk_errors.UnprocessableEntityError) as disabled:
        vectara.agent_events.create(agent.key, session.key, request=text_input("Hello"))
    assert isinstance(disabled.value.body, sdk.Error)
    assert extra(disabled.value.body, "code") == "session_disabled"


def test_keys_that_may_not_or_do_not_exist(server: ServerProcess) -> None:
    secret = admin.create_key(Config(data=str(server.data)), admin.DEFAULT_TENANT, "viewer", ["agent_viewer"], [])
    viewer = Sdk(server.url, secret)
    assert isinstance(list(viewer.client.agents.list()), list)
    with pytest.raises(sdk_errors.ForbiddenError) as forbidden:
        viewer.client.agents.create(name="No", model=MODEL, tool_configurations={})
    assert isinstance(forbidden.value.body, sdk.Error)
    assert extra(forbidden.value.body, "code") == "forbidden"
    viewer.close()

    stranger = Sdk(server.url, "sk-nobody")
    with pytest.raises(ApiError) as unknown:
        stranger.client.agents.list()
    assert unknown.value.status_code == 401
    stranger.close()
