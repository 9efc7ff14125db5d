"""A minimal HTTP/1.1 response reader and the checks of what the benchmarks expect to read."""

import msgspec
from msgspec import Struct

from benchmarks.models import DELTA_TEXT, DELTAS, PACED_DELTAS


class Response:
    """One answer, fed with what the socket gives: `content-length` or chunked."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self._buffer = bytearray()
        self._length = -1
        self._in_head = True

    def feed(self, data: bytes) -> bool:
        """True when the answer is complete."""
        buffer = self._buffer
        buffer += data
        if self._in_head:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._read_head(bytes(buffer[:end]))
            del buffer[: end + 4]
        if self._length >= 0:
            self.body += buffer
            buffer.clear()
            return len(self.body) >= self._length
        return self._read_chunks(buffer)

    def _read_head(self, head: bytes) -> None:
        self._in_head = False
        self.status = int(head[9:12])
        head = head.lower()
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            end = head.find(b"\r\n", at + 2)
            self._length = int(head[at + 17 : end if end > 0 else len(head)])
        elif b"\r\ntransfer-encoding: chunked" not in head:
            raise ValueError("an answer with neither content-length nor chunks")

    def _read_chunks(self, buffer: bytearray) -> bool:
        at = 0
        done = False
        while (end := buffer.find(b"\r\n", at)) > 0:
            size = int(buffer[at:end], 16)
            if len(buffer) < end + 4 + size:
                break
            self.body += buffer[end + 2 : end + 2 + size]
            at = end + 4 + size
            if size == 0:
                done = True
                break
        del buffer[:at]
        return done


class _Event(Struct):
    type: str


class _Turn(Struct):
    events: list[_Event]
    status: str
    stop_reason: str | None


class _Page(Struct):
    events: list[msgspec.Raw] = []
    sessions: list[msgspec.Raw] = []


class Frame(Struct):
    """What the benchmark reads of a frame."""

    type: str
    content: str = ""
    output_id: str = ""
    offset: int = 0
    event_id: str = ""
    stop_reason: str | None = None


_decode_turn = msgspec.json.Decoder(_Turn).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_frame = msgspec.json.Decoder(Frame).decode


def check_turn(body: bytes) -> str | None:
    """What is wrong with a synchronous answer, or None."""
    turn = _decode_turn(body)
    types = [event.type for event in turn.events]
    if types != ["input_message", "agent_output"] or turn.stop_reason != "end_turn":
        return f"events {types}, status {turn.status}, stop_reason {turn.stop_reason}"
    return None


def check_page(body: bytes, items: int) -> str | None:
    """What is wrong with a page, or None."""
    page = _decode_page(body)
    found = len(page.events) + len(page.sessions)
    return None if found == items else f"{found} items instead of {items}"


def frames(body: bytes) -> list[Frame]:
    """The frames of a stream; comment lines are left out."""
    return [_decode_frame(block[block.index(b"data:") + 5 :]) for block in bytes(body).split(b"\n\n")[:-1]]


def check_stream(found: list[Frame], paced: bool) -> str | None:
    """What is wrong with a streamed turn, or None: every delta once and in place, one end of output, one end."""
    deltas = [frame for frame in found if frame.type == "streaming_agent_output"]
    expected = PACED_DELTAS if paced else DELTAS
    if len(deltas) != expected:
        return f"{len(deltas)} deltas instead of {expected}"
    if found[0].type != "input_message" or found[-1].type != "end" or found[-1].stop_reason != "end_turn":
        return f"first frame {found[0].type}, last frame {found[-1]}"
    offset = 0
    for delta in deltas:
        if delta.offset != offset or delta.output_id != deltas[0].output_id:
            return f"a delta at {delta.offset} where {offset} was due"
        offset += len(delta.content)
    if not paced and offset != expected * len(DELTA_TEXT):
        return f"{offset} characters"
    ends = [frame.output_id for frame in found if frame.type == "streaming_agent_output_end" and frame.event_id]
    return None if ends == [deltas[0].output_id] else f"{len(ends)} ends of output"
