"""Server-sent events: one frame as bytes."""

HEARTBEAT = b": heartbeat\n"
"""A comment line without a blank line after it: some clients take a blank line for an event."""


def frame(type: str, data: bytes) -> bytes:
    """A frame without an id."""
    return b"event: %b\ndata: %b\n\n" % (type.encode(), data)
