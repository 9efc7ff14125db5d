"""The verbs of whoever runs the store, in PostgreSQL: how much is left to do, how large it is, whether it is whole."""

from sessile.observation import CommitObserver
from sessile.rows import Backlog, Page, SessionRow, SessionSize, TableSize
from sessile.stores import rows
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs


class Upkeep(Verbs):
    """The `UpkeepStore` of one database."""

    def watch_commits(self, observer: CommitObserver) -> None:
        self._connections.observer = observer

    async def backlog(self) -> Backlog:
        row = await self._read(lambda db: db.one("backlog"))
        assert row is not None
        return Backlog(waiting_inputs=row[0], running_turns=row[1], parked_turns=row[2], purges=row[3])

    async def table_sizes(self) -> list[TableSize]:
        return await self._read(_table_sizes)

    async def largest_sessions(self, limit: int) -> list[SessionSize]:
        return [
            SessionSize(tenant_key=tenant, agent_key=agent, session_key=session, events=events, bytes=size)
            for tenant, agent, session, events, size in await self._read(
                lambda db: db.all("largest_sessions", limit=limit)
            )
        ]

    async def all_sessions(self, cursor: int | None, limit: int) -> Page[SessionRow]:
        found = await self._read(lambda db: db.all("all_sessions", cursor=cursor or 0, limit=limit + 1))
        sessions = [rows.session(row) for row in found[:limit]]
        return Page(sessions, sessions[-1].id if len(found) > limit else None)

    async def damage(self) -> list[str]:
        """PostgreSQL checks its pages when it reads them; it has no check of its own for the whole database."""
        return []


async def _table_sizes(db: Db) -> list[TableSize]:
    sizes = []
    for name, size in await db.all("table_bytes"):
        ((count,),) = await db.all_where("count_rows", f'"{name}"')
        sizes.append(TableSize(name=name, rows=count, bytes=size))
    return sizes
