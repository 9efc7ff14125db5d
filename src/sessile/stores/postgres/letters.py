"""Messages between nodes as payloads of NOTIFY: several in one, or one in several, and what is left of a loss.

The lines for one channel are a stream of bytes that is cut at the size of a payload. Each payload has a head of its
own, `NODE NUMBER c` (it goes on with a line) or `NODE NUMBER s` (it starts one): a receiver who missed a number goes on
with the next whole line.
"""

from collections.abc import Iterator

PAYLOAD_BYTES = 7900
"""PostgreSQL takes fewer than 8,000."""
MAX_WAITING_BYTES = 1024 * 1024
"""How much may wait for one channel: when there is as much, messages are dropped. One may be longer than that."""
_HEAD_BYTES = 64
_SENDERS = 1000


class Outbox:
    """Messages that wait to be sent, by channel."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._waiting: dict[str, bytearray] = {}
        self._numbers: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, channel: str, message: bytes) -> bool:
        """Add a message without line breaks; False when there is no room for it."""
        waiting = self._waiting.setdefault(channel, bytearray())
        if len(waiting) >= MAX_WAITING_BYTES:
            return False
        waiting += message
        waiting += b"\n"
        return True

    def take(self) -> list[tuple[str, str]]:
        """All that waits: channels and payloads, in order."""
        waiting, self._waiting = self._waiting, {}
        return [(channel, payload) for channel, lines in waiting.items() for payload in self._payloads(channel, lines)]

    def _payloads(self, channel: str, lines: bytearray) -> Iterator[str]:
        start = 0
        while start < len(lines):
            end = _cut(lines, start, start + PAYLOAD_BYTES - _HEAD_BYTES)
            self._numbers[channel] = number = self._numbers.get(channel, 0) + 1
            goes_on = start > 0 and lines[start - 1] != ord("\n")
            yield f"{self._node} {number} {'c' if goes_on else 's'}\n{lines[start:end].decode()}"
            start = end


class Inbox:
    """Puts payloads of any number of senders together again."""

    def __init__(self) -> None:
        self._senders: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        """By sender and channel: the number of its last payload, and the line it has left open; None: that is lost."""

    def open(self, channel: str, payload: str) -> tuple[str, list[bytes]]:
        """The sender of a payload, and the messages that are whole with it. Raises ValueError."""
        head, _, body = payload.partition("\n")
        node, digits, kind = head.split(" ")
        number, goes_on = int(digits), kind == "c"
        last, left = self._senders.get((node, channel), (0, b""))
        if not goes_on:
            left = b""
        elif number != last + 1:
            left = None
        *whole, rest = body.encode().split(b"\n")
        if whole:
            first, *others = whole
            messages = others if left is None else [left + first, *others]
            left = rest
        else:
            messages, left = [], None if left is None else left + rest
        if len(self._senders) > _SENDERS:
            self._senders.clear()
        self._senders[node, channel] = (number, left)
        return node, messages

    def forget(self) -> None:
        """Some payloads may have been lost."""
        self._senders.clear()


def _cut(lines: bytearray, start: int, end: int) -> int:
    """Where to cut: behind a line if one ends, else between two characters."""
    if end >= len(lines):
        return len(lines)
    line = lines.rfind(b"\n", start, end)
    if line >= 0:
        return line + 1
    while lines[end] & 0xC0 == 0x80:
        end -= 1
    return end
