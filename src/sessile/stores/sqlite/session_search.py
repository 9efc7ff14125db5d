"""Lists of sessions with filters, and across agents, in SQLite.

A page takes ids from an index, newest first and a slice at a time, and keeps the rows that the query takes, until it is
full or has examined as many as a page may. Large metadata and many conditions make these fewer: every other read waits
meanwhile.
"""

import sqlite3
from collections.abc import Collection, Sequence
from heapq import nlargest

from msgspec import Struct

from sessile.domain.metadata_filter import required_terms
from sessile.rows import Page, SessionQuery, SessionRow
from sessile.stores import listed, rows
from sessile.stores.sqlite.metadata_filter import compile_filter
from sessile.stores.sqlite.verbs import LAST, QUERIES, Verbs, before
from sessile.wire import codec

_EXAMINED = 1000
_SLICE = 100
_WEIGHED, _FREQUENT = 4, 200
"""Equalities whose frequencies are compared at most, and from how many sessions on they are all alike."""


class SessionSearch(Verbs):
    """Verbs of the `Store` port."""

    async def find_sessions(self, tenant_id: int, query: SessionQuery) -> Page[SessionRow]:
        return await self._readers.run(lambda db: _search(db, tenant_id, query))


class _Source(Struct, frozen=True):
    """Where ids come from: one index, in one or several places."""

    name: str
    scopes: Sequence[int]
    term: int | None = None

    def ids(self, db: sqlite3.Connection, cursor: int, slice: int) -> list[int]:
        found: list[int] = []
        for scope in self.scopes:
            values = {"scope": scope, "term": self.term, "cursor": cursor, "slice": slice}
            found += [session_id for (session_id,) in db.execute(QUERIES[self.name], values)]
        return nlargest(slice, found) if len(self.scopes) > 1 else found


def _search(db: sqlite3.Connection, tenant_id: int, query: SessionQuery) -> Page[SessionRow]:
    agents = None if query.agent_keys is None else _agent_ids(db, tenant_id, query.agent_keys)
    source = _source(db, tenant_id, agents, query)
    condition, values = compile_filter(query.metadata) if query.metadata is not None else ("TRUE", {})
    head, _, tail = QUERIES["find_sessions"].rpartition("TRUE")
    values |= {
        "agents": None if agents is None else codec.encode(agents).decode(),
        "status": query.status,
        "created_after": query.created_after,
        "created_before": query.created_before,
        "updated_after": query.updated_after,
        "updated_before": query.updated_before,
        "pattern": query.pattern,
        "limit": query.limit + 1,
    }
    found: list[SessionRow] = []
    cursor, left = before(query.cursor), 0 if query.metadata is None else listed.metadata_budget(query.metadata)
    for _ in range(_EXAMINED // _SLICE):
        candidates = source.ids(db, cursor, _SLICE)
        ids, left = (candidates, 0) if query.metadata is None else _affordable(db, candidates, left)
        values["ids"] = codec.encode(ids).decode()
        found += [rows.session(row) for row in db.execute(head + condition + tail, values)]
        if len(found) > query.limit:
            return Page(found[: query.limit], found[query.limit - 1].id)
        if len(candidates) < _SLICE and len(ids) == len(candidates):
            return Page(found, None)
        cursor = ids[-1]
        if query.metadata is not None and not left:
            break
    return Page(found, cursor)


def _affordable(db: sqlite3.Connection, ids: list[int], left: int) -> tuple[Sequence[int], int]:
    sizes = dict(db.execute(QUERIES["sizes_of_metadata"], {"ids": codec.encode(ids).decode()}).fetchall())
    return listed.affordable(ids, sizes, left)


def _agent_ids(db: sqlite3.Connection, tenant_id: int, keys: Collection[str]) -> list[int]:
    found = (db.execute(QUERIES["get_agent_id"], {"tenant_id": tenant_id, "key": key}).fetchone() for key in keys)
    return [row[0] for row in found if row is not None]


def _source(db: sqlite3.Connection, tenant_id: int, agents: list[int] | None, query: SessionQuery) -> _Source:
    """The index with the fewest ids to look at."""
    if query.status == "running":
        return _Source("candidates_running", [tenant_id])
    scopes, of = ([tenant_id], "tenant") if agents is None else (agents, "agent")
    terms = required_terms(query.metadata)[:_WEIGHED] if query.metadata is not None else []
    by_term = [_Source(f"candidates_of_{of}_by_term", scopes, term) for term in terms]
    if not by_term:
        return _Source(f"candidates_of_{of}", scopes)
    return min(by_term, key=lambda source: len(source.ids(db, LAST, _FREQUENT))) if len(by_term) > 1 else by_term[0]
