"""Writes that come together go to the socket together: the transport by itself makes a system call of each."""

import asyncio
from typing import Any

_MOST_BYTES = 16 * 1024
"""What is held back at most; more goes at once, so that a reader who is slow is noticed as soon as ever."""


class GatheredWrites:
    """A transport whose `write` waits for what else is written in the same turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._bytes = 0
        self._scheduled = False

    def write(self, data: bytes) -> None:
        """Send some bytes before anything else happens on the event loop, but not at once."""
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes > _MOST_BYTES:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def flush(self) -> None:
        """Send what is held back."""
        held, self._held, self._bytes = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def close(self) -> None:
        """Send what is held back, then close."""
        self.flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._bytes + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self.flush()
