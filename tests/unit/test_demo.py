"""The demo model: when it calls a tool, with which arguments, and what it says."""

import json
from typing import Any

import pytest

from sessile.domain.messages import AssistantMessage, ToolCall, ToolMessage, ToolSpec, UserMessage
from sessile.models.demo import Demo
from sessile.models.demo_arguments import fill_arguments
from sessile.ports import ModelChunk, ModelRequest
from sessile.testing.model_contract import AFTER_TOOL, GREETING, ORDER_STATUS, QUESTION, answer, calls_of, text_of


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


async def ask(text: str, *tools: ToolSpec) -> list[ModelChunk]:
    return await answer(
        Demo(word_delay=0), ModelRequest(messages=[UserMessage(text)], tools=list(tools), parameters={})
    )


async def test_it_says_that_it_is_a_demo_without_intelligence() -> None:
    for request in (GREETING, AFTER_TOOL, ModelRequest(messages=[], tools=[], parameters={})):
        said = text_of(await answer(Demo(word_delay=0), request))
        assert "demo model" in said
        assert "no intelligence" in said


async def test_it_quotes_the_user() -> None:
    assert "Good morning!" in text_of(await answer(Demo(word_delay=0), GREETING))


async def test_it_is_deterministic() -> None:
    for request in (GREETING, QUESTION, AFTER_TOOL):
        assert await answer(Demo(word_delay=0), request) == await answer(Demo(word_delay=0), request)


async def test_it_streams_words() -> None:
    assert len(await answer(Demo(word_delay=0), GREETING)) > 20


async def test_it_quotes_the_output_of_the_tool() -> None:
    assert "status: shipped" in text_of(await answer(Demo(word_delay=0), AFTER_TOOL))


async def test_it_quotes_all_outputs_since_the_last_answer() -> None:
    calls = tuple(ToolCall(f"c{n}", "t", "{}") for n in range(2))
    outputs = [ToolMessage("c0", "t", '{"list":[1,2]}'), ToolMessage("c1", "t", "not json")]
    messages = [UserMessage("Go"), AssistantMessage("", calls), *outputs]
    said = text_of(await answer(Demo(word_delay=0), ModelRequest(messages=messages, tools=[], parameters={})))
    assert '{"list":[1,2]}' in said
    assert "not json" in said


async def test_a_second_call_has_another_id() -> None:
    (first,) = calls_of(await answer(Demo(word_delay=0), QUESTION))
    messages = [*AFTER_TOOL.messages[:1], AssistantMessage("", (first,)), ToolMessage(first.id, first.name, "{}")]
    again = ModelRequest(messages=[*messages, *QUESTION.messages], tools=[ORDER_STATUS], parameters={})
    (second,) = calls_of(await answer(Demo(word_delay=0), again))
    assert second.id != first.id


async def test_a_shared_word_calls_the_tool() -> None:
    weather = ToolSpec("forecast", "Gives the weather in a city.", schema(city={"type": "string"}))
    (call,) = calls_of(await ask("How is the weather in Paris?", ORDER_STATUS, weather))
    assert (call.name, json.loads(call.arguments)) == ("forecast", {"city": "Paris"})


async def test_a_value_that_fits_a_required_argument_calls_the_tool() -> None:
    (call,) = calls_of(await ask("And A-1002?", ORDER_STATUS))
    assert json.loads(call.arguments) == {"order_number": "A-1002"}


async def test_nothing_in_common_calls_no_tool_and_names_the_tools() -> None:
    chunks = await ask("Good morning to you!", ORDER_STATUS)
    assert calls_of(chunks) == []
    assert "get_order_status" in text_of(chunks)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ({"type": "integer"}, 42),
        ({"type": "integer", "maximum": 10}, 10),
        ({"type": "number"}, 42),
        ({"type": "boolean"}, True),
        ({"enum": ["red", "blue"]}, "red"),
        ({"enum": ["red", "great"]}, "great"),
        ({"const": "fixed"}, "fixed"),
        ({"type": "array", "items": {"type": "string"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [42, 42]),
        ({"type": ["null", "string"]}, "B-42"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "B-42"),
        ({"$ref": "#/$defs/Code"}, "B-42"),
        ({"$ref": "#/$defs/Missing"}, "B-42"),
        ({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}, {"a": True}),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "null"}, None),
        (True, "B-42"),
    ],
)
def test_arguments_from_the_schema(argument: Any, value: Any) -> None:
    given = {**schema(it=argument), "$defs": {"Code": {"type": "string"}}}
    assert fill_arguments(given, "Great: B-42 please") == {"it": value}


def test_a_text_argument_gets_the_whole_text() -> None:
    assert fill_arguments(schema(query={"type": "string"}), " Who is 42? ") == {"query": "Who is 42?"}


def test_strings_without_a_number_get_the_last_word() -> None:
    assert fill_arguments(schema(city={"type": "string"}), "Off to Paris!") == {"city": "Paris"}


def test_optional_arguments_are_left_out_when_others_are_required() -> None:
    given = {"properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}}, "required": ["a"]}
    assert fill_arguments(given, "") == {"a": True}
    assert fill_arguments({"properties": {"a": {"type": "boolean"}, "b": {"default": 1}}}, "") == {"a": True}


def test_a_schema_that_never_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert "next" in fill_arguments(node, "x")
    assert fill_arguments({"properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]}, "x") == {"a": "x"}


def test_a_number_beyond_bounds() -> None:
    assert fill_arguments(schema(n={"type": "integer"}), "9" * 500) == {"n": 10**15}


async def test_the_agent_may_set_the_delay() -> None:
    request = ModelRequest(messages=GREETING.messages, tools=[], parameters={"word_delay": 0})
    assert text_of(await answer(Demo(word_delay=3600), request))
