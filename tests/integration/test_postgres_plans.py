"""How PostgreSQL goes about our queries when tables are large and it does not know the values: by looking rows up."""

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from sessile.rows import SessionRef
from sessile.stores.postgres.db import text_of
from sessile.stores.postgres.store import PostgresStore
from sessile.stores.queries import load_queries
from sessile.testing.clock import FakeClock
from sessile.testing.store_world import AGENT, SESSION, new_tenant, whole_turn

ROWS = 5_000
UPKEEP = {"backlog", "count_rows", "largest_sessions", "read_rows"}
"""Read all rows, as those want who ask."""
UNPLANNED = {"begin", "check_index"}
"""Text of two statements; of an extension."""
SLICES = {"purge_events", "purge_sessions", "purge_turns"}
"""Hundreds of rows at a time, after which any way is right."""
COPY = {
    "sessions": ("key", "'copy' || number"),
    "turns": ("turn_id", "'copy' || number"),
    "events": ("sequence", "1000 + number"),
}
"""Which column of a copied row is new, apart from a generated one, and what it is."""


async def fill(connection: asyncpg.Connection, table: str) -> None:
    """Make thousands of rows like one that is there."""
    new, value = COPY[table]
    found = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = $1 AND is_identity = 'NO'", table
    )
    same = ", ".join(column for (column,) in found if column != new)
    await connection.execute(
        f"INSERT INTO {table} ({new}, {same}) SELECT {value}, {same} "
        f"FROM (SELECT * FROM {table} LIMIT 1) AS one, generate_series(1, {ROWS}) AS number"
    )


@pytest.fixture
async def planner(new_database: str) -> AsyncIterator[asyncpg.Connection]:
    store = await PostgresStore.open(new_database, FakeClock())
    await whole_turn(store, SessionRef(await new_tenant(store), AGENT, SESSION))
    await store.close()
    connection = await asyncpg.connect(new_database)
    for table in COPY:
        await fill(connection, table)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    yield connection
    await connection.close()


async def test_no_query_of_a_request_or_a_turn_reads_a_whole_table(planner: asyncpg.Connection) -> None:
    names = load_queries("sessile.stores.postgres").keys() - UPKEEP - UNPLANNED - SLICES
    scans = {}
    for name in sorted(names):
        await planner.execute(f"PREPARE query_{name} AS {text_of(name)}")
        values = len(set(re.findall(r"\$\d+", text_of(name))))
        nothing = f"({', '.join(['NULL'] * values)})" if values else ""
        plan = "\n".join(line for (line,) in await planner.fetch(f"EXPLAIN EXECUTE query_{name}{nothing}"))
        if found := re.findall(r"Seq Scan on (?:sessions|turns|events)\b", plan):
            scans[name] = found
    assert len(names) > 100
    assert scans == {}
