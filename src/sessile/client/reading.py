"""Reading answers leniently, so that a newer server does not break an older client."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from sessile.client.errors import UnexpectedAnswer
from sessile.client.pages import Page

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)
"""What decoding raises for bytes that are not what was expected."""


class _ListMetadata(Struct):
    page_key: str | UnsetType | None = UNSET


def read(kind: type[S], body: bytes | Raw) -> S:
    """Decode an object. A field with a value of a kind that this client does not know keeps it as it came.

    Raises UnexpectedAnswer for what is no such object at all.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        return _loose(kind, decoded(body))
    except UNREADABLE:
        raise UnexpectedAnswer("The answer is not JSON.") from None


def read_page(name: str, body: bytes, read_item: Callable[[Raw], T]) -> Page[T]:
    """Decode a page: the items under `name`, and the key of the next page."""
    try:
        parts = msgspec.json.decode(body, type=dict[str, Raw])
        items = msgspec.json.decode(parts[name], type=list[Raw])
        page_key = msgspec.json.decode(parts["metadata"], type=_ListMetadata).page_key or None
    except (*UNREADABLE, KeyError):
        raise UnexpectedAnswer(f"The answer is not a page of {name}.") from None
    return Page([read_item(item) for item in items], page_key)


def decoded(body: bytes | Raw) -> dict[str, Any]:
    """Any JSON object. Raises UnexpectedAnswer."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE:
        raise UnexpectedAnswer("The answer is not a JSON object.") from None


def _loose(kind: type[S], given: dict[str, Any]) -> S:
    values = {}
    for field in structs.fields(kind):
        if field.encode_name in given:
            value = given[field.encode_name]
            try:
                values[field.name] = msgspec.convert(value, field.type)
            except msgspec.ValidationError:
                values[field.name] = value
        elif field.required:
            raise UnexpectedAnswer(f"The answer lacks the field {field.encode_name!r}.")
    return kind(**values)
