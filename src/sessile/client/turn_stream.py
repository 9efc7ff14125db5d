"""A turn as it happens: the frames of a streamed answer, one after the other."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Literal, Self

import msgspec
from msgspec import Struct

from sessile.client.errors import ConnectionLost, RequestTimedOut, StreamBroken
from sessile.client.reading import UNREADABLE
from sessile.client.sse import Frame as SseFrame
from sessile.client.sse import FrameTooLarge, SseParser
from sessile.client.transport import Response
from sessile.client.unknown import UnknownEvent, unknown
from sessile.wire.events import StreamEnd, StreamError, StreamFrame, StreamingAgentOutput, TurnError
from sessile.wire.sessions import StopReason

Frame = StreamFrame | UnknownEvent
"""What iterating over a stream gives."""
_REUSE_SECONDS = 0.1
"""How long to wait after the last frame for the end of the body, so that the connection can be used again."""
_decoder = msgspec.json.Decoder(StreamFrame)


class Told(Struct):
    """What a stream has told of its turn so far."""

    turn_id: str = ""
    event_id: str = ""
    status: Literal["running", "stopped"] = "running"
    stop_reason: StopReason | None = None
    error: TurnError | None = None
    reason: str | None = None


class TurnState:
    """How the turn of a stream stands, as far as the stream has been read."""

    _told: Told

    @property
    def turn_id(self) -> str:
        """The turn; empty until the stream is entered."""
        return self._told.turn_id

    @property
    def event_id(self) -> str:
        """The durable input; empty until the stream is entered."""
        return self._told.event_id

    @property
    def status(self) -> Literal["running", "stopped"]:
        """`running` until the last frame was read, and then too when the time limit came before the end of the turn."""
        return self._told.status

    @property
    def stop_reason(self) -> StopReason | None:
        """How the turn ended; None while it runs."""
        return self._told.stop_reason

    @property
    def error(self) -> TurnError | None:
        """Why the turn ended badly; None when it did not."""
        return self._told.error

    @property
    def reason(self) -> str | None:
        """`deleted` when the session was deleted meanwhile, else None."""
        return self._told.reason


class AsyncTurnStream(TurnState):
    """A streamed turn. The input is posted when the stream is entered, or at the first frame that is asked for.

    Iterate over it for typed frames, or over `text()` for the words alone. Leaving it half-way closes the connection;
    the turn goes on all the same. A stream that ends before its last frame raises StreamBroken.
    """

    def __init__(self, post: Callable[[], Awaitable[Response]]) -> None:
        self._post = post
        self._response: Response | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._parser = SseParser()
        self._frames: deque[Frame] = deque()
        self._over = False
        self._told = Told()

    def __repr__(self) -> str:
        return f"AsyncTurnStream({self.turn_id or 'not entered'}, {self.status})"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        await self._open()
        while not self._frames:
            if self._over or self._chunks is None:
                await self.close()
                raise StopAsyncIteration
            try:
                await self._read(self._chunks)
            except StreamBroken:
                await self.close()
                raise
        frame = self._frames.popleft()
        self._note(frame)
        return frame

    async def text(self) -> AsyncIterator[str]:
        """The agent's words as they come, without thinking and tools. Joined they are the whole text of the turn."""
        async for frame in self:
            if isinstance(frame, StreamingAgentOutput):
                yield frame.content

    async def close(self) -> None:
        """Read no further. The turn goes on; closing twice is fine."""
        response, self._response = self._response, None
        chunks, self._chunks = self._chunks, None
        if response is None:
            return
        try:
            if self._over and chunks is not None:
                with contextlib.suppress(StopAsyncIteration, ConnectionLost, RequestTimedOut, TimeoutError):
                    async with asyncio.timeout(_REUSE_SECONDS):
                        await anext(chunks)
        finally:
            await response.close()

    def __del__(self) -> None:
        response, loop = self._response, self._loop
        if response is not None and loop is not None:
            # This may run in any thread, and after the end of the loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: loop.create_task(response.close()))

    async def _open(self) -> None:
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._response = await self._post()
        self._chunks = aiter(self._response.chunks())
        self._told.turn_id = self._response.headers.get("x-turn-id", "")
        self._told.event_id = self._response.headers.get("x-event-id", "")

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        """Wait for the next bytes. Raises StreamBroken, also when they make no sense: the turn goes on without us."""
        try:
            chunk = await anext(chunks)
            self._frames.extend(_frame(frame) for frame in self._parser.feed(chunk))
        except StopAsyncIteration:
            raise self._broken("it ended early") from None
        except RequestTimedOut as error:
            raise self._broken("the server was silent for too long") from error
        except ConnectionLost as error:
            raise self._broken("the connection was lost") from error
        except (FrameTooLarge, *UNREADABLE) as error:
            raise self._broken(f"it cannot be read ({error})") from error

    def _broken(self, why: str) -> StreamBroken:
        return StreamBroken(
            f"The stream of the turn {self.turn_id} broke off: {why}. The turn itself goes on.",
            turn_id=self.turn_id,
            event_id=self.event_id,
        )

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, StreamError):
            self._told.error = TurnError(frame.code, " ".join(frame.messages))
        elif isinstance(frame, StreamEnd):
            self._over = True
            self._told.status = frame.status or "stopped"
            self._told.stop_reason = frame.stop_reason or None
            self._told.reason = frame.reason or None


def _frame(frame: SseFrame) -> Frame:
    try:
        read: StreamFrame = _decoder.decode(frame.data)
        return read
    except msgspec.ValidationError:
        return unknown(frame.data, frame.event)
