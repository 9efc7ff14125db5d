"""Wake-ups between nodes: which sessions and agents a commit has changed, by LISTEN and NOTIFY. Hints, ids only.

They are sent behind the commit, not in it: a NOTIFY inside a transaction makes all commits of a database queue up, and
whoever misses one looks at the log at its next heartbeat anyway. What comes together while one is on its way goes with
the next.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any
from uuid import uuid4

import asyncpg
import structlog

from sessile.rows import Heard
from sessile.stores.postgres import faults
from sessile.stores.postgres.db import Changed

_CHANNEL = "sessile"
_IDS = 300
"""Ids of one message at most: PostgreSQL takes 8,000 bytes."""
_AGAIN_SECONDS = 1.0
_SECONDS = 5.0
"""How long the database may take for an answer, and how long nothing is asked of it at most."""
_log = structlog.get_logger("sessile.store")


class Wakeups:
    """One connection that listens, and tells, for as long as the store is open."""

    def __init__(self, url: str, heard: Callable[[Heard | None], None]) -> None:
        self._url = url
        self._heard = heard
        self._node = uuid4().hex[:12]
        self._connection: Any = None
        self._sessions: set[int] = set()
        self._agents: set[int] = set()
        self._waiting = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._tell())]

    def changed(self, changed: Changed) -> None:
        """A transaction was committed. Never blocks."""
        self._sessions |= changed.sessions
        self._agents |= changed.agents
        if changed.sessions or changed.agents:
            self._waiting.set()

    async def close(self) -> None:
        """Send what waits, listen no more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN_SECONDS):
                await self._flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(*faults.DRIVER):
                await self._listen_once()
            _log.warning("wakeups_failed")
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _listen_once(self) -> None:
        """Listen until the connection ends."""
        ended = asyncio.Event()
        connection = await asyncpg.connect(self._url, timeout=_SECONDS, command_timeout=_SECONDS)
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(_CHANNEL, self._on_message)
            self._connection = connection
            self._heard(None)  # something may have been sent while nobody listened
            await ended.wait()
        finally:
            self._connection = None
            connection.terminate()

    async def _tell(self) -> None:
        """Send what there is to tell; from time to time something else, because a deaf connection does not end."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    await self._waiting.wait()
            if self._waiting.is_set():
                await self._flush()
            else:
                await self._ask("SELECT 1")

    async def _flush(self) -> None:
        self._waiting.clear()
        agents, self._agents = self._agents, set()
        sessions, self._sessions = self._sessions, set()
        for payload in self._payloads(sessions, agents):
            await self._ask("SELECT pg_notify($1, $2)", _CHANNEL, payload)

    async def _ask(self, query: str, *values: str) -> None:
        """Use the connection, if there is one; who listens on one that has failed makes another."""
        if (connection := self._connection) is None:
            return
        try:
            await connection.execute(query, *values)
        except faults.DRIVER:
            connection.terminate()

    def _payloads(self, sessions: Collection[int], agents: Collection[int]) -> Iterator[str]:
        ids = iter([*map(str, sessions), *(f"a{agent}" for agent in agents)])
        while some := list(islice(ids, _IDS)):
            yield " ".join([self._node, *some])

    def _on_message(self, connection: Any, process: int, channel: str, payload: str) -> None:
        node, *ids = payload.split()
        if node != self._node:
            sessions = {int(id) for id in ids if id.isdecimal()}
            agents = {int(id[1:]) for id in ids if id[:1] == "a" and id[1:].isdecimal()}
            self._heard(Heard(frozenset(sessions), frozenset(agents)))
