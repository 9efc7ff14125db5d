"""`sessile db` on PostgreSQL: beside a running server, on what is damaged, and on what is not there yet."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from acceptance.cli_support import Done, environment, run
from acceptance.stage import WAIT_SECONDS, Stage, model_config
from sessile.clock import SystemClock
from sessile.rows import SessionRef
from sessile.stores.postgres.store import PostgresStore
from sessile.stores.queries import load_migrations
from sessile.testing.postgres import PostgresServer, postgres_server
from sessile.testing.script import hang, say
from sessile.testing.server import ServerProcess
from sessile.testing.store_world import AGENT, SESSION, accept, new_tenant
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]
PAGE = 8192


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server whose files a test may damage."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def database(module_database: str) -> str:
    return module_database


async def db(url: str, *arguments: str) -> Done:
    return await run(environment(""), "db", *arguments, "--database", url)


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def filled(url: str) -> None:
    """A database of a few rows that lie in their files."""
    store = await PostgresStore.open(url, SystemClock())
    tenant = await store.create_tenant("acme", "Acme")
    for number in range(20):
        await store.create_agent(tenant.id, f"agt_{number}", b"{}", True)
    await store.close()
    await execute(url, "CHECKPOINT")


async def overwrite(server: PostgresServer, url: str, relation: str, at: int, what: bytes) -> None:
    """Write into a file of the server while it stands still."""
    connection = await asyncpg.connect(url)
    folder, file = await connection.fetchrow(
        "SELECT current_setting('data_directory'), pg_relation_filepath($1)", relation
    )
    await connection.close()
    server.stop()
    with (Path(folder) / file).open("r+b") as raw:
        raw.seek(at)
        raw.write(what)
    server.start()


async def test_a_running_server_is_checked_and_measured(stage: Stage, upstream: Upstream, database: str) -> None:
    session = await stage.conversation()
    upstream.add(say("Yes."))
    await stage.post(session)
    checked = await db(database, "check")
    assert (checked.code, checked.stdout) == (0, "")
    assert "1 sessions, 4 events: all is well" in checked.stderr
    sizes = (await db(database, "size", "--json")).json()
    assert {table["name"]: table["rows"] for table in sizes["tables"]}["events"] == 4
    assert [found["session_key"] for found in sizes["sessions"]] == [session.rsplit("/", 1)[1]]
    assert (await db(database, "migrate")).stderr == "Nothing to do.\n"
    by_variable = await run(environment("", SESSILE_DATABASE=database), "db", "check")
    assert by_variable.code == 0


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("UPDATE sessions SET last_sequence = 1", "damage\tsession {key}: event 2 is behind the end of the log, 1"),
        ("UPDATE turns SET running = false", "damage\tsession {key}: its turn trn_"),
        ("DELETE FROM agents", "damage\tsession {key}: its agent is not there"),
        ("DELETE FROM sessions", "damage\tevents of a session that is not there, number "),
        ("UPDATE sessions SET tenant_id = 0", "damage\tsession {key}: its tenant is not that of its agent"),
        ("UPDATE events SET turn_id = 'trn_x' WHERE sequence = 2", "stale_session\tThe session says running_turn "),
        ("UPDATE events SET body = '{'::bytea WHERE sequence = 2", "{key}:0\tunreadable"),
        ("DELETE FROM events WHERE sequence = 1", "sequence_gap"),
        ("UPDATE agents SET document = '{'::bytea", f"acme/{AGENT}\tunreadable\tThe agent cannot be read"),
    ],
)
async def test_rows_that_break_a_rule_are_found(new_database: str, damage: str, line: str) -> None:
    store = await PostgresStore.open(new_database, SystemClock())
    tenant = await new_tenant(store)
    await accept(store, SessionRef(tenant, AGENT, SESSION))
    await store.close()
    assert (await db(new_database, "check")).code == 0
    await execute(new_database, damage)
    found = await db(new_database, "check")
    assert found.code == 1
    assert line.format(key=SESSION) in found.stdout


async def test_a_page_that_is_torn_is_found_and_the_rest_is_read(own_server: PostgresServer) -> None:
    await execute(own_server.url(), "CREATE DATABASE torn")
    url = own_server.url("torn")
    await filled(url)
    await overwrite(own_server, url, "agents", 100, b"\xff" * 4000)
    found = await db(url, "check")
    assert found.code == 1
    assert re.match(r"database\tdamage\tagents: invalid page in block 0", found.stdout)


async def test_an_index_that_lacks_a_row_is_found_where_the_server_can_check_it(own_server: PostgresServer) -> None:
    await execute(own_server.url(), "CREATE DATABASE lacking")
    url = own_server.url("lacking")
    await filled(url)
    await execute(
        url,
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'agents_newest'::regclass",
        "INSERT INTO agents (tenant_id, key, enabled, version, document, created_at, updated_at) "
        "VALUES (1, 'agt_new', true, 1, '{}', 0, 0)",
        "UPDATE pg_index SET indisready = true WHERE indexrelid = 'agents_newest'::regclass",
    )
    assert (await db(url, "check")).code == 0
    await execute(url, "CREATE EXTENSION amcheck")
    found = await db(url, "check")
    assert found.code == 1
    assert "damage\tagents_newest: heap tuple" in found.stdout


async def test_a_database_without_a_schema_is_brought_up_to_date(new_database: str) -> None:
    for command in ("check", "size"):
        refused = await db(new_database, command)
        assert (refused.code, "sessile db migrate" in refused.stderr) == (1, True)
    names = [f"{version:04} {name}" for version, name, _ in load_migrations("sessile.stores.postgres")]
    assert (await db(new_database, "migrate", "--dry-run")).stdout.splitlines() == names
    assert (await db(new_database, "migrate", "--dry-run")).stdout.splitlines() == names
    assert (await db(new_database, "migrate")).stdout.splitlines() == names
    assert (await db(new_database, "migrate")).stdout == ""
    assert (await db(new_database, "check")).code == 0


async def test_what_is_no_database_is_told(new_database: str) -> None:
    for url in (f"{new_database}_not_there", "postgresql://127.0.0.1:1/x", "postgresql://[", "postgresql://h:port/x"):
        for command in ("check", "size", "migrate"):
            refused = await db(url, command)
            assert refused.code == 1
            assert "cannot be opened" in refused.stderr or "URL" in refused.stderr, refused.stderr


async def test_a_dump_of_a_running_server_is_restored_and_served(
    stage: Stage, upstream: Upstream, database: str, postgres: PostgresServer, new_database: str, tmp_path: Path
) -> None:
    session = await stage.conversation()
    upstream.add(say("Kept."))
    await stage.post(session)
    upstream.add(say("Half an answer", whole=True), hang())
    turn = asyncio.create_task(stage.client.post(f"{session}/events", json={"content": "Go on."}))
    await upstream.arrived(2)
    await program(postgres, "pg_dump", "--format=custom", f"--file={tmp_path}/dump", database)
    await stage.client.post(f"{session}/events", json={"type": "interrupt"})
    await turn
    await program(postgres, "pg_restore", "--exit-on-error", f"--dbname={new_database}", f"{tmp_path}/dump")
    assert (await db(new_database, "check")).code == 0
    assert (await db(new_database, "migrate")).stderr == "Nothing to do.\n"
    upstream.add(say("A whole answer."))
    config = "lease_seconds = 1\n" + model_config(upstream)
    with ServerProcess(tmp_path, config, env={"SESSILE_DATABASE": new_database}) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            restored = Stage(server, upstream, client)
            await restored.stopped(session)
            said = [event["content"] for event in await restored.log(session) if event["type"] == "agent_output"]
            assert said == ["Kept.", "A whole answer."]
        server.terminate()


async def program(server: PostgresServer, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    process = await asyncio.create_subprocess_exec(
        server.programs / name, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
