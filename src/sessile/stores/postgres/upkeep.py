"""The verbs of whoever runs the store, in PostgreSQL: how much is left to do, how large it is, whether it is whole."""

import asyncpg

from sessile.observation import CommitObserver
from sessile.rows import Backlog, Page, SessionRow, SessionSize, TableSize
from sessile.stores import rows
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs
from sessile.stores.stray import RULES


class Upkeep(Verbs):
    """The `UpkeepStore` of one database."""

    def watch_commits(self, observer: CommitObserver) -> None:
        self._connections.observer = observer

    async def backlog(self) -> Backlog:
        row = await self._read(lambda db: db.one("backlog"))
        assert row is not None
        return Backlog(waiting_inputs=row[0], running_turns=row[1], parked_turns=row[2], purges=row[3])

    async def table_sizes(self) -> list[TableSize]:
        return await self._connections.look_through(_table_sizes)

    async def largest_sessions(self, limit: int) -> list[SessionSize]:
        return [
            SessionSize(tenant_key=tenant, agent_key=agent, session_key=session, events=events, bytes=size)
            for tenant, agent, session, events, size in await self._connections.look_through(
                lambda db: db.all("largest_sessions", limit=limit)
            )
        ]

    async def all_sessions(self, cursor: int | None, limit: int) -> Page[SessionRow]:
        found = await self._read(lambda db: db.all("all_sessions", cursor=cursor or 0, limit=limit + 1))
        sessions = [rows.session(row) for row in found[:limit]]
        return Page(sessions, sessions[-1].id if len(found) > limit else None)

    async def damage(self) -> list[str]:
        return await self._connections.look_through(_damage)


async def _damage(db: Db) -> list[str]:
    """Every row of every table is read, with what is stored apart; indexes are checked where the server can do it."""
    found = []
    for name, _ in await db.all("table_bytes"):
        try:
            await db.all_where("read_rows", f'"{name}" AS t')
        except asyncpg.InternalServerError as error:
            found.append(f"{name}: {error}")
    if await db.one("has_amcheck"):
        for (name,) in await db.all("indexes"):
            try:
                await db.all("check_index", name=name)
            except asyncpg.InternalServerError as error:
                found.append(f"{name}: {error}")
    if not found:
        found += [line for rule in RULES for (line,) in await db.all(rule)]
    return found


async def _table_sizes(db: Db) -> list[TableSize]:
    sizes = []
    for name, size in await db.all("table_bytes"):
        ((count,),) = await db.all_where("count_rows", f'"{name}"')
        sizes.append(TableSize(name=name, rows=count, bytes=size))
    return sizes
