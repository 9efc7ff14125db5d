import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessile.wire import codec
from sessile.wire.errors import InvalidJson
from sessile.wire.limits import MAX_INTEGER, MAX_JSON_DEPTH, MIN_INTEGER

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5), max_leaves=30
)
FRAGMENTS = (
    b'{ } [ ] : , " "a" \\u d800 \\udfff \\u0000 \\ 1e999 - 0 1.5 NaN Infinity -Infinity true null \xff \xef\xbb\xbf'
)
fragments = st.sampled_from([*FRAGMENTS.split(), b" ", b"\n", b"9" * 25])
near_json = st.lists(fragments, max_size=40).map(b"".join)


def nested(value: Any, kinds: list[bool]) -> Any:
    for is_list in kinds:
        value = [value] if is_list else {"a": value}
    return value


@given(st.binary() | near_json)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"9" * 100_000)
@example(b"-" + b"1" * 5_000 + b"." + b"1" * 5_000)
@example(b'{"\\ud800":1}')
def test_any_bytes_are_a_value_or_invalid_json(body: bytes) -> None:
    try:
        value = codec.decode(body)
    except InvalidJson as error:
        assert error.message  # noqa: PT017
    else:
        assert codec.decode(codec.encode(value)) == value


@given(values, st.booleans())
def test_every_value_within_the_limits_comes_back(value: Any, ascii_only: bool) -> None:
    decoded = codec.decode(json.dumps(value, ensure_ascii=ascii_only).encode())
    assert decoded == value
    assert json.dumps(decoded) == json.dumps(value)


@given(values)
def test_what_encode_writes_decode_reads(value: Any) -> None:
    assert codec.decode(codec.encode(value)) == value


@given(texts, values, values, st.lists(st.booleans(), max_size=10), st.booleans())
def test_a_key_given_twice_is_refused_at_any_depth(
    name: str, first: Any, second: Any, kinds: list[bool], escaped: bool
) -> None:
    other = "".join(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else char for char in name) if escaped else None
    again = json.dumps(name, ensure_ascii=False) if other is None else f'"{other}"'
    inner = f"{{{json.dumps(name)}:{json.dumps(first)},{again}:{json.dumps(second)}}}"
    body = json.dumps(nested("@", kinds)).replace('"@"', inner)
    with pytest.raises(InvalidJson, match="given twice"):
        codec.decode(body.encode())


@given(st.lists(st.booleans(), max_size=80))
def test_depth_is_limited_and_width_is_not(kinds: list[bool]) -> None:
    body = json.dumps([nested(1, kinds), [], {}] + [[]] * 100).encode()
    if len(kinds) + 1 <= MAX_JSON_DEPTH:
        codec.decode(body)
    else:
        with pytest.raises(InvalidJson, match="nested deeper"):
            codec.decode(body)


@given(st.integers(-(10**30), 10**30))
def test_integers_are_those_of_64_bits(number: int) -> None:
    if MIN_INTEGER <= number <= MAX_INTEGER:
        assert codec.decode(str(number).encode()) == number
    else:
        with pytest.raises(InvalidJson, match="64 bits"):
            codec.decode(str(number).encode())


@given(texts, st.integers(0xD800, 0xDFFF), texts)
def test_a_lone_surrogate_is_refused_wherever_it_stands(before: str, code: int, after: str) -> None:
    text = json.dumps(before)[:-1] + f"\\u{code:04x}" + json.dumps(after)[1:]
    for body in (text, f'{{"a":[{text}]}}', f"{{{text}:1}}"):
        with pytest.raises(InvalidJson, match="surrogate"):
            codec.decode(body.encode())


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_sort_as_their_microseconds(micros: int) -> None:
    text = codec.rfc3339(micros)
    assert len(text) == 27
    assert codec.rfc3339(min(micros + 1, 253_402_300_799_999_999)) >= text
