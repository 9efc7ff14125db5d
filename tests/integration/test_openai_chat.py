"""The OpenAI-compatible adapter against a real HTTP server: one test for each hazard."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sessile.domain.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, UserMessage
from sessile.models import openai_chat
from sessile.models.openai_chat import HttpSession, OpenAIChat
from sessile.ports import Finished, ModelChunk, ModelFault, ModelRequest, ModelUsage, TextDelta, ThinkingDelta
from sessile.testing.model_contract import GREETING, ORDER_STATUS, QUESTION, answer, calls_of, collect, text_of
from sessile.testing.script import break_connection, call, finish, hang, raw, say, sleep, status, think, usage, wait_for
from sessile.testing.upstream import Upstream

KEY = "sk-secret-123"
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
async def model(upstream: Upstream) -> AsyncIterator[OpenAIChat]:
    chat = OpenAIChat(
        "chat", model="test-model", base_url=upstream.base_url + "/", key_variable="KEY", environ={"KEY": KEY}
    )
    yield chat
    await chat.close()


@pytest.fixture
async def hasty(upstream: Upstream) -> AsyncIterator[OpenAIChat]:
    chat = OpenAIChat("chat", model="test-model", base_url=upstream.base_url, timeout_seconds=0.05)
    yield chat
    await chat.close()


async def fault_of(model: OpenAIChat, request: ModelRequest = GREETING) -> ModelFault:
    with pytest.raises(ModelFault) as caught:
        await answer(model, request)
    assert KEY not in str(caught.value)
    return caught.value


async def test_the_request_is_the_wire(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Yes."))
    earlier = AssistantMessage("", (ToolCall("call_1", "get_order_status", '{"order_number":"A-1"}'),))
    request = ModelRequest(
        messages=[
            SystemMessage("Be kind."),
            UserMessage("Where is A-1?"),
            earlier,
            ToolMessage("call_1", "get_order_status", '{"status":"shipped"}'),
            AssistantMessage("Shipped."),
            UserMessage("Thanks."),
        ],
        tools=[ORDER_STATUS],
        parameters={"temperature": 0.5, "model": "other", "messages": [], "stream": False, "tools": [], "seed": 7},
    )
    await answer(model, request)
    received = await upstream.arrived(1)
    function = {"name": "get_order_status", "arguments": '{"order_number":"A-1"}'}
    assert received.body == {
        "model": "test-model",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "seed": 7,
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Where is A-1?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": '{"status":"shipped"}'},
            {"role": "assistant", "content": "Shipped."},
            {"role": "user", "content": "Thanks."},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_order_status",
                    "description": "Tells the status of an order.",
                    "parameters": ORDER_STATUS.parameters,
                },
            }
        ],
    }
    assert received.headers["Authorization"] == f"Bearer {KEY}"


async def test_without_tools_no_tool_parameters_go_out(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Yes."))
    parameters = {"tool_choice": "auto", "parallel_tool_calls": True, "tools": [{}]}
    await answer(model, ModelRequest(messages=GREETING.messages, tools=[], parameters=parameters))
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set((await upstream.arrived(1)).body)


async def test_deltas_arrive_while_the_answer_is_open(upstream: Upstream, model: OpenAIChat) -> None:
    go_on = asyncio.Event()
    upstream.add(think("Hm."), say("One", whole=True), wait_for(go_on), say(" two", whole=True), usage(5, 3))
    chunks: list[ModelChunk] = []
    async for chunk in model.stream(GREETING):
        chunks.append(chunk)
        if chunk == TextDelta("One"):
            go_on.set()
    assert chunks == [ThinkingDelta("Hm."), TextDelta("One"), TextDelta(" two"), ModelUsage(5, 3), Finished("stop")]


async def test_abort_closes_the_upstream_connection(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("One", whole=True), hang())
    stream = model.stream(GREETING)
    await anext(stream)
    await stream.aclose()
    received = await upstream.arrived(1)
    await received.gone()
    assert received.steps_done == 1


async def test_abort_before_the_first_byte_closes_the_upstream_connection(
    upstream: Upstream, model: OpenAIChat
) -> None:
    upstream.add(hang())
    reader = asyncio.create_task(answer(model, GREETING))
    received = await upstream.arrived(1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await received.gone()


async def test_abort_leaves_other_calls_alone(upstream: Upstream, model: OpenAIChat) -> None:
    go_on = asyncio.Event()
    upstream.add(say("One", whole=True), hang())
    upstream.add(say("Other", whole=True), wait_for(go_on), say("!", whole=True))
    aborted, kept = model.stream(GREETING), model.stream(GREETING)
    await anext(aborted)
    assert await anext(kept) == TextDelta("Other")
    await aborted.aclose()
    await upstream.requests[0].gone()
    go_on.set()
    assert [chunk async for chunk in kept] == [TextDelta("!"), Finished("stop")]


async def test_a_finished_call_gives_its_connection_to_the_next(
    upstream: Upstream, model: OpenAIChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_chat, "REUSE_SECONDS", 30.0)
    for _ in range(3):
        upstream.add(say("Hi."))
        await answer(model, GREETING)
        await upstream.requests[-1].ended.wait()
    assert len({received.port for received in upstream.requests}) == 1


async def test_many_calls_at_once(upstream: Upstream, model: OpenAIChat) -> None:
    go_on = asyncio.Event()
    for _ in range(150):
        upstream.add(wait_for(go_on), say("Hi.", whole=True))
    readers = [asyncio.create_task(answer(model, GREETING)) for _ in range(150)]
    await upstream.arrived(150)
    go_on.set()
    assert {text_of(chunks) for chunks in await asyncio.gather(*readers)} == {"Hi."}


async def test_split_utf8_and_split_lines(upstream: Upstream, model: OpenAIChat) -> None:
    event = 'data: {"choices":[{"delta":{"content":"Grüße 👋"},"finish_reason":"stop"}]}\r\n\r\n'.encode()
    pieces = [raw(event[at : at + 1]) for at in range(len(event))]
    steps = [step for piece in pieces for step in (piece, sleep(0))]
    upstream.add(*steps, raw(DONE))
    assert text_of(await answer(model, GREETING)) == "Grüße 👋"


async def test_an_error_in_the_stream(upstream: Upstream, model: OpenAIChat) -> None:
    error = b'data: {"error":{"message":"overloaded, key sk-secret-123","type":"server_error"}}\n\n'
    upstream.add(say("Half"), raw(error))
    fault = await fault_of(model)
    assert (fault.code, fault.retryable) == ("model_unavailable", True)
    assert "overloaded" in fault.message


async def test_junk_in_the_stream(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(raw(b"data: what?\n\n"))
    assert (await fault_of(model)).code == "model_protocol"


async def test_a_page_instead_of_a_stream(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(status(200, b"<html>Welcome</html>", {"Content-Type": "text/html"}))
    fault = await fault_of(model)
    assert (fault.code, fault.retryable) == ("model_protocol", False)
    assert "base_url" in fault.message


async def test_a_whole_answer_instead_of_a_stream(upstream: Upstream, model: OpenAIChat) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    upstream.add(status(200, body, {"Content-Type": "application/json"}))
    assert await answer(model, GREETING) == [TextDelta("Hi."), ModelUsage(3, 1)]


async def test_eof_without_done_after_a_finish_reason_is_complete(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Hi.", whole=True), usage(3, 1), finish("stop", done=False))
    assert await answer(model, GREETING) == [TextDelta("Hi."), ModelUsage(3, 1)]


async def test_why_the_model_stopped_is_told_in_the_provider_s_word(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Half", whole=True), finish("length"))
    assert [chunk async for chunk in model.stream(GREETING)] == [TextDelta("Half"), Finished("length")]


async def test_a_break_after_a_finish_reason_is_complete(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Hi.", whole=True), finish("stop", done=False), break_connection())
    assert await answer(model, GREETING) == [TextDelta("Hi.")]


async def test_eof_in_the_middle(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Half"), finish(None, done=False))
    fault = await fault_of(model)
    assert (fault.code, fault.retryable) == ("model_protocol", True)


async def test_a_body_that_goes_on_after_done(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Hi.", whole=True), finish(), hang())
    assert await answer(model, GREETING) == [TextDelta("Hi.")]
    await upstream.requests[0].gone()


async def test_length_with_text_is_complete(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Cut off", whole=True), finish("length"))
    assert text_of(await answer(model, GREETING)) == "Cut off"


async def test_length_without_text_is_a_fault(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(think("Hm, "), finish("length"))
    assert (await fault_of(model)).code == "model_rejected"


async def test_parallel_calls(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(say("Both."), call("a", {"n": 1}, "x"), call("b", {"n": 2}, "y"))
    assert calls_of(await answer(model, QUESTION)) == [ToolCall("x", "a", '{"n": 1}'), ToolCall("y", "b", '{"n": 2}')]


async def test_an_id_of_an_earlier_call_is_not_used_again(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(call("get_order_status", {}, "call_0"))
    earlier = AssistantMessage("", (ToolCall("call_0", "get_order_status", "{}"),))
    messages = [*QUESTION.messages, earlier, ToolMessage("call_0", "get_order_status", "{}")]
    (tool_call,) = calls_of(await answer(model, ModelRequest(messages=messages, tools=[ORDER_STATUS], parameters={})))
    assert tool_call.id != "call_0"


async def test_retry_after(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(status(429, {"error": {"message": "Slow down"}}, {"Retry-After": "7"}))
    fault = await fault_of(model)
    assert (fault.code, fault.retryable, fault.retry_after) == ("model_rate_limited", True, 7.0)


async def test_context_overflow(upstream: Upstream, model: OpenAIChat) -> None:
    message = "This model's maximum context length is 8192 tokens."
    upstream.add(status(400, {"error": {"message": message, "code": "context_length_exceeded"}}))
    fault = await fault_of(model)
    assert (fault.code, fault.retryable) == ("model_context_exceeded", False)
    assert message in fault.message


async def test_the_key_is_never_in_a_message(upstream: Upstream, model: OpenAIChat) -> None:
    for code in (400, 401, 403, 429, 500):
        upstream.add(status(code, {"error": {"message": f"Not good: {KEY}"}}))
        await fault_of(model)
    upstream.add(status(400, f"{KEY} ".encode() * 10_000))
    assert len((await fault_of(model)).message) < 1000


async def test_a_redirect_is_not_followed(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(status(307, b"", {"Location": f"{upstream.base_url}/chat/completions"}))
    assert (await fault_of(model)).code == "model_rejected"
    assert len(upstream.requests) == 1


async def test_no_first_byte_is_a_timeout(upstream: Upstream, hasty: OpenAIChat) -> None:
    upstream.add(hang())
    fault = await fault_of(hasty)
    assert (fault.code, fault.retryable) == ("model_timeout", True)


async def test_silence_between_chunks_is_a_timeout(upstream: Upstream) -> None:
    patient = OpenAIChat("chat", model="test-model", base_url=upstream.base_url, timeout_seconds=1)
    upstream.add(say("One", whole=True), hang())
    chunks: list[ModelChunk] = []
    with pytest.raises(ModelFault) as caught:
        await collect(patient, GREETING, chunks)
    await patient.close()
    assert chunks == [TextDelta("One")]
    assert caught.value.code == "model_timeout"


async def test_nobody_listens(upstream: Upstream) -> None:
    async with Upstream() as gone:
        base_url = gone.base_url
    chat = OpenAIChat("chat", model="m", base_url=base_url)
    fault = await fault_of(chat)
    await chat.close()
    assert (fault.code, fault.retryable) == ("model_unavailable", True)


async def test_a_connection_that_breaks_before_the_answer(upstream: Upstream, model: OpenAIChat) -> None:
    upstream.add(break_connection())
    fault = await fault_of(model)
    assert (fault.code, fault.retryable) == ("model_unavailable", True)


@pytest.mark.parametrize(("key", "word"), [(None, "KEY_NAME"), ("  ", "KEY_NAME"), ("a\nb", "characters")])
async def test_a_key_that_cannot_work(upstream: Upstream, key: str | None, word: str) -> None:
    environ = {} if key is None else {"KEY_NAME": key}
    chat = OpenAIChat("chat", model="m", base_url=upstream.base_url, key_variable="KEY_NAME", environ=environ)
    fault = await fault_of(chat)
    assert (fault.code, fault.retryable) == ("model_unauthorized", False)
    assert word in fault.message
    assert upstream.requests == []


async def test_a_key_that_is_not_required(upstream: Upstream) -> None:
    upstream.add(say("Hi."))
    http = HttpSession()
    chat = OpenAIChat(
        "chat", model="m", base_url=upstream.base_url, key_variable="KEY", key_required=False, http=http, environ={}
    )
    assert text_of(await answer(chat, GREETING)) == "Hi."
    assert "Authorization" not in upstream.requests[0].headers
    await chat.close()
    assert not http.get().closed
    await http.close()


async def test_a_base_url_that_is_none(upstream: Upstream) -> None:
    chat = OpenAIChat("chat", model="m", base_url="nonsense")
    assert (await fault_of(chat)).code == "model_rejected"
    await chat.close()
