"""The tools of tool servers that an agent offers: looked up for each turn, because they change without the agent."""

from collections.abc import Collection

import structlog

from sessile.domain import tool_servers
from sessile.domain.tool_servers import Endpoint
from sessile.ports import RemoteTools, Store, Tool, Vault
from sessile.rows import ToolServerRow
from sessile.wire.errors import SecretsUnavailable

_log = structlog.get_logger("sessile.runner")


class RemoteOffers:
    """Finds tools of tool servers by their ids."""

    def __init__(self, store: Store, remote: RemoteTools, vault: Vault) -> None:
        self._store = store
        self._remote = remote
        self._vault = vault

    async def tools(self, tenant_id: int, ids: Collection[str]) -> dict[str, Tool]:
        """Those of the tools that are enabled and whose servers are, by id; without those of a server that cannot be
        reached because the key of its secrets is not here.
        """
        usable = await self._store.usable_tools(tenant_id, ids)
        servers = {server.id: server for _, server in usable.values()}
        endpoints = {id: await self._endpoint(server) for id, server in servers.items()}
        return {
            id: self._remote.tool(endpoint, tool_servers.described(tool.name, tool.document))
            for id, (tool, server) in usable.items()
            if (endpoint := endpoints[server.id]) is not None
        }

    async def _endpoint(self, server: ToolServerRow) -> Endpoint | None:
        if not server.secrets:
            return tool_servers.endpoint(server.document, {})
        try:
            return tool_servers.endpoint(server.document, await self._vault.reveal(server.owner, 0))
        except SecretsUnavailable as error:
            _log.error("tool_server_left_out", tool_server=server.key, reason=error.message)
            return None
