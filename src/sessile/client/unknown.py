"""Events and frames that a newer server sends, and that this client cannot read as what they are."""

from typing import Any

import msgspec
from msgspec import Raw, Struct


class UnknownEvent(Struct, kw_only=True):
    """An event or a frame of a type or shape that this client does not know; `data` is all of it."""

    type: str
    id: str = ""
    """Empty in a frame."""
    sequence: int = 0
    """0 in a frame."""
    data: dict[str, Any]


def unknown(body: bytes | Raw, kind: str = "") -> UnknownEvent:
    """Keep what cannot be read. Raises msgspec.DecodeError for what is not JSON."""
    data = msgspec.json.decode(body)
    if not isinstance(data, dict):
        data = {"value": data}
    given, id, sequence = data.get("type", kind), data.get("id", ""), data.get("sequence", 0)
    return UnknownEvent(
        type=given if isinstance(given, str) else kind,
        id=id if isinstance(id, str) else "",
        sequence=sequence if isinstance(sequence, int) else 0,
        data=data,
    )
