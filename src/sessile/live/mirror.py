"""A channel that shows a turn of another node: what that node sends, between the events of the log, in its order.

What is sent may be lost, late, or from a node that has lost the turn. So every frame names the newest event before it:
the log is read up to there first, and a frame that is older than the end of its output is dropped. A piece of text is
shown only where it continues what was shown; after a gap nothing is, until the text so far has come.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import structs

from sessile.domain.log import Entry
from sessile.live.channel import ENDS_OUTPUT, ENDS_TURN, Channel
from sessile.live.messages import Piece, Start
from sessile.ports import Store
from sessile.rows import EventQuery
from sessile.wire.errors import StorageUnavailable
from sessile.wire.events import LiveFrame, StreamingAgentOutput, StreamingThinking

ASKS = 2
"""How often somebody is asked for of whom nobody knows whether they are there."""
MAX_WAITING = 2000
"""Frames that wait for the log; with one more, all are dropped."""
_PAGE = 100


class Mirror:
    """What followers here see of a session whose turns run elsewhere. It announces what it reads of the log.

    `ask` is called when a node that runs the turn is to be found, or its text so far is needed.
    """

    def __init__(self, session_id: int, channel: Channel, store: Store, ask: Callable[[], None]) -> None:
        self.source: str | None = None
        """The node whose frames are shown."""
        self.asks = ASKS
        """How often to ask for one, while there is none."""
        self.heard = False
        """Whether the source has said something since the last heartbeat."""
        self._session_id = session_id
        self._channel = channel
        self._store = store
        self._ask = ask
        self._since = 0
        """The head of the log when the source began."""
        self._read_to = channel.head
        self._ended_at = 0
        """The newest event that has ended an output."""
        self._output: str | None = None
        self._length: int | None = 0
        """Characters so far of the output in flight; None after a gap."""
        self._thought: str | None = None
        self._thinking: int | None = 0
        self._waiting: deque[Start | Piece | int] = deque()
        self._reading: asyncio.Task[None] | None = None

    def receive(self, node: str, message: Start | Piece) -> None:
        """The next message. Those of a node that is not the source are left alone, unless it starts."""
        if isinstance(message, Start):
            self.source, self._since = node, message.head or 0
        elif node != self.source:
            return
        self.heard = True
        self._put(message)

    def look(self, head: int) -> None:
        """The log has got so far."""
        if head > (self._read_to or 0):
            self._put(head)

    def close(self) -> None:
        """Show nothing more: the turn runs here now, or nobody wants to see it."""
        self._waiting.clear()
        if self._reading is not None:
            self._reading.cancel()
        self._channel.forget_output()

    def _put(self, item: Start | Piece | int) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.clear()
        self._waiting.append(item)
        if self._reading is None:
            self._take_waiting()
        if self._waiting and self._reading is None:
            self._reading = asyncio.create_task(self._read_waiting())

    def _take_waiting(self) -> None:
        while self._waiting and (_head(self._waiting[0]) or 0) <= (self._read_to or 0):
            item = self._waiting.popleft()
            if isinstance(item, Start):
                self._start(item)
            elif isinstance(item, Piece):
                self._piece(item)

    async def _read_waiting(self) -> None:
        try:
            while self._waiting:
                await self._read(_head(self._waiting[0]) or 0)
                self._take_waiting()
        except StorageUnavailable:  # then followers try for themselves
            self._channel.remind(max(_head(item) or 0 for item in self._waiting))
            self._waiting.clear()
        finally:
            self._reading = None

    async def _read(self, head: int) -> None:
        """Announce what the log has, up to an event at least. What is far behind, followers read for themselves."""
        since = self._read_to
        if since is None or head - since > _PAGE:
            since = head - 1
            self._end_output(since)
        query = EventQuery(cursor=since, limit=_PAGE, records=True, include_hidden=True)
        page = await self._store.read_log(self._session_id, query)
        self._read_to = max([head, *(entry.sequence for entry in page.rows)])
        self._announce(page.rows)

    def _announce(self, entries: Sequence[Entry]) -> None:
        self._channel.announce(entries, here=False)
        for entry in entries:
            if entry.type in ENDS_OUTPUT:
                self._end_output(entry.sequence)
            if entry.type in ENDS_TURN:
                if entry.sequence > self._since:
                    self.source = None
                self.asks = 0
            elif entry.turn_id:
                self.asks = ASKS
        if self.source is None and self.asks and entries:
            self._ask()

    def _end_output(self, sequence: int) -> None:
        self._ended_at = sequence
        self._output, self._length = None, 0

    def _start(self, start: Start) -> None:
        if self._is_stale(start.head):
            return
        self._channel.forget_output()
        self._output, self._length = None, 0
        if (output := start.output) is not None:
            self._output, self._length = output.output_id, len(output.content)
            self._channel.publish(output, here=False)

    def _piece(self, piece: Piece) -> None:
        frame: LiveFrame | None = piece.frame
        if self._is_stale(piece.head):
            return
        if isinstance(frame, StreamingAgentOutput):
            frame = self._continued(frame)
        elif isinstance(frame, StreamingThinking):
            frame = self._thought_on(frame)
        if frame is not None:
            self._channel.publish(frame, here=False)

    def _is_stale(self, head: int | None) -> bool:
        return head is not None and head < self._ended_at

    def _continued(self, delta: StreamingAgentOutput) -> StreamingAgentOutput | None:
        """What of a piece of output continues the text so far, if any of it does."""
        if delta.output_id != self._output:
            self._output, self._length = delta.output_id, 0
        if self._length is not None and self._length < delta.offset:
            self._length = None
        if self._length is None:
            self.heard = False  # if nobody answers now, the next heartbeat asks again
            self._ask()
            return None
        known = self._length - delta.offset
        if known >= len(delta.content):
            return None
        self._length = delta.offset + len(delta.content)
        return structs.replace(delta, content=delta.content[known:], offset=delta.offset + known) if known else delta

    def _thought_on(self, delta: StreamingThinking) -> StreamingThinking | None:
        """A piece of thinking, unless one before it is missing: then the durable event shows it all."""
        if delta.output_id != self._thought:
            self._thought, self._thinking = delta.output_id, delta.offset
        if self._thinking != delta.offset:
            self._thinking = None
            return None
        self._thinking += len(delta.content)
        return delta


def _head(item: Start | Piece | int) -> int | None:
    return item if isinstance(item, int) else item.head
