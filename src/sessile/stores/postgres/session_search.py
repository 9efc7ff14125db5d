"""Lists of sessions with filters, and across agents, in PostgreSQL.

A page takes ids from an index, newest first and a slice at a time, and keeps the rows that the query takes, until it is
full or has examined as many as a page may. Large metadata and many conditions make these fewer. Patterns are matched
here, by the same engine as everywhere.
"""

from collections.abc import Sequence
from heapq import nlargest

from msgspec import Struct

from sessile.domain.metadata_filter import required_terms
from sessile.domain.name_filter import matches
from sessile.rows import Page, SessionQuery, SessionRow
from sessile.stores import listed, rows
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.metadata_filter import compile_filter
from sessile.stores.postgres.verbs import LAST, Verbs, before, is_text

_EXAMINED = 1000
_SLICE = 100
_WEIGHED, _FREQUENT = 4, 200
"""Equalities whose frequencies are compared at most, and from how many sessions on they are all alike."""


class SessionSearch(Verbs):
    """Verbs of the `Store` port."""

    async def find_sessions(self, tenant_id: int, query: SessionQuery) -> Page[SessionRow]:
        return await self._read(lambda db: _search(db, tenant_id, query))


class _Source(Struct, frozen=True):
    """Where ids come from: one index, in one or several places."""

    name: str
    scopes: Sequence[int]
    term: int | None = None

    async def ids(self, db: Db, cursor: int, slice: int) -> list[int]:
        found: list[int] = []
        for scope in self.scopes:
            values = {"scope": scope, "term": self.term, "cursor": cursor, "slice": slice}
            found += [session_id for (session_id,) in await db.all(self.name, **values)]
        return nlargest(slice, found) if len(self.scopes) > 1 else found


async def _search(db: Db, tenant_id: int, query: SessionQuery) -> Page[SessionRow]:
    agents = await _agent_ids(db, tenant_id, query)
    source = await _source(db, tenant_id, agents, query)
    found: list[SessionRow] = []
    cursor, left = before(query.cursor), 0 if query.metadata is None else listed.metadata_budget(query.metadata)
    for _ in range(_EXAMINED // _SLICE):
        candidates = await source.ids(db, cursor, _SLICE)
        ids, left = (candidates, 0) if query.metadata is None else await _affordable(db, candidates, left)
        found += await _taken(db, ids, agents, query)
        if len(found) > query.limit:
            return Page(found[: query.limit], found[query.limit - 1].id)
        if len(candidates) < _SLICE and len(ids) == len(candidates):
            return Page(found, None)
        cursor = ids[-1]
        if query.metadata is not None and not left:
            break
    return Page(found, cursor)


async def _affordable(db: Db, ids: list[int], left: int) -> tuple[Sequence[int], int]:
    sizes = {session_id: size for session_id, size in await db.all("sizes_of_metadata", ids=ids)}
    return listed.affordable(ids, sizes, left)


async def _taken(db: Db, ids: Sequence[int], agents: list[int] | None, query: SessionQuery) -> list[SessionRow]:
    """Those of some sessions that a query takes."""
    condition, values = compile_filter(query.metadata) if query.metadata is not None else ("TRUE", {})
    found = await db.all_where(
        "find_sessions",
        condition,
        ids=ids,
        agents=agents,
        status=query.status,
        created_after=query.created_after,
        created_before=query.created_before,
        updated_after=query.updated_after,
        updated_before=query.updated_before,
        limit=_SLICE if query.pattern is not None else query.limit + 1,
        **values,
    )
    sessions = [rows.session(row) for row in found]
    pattern = query.pattern
    return [row for row in sessions if pattern is None or matches(pattern, row.name, row.description)]


async def _agent_ids(db: Db, tenant_id: int, query: SessionQuery) -> list[int] | None:
    if query.agent_keys is None:
        return None
    keys = [key for key in query.agent_keys if is_text(key)]
    found = [await db.one("get_agent_id", tenant_id=tenant_id, key=key) for key in keys]
    return [row[0] for row in found if row is not None]


async def _source(db: Db, tenant_id: int, agents: list[int] | None, query: SessionQuery) -> _Source:
    """The index with the fewest ids to look at."""
    if query.status == "running":
        return _Source("candidates_running", [tenant_id])
    scopes, of = ([tenant_id], "tenant") if agents is None else (agents, "agent")
    terms = required_terms(query.metadata)[:_WEIGHED] if query.metadata is not None else []
    by_term = [_Source(f"candidates_of_{of}_by_term", scopes, term) for term in terms]
    if not by_term:
        return _Source(f"candidates_of_{of}", scopes)
    if len(by_term) == 1:
        return by_term[0]
    sizes = [len(await source.ids(db, LAST, _FREQUENT)) for source in by_term]
    return by_term[sizes.index(min(sizes))]
