"""Parts of files, conditions and names in headers: RFC 9110 (ranges, entity tags), RFC 6266 (file names)."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from sessile.wire.errors import RangeNotSatisfiable

_RANGE = re.compile(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")
_NOT_PLAIN = re.compile(r"[^ !#-\[\]-~]")


def wanted(headers: Mapping[bytes, bytes], tag: str, size: int) -> tuple[int, int] | None:
    """First byte and length of the part that a request asks for; None: all of it.

    Several ranges at once, other units, what cannot be read and a part of another version are all of it, as RFC 9110
    allows. Raises RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch(headers.get(b"range", b"").strip())
    if match is None or match[0] == b"bytes=-" or not (match[1] or match[2]):
        return None
    if (condition := headers.get(b"if-range")) is not None and condition.strip() != f'"{tag}"'.encode():
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if length == 0:
            raise _unsatisfiable(size)
        return size - length, length
    start, end = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and end < start:
        return None
    if start >= size:
        raise _unsatisfiable(size)
    return start, min(end, size - 1) - start + 1


def matches(if_none_match: bytes, tag: str) -> bool:
    """Whether an If-None-Match names this entity tag, weakly compared."""
    given = [one.strip().removeprefix(b"W/") for one in if_none_match.split(b",")]
    return b"*" in given or f'"{tag}"'.encode() in given


def attachment(name: str) -> str:
    """A Content-Disposition that offers a file under its name: plain for old clients, and encoded where it is not."""
    plain = _NOT_PLAIN.sub("_", name)
    encoded = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{encoded}'


def _unsatisfiable(size: int) -> RangeNotSatisfiable:
    return RangeNotSatisfiable(f"The file has {size} bytes.", size=size)
