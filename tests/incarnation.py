"""A server without HTTP inside the test: service, runner and live over a store, until it is killed."""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sessile.auth.keyring import Keyring
from sessile.auth.vault import Vault
from sessile.live.hub import Hub
from sessile.ports import Clock, Models, Principal, Tool
from sessile.rows import EventQuery, SessionRef
from sessile.runner.history import Histories
from sessile.runner.plan import Planner
from sessile.runner.turn import TurnEnvironment
from sessile.runner.worker import Worker
from sessile.service.agents import Agents
from sessile.service.events import Events
from sessile.service.inputs import Inputs
from sessile.service.sessions import Sessions
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.faults import Life, LossyQueue, LossySink, mortal

AGENT = "a"
OWNER = Principal(tenant_id=1, key_id=None, roles=frozenset({"owner"}), agent_roles={})
MAX_MODEL_CALLS = 3
RETRY_SECONDS = 0.1
DRAIN_SECONDS = 20.0
_EVERYTHING: dict[str, Any] = {"limit": 1000, "records": True, "include_hidden": True}


class ToolBox:
    """A Tools port over some tools."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = tools

    def of(self, name: str, configuration: Mapping[str, Any]) -> Tool | None:
        return self._tools.get(name)

    def kinds(self) -> Collection[str]:
        return ("lambda",)

    def names(self) -> list[str]:
        return sorted(self._tools)


class Incarnation:
    """One life of the server on its database; `killed` ends it as a crash would, and the next one may be born."""

    def __init__(self, database: SqliteStore, models: Models, tools: ToolBox, clock: Clock, heartbeat: float) -> None:
        self.database = database
        self.life = Life()
        self.store = mortal(database, self.life)
        self.hub = Hub(self.store, heartbeat)
        self.sink = LossySink(self.hub)
        env = TurnEnvironment(
            self.store, Planner(models, tools), Histories(self.store), self.sink, clock, MAX_MODEL_CALLS
        )
        self.worker = Worker(env)
        self.queue = LossyQueue(self.worker)
        self.inputs = Inputs(self.store, self.queue, self.sink, clock)
        self.agents = Agents(self.store, models, tools, self.worker, self.sink)
        vault = Vault(self.store, Keyring(Path("unused"), None))
        self.sessions = Sessions(self.store, self.worker, self.sink, vault, self.inputs.admit_new)
        self.events = Events(self.store)

    @classmethod
    async def first(
        cls, folder: Path, models: Models, tools: ToolBox, clock: Clock, heartbeat: float = 0.01
    ) -> "Incarnation":
        """On a new database with one agent, which retries a model call once.

        It may use all tools, and `ask`, which clients answer.
        """
        database = await SqliteStore.open(folder / "s.db", clock)
        await database.create_tenant("default", "Default")
        made = cls(database, models, tools, clock, heartbeat)
        retries = {"initial_backoff_ms": round(RETRY_SECONDS * 1000), "max_retries": 1}
        body = {
            "key": AGENT,
            "name": "A",
            "model": {"name": "scripted", "retry_configuration": retries},
            "tool_configurations": {
                **{name: {"type": "lambda"} for name in tools.names()},
                "ask": {"type": "client", "tool_id": "tol_ask"},
            },
        }
        await made.agents.create(OWNER, body)
        return made

    async def stop(self, patience: float = 0) -> None:
        """End this life politely: turns go on for so many seconds, and those that have not ended are left."""
        self.inputs.drain()
        await self.worker.drain(patience, DRAIN_SECONDS)
        self.hub.drain()

    async def kill(self) -> None:
        """End this life: nothing of it is written any more, and its turns stay as they are in the log."""
        self.life.kill()
        self.life.resume()
        with contextlib.suppress(asyncio.CancelledError):  # what a dead life would write is cut off like this
            await self.worker.drain(0, DRAIN_SECONDS)
        self.hub.drain()

    async def end(self) -> None:
        """End this life and the database with it."""
        await self.kill()
        await self.database.close()

    async def log(self, session: str) -> list[dict[str, Any]]:
        """The whole log of a session, as JSON, from the store itself."""
        ref = SessionRef(OWNER.tenant_id, AGENT, session)
        page = await self.database.list_events(ref, EventQuery(**_EVERYTHING))
        assert page.next is None
        return [msgspec.json.decode(entry.json) for entry in page.rows]
