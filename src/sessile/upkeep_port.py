"""The verbs of a store for whoever runs it; a part of the port `Store`, like those of `store_ports`."""

from typing import Protocol

from sessile.observation import CommitObserver
from sessile.rows import Backlog, Page, SessionRow, SessionSize, TableSize


class UpkeepStore(Protocol):
    """What whoever runs a store wants to know of it. These verbs see all tenants, and none of them is quick but
    `backlog`."""

    def watch_commits(self, observer: CommitObserver) -> None:
        """Tell somebody of every commit from now on."""

    async def backlog(self) -> Backlog:
        """What is still to be done. It costs as much as there is of it."""

    async def table_sizes(self) -> list[TableSize]:
        """All tables, the largest first."""

    async def largest_sessions(self, limit: int) -> list[SessionSize]:
        """The sessions with the largest logs, the largest first."""

    async def all_sessions(self, cursor: int | None, limit: int) -> Page[SessionRow]:
        """The sessions of all tenants after a cursor, in the order of their internal ids."""

    async def damage(self) -> list[str]:
        """What the database itself finds wrong with what it keeps, some of it when there is much; empty: nothing."""
