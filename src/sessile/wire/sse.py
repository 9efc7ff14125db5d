"""Server-sent events: one frame as bytes."""

HEARTBEAT = b": heartbeat\n"
"""A comment line without a blank line after it: some clients take a blank line for an event."""


_LINE_BREAKS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""Characters that many clients (httpx's `iter_lines` is one) take for the end of a line, and their JSON escapes."""


def frame(type: str, data: bytes) -> bytes:
    """A frame without an id. `data` is JSON in one line."""
    if not data.isascii():
        for character, escape in _LINE_BREAKS:
            data = data.replace(character, escape)
    return b"event: %b\ndata: %b\n\n" % (type.encode(), data)
