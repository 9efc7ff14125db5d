"""What nodes tell one another by LISTEN and NOTIFY: which sessions and agents a commit has changed, and messages.

Wake-ups are hints, ids only. They are sent behind the commit, not in it: a NOTIFY inside a transaction makes all
commits of a database queue up, and whoever misses one looks at the log at its next heartbeat anyway. What comes
together while one is on its way goes with the next.

Messages, of the port `Relay`, gather for a moment. They go ahead of the wake-ups that came after them: whoever hears of
a commit has been sent what was said before it.
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
from sessile.stores.postgres.letters import Inbox, Outbox
from sessile.stores.postgres.pool import PRIMARY

_CHANNEL = "sessile"
_TO_ALL = "sessile_all"
_TO_ONE = "sessile_{}"
_GATHER_SECONDS = 0.002
_SETTINGS = {"application_name": "sessile", "synchronous_commit": "off"}
"""A commit of NOTIFY alone waits for the disk as any other does; for hints nobody needs that."""
_NOTIFY = "SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) AS n (c, p)"
_SUFFIX = "SELECT CASE current_schema() WHEN 'public' THEN '' ELSE '_' || left(md5(current_schema()), 12) END"
"""What the names of channels end with: they are the database's, and each of its schemas may hold another store."""
_MAKE_ROOM = "SELECT pg_notification_queue_usage()"
"""A queue that was full stays full, although all have read it, until somebody asks this."""
_IDS = 300
"""Ids of one message at most: PostgreSQL takes 8,000 bytes."""
_AGAIN_SECONDS = 1.0
_SECONDS = 5.0
"""How long the database may take for an answer, and how long nothing is asked of it at most."""
_log = structlog.get_logger("sessile.store")


class Wakeups:
    """One connection that listens, and tells, for as long as the store is open. It is the `Relay` of PostgreSQL."""

    def __init__(self, url: str, heard: Callable[[Heard | None], None]) -> None:
        self._url = url
        self._heard = heard
        self._node = uuid4().hex[:12]
        self._connection: Any = None
        self._suffix = ""
        self._sessions: set[int] = set()
        self._agents: set[int] = set()
        self._outbox = Outbox(self._node)
        self._inbox = Inbox()
        self._receive: Callable[[str, bytes | None], None] = lambda node, message: None
        self._waiting = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._tell())]

    def changed(self, changed: Changed) -> None:
        """A transaction was committed. Never blocks."""
        self._sessions |= changed.sessions
        self._agents |= changed.agents
        if changed.sessions or changed.agents:
            self._waiting.set()

    def send(self, message: bytes, node: str | None = None) -> None:
        """Send a message, of JSON on one line, to one node, or to all others. Never blocks."""
        self._outbox.put(_TO_ALL if node is None else _TO_ONE.format(node), message)
        self._waiting.set()

    def receive(self, heard: Callable[[str, bytes | None], None]) -> None:
        """Call `heard` with every message and the node it is from; with None when any may have been lost."""
        self._receive = heard

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
        connection = await asyncpg.connect(
            self._url,
            target_session_attrs=PRIMARY,
            timeout=_SECONDS,
            command_timeout=_SECONDS,
            server_settings=_SETTINGS,
        )
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.execute(_MAKE_ROOM)
            self._suffix = await connection.fetchval(_SUFFIX)
            await connection.add_listener(_CHANNEL + self._suffix, self._on_message)
            for channel in (_TO_ALL, _TO_ONE.format(self._node)):
                await connection.add_listener(channel + self._suffix, self._on_letter)
            self._connection = connection
            self._inbox.forget()
            self._heard(None)  # something may have been sent while nobody listened
            self._receive(self._node, None)
            await ended.wait()
        finally:
            self._connection = None
            connection.terminate()

    async def _tell(self) -> None:
        """Send what there is to tell; from time to time nothing, to ourselves, because a deaf connection does not end.

        Nor does one whose queue was full: what it has not read then, it is only told of by a NOTIFY that gets through.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    await self._waiting.wait()
            if not self._waiting.is_set():
                await self._ask(_NOTIFY, [_TO_ONE.format(self._node) + self._suffix], [""])
                continue
            if self._outbox:
                await asyncio.sleep(_GATHER_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        self._waiting.clear()
        agents, self._agents = self._agents, set()
        sessions, self._sessions = self._sessions, set()
        notes = [*self._outbox.take(), *((_CHANNEL, payload) for payload in self._payloads(sessions, agents))]
        if notes:
            channels, payloads = [channel + self._suffix for channel, _ in notes], [payload for _, payload in notes]
            await self._ask(_NOTIFY, channels, payloads)

    async def _ask(self, query: str, *values: Any) -> None:
        """Use the connection, if there is one; who listens on one that has failed makes another."""
        if (connection := self._connection) is None:
            return
        try:
            await connection.execute(query, *values)
        except asyncpg.InterfaceError:
            return  # it is closed, or in use: what is sent while the store closes is a hint too
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

    def _on_letter(self, connection: Any, process: int, channel: str, payload: str) -> None:
        with contextlib.suppress(ValueError):  # not one of ours
            node, messages = self._inbox.open(channel, payload)
            if node != self._node:
                for message in messages:
                    self._receive(node, message)
