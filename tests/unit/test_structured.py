"""Which JSON schemas an agent may ask for, and what of an answer is taken."""

from typing import Any

import pytest

from sessile.domain.structured import Output, output, schema_error
from sessile.wire.limits import MAX_OUTPUT_SCHEMA_BYTES, MAX_OUTPUT_SCHEMA_NODES

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"number": {"type": "string", "pattern": "^A-[0-9]+$"}, "parts": {"$ref": "#/$defs/parts"}},
    "required": ["number"],
    "additionalProperties": False,
    "$defs": {"parts": {"type": "array", "items": {"type": "integer"}}},
}


def asked_for(schema: dict[str, Any]) -> Output:
    found = output({"type": "structured", "json_schema": {"name": "order", "schema": schema}})
    assert found is not None
    assert found.unusable is None
    return found


def doubled(times: int) -> dict[str, Any]:
    """A small schema that is a large one when it is written out."""
    steps = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(times)}
    return {"$ref": "#/$defs/a0", "$defs": {**steps, f"a{times}": {"type": "string"}}}


def chained(length: int) -> dict[str, Any]:
    steps = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**steps, f"a{length}": {"type": "string"}}}


def test_plain_text_asks_for_nothing() -> None:
    assert output({"type": "default"}) is None


@pytest.mark.parametrize(
    "schema",
    [
        {},
        ORDER,
        {"type": ["object", "null"], "properties": {"$ref": {"type": "string"}, "id": {"const": 1}}},
        {"enum": [{"$ref": "https://example.com"}], "default": {"$id": "x"}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a/b~": {}},
            "$ref": "#/definitions/a~1b~0",
        },
        {"anyOf": [{"type": "string"}, {"$ref": "#/anyOf/0"}]},
        doubled(5),
        chained(30),
    ],
)
def test_schemas_that_may_be_asked_for(schema: dict[str, Any]) -> None:
    assert schema_error(schema) is None


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objekt"}, "no JSON schema"),
        ({"properties": []}, "no JSON schema"),
        ({"$schema": "https://example.com/own"}, "no JSON schema"),
        ({"$schema": 7}, "must be a string"),
        ({"pattern": "("}, "no JSON schema"),
        ({"pattern": "(?=a)b"}, "no JSON schema"),
        ({"$ref": "https://example.com/schema.json"}, "nothing is fetched"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "nothing is fetched"),
        ({"$ref": "other.json#/a"}, "nothing is fetched"),
        ({"$ref": "#"}, "circle"),
        ({"properties": {"child": {"$ref": "#"}}}, "circle"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "circle"),
        ({"$ref": "#/$defs/nope"}, "leads nowhere"),
        ({"$ref": "#/allOf/1", "allOf": [{}]}, "leads nowhere"),
        ({"$ref": "#named"}, "no plain pointer"),
        ({"$ref": "#/%24defs/a", "$defs": {"a": {}}}, "no plain pointer"),
        ({"$id": "https://example.com/a"}, "$id is not supported"),
        ({"items": {"$dynamicRef": "#x"}}, "$dynamicRef is not supported"),
        (doubled(20), "parts"),
        (doubled(200), "deeper"),
        (chained(1500), "deeper"),
        ({"enum": ["x" * MAX_OUTPUT_SCHEMA_BYTES]}, "bytes"),
        ({"allOf": [{}] * MAX_OUTPUT_SCHEMA_NODES}, "parts"),
    ],
)
def test_schemas_that_may_not(schema: dict[str, Any], reason: str) -> None:
    error = schema_error(schema)
    assert error is not None
    assert reason in error
    found = output({"type": "structured", "json_schema": {"name": "order", "schema": schema}})
    assert found is not None
    assert found.unusable == error


@pytest.mark.parametrize(
    "text",
    [
        '{"number": "A-1", "parts": [1, 2]}',
        ' \n{"number": "A-1", "parts": [1, 2]}\n',
        '```json\n{"number": "A-1", "parts": [1, 2]}\n```',
        '```\n{"number": "A-1", "parts": [1, 2]}\n```\n',
        '  ```json \n\n{"number": "A-1",\n "parts": [1, 2]}\n\n  ```\n',
    ],
)
def test_answers_that_follow_the_schema(text: str) -> None:
    assert asked_for(ORDER).read(text) == ({"number": "A-1", "parts": [1, 2]}, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("Here it is: {}", "not JSON"),
        ('{"number": "A-1"} {"number": "A-2"}', "not JSON"),
        ('{"number": NaN}', "NaN"),
        ('{"number": "A-1", "number": "A-2"}', "twice"),
        ('{"number": "\\ud800"}', "surrogate"),
        ('{"number": "\ud800"}', ""),
        ("[" * 100 + "]" * 100, "deeper"),
        ("{}", "number"),
        ('{"number": "B-1"}', "at /number"),
        ('{"number": "A-1", "parts": [1, "two"]}', "at /parts/1"),
        ('{"number": "A-1", "more": 1}', "more"),
        ('{"parts": [' + ", ".join('"x"' for _ in range(1000)) + "]}", ""),
    ],
)
def test_answers_that_do_not(text: str, problem: str) -> None:
    _, told = asked_for(ORDER).read(text)
    assert told
    assert problem in told
    assert len(told) <= 500


@pytest.mark.parametrize(
    "text", ["```\n" + "\n" * 500_000 + "x", "```\n" + " \n" * 200_000 + "```x", "```", "```\n```"]
)
def test_a_fence_is_read_in_linear_time(text: str) -> None:
    """A model that gets stuck repeats white space for as long as it may; with a pattern this took hours."""
    _, told = asked_for(ORDER).read(text)
    assert told


def test_a_large_answer_that_breaks_a_large_schema_is_told_one_problem() -> None:
    """To make an error for each alternative of each value took half a minute and more than a gigabyte."""
    schema = {"type": "array", "items": {"anyOf": [{"const": f"c{number}"} for number in range(900)]}}
    _, told = asked_for(schema).read("[" + ",".join("1" * 1_000) + "]")
    assert told is not None
    assert "at /0" in told
    assert "at /1" not in told


def test_an_answer_that_takes_too_long_to_check_is_not_taken() -> None:
    schema = {"type": "array", "items": {"patternProperties": {f"a{number}": {} for number in range(1_500)}}}
    _, told = asked_for(schema).read("[" + ",".join(['{"a":1}'] * 100_000) + "]")
    assert told is not None
    assert "too large" in told
    assert asked_for(schema).read('[{"a":1}]') == ([{"a": 1}], None)


def test_all_problems_of_an_answer_are_told() -> None:
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in "abc"}}
    _, told = asked_for(schema).read('{"a": "x", "b": "y", "c": 1}')
    assert told is not None
    assert "/a" in told
    assert "/b" in told


def test_a_pattern_runs_in_linear_time() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    _, told = asked_for(schema).read('"' + "a" * 100_000 + '!"')
    assert told
