"""What stands around the servers that are hurt: what happens to which of them, at which moment, and who is up."""

import asyncio
import random
import signal
from collections import Counter

from sessile.testing.postgres import PostgresServer, PostgresUnavailable
from sessile.testing.postgres_proxy import PostgresProxy
from sessile.testing.server import ServerProcess

PHASES = ("before input commit", "mid-delta", "tool running", "before end commit")
"""Moments at which a server is killed."""
DATABASE, STALL, SILENCE, RESET = "database killed", "stalled past its lease", "cut off, silence", "cut off, resets"
FAULTS = (*PHASES, DATABASE, STALL, SILENCE, RESET)
"""What can happen when there are several servers on one database."""
LEASE_SECONDS = 1.0
_UP_SECONDS = 60.0
_MOMENT_SECONDS = 60.0
_PAUSE = 0.05


class Node:
    """One server, its way to its database if that is elsewhere, and what happens to it now."""

    def __init__(self, name: str, server: ServerProcess, way: PostgresProxy | None) -> None:
        self.name = name
        self.server = server
        self.way = way
        self.up = False
        """Whether the process is there; it may be stalled, or cut off, and nobody knows."""
        self.hurt = False
        """Whether a fault has it: one at a time."""

    @property
    def url(self) -> str:
        """Where the server listens; another port after each start."""
        return self.server.url

    @property
    def headers(self) -> dict[str, str]:
        """Request headers with the owner key."""
        return self.server.headers

    async def start(self) -> None:
        """Start the process, as a supervisor does: again, while its database is away."""
        async with asyncio.timeout(_UP_SECONDS):
            while True:
                try:
                    await asyncio.to_thread(self.server.start)
                    break
                except RuntimeError:
                    await asyncio.sleep(_PAUSE)
        self.up = True


class Stand:
    """Servers that hold the same sessions, and armed moments: the first server that comes to one is killed."""

    def __init__(self, nodes: list[Node], database: PostgresServer | None, chance: random.Random) -> None:
        self.nodes = nodes
        self.chance = chance
        self.faults: Counter[str] = Counter()
        self._database = database
        self._database_hurt = asyncio.Lock()
        self._armed: dict[str, list[asyncio.Future[Node]]] = {phase: [] for phase in PHASES}

    async def start(self) -> None:
        """Start all servers for the first time."""
        await self.nodes[0].start()
        await asyncio.gather(*(node.start() for node in self.nodes[1:]))

    async def end(self) -> None:
        """End all servers for good."""
        for node in self.nodes:
            if node.up:
                node.up = False
                await asyncio.to_thread(node.server.kill)

    async def one(self, but: Node | None = None) -> Node:
        """A server whose process is there, if possible another one than `but`. Raises TimeoutError."""
        async with asyncio.timeout(_UP_SECONDS):
            while True:
                up = [node for node in self.nodes if node.up]
                if up:
                    return self.chance.choice([node for node in up if node is not but] or up)
                await asyncio.sleep(_PAUSE / 5)

    def armed_for(self, phase: str, node: Node) -> bool:
        """Whether a moment of this phase would kill the server."""
        return bool(self._armed[phase]) and node.up and not node.hurt

    def moment(self, phase: str, node: Node) -> None:
        """A server is in this phase now."""
        if self.armed_for(phase, node):
            node.up, node.hurt = False, True
            node.server.process.kill()
            self._armed[phase].pop(0).set_result(node)

    async def strike(self, fault: str) -> None:
        """Let something happen, and mend it. Raises TimeoutError when its moment does not come."""
        if fault in PHASES:
            await self._kill(fault)
        elif fault == DATABASE:
            await self._kill_database()
        else:
            await self._trouble(fault)
        self.faults[fault] += 1

    async def _kill(self, phase: str) -> None:
        killed = asyncio.get_running_loop().create_future()
        self._armed[phase].append(killed)
        async with asyncio.timeout(_MOMENT_SECONDS):
            node = await killed
        await node.start()
        node.hurt = False

    async def _kill_database(self) -> None:
        assert self._database is not None
        async with self._database_hurt:
            await asyncio.to_thread(self._database.kill)
            await asyncio.sleep(self.chance.random() * LEASE_SECONDS)
            while True:
                try:
                    return await asyncio.to_thread(self._database.start)
                except PostgresUnavailable:
                    await asyncio.sleep(_PAUSE)

    async def _trouble(self, fault: str) -> None:
        node = await self._unhurt()
        seconds = LEASE_SECONDS * self.chance.uniform(1.2, 2.2)
        try:
            if fault == STALL:
                node.server.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                node.server.process.send_signal(signal.SIGCONT)
            else:
                assert node.way is not None
                node.way.cut("silence" if fault == SILENCE else "reset")
                await asyncio.sleep(seconds)
                node.way.mend()
        finally:
            node.hurt = False

    async def _unhurt(self) -> Node:
        async with asyncio.timeout(_UP_SECONDS):
            while True:
                if free := [node for node in self.nodes if node.up and not node.hurt]:
                    node = self.chance.choice(free)
                    node.hurt = True
                    return node
                await asyncio.sleep(_PAUSE)
