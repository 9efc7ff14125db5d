"""The part of the port of storage that is about what is encrypted: secrets, and the tool servers that are sent some."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from sessile.rows import Once, Page, SealedSecret, SealedSecrets, ToolRow, ToolServerRow

Seal = Callable[[int, int], SealedSecrets]
"""Encrypts secrets for the internal ids of an agent and a session (0: the agent's own), inside the commit."""


class StaleKey(Exception):
    """Secrets were encrypted with a key that is not in use any more."""


class SecretStore(Protocol):
    """Secrets of agents, sessions and tool servers, encrypted by others, durable. What `Store` promises holds here.

    One key is in use at a time, the first that comes; a verb that writes under another raises StaleKey. Deleting an
    owner deletes its secrets.
    """

    async def agent_secret_names(self, tenant_id: int, agent_key: str) -> list[str]:
        """The names of an agent's own secrets, sorted. Raises NotFound."""

    async def write_agent_secrets(self, tenant_id: int, agent_key: str, seal: Seal, replace: bool) -> list[str]:
        """Set and remove secrets of an agent, with `replace` all others too; returns the names that are there then.

        Raises NotFound, StaleKey, InvalidRequest when they become too many.
        """

    async def session_secret_names(self, session_ids: Collection[int]) -> dict[int, list[str]]:
        """The names of the secrets of these sessions, sorted; one without secrets is left out."""

    async def sealed_secrets(self, agent_id: int, session_id: int) -> list[SealedSecret]:
        """The secrets of an agent, then those of one of its sessions."""

    async def secrets_key(self) -> str | None:
        """The key in use; None before the first secret."""

    async def use_secrets_key(self, key_id: str) -> None:
        """From now on nothing is written under another key."""

    async def secrets_under_other_keys(self, key_id: str, limit: int) -> list[SealedSecret]:
        """Some of the secrets of all tenants that are encrypted with another key."""

    async def replace_sealed(self, old: Sequence[SealedSecret], new: Sequence[SealedSecret]) -> None:
        """Put each of `new` in the place of its `old`, unless that was changed or deleted meanwhile."""


class ToolServerStore(Protocol):
    """Tool servers and their tools, durable. What `Store` promises holds here."""

    async def create_tool_server(
        self,
        tenant_id: int,
        key: str,
        enabled: bool,
        document: bytes,
        once: Once | None = None,
        seal: Seal | None = None,
    ) -> ToolServerRow:
        """`seal` has the secrets of the new server, whose owner is `ToolServerRow.owner`.

        Keys of `once` are the tenant's, for tool servers. Raises KeyTaken, StaleKey; NotFound when what `once` made was
        deleted.
        """

    async def get_tool_server(self, tenant_id: int, key: str) -> ToolServerRow:
        """Raises NotFound."""

    async def list_tool_servers(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None = None
    ) -> Page[ToolServerRow]:
        """Newest first; with a `pattern` of `domain.name_filter` as `list_agents`."""

    async def update_tool_server(
        self,
        tenant_id: int,
        key: str,
        change: Callable[[ToolServerRow], ToolServerRow],
        seal: Seal | None = None,
    ) -> ToolServerRow:
        """Replace `enabled` and `document` by what `change` makes of the row, inside the commit.

        The secrets of `seal` are set, and those that its `secrets` do not name any more are removed. What `change`
        raises is raised, and nothing is changed. Raises NotFound, StaleKey.
        """

    async def delete_tool_server(self, tenant_id: int, key: str) -> None:
        """Delete a tool server, its tools and its secrets. Raises NotFound."""

    async def sync_tools(self, tenant_id: int, server_key: str, tools: Mapping[str, bytes]) -> None:
        """Make these the tools of a tool server: name to document. Raises NotFound.

        A tool that was there keeps its key and whether it is enabled; one that is not among these is removed.
        """

    async def get_tool(self, tenant_id: int, key: str) -> ToolRow:
        """Raises NotFound."""

    async def list_tools(
        self,
        tenant_id: int,
        *,
        cursor: int | None,
        limit: int,
        enabled: bool | None,
        server_key: str | None,
        pattern: str | None = None,
    ) -> Page[ToolRow]:
        """Newest first; with a `pattern` of `domain.name_filter` as `list_agents`."""

    async def enable_tool(self, tenant_id: int, key: str, enabled: bool) -> ToolRow:
        """Say whether a tool may be used. Raises NotFound."""

    async def delete_tool(self, tenant_id: int, key: str) -> None:
        """Remove a tool until its server is synced again. Raises NotFound."""

    async def usable_tools(self, tenant_id: int, keys: Collection[str]) -> dict[str, tuple[ToolRow, ToolServerRow]]:
        """Those of these tools that are enabled and whose servers are, by key."""
