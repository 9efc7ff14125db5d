"""The verbs of whoever runs the store, in SQLite: how much is left to do, how large it is, whether it is whole."""

import sqlite3

from sessile.observation import CommitObserver
from sessile.rows import Backlog, Page, SessionRow, SessionSize, TableSize
from sessile.stores import rows
from sessile.stores.sqlite.verbs import QUERIES, Verbs
from sessile.stores.stray import RULES
from sessile.wire.errors import StorageUnavailable

_MAX_DAMAGE = 100


class Upkeep(Verbs):
    """The `UpkeepStore` of one database file."""

    def watch_commits(self, observer: CommitObserver) -> None:
        self._writer.observer = observer

    async def backlog(self) -> Backlog:
        return await self._readers.run(_backlog)

    async def table_sizes(self) -> list[TableSize]:
        return await self._readers.run(_table_sizes)

    async def largest_sessions(self, limit: int) -> list[SessionSize]:
        return await self._readers.run(lambda db: _largest_sessions(db, limit))

    async def all_sessions(self, cursor: int | None, limit: int) -> Page[SessionRow]:
        return await self._readers.run(lambda db: _all_sessions(db, cursor, limit))

    async def damage(self) -> list[str]:
        found: list[str] = []
        try:
            await self._readers.run(lambda db: _look_for_damage(db, found))
        except StorageUnavailable as error:  # a file may be so bad that not even the transaction ends
            return found or [error.message]
        return found


def _backlog(db: sqlite3.Connection) -> Backlog:
    waiting, running, parked, purges = db.execute(QUERIES["backlog"]).fetchone()
    return Backlog(waiting_inputs=waiting, running_turns=running, parked_turns=parked, purges=purges)


def _table_sizes(db: sqlite3.Connection) -> list[TableSize]:
    sizes = []
    for name, size in db.execute(QUERIES["table_bytes"]).fetchall():
        (count,) = db.execute(f'SELECT count(*) FROM "{name}"').fetchone()
        sizes.append(TableSize(name=name, rows=count, bytes=size))
    return sizes


def _largest_sessions(db: sqlite3.Connection, limit: int) -> list[SessionSize]:
    return [
        SessionSize(tenant_key=tenant, agent_key=agent, session_key=session, events=events, bytes=size)
        for tenant, agent, session, events, size in db.execute(QUERIES["largest_sessions"], {"limit": limit})
    ]


def _all_sessions(db: sqlite3.Connection, cursor: int | None, limit: int) -> Page[SessionRow]:
    found = db.execute(QUERIES["all_sessions"], {"cursor": cursor or 0, "limit": limit + 1}).fetchall()
    sessions = [rows.session(row) for row in found[:limit]]
    return Page(sessions, sessions[-1].id if len(found) > limit else None)


def _look_for_damage(db: sqlite3.Connection, found: list[str]) -> None:
    """The file itself first: what its tables say is worth nothing while it is damaged."""
    lines = [str(line) for (line,) in db.execute(f"PRAGMA integrity_check({_MAX_DAMAGE})")]
    found += [] if lines == ["ok"] else lines
    if not found:
        found += [line for rule in RULES.values() for (line,) in db.execute(rule)]
