"""People who talk all the time, and write down what the server has acknowledged."""

import asyncio
import itertools
from typing import Any

import httpx

from chaos.stand import Stand

AGENT = "chaos"
_EVENTS = "/v2/agents/{agent}/sessions/{session}/events"
_PAUSE = 0.03
_LATEST = 0.004
"""Seconds within which a request that was just sent may find its server dead."""


class Acknowledged:
    """The inputs that a server said it has, by token, with their session; and how many were sent in all."""

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}
        self.sent = 0
        self.uncertain = 0
        """Requests that got no answer: those without a key had the log asked, those with one were sent again."""
        self.repeated = 0
        """Requests that were sent again with their key."""
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
        """Send an input until the server has it: again under its key, or, without one, never before asking the log."""
        keyed, streamed = (self._stand.chance.random() < 0.5 for _ in range(2))
        headers = {"idempotency-key": f"key-{token}"} if keyed else {}
        while True:
            await self._stand.wait_until_up()
            try:
                status = await self._send({"content": token + tool, "stream_response": streamed}, headers)
            except httpx.TransportError:
                self._known.uncertain += 1
                self._known.repeated += keyed
                if not keyed and (token in self._known.inputs or await self._has(token)):
                    self._known.inputs[token] = self._session
                    return
                continue
            if status == 201:
                return
            if status not in (409, 503):
                raise RuntimeError(f"an input was answered with {status}")
            if stop.is_set():
                return
            await asyncio.sleep(_PAUSE)

    async def _send(self, body: dict[str, Any], headers: dict[str, str]) -> int:
        token = body["content"].partition(" ")[0]
        async with httpx.AsyncClient(base_url=self._stand.url, headers=self._stand.headers, timeout=60) as client:
            if self._stand.armed_for("before input commit"):
                asyncio.get_running_loop().call_later(
                    self._stand.chance.random() * _LATEST, self._stand.moment, "before input commit"
                )
            async with client.stream("POST", self._path, json=body, headers=headers) as response:
                if response.status_code == 201:
                    self._known.turns.setdefault(token, set()).add(response.headers["x-turn-id"])
                async for line in response.aiter_lines():
                    if response.status_code == 201 and line:
                        # The first line of either form is only there once the input is durable.
                        self._known.inputs[token] = self._session
                return response.status_code

    async def _has(self, token: str) -> bool:
        """Ask the log whether an input arrived."""
        query = "?type=input_message&order=desc&limit=5"
        while True:
            await self._stand.wait_until_up()
            try:
                async with httpx.AsyncClient(base_url=self._stand.url, headers=self._stand.headers) as client:
                    answer = await client.get(self._path + query)
            except httpx.TransportError:
                await asyncio.sleep(_PAUSE)
                continue
            events = answer.raise_for_status().json()["events"]
            return any(event["content"].partition(" ")[0] == token for event in events)
