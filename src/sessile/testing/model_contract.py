"""What every Model must do, as tests to subclass. `ModelContract` suits any model, `ScriptedModelContract` one whose
answers a test can write.
"""

import asyncio
from contextlib import aclosing
from typing import Protocol

import msgspec
import pytest

from sessile.domain.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, ToolSpec, UserMessage
from sessile.ports import Finished, Model, ModelChunk, ModelFault, ModelRequest, ModelUsage, TextDelta, ThinkingDelta
from sessile.testing.script import Step, break_connection, call, finish, hang, say, status, think, usage

GREETING = ModelRequest(
    messages=[SystemMessage("You are kind."), UserMessage("Good morning!")], tools=[], parameters={}
)
ORDER_STATUS = ToolSpec(
    "get_order_status",
    "Tells the status of an order.",
    {
        "type": "object",
        "properties": {"order_number": {"type": "string", "description": "The number of the order."}},
        "required": ["order_number"],
    },
)
QUESTION = ModelRequest(
    messages=[UserMessage("What is the status of order A-1001?")], tools=[ORDER_STATUS], parameters={}
)
ASKED = AssistantMessage("", (ToolCall("call_1", "get_order_status", '{"order_number":"A-1001"}'),))
AFTER_TOOL = ModelRequest(
    messages=[*QUESTION.messages, ASKED, ToolMessage("call_1", "get_order_status", '{"status":"shipped"}')],
    tools=[ORDER_STATUS],
    parameters={},
)
WAIT_SECONDS = 30.0
VERY_LONG = 300_000


async def collect(model: Model, request: ModelRequest, into: list[ModelChunk]) -> None:
    """Read the answer into a list, which keeps what came before a fault.

    Why the model stopped is not kept: an adapter may know it or not, but nothing comes after it.
    """
    finished = False
    async with aclosing(model.stream(request)) as stream:
        async for chunk in stream:
            assert not finished, f"{chunk!r} came after the end"
            finished = isinstance(chunk, Finished)
            if not finished:
                into.append(chunk)


async def answer(model: Model, request: ModelRequest) -> list[ModelChunk]:
    """The whole answer."""
    chunks: list[ModelChunk] = []
    await collect(model, request, chunks)
    return chunks


def text_of(chunks: list[ModelChunk]) -> str:
    """What was said."""
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta))


def calls_of(chunks: list[ModelChunk]) -> list[ToolCall]:
    """The tools called."""
    return [chunk for chunk in chunks if isinstance(chunk, ToolCall)]


def usages_of(chunks: list[ModelChunk]) -> list[ModelUsage]:
    """The usage reported: one or none."""
    return [chunk for chunk in chunks if isinstance(chunk, ModelUsage)]


class ModelContract:
    """Subclass with two fixtures: `answering`, a model that thinks and answers GREETING and AFTER_TOOL in words, and
    `calling`, one that calls `get_order_status` for QUESTION. Both report usage.
    """

    async def test_says_its_name_and_window(self, answering: Model) -> None:
        assert answering.name
        assert answering.context_window >= 256

    async def test_answers_in_text_deltas(self, answering: Model) -> None:
        chunks = await answer(answering, GREETING)
        assert text_of(chunks).strip()
        assert all(chunk.text for chunk in chunks if isinstance(chunk, TextDelta | ThinkingDelta))

    async def test_thinks_before_it_speaks(self, answering: Model) -> None:
        kinds = [type(chunk) for chunk in await answer(answering, GREETING)]
        assert ThinkingDelta in kinds
        assert kinds.index(ThinkingDelta) < kinds.index(TextDelta)

    async def test_reports_usage_once_at_the_end(self, answering: Model) -> None:
        chunks = await answer(answering, GREETING)
        assert len(usages_of(chunks)) == 1
        assert isinstance(chunks[-1], ModelUsage)
        assert chunks[-1].input_tokens > 0
        assert chunks[-1].output_tokens > 0

    async def test_yields_a_tool_call_whole_after_the_deltas(self, calling: Model) -> None:
        chunks = await answer(calling, QUESTION)
        (tool_call,) = calls_of(chunks)
        assert tool_call.id
        assert tool_call.name == "get_order_status"
        assert msgspec.json.decode(tool_call.arguments) == {"order_number": "A-1001"}
        kinds = [type(chunk) for chunk in chunks]
        assert not {TextDelta, ThinkingDelta} & set(kinds[kinds.index(ToolCall) :])

    async def test_answers_after_a_tool_output(self, answering: Model) -> None:
        chunks = await answer(answering, AFTER_TOOL)
        assert text_of(chunks).strip()
        assert calls_of(chunks) == []

    async def test_can_be_closed_in_the_middle(self, answering: Model) -> None:
        chunks = answering.stream(GREETING)
        await anext(chunks)
        await chunks.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


class Harness(Protocol):
    """A model whose next answers are the scripts given to `play`."""

    def play(self, *steps: Step) -> Model:
        """The model, with one more answer in its queue."""

    async def reader_gone(self) -> None:
        """Wait until the source of the last answer has seen that its reader went away. Raises TimeoutError."""


