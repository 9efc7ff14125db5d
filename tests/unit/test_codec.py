import time
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from sessile.wire import codec
from sessile.wire.errors import InvalidJson, InvalidRequest
from sessile.wire.limits import MAX_INTEGER, MAX_JSON_CONTAINERS, MIN_INTEGER


class Leaf(Struct, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1)]


class Tree(Struct, forbid_unknown_fields=True):
    name: str
    leaf: Leaf | None = None
    leaves: list[Leaf] = []
    named: dict[str, Leaf] = {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not JSON: Expecting value (character 0)."),
        (b"   ", "The body is not JSON: Expecting value (character 3)."),
        (b"{", "The body is not JSON: Expecting property name enclosed in double quotes (character 1)."),
        (b"1 2", "The body is not JSON: Extra data (character 2)."),
        (b'{"a":1,}', None),
        (b"{'a':1}", None),
        (b"// a\n1", None),
        (b"01", None),
        (b"+1", None),
        (b".5", None),
        (b"1.", None),
        (b"0x1", None),
        (b'"\x01"', None),
        (b'"\\x"', None),
        (b'"a\x80"', "The body is not UTF-8 (byte 2)."),
        (b'"\xed\xa0\x80"', "The body is not UTF-8 (byte 1)."),
        (b'"\xc0\xaf"', "The body is not UTF-8 (byte 1)."),
        (b"\xef\xbb\xbf{}", None),
        ("{}".encode("utf-16"), "The body is not UTF-8 (byte 0)."),
        (b"NaN", "NaN is not JSON."),
        (b"[Infinity]", "Infinity is not JSON."),
        (b'{"a":-Infinity}', "-Infinity is not JSON."),
        (b"1e400", "A number does not fit into 64 bits."),
        (b"-1e400", "A number does not fit into 64 bits."),
        (str(MAX_INTEGER + 1).encode(), "A number does not fit into 64 bits."),
        (str(MIN_INTEGER - 1).encode(), "A number does not fit into 64 bits."),
        (b"9" * 5_000, "A number does not fit into 64 bits."),
        (b'{"a":1,"b":2,"a":3}', "The key 'a' is given twice in one object."),
        (b'[{"x":{"a":1,"\\u0061":2}}]', "The key 'a' is given twice in one object."),
        (b'"\\ud800"', "A string contains a lone surrogate."),
        (b'"\\udc00\\ud800"', "A string contains a lone surrogate."),
        (b'{"a":["\\u0000"]}', "A string contains the NUL character."),
        (b'{"\\u0000":1}', "A string contains the NUL character."),
        (b"[" * 65 + b"]" * 65, "The body is nested deeper than 64 levels."),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "The body is nested deeper than 64 levels."),
        (b"[" * 200_000, "The body is nested deeper than 64 levels."),
    ],
)
def test_what_is_refused(body: bytes, message: str | None) -> None:
    with pytest.raises(InvalidJson) as caught:
        codec.decode(body)
    if message is not None:
        assert caught.value.message == message


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" [1, 2.50, -0, 1e3]\n", [1, 2.5, 0, 1000.0]),
        (str(MAX_INTEGER).encode(), MAX_INTEGER),
        (str(MIN_INTEGER).encode(), MIN_INTEGER),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        ('"\U0001f600"'.encode(), "\U0001f600"),
        (b'{"":{"":0}}', {"": {"": 0}}),
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
        (b'"[[[["', "[[[["),
        (b"1e-400", 0.0),
    ],
)
def test_what_is_accepted(body: bytes, value: object) -> None:
    assert codec.decode(body) == value


def test_a_double_key_among_very_many_is_found_quickly() -> None:
    body = "{" + ",".join(f'"{number}":0' for number in range(200_000)) + ',"199999":0}'
    started = time.process_time()
    with pytest.raises(InvalidJson, match="'199999' is given twice"):
        codec.decode(body.encode())
    assert time.process_time() - started < 5


def test_64_levels_are_accepted() -> None:
    assert codec.decode(b"[" * 64 + b"]" * 64)


def test_brackets_in_strings_are_no_depth() -> None:
    assert codec.decode(b'["' + b"[{" * 500 + b'"]') == ["[{" * 500]


@pytest.mark.parametrize("start", ["[", '["[",', r'["\"[\\",'])
def test_more_arrays_and_objects_than_are_quickly_parsed(start: str) -> None:
    body = (start + "{}," * MAX_JSON_CONTAINERS + "[]]").encode()
    with pytest.raises(InvalidJson, match="more than 400000 arrays and objects"):
        codec.decode(body)


@pytest.mark.parametrize("text", ["[" * (MAX_JSON_CONTAINERS + 1), '"{' * MAX_JSON_CONTAINERS])
def test_very_many_brackets_in_a_string_are_no_arrays(text: str) -> None:
    assert codec.decode(codec.encode([text, [], {}])) == [text, [], {}]


def test_a_string_without_an_end_is_no_reason_to_look_for_it_again_and_again() -> None:
    body = b'"' + b'\\"[' * (MAX_JSON_CONTAINERS + 1)
    started = time.process_time()
    with pytest.raises(InvalidJson, match="Unterminated string"):
        codec.decode(body)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ([], "body", "Expected `object`, got `array`"),
        ({}, "name", "This field is required."),
        ({"name": 1}, "name", "Expected `str`, got `int`"),
        ({"name": "a", "nmae": 1}, "nmae", "Unknown field."),
        ({"name": "a", "leaf": {}}, "leaf.size", "This field is required."),
        ({"name": "a", "leaf": {"size": 0}}, "leaf.size", "Expected `int` >= 1"),
        ({"name": "a", "leaf": {"size": 1, "colour": 2}}, "leaf.colour", "Unknown field."),
        ({"name": "a", "leaves": [{"size": 1}, {}]}, "leaves[1].size", "This field is required."),
        ({"name": "a", "named": {"x": {"size": "s"}}}, "named[...].size", "Expected `int`, got `str`"),
    ],
)
def test_a_refusal_names_the_field(value: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        codec.convert(value, Tree)
    assert caught.value.field_errors == {field: reason}
    assert caught.value.message == f"{field}: {reason}"


def test_conversion_keeps_what_was_given() -> None:
    assert codec.convert({"name": "a", "leaf": {"size": 2}}, Tree) == Tree("a", Leaf(2))


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (999_999, "1970-01-01T00:00:00.999999Z"),
        (1_000_000, "1970-01-01T00:00:01.000000Z"),
        (1_767_225_599_999_999, "2025-12-31T23:59:59.999999Z"),
        (1_767_225_600_000_000, "2026-01-01T00:00:00.000000Z"),
    ],
)
def test_rfc3339_has_six_digits_and_a_z(micros: int, text: str) -> None:
    assert codec.rfc3339(micros) == text
