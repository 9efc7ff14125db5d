"""JSON in and out. What a lax decoder would let pass is refused here, once, for every body."""

import json
import math
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec

from sessile.wire.errors import InvalidJson, InvalidRequest
from sessile.wire.limits import MAX_INTEGER, MAX_JSON_CONTAINERS, MAX_JSON_DEPTH, MIN_INTEGER

T = TypeVar("T")

encode = msgspec.json.Encoder().encode
_PATH = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|$)', re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


def decode(body: bytes, depth: int = MAX_JSON_DEPTH) -> Any:
    """Parse a JSON body strictly.

    Refused with InvalidJson: invalid UTF-8, a byte-order mark, duplicate keys, NaN and infinities, numbers that
    overflow 64 bits, lone surrogates, NUL characters, nesting deeper than `depth` levels, and more arrays and objects
    than are parsed in a fraction of a second.
    """
    try:
        text = body.decode("utf-8")
        _check_containers(text)
        value = _STRICT.decode(text)
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise InvalidJson(f"The body is not JSON: {error.msg} (character {error.pos}).") from None
    except RecursionError:
        raise _too_deep(depth) from None
    if _containers(text) > depth and _is_deeper(value, depth):
        raise _too_deep(depth)
    if "\\u" in text:
        _check_characters(value)
    return value


def convert(value: Any, type: type[T]) -> T:
    """Turn decoded JSON into `type`, or raise InvalidRequest that names the field."""
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise invalid_field(str(error)) from None


def invalid_field(message: str) -> InvalidRequest:
    """An InvalidRequest from the text of a msgspec validation error."""
    match = _PATH.search(message)
    path = match["path"] if match else ""
    reason = message[: match.start()] if match else message
    for pattern, text in ((_UNKNOWN_FIELD, "Unknown field."), (_MISSING_FIELD, "This field is required.")):
        if found := pattern.fullmatch(reason):
            path = f"{path}.{found['name']}" if path else found["name"]
            reason = text
    field = path or "body"
    return InvalidRequest(f"{field}: {reason}", field_errors={field: reason})


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


@lru_cache(maxsize=256)
def rfc3339(micros: int) -> str:
    """Microseconds since the epoch as RFC 3339 in UTC, always with six digits."""
    seconds, fraction = divmod(micros, 1_000_000)
    return f"{_whole_second(seconds)}.{fraction:06d}Z"


def microseconds(text: str) -> int:
    """A time of RFC 3339 with its zone as microseconds since the epoch. Raises ValueError."""
    time = msgspec.convert(text, _Time)
    return (time - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=64)
def _whole_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        double = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InvalidJson(f"The key {double[:100]!r} is given twice in one object.")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or not MIN_INTEGER <= (number := int(digits)) <= MAX_INTEGER:
        raise InvalidJson("A number does not fit into 64 bits.")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise InvalidJson("A number does not fit into 64 bits.")
    return number


def _constant(name: str) -> NoReturn:
    raise InvalidJson(f"{name} is not JSON.")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def _too_deep(depth: int) -> InvalidJson:
    return InvalidJson(f"The body is nested deeper than {depth} levels.")


def _check_containers(text: str) -> None:
    if _containers(text) > MAX_JSON_CONTAINERS and _containers(_STRING.sub("", text)) > MAX_JSON_CONTAINERS:
        raise InvalidJson(f"The body has more than {MAX_JSON_CONTAINERS} arrays and objects.")


def _containers(text: str) -> int:
    return text.count("{") + text.count("[")


def _is_deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(child, depth - 1) for child in inner)


def _check_characters(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidJson("A string contains the NUL character.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidJson("A string contains a lone surrogate.") from None
    elif isinstance(value, dict):
        for name, child in value.items():
            _check_characters(name)
            _check_characters(child)
    elif isinstance(value, list):
        for child in value:
            _check_characters(child)
