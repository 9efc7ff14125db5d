"""What a tail brings, as a response of server-sent events. How it is shown is up to a `Rendering`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sessile.live.channel import Node
from sessile.live.replay import Source

_GATHER_SECONDS = 0.001
"""Deltas that come this soon after a write go out together in the next: the write is half of what a delta costs."""
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Rendering(Protocol):
    """What one stream shows, and what it has shown so far."""

    heartbeat: bytes
    """What goes out when nothing happened for a while."""
    ended: bool
    """Whether the last frame was rendered."""

    def opening(self) -> bytes:
        """The first frames, before anything that the tail brings."""

    def render(self, nodes: list[Node]) -> bytes:
        """The frames for what happened."""

    def closed(self, reason: str) -> bytes:
        """The last frames, when nothing more will come."""

    def late(self) -> bytes:
        """The last frames, when the caller's time is over."""


class LiveStream(StreamingResponse):
    """A stream until its rendering or its tail ends, or `patience` seconds have passed.

    Frames that wait together go out as one chunk. A client that goes away ends the stream and nothing else.
    """

    def __init__(
        self,
        rendering: Rendering,
        tail: Source,
        status: int,
        headers: dict[str, str] | None = None,
        patience: float | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        frames = self._frames(rendering, tail, patience)
        super().__init__(frames, status, {**(headers or {}), **HEADERS}, "text/event-stream")
        self._tail = tail
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all; a task beside it waits for the client to go away."""
        watcher = asyncio.ensure_future(self._watch(receive, asyncio.current_task()))
        try:
            await self.stream_response(send)
        except asyncio.CancelledError:
            if not watcher.done() or watcher.cancelled():
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        finally:
            watcher.cancel()
            self._tail.close()
            if self._on_close is not None:
                self._on_close()

    async def _watch(self, receive: Receive, task: "asyncio.Task[None] | None") -> None:
        await self.listen_for_disconnect(receive)
        assert task is not None
        task.cancel()

    async def _frames(self, rendering: Rendering, tail: Source, patience: float | None) -> AsyncIterator[bytes]:
        deadline = None if patience is None else asyncio.get_running_loop().time() + patience
        yield rendering.opening()
        while not rendering.ended:
            try:
                nodes = await _next(tail, deadline)
            except TimeoutError:
                yield rendering.late()
                return
            if nodes:
                chunk, live = rendering.render(nodes), nodes[-1].entry is None
                frames = [node.linked_at for node in nodes if node.linked_at]
                nodes = []  # a node holds all that comes after it, and a slow reader keeps us here
                if chunk:
                    yield chunk
                    if frames:
                        tail.sent(len(frames), frames[0])
                if live:
                    await tail.gather(_GATHER_SECONDS)
            elif tail.closed:
                yield rendering.closed(tail.closed)
                return
            else:
                yield rendering.heartbeat


async def _next(tail: Source, deadline: float | None) -> list[Node]:
    if deadline is None:
        return await tail.next()
    async with asyncio.timeout_at(deadline):
        return await tail.next()
