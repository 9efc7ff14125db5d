"""Server-sent events: one frame as bytes."""

COMMENT = b": heartbeat\n"
"""A comment without a blank line after it: some clients of streamed answers take every blank line for an event."""
HEARTBEAT = b": heartbeat\n\n"
"""A comment as a block of its own, so that whoever reads block by block gets it at once."""


_LINE_BREAKS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""Characters that many clients (httpx's `iter_lines` is one) take for the end of a line, and their JSON escapes."""


def position(id: str) -> bytes:
    """A block that dispatches nothing: from here on a client that reconnects names this id."""
    return b"id: %b\n\n" % id.encode()


def frame(type: str, data: bytes) -> bytes:
    """A frame without an id. `data` is JSON in one line."""
    if not data.isascii():
        for character, escape in _LINE_BREAKS:
            data = data.replace(character, escape)
    return b"event: %b\ndata: %b\n\n" % (type.encode(), data)
