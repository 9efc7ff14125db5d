"""Use-cases over agents: check the document, store it, show it."""

from collections.abc import Collection
from functools import partial
from typing import Any

import msgspec

from sessile.domain import agents, name_filter
from sessile.domain.instructions import Instructions
from sessile.ports import LiveSink, Models, Principal, Store, Tools, TurnQueue
from sessile.rows import AgentRow, Once, Page
from sessile.wire import codec, ids
from sessile.wire.errors import NotFound, UnknownTool


class AgentView(msgspec.Struct, frozen=True):
    """An agent as JSON, and its tool configurations that are not offered to a model: name → type."""

    json: bytes
    inactive: dict[str, str]


class Agents:
    """Everything that can be done with agents."""

    def __init__(self, store: Store, models: Models, tools: Tools, queue: TurnQueue, live: LiveSink) -> None:
        self._store = store
        self._models = models
        self._tools = tools
        self._queue = queue
        self._live = live

    async def create(self, principal: Principal, body: Any, once: Once | None = None) -> AgentView:
        """Raises InvalidRequest, KeyTaken, UnknownModel, UnknownTool, TemplateInvalid, IdempotencyKeyReused."""
        document = agents.normalize(body)
        admit = None
        if once is None:
            self._check(document, body.get("key", ""))
        else:  # in the commit, where what was created before is found first: its check may fail by now
            admit = partial(self._check, document, body.get("key", ""))
        encoded, enabled = codec.encode(document), document["enabled"]
        key = body["key"] if "key" in body else ids.agent_key(document["name"])
        return await self._whole(
            await self._store.create_agent(principal.tenant_id, key, encoded, enabled, once, admit)
        )

    async def get(self, principal: Principal, key: str) -> AgentView:
        """Raises NotFound."""
        return await self._whole(await self._store.get_agent(principal.tenant_id, key))

    async def list(
        self,
        principal: Principal,
        seen_by: frozenset[str],
        *,
        cursor: int | None,
        limit: int,
        enabled: bool | None,
        pattern: str | None = None,
    ) -> Page[AgentView]:
        """A page, newest first. A principal without one of the roles `seen_by` sees the agents it has a role for.

        Raises InvalidFilter for the pattern.
        """
        if pattern is not None:
            name_filter.check(pattern)
        if principal.roles & seen_by:
            page = await self._store.list_agents(
                principal.tenant_id, cursor=cursor, limit=limit, enabled=enabled, pattern=pattern
            )
        else:
            page = await self._list_own(principal, cursor, limit, enabled, pattern)
        return Page([self._view(row, msgspec.json.decode(row.document)) for row in page.rows], page.next)

    async def update(self, principal: Principal, key: str, changes: Any) -> AgentView:
        """Change what was sent. Raises as `create`, and NotFound."""
        while True:
            row = await self._store.get_agent(principal.tenant_id, key)
            document = agents.patched(msgspec.json.decode(row.document), changes)
            self._check(document, key)
            if saved := await self._save(row, document):
                return saved

    async def replace(self, principal: Principal, key: str, body: Any) -> AgentView:
        """Replace the whole document; a `key` in it must be the same. Raises as `create`, and NotFound."""
        document = agents.normalize(body)
        self._check(document, key)
        if body.get("key", key) != key:
            raise codec.invalid_field("The key of an agent cannot be changed. - at `$.key`")
        while True:
            row = await self._store.get_agent(principal.tenant_id, key)
            if saved := await self._save(row, document):
                return saved

    async def delete(self, principal: Principal, key: str) -> None:
        """Delete an agent, its sessions and their running turns. Raises NotFound."""
        agent_id = await self._store.delete_agent(principal.tenant_id, key)
        await self._queue.cancel_agent(agent_id)
        self._live.close_agent(agent_id)

    async def _save(self, row: AgentRow, document: dict[str, Any]) -> AgentView | None:
        saved = await self._store.save_agent(
            row.tenant_id, row.key, codec.encode(document), document["enabled"], row.version
        )
        return await self._whole(saved) if saved else None

    async def _list_own(
        self, principal: Principal, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None
    ) -> Page[AgentRow]:
        own = []
        for key in principal.agent_roles:
            try:
                own.append(await self._store.get_agent(principal.tenant_id, key))
            except NotFound:
                continue
        if pattern is not None:
            own = [row for row in own if _matches(pattern, row)]
        rows = sorted(
            (row for row in own if (cursor is None or row.id < cursor) and (enabled is None or row.enabled is enabled)),
            key=lambda row: -row.id,
        )
        return Page(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)

    def _check(self, document: dict[str, Any], key: str) -> None:
        """Raise what keeps this server from running the document."""
        self._models.get(document["model"]["name"])
        if unknown := agents.unknown_tools(document, self._tools.names()):
            known = ", ".join(self._tools.names()) or "none"
            raise UnknownTool(f"No tool is configured as {', '.join(unknown)}. Configured tools: {known}.")
        Instructions.of(key, document)

    async def _whole(self, row: AgentRow) -> AgentView:
        """An agent, and which of its tools of tool servers cannot be used now."""
        document: dict[str, Any] = msgspec.json.decode(row.document)
        asked = agents.remote_tools(document)
        usable = await self._store.usable_tools(row.tenant_id, asked.values()) if asked else {}
        return self._view(row, document, usable)

    def _view(self, row: AgentRow, document: dict[str, Any], usable: Collection[str] = frozenset()) -> AgentView:
        shown = {
            "id": row.key,
            "key": row.key,
            **document,
            "created_at": codec.rfc3339(row.created_at),
            "updated_at": codec.rfc3339(row.updated_at),
        }
        inactive = agents.inactive_tools(document, self._tools.names(), self._tools.kinds(), usable)
        return AgentView(codec.encode(shown), inactive)


def _matches(pattern: str, row: AgentRow) -> bool:
    document: dict[str, Any] = msgspec.json.decode(row.document)
    return name_filter.matches(pattern, document["name"], document.get("description"))
