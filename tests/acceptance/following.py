"""A stream that follows a session, read block by block by rules of its own: it shares no code with the client."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from acceptance.stage import WAIT_SECONDS


@dataclass
class Block:
    """What stands between two empty lines."""

    id: str | None = None
    type: str | None = None
    data: Any = None
    comment: str | None = None


class Following:
    """A stream while it is read; `blocks` is all that came so far."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.blocks: list[Block] = []
        self.text = ""
        self._parsed = self._read()

    async def next(self) -> Block:
        """The next block. Raises StopAsyncIteration at the end."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await anext(self._parsed)

    async def until(self, type: str, times: int = 1) -> Any:
        """Read on to the first (second …) frame of a type; returns its data."""
        while True:
            block = await self.next()
            times -= block.type == type
            if not times:
                return block.data

    async def rest(self) -> list[Block]:
        """Read to the end; returns everything, the first blocks too."""
        try:
            while True:
                await self.next()
        except StopAsyncIteration:
            return self.blocks

    @property
    def types(self) -> list[str]:
        """The types of all frames, in order."""
        return [block.type for block in self.blocks if block.type is not None]

    @property
    def durable(self) -> list[Any]:
        """The data of all frames with an id."""
        return [block.data for block in self.blocks if block.type is not None and block.id is not None]

    def deltas(self, output_id: str | None = None, type: str = "streaming_agent_output") -> list[Any]:
        """The pieces of output (or of another type), of one output if it is named."""
        found = [block.data for block in self.blocks if block.type == type]
        return [delta for delta in found if output_id in (None, delta["output_id"])]

    async def _read(self) -> AsyncIterator[Block]:
        left = ""
        async for chunk in self.response.aiter_text():
            self.text += chunk
            *whole, left = (left + chunk).split("\n\n")
            for text in whole:
                block = _block(text)
                self.blocks.append(block)
                yield block
        assert left == "", f"the stream ended in the middle of a block: {left!r}"


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, session: str, last_event_id: str | None = None, **params: Any
) -> AsyncIterator[Following]:
    """Follow a session, named by its path."""
    headers = {"accept": "text/event-stream"} | ({} if last_event_id is None else {"last-event-id": last_event_id})
    async with client.stream("GET", f"{session}/events", params=params, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Following(response)


def joined(deltas: list[Any]) -> str:
    """The text of deltas, which must join without gap or overlap; a snapshot starts anew."""
    text = ""
    for delta in deltas:
        if delta.get("snapshot"):
            assert (delta["offset"], text) == (0, "")
        assert delta["offset"] == len(text), delta
        text += delta["content"]
    return text


def _block(text: str) -> Block:
    block = Block()
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                block.id = value
            case "event":
                block.type = value
            case "data":
                block.data = json.loads(value)
            case "":
                block.comment = value
            case _:
                raise AssertionError(f"not a line of such a stream: {line!r}")
    return block
