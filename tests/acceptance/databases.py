"""Every kind of database a server can run on: a module that imports the fixture `database` is run on each."""

import contextlib
import sqlite3
from pathlib import Path

import asyncpg
import pytest


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The server's database; None is a file in its data folder."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("module_database")
    return url


async def bodies_with(text: str, data: Path, database: str | None) -> int:
    """How many events that are stored hold a text, whoever may see them."""
    if database is None:
        with contextlib.closing(sqlite3.connect(data / "sessile.db")) as db:
            (found,) = db.execute("SELECT count(*) FROM events WHERE instr(body, ?)", [text.encode()]).fetchone()
    else:
        connection = await asyncpg.connect(database)
        found = await connection.fetchval("SELECT count(*) FROM events WHERE position($1 in body) > 0", text.encode())
        await connection.close()
    return int(found)
