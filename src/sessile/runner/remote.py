"""The tools of tool servers that an agent offers: looked up for each turn, because they change without the agent."""

from collections.abc import Collection

from sessile.domain import tool_servers
from sessile.ports import RemoteTools, Sealer, Store, Tool


class RemoteOffers:
    """Finds tools of tool servers by their ids."""

    def __init__(self, store: Store, remote: RemoteTools, sealer: Sealer) -> None:
        self._store = store
        self._remote = remote
        self._sealer = sealer

    async def tools(self, tenant_id: int, ids: Collection[str]) -> dict[str, Tool]:
        """Those of the tools that are enabled and whose servers are, by id."""
        usable = await self._store.usable_tools(tenant_id, ids)
        return {
            id: self._remote.tool(
                tool_servers.endpoint(server.document, self._sealer.unseal(server.secret)),
                tool_servers.described(tool.name, tool.document),
            )
            for id, (tool, server) in usable.items()
        }
