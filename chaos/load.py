"""People who talk and follow all the time, at whatever server is there, and write down what they were told."""

import asyncio
import itertools
import json
from typing import Any

import httpx

from chaos.stand import Node, Stand

AGENT = "chaos"
_EVENTS = "/v2/agents/{agent}/sessions/{session}/events"
_PAUSE = 0.03
_LATEST = 0.004
"""Seconds within which a request that was just sent may find its server dead."""
_PATIENCE_SECONDS = (0.7, 5.0)
"""After so long somebody asks another server, if there is one."""
_LONG_SECONDS = 60.0
_STAY_SECONDS = 3.0
"""How long a follower stays at a server at most."""


class Acknowledged:
    """The inputs that a server said it has, by token, with their session; and how many were sent in all."""

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}
        self.sent = 0
        self.uncertain = 0
        """Requests that got no answer: those with a key were sent again, the others never were."""
        self.repeated = 0
        """Requests that were sent again with their key."""
        self.elsewhere = 0
        """Those of them that were sent to another server than before."""
        self.turns: dict[str, set[str]] = {}
        """The turns that answers to an input named, by token: one each."""
        self._numbers = itertools.count(1)

    def token(self) -> str:
        """A new token for an input."""
        self.sent += 1
        return f"t{next(self._numbers)}"


class Talker:
    """One session, one input after the other."""

    def __init__(self, stand: Stand, session: str, known: Acknowledged) -> None:
        self._stand = stand
        self._session = session
        self._known = known
        self._path = _EVENTS.format(agent=AGENT, session=session)

    async def talk(self, stop: asyncio.Event) -> None:
        """Send inputs until told to stop; each is settled before the next."""
        while not stop.is_set():
            token = self._known.token()
            await self._settle(token, self._stand.chance.choice(("", " once", " again")), stop)

    async def _settle(self, token: str, tool: str, stop: asyncio.Event) -> None:
        """Send an input until a server has it: again under its key, at another server, or, without one, once."""
        keyed, streamed = (self._stand.chance.random() < 0.5 for _ in range(2))
        headers = {"idempotency-key": f"key-{token}"} if keyed else {}
        node = None
        while True:
            node = await self._stand.one(but=node)
            try:
                status = await self._send(node, {"content": token + tool, "stream_response": streamed}, headers)
            except (httpx.TransportError, TimeoutError):
                self._known.uncertain += 1
                if not keyed:
                    return
                self._known.repeated += 1
                self._known.elsewhere += len(self._stand.nodes) > 1
                continue
            if status == 201:
                return
            if status not in (409, 503):
                raise RuntimeError(f"an input was answered with {status}")
            if stop.is_set():
                return
            await asyncio.sleep(_PAUSE)

    async def _send(self, node: Node, body: dict[str, Any], headers: dict[str, str]) -> int:
        token = body["content"].partition(" ")[0]
        alone = len(self._stand.nodes) == 1
        patience = _LONG_SECONDS if alone else self._stand.chance.choice(_PATIENCE_SECONDS)
        async with (
            asyncio.timeout(patience),
            httpx.AsyncClient(base_url=node.url, headers=node.headers, timeout=_LONG_SECONDS) as client,
        ):
            if self._stand.armed_for("before input commit", node):
                asyncio.get_running_loop().call_later(
                    self._stand.chance.random() * _LATEST, self._stand.moment, "before input commit", node
                )
            async with client.stream("POST", self._path, json=body, headers=headers) as response:
                if response.status_code == 201:
                    self._known.turns.setdefault(token, set()).add(response.headers["x-turn-id"])
                async for line in response.aiter_lines():
                    if response.status_code == 201 and line:
                        # The first line of either form is only there once the input is durable.
                        self._known.inputs[token] = self._session
                return response.status_code


class Follower:
    """Follows one session from server to server, and keeps the ids of all durable events, in the order they came."""

    def __init__(self, stand: Stand, session: str) -> None:
        self.session = session
        self.seen: list[str] = []
        self.moves = 0
        """How often it went on at another server."""
        self._stand = stand
        self._news = asyncio.Event()
        self._path = _EVENTS.format(agent=AGENT, session=session)

    async def until(self, last: list[str], seconds: float) -> None:
        """Wait for the last event. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.seen[-1:] != last:
                self._news.clear()
                await self._news.wait()

    async def follow(self) -> None:
        """Follow until it is cancelled."""
        node = None
        while True:
            node = await self._stand.one(but=node)
            try:
                async with asyncio.timeout(self._stand.chance.random() * _STAY_SECONDS):
                    await self._read(node)
            except (httpx.TransportError, TimeoutError):
                self.moves += 1
            await asyncio.sleep(_PAUSE)

    async def _read(self, node: Node) -> None:
        headers = {"accept": "text/event-stream", "last-event-id": self.seen[-1] if self.seen else "start"}
        async with (
            httpx.AsyncClient(base_url=node.url, headers=node.headers, timeout=_LONG_SECONDS) as client,
            client.stream("GET", self._path, headers=headers) as response,
        ):
            if response.status_code != 200:
                return
            id = None
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    id = value
                elif name == "data" and id is not None:
                    assert json.loads(value)["id"] == id
                    self.seen.append(id)
                    self._news.set()
                elif not line:
                    id = None
