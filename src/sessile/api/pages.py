"""Page parameters and page keys. A page key is opaque: the list it belongs to and where the next page starts."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from sessile.wire import codec
from sessile.wire.agents import ListMetadata
from sessile.wire.errors import InvalidPageKey
from sessile.wire.limits import MAX_FILTER_CHARS, MAX_PAGE_KEY_CHARS, MAX_PAGE_LIMIT

Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE_LIMIT, description="How many items a page holds at most")]
PageKey = Annotated[
    str,
    Meta(max_length=MAX_PAGE_KEY_CHARS, description="`metadata.page_key` of the page before; empty: the first page"),
]
Pattern = Annotated[
    str,
    Meta(max_length=MAX_FILTER_CHARS, description="A regular expression (RE2) that the name or description must have"),
]


def encode_cursor(listing: str, cursor: int | None) -> ListMetadata:
    """The metadata of a page: the key of the next one, unless this is the last."""
    if cursor is None:
        return ListMetadata()
    return ListMetadata(page_key=urlsafe_b64encode(f"{listing}:{cursor}".encode()).decode().rstrip("="))


def decode_cursor(listing: str, page_key: str | UnsetType) -> int | None:
    """The cursor in a page key of the same listing. Raises InvalidPageKey."""
    if page_key is UNSET or page_key == "":
        return None
    try:
        text = urlsafe_b64decode(str(page_key) + "=" * (-len(str(page_key)) % 4)).decode()
        name, _, cursor = text.rpartition(":")
        if name != listing or not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
            raise ValueError
        return int(cursor)
    except ValueError:
        raise InvalidPageKey from None


def page_body(name: str, items: list[bytes], metadata: ListMetadata) -> bytes:
    """The JSON of a page whose items are already encoded."""
    return b'{"%b":[%b],"metadata":%b}' % (name.encode(), b",".join(items), codec.encode(metadata))
