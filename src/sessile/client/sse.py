"""Server-sent events as a stream of bytes in, frames out (the WHATWG's rules). It does no I/O."""

import re

from msgspec import Struct

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""The largest frame that a server sends is an input of a million characters, told twice: some twelve million bytes."""
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Frame(Struct, frozen=True):
    """One event: its type (`message` when the stream names none), its data, and the last id that was set."""

    event: str
    data: bytes
    id: str = ""


class FrameTooLarge(ValueError):
    """The stream goes on and on without the end of a frame."""


class SseParser:
    """Cuts a stream into frames, whatever the chunks it comes in. What follows the last empty line is no frame."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._line: list[bytes] = []
        self._after_return = False
        self._first = True
        self._event = b""
        self._data: list[bytes] = []
        self._id = ""
        self.last_id = ""
        """The id of the last block that is complete: where a client that reconnects goes on."""
        self._size = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes and give the frames that are complete with them. Raises FrameTooLarge."""
        frames: list[Frame] = []
        start = 1 if self._after_return and chunk[:1] == b"\n" else 0
        if chunk:
            self._after_return = chunk.endswith(b"\r")
        for end in _LINE_END.finditer(chunk, start):
            line = chunk[start : end.start()]
            self._grow(len(line))
            if self._line:
                line = b"".join([*self._line, line])
                self._line.clear()
            start = end.end()
            self._take(line, frames)
        if start < len(chunk):
            self._line.append(chunk[start:])
            self._grow(len(chunk) - start)
        return frames

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max:
            raise FrameTooLarge(f"a frame of the stream is larger than {self._max} bytes")

    def _take(self, line: bytes, frames: list[Frame]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            self.last_id = self._id
            if self._data:
                event = self._event.decode("utf-8", "replace") or "message"
                frames.append(Frame(event, b"\n".join(self._data), self._id))
            self._event, self._data, self._size = b"", [], 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif not name:
            self._size -= len(line)
