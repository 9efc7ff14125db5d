"""A follower of a session in the test's process: what a client would have seen over any number of connections."""

import asyncio
import json
from typing import Any

from incarnation import AGENT, OWNER, Incarnation
from sessile.api.follow import Following
from sessile.live.tail import Tail

PATIENCE = 20.0


class Follower:
    """Reads one connection after the other in a task of its own, each from the last event it has seen."""

    def __init__(self, session: str, since: str) -> None:
        self.session = session
        self.origin = self.since = since
        """Where it started, and where it starts from the next time: `start` or an event id."""
        self.seen: list[dict[str, Any]] = []
        """Durable events and records, in the order in which they came."""
        self.ends: list[tuple[str, str]] = []
        """The text of each output that was said to have ended, with the id of its event."""
        self.reason: str | None = None
        self.going = asyncio.Event()
        self.going.set()
        self._texts: dict[str, str] = {}
        self._tail: Tail | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether it has a connection."""
        return self._tail is not None

    async def connect(self, server: Incarnation) -> None:
        """Come back to the last event, as `GET …/events` does."""
        at = await server.events.locate(OWNER, AGENT, self.session, self.since)
        tail = server.hub.follow(at.session_id, at.cursor, joins=True, agent_id=at.agent_id)
        try:
            state = await server.events.state(OWNER, AGENT, self.session, at.session_id)
        except BaseException:
            tail.close()
            raise
        self._tail, self.reason = tail, None
        rendering = Following(at.position, state, deltas=True, include_hidden=False)
        self._texts.clear()
        self._take(rendering.opening())
        self._task = asyncio.create_task(self._read(self._tail, rendering))

    async def disconnect(self) -> None:
        """Lose the connection."""
        tail, task, self._tail, self._task = self._tail, self._task, None, None
        if tail is not None and task is not None:
            task.cancel()
            await asyncio.wait([task])
            tail.close()
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def saw(self, event_id: str | None, ended: str | None = None) -> None:
        """Wait until it has seen an event, and the end of its stream if it should have one."""
        async with asyncio.timeout(PATIENCE):
            while (event_id is not None and self.since != event_id) or self.reason != ended:
                assert self._task is not None
                if self._task.done() and self.reason is None:
                    self._task.result()
                await asyncio.sleep(0.001)

    async def _read(self, tail: Tail, rendering: Following) -> None:
        while True:
            await self.going.wait()
            nodes = await tail.next()
            self._take(rendering.render(nodes))
            if not nodes and tail.closed:
                self._take(rendering.closed(tail.closed))
                return

    def _take(self, chunk: bytes) -> None:
        for block in filter(None, chunk.decode().split("\n\n")):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            data = json.loads(fields.get("data", "{}"))
            if "id" in fields:
                self.since = fields["id"]
                self.seen += [data] if data else []
            self._show(fields.get("event", ""), data)

    def _show(self, kind: str, data: dict[str, Any]) -> None:
        """Put deltas together by `output_id` and `offset`."""
        match kind:
            case "streaming_agent_output":
                before = "" if data.get("snapshot") else self._texts.get(data["output_id"], "")
                assert data["offset"] == len(before), "a delta does not follow the one before"
                self._texts = {data["output_id"]: before + data["content"]}
            case "streaming_agent_output_end":
                text = self._texts.pop(data["output_id"])
                if "event_id" in data:
                    self.ends.append((data["event_id"], text))
            case "agent_output" | "turn_ended":
                assert not self._texts, "an output that was shown is neither ended nor void"
            case "end":
                self.reason = data["reason"]