class ScriptedModelContract(ModelContract):
    """Subclass with one fixture, `harness`."""

    @pytest.fixture
    def answering(self, harness: Harness) -> Model:
        """A model that answers in words."""
        return harness.play(think("I greet back."), say("Good morning to you!"), usage(12, 7))

    @pytest.fixture
    def calling(self, harness: Harness) -> Model:
        """A model that calls a tool."""
        return harness.play(think("I look."), call("get_order_status", {"order_number": "A-1001"}), usage(20, 9))

    async def test_an_empty_answer_is_an_answer(self, harness: Harness) -> None:
        assert await answer(harness.play(finish("stop")), GREETING) == []

    async def test_a_tool_call_without_arguments_has_an_empty_object(self, harness: Harness) -> None:
        (tool_call,) = calls_of(await answer(harness.play(call("ping")), QUESTION))
        assert tool_call.arguments == "{}"

    async def test_arguments_that_are_not_json_are_passed_on(self, harness: Harness) -> None:
        (tool_call,) = calls_of(await answer(harness.play(call("ping", '{"a": ')), QUESTION))
        assert tool_call.arguments == '{"a": '

    async def test_calls_come_in_order_after_the_text(self, harness: Harness) -> None:
        steps = [say("Both."), call("first", {"n": 1}), call("second", {"n": 2}), usage(3, 4)]
        chunks = await answer(harness.play(*steps), QUESTION)
        assert [type(chunk) for chunk in chunks] == [TextDelta, ToolCall, ToolCall, ModelUsage]
        first, second = calls_of(chunks)
        assert [first.name, second.name] == ["first", "second"]
        assert first.id != second.id

    async def test_a_very_long_delta_arrives_whole(self, harness: Harness) -> None:
        text = "é" * VERY_LONG
        assert text_of(await answer(harness.play(say(text, whole=True)), GREETING)) == text

    async def test_a_lone_surrogate_does_not_get_out(self, harness: Harness) -> None:
        text = text_of(await answer(harness.play(say("a\ud800b", whole=True)), GREETING))
        assert text == "a\ufffdb"

    async def test_a_lone_surrogate_may_be_asked(self, harness: Harness) -> None:
        asked = ModelRequest(messages=[UserMessage("a\ud800b")], tools=[], parameters={})
        assert text_of(await answer(harness.play(say("Yes.")), asked)) == "Yes."

    async def test_cached_and_reasoning_tokens(self, harness: Harness) -> None:
        chunks = await answer(harness.play(say("Hi."), usage(10, 5, cached_tokens=4, reasoning_tokens=3)), GREETING)
        assert usages_of(chunks) == [ModelUsage(10, 5, 4, 3)]

    async def test_no_usage_is_no_fault(self, harness: Harness) -> None:
        assert await answer(harness.play(say("Hi.")), GREETING) == [TextDelta("Hi.")]

    @pytest.mark.parametrize(
        ("http_status", "code", "retryable"),
        [
            (400, "model_rejected", False),
            (401, "model_unauthorized", False),
            (403, "model_unauthorized", False),
            (404, "model_rejected", False),
            (408, "model_unavailable", True),
            (429, "model_rate_limited", True),
            (500, "model_unavailable", True),
            (503, "model_unavailable", True),
        ],
    )
    async def test_a_refusal_is_a_fault(self, harness: Harness, http_status: int, code: str, retryable: bool) -> None:
        model = harness.play(status(http_status, {"error": {"message": "No."}}))
        with pytest.raises(ModelFault) as caught:
            await answer(model, GREETING)
        assert (caught.value.code, caught.value.retryable) == (code, retryable)

    @pytest.mark.parametrize(
        ("ending", "code"), [(break_connection(), "model_unavailable"), (finish(None, done=False), "model_protocol")]
    )
    async def test_a_broken_answer_is_a_fault_after_its_deltas(self, harness: Harness, ending: Step, code: str) -> None:
        chunks: list[ModelChunk] = []
        with pytest.raises(ModelFault) as caught:
            await collect(harness.play(say("Half", whole=True), ending), GREETING, chunks)
        assert chunks == [TextDelta("Half")]
        assert (caught.value.code, caught.value.retryable) == (code, True)

    async def test_closing_the_iterator_closes_the_source(self, harness: Harness) -> None:
        chunks = harness.play(say("Half", whole=True), hang()).stream(GREETING)
        assert await anext(chunks) == TextDelta("Half")
        await chunks.aclose()
        await harness.reader_gone()

    async def test_cancelling_the_reader_closes_the_source(self, harness: Harness) -> None:
        started = asyncio.Event()

        async def read(model: Model) -> None:
            async for _ in model.stream(GREETING):
                started.set()

        reader = asyncio.create_task(read(harness.play(say("Half", whole=True), hang())))
        async with asyncio.timeout(WAIT_SECONDS):
            await started.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await harness.reader_gone()

    async def test_calls_at_the_same_time_do_not_mix(self, harness: Harness) -> None:
        for number in range(20):
            model = harness.play(say(f"{number} " * 50), call("ping", {"n": number}))
        answers = await asyncio.gather(*(answer(model, QUESTION) for _ in range(20)))
        texts = {text_of(chunks) for chunks in answers}
        assert texts == {f"{number} " * 50 for number in range(20)}
