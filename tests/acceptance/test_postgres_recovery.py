"""A moment of the past, as the page for operators says: a base backup, the archived write-ahead log, and a time."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from acceptance.stage import WAIT_SECONDS, Stage, eventually, model_config
from acceptance.test_postgres_upkeep import db, execute, program
from sessile.testing.postgres import PostgresServer, postgres_server
from sessile.testing.script import hang, say
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio]


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server whose files a test may replace."""
    with postgres_server() as server:
        yield server


async def value(url: str, query: str, *arguments: object) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


@asynccontextmanager
async def sessile(folder: Path, upstream: Upstream, url: str) -> AsyncIterator[Stage]:
    config = "lease_seconds = 1\n" + model_config(upstream)
    with ServerProcess(folder, config, env={"SESSILE_DATABASE": url}) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            yield Stage(server, upstream, client)
        server.terminate()


async def archive_log(server: PostgresServer, archive: Path) -> None:
    """Let a server archive its write-ahead log."""
    os.mkdir(archive)
    os.chmod(archive, 0o777)  # for whoever runs PostgreSQL
    command = f"test ! -f {archive}/%f && cp %p {archive}/%f"
    await execute(server.url(), "ALTER SYSTEM SET archive_mode = on", f"ALTER SYSTEM SET archive_command = '{command}'")
    server.stop()
    server.start()


async def archived(url: str) -> None:
    """Wait until all that was written is in the archive."""
    last = await value(url, "SELECT pg_walfile_name(pg_switch_wal())")

    async def there() -> bool:
        return bool(await value(url, "SELECT last_archived_wal >= $1 FROM pg_stat_archiver", last))

    await eventually(there)


def replace(data: Path, settings: str) -> None:
    """Put the base backup in the place of a server's data, with settings for what follows."""
    owner = data.stat()
    data.rename(data.with_name("lost"))
    data.with_name("base").rename(data)
    with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.write(settings)
    (data / "recovery.signal").touch()
    for path in (data, *data.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)


async def go_back(server: PostgresServer, data: Path, archive: Path, moment: object) -> None:
    """Restore the base backup, and replay the log up to a moment."""
    server.stop()
    replace(
        data,
        f"archive_mode = off\nrestore_command = 'cp {archive}/%f %p'\n"
        f"recovery_target_time = '{moment}'\nrecovery_target_action = 'promote'\n",
    )
    server.start()

    async def promoted() -> bool:
        return not await value(server.url(), "SELECT pg_is_in_recovery()")

    await eventually(promoted)


async def test_a_moment_between_backups_is_restored_checked_and_served(
    own_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = Path(await value(own_server.url(), "SELECT current_setting('data_directory')"))
    archive = data.with_name("archive")
    await archive_log(own_server, archive)
    await execute(own_server.url(), "CREATE DATABASE sessile")
    url = own_server.url("sessile")
    async with Upstream() as upstream:
        async with sessile(tmp_path_factory.mktemp("before"), upstream, url) as stage:
            session = await stage.conversation()
            upstream.add(say("In the backup."))
            await stage.post(session)
            await program(own_server, "pg_basebackup", f"-d{url}", f"-D{data.with_name('base')}", "--checkpoint=fast")
            upstream.add(say("After it."))
            await stage.post(session)
            upstream.add(say("Half an answer", whole=True), hang())
            turn = asyncio.create_task(stage.client.post(f"{session}/events", json={"content": "Go on."}))
            await upstream.arrived(3)
            moment = await value(url, "SELECT clock_timestamp()")
            assert (await stage.client.delete(session)).status_code == 204, "this is what shall not have been"
            await turn
            await archived(url)
        await go_back(own_server, data, archive, moment)
        checked = await db(url, "check")
        assert (checked.code, "1 sessions" in checked.stderr) == (0, True), checked
        upstream.reset()
        upstream.add(say("A whole answer."))
        async with sessile(tmp_path_factory.mktemp("after"), upstream, url) as stage:
            await stage.stopped(session)
            upstream.add(say("And on."))
            await stage.post(session)
            said = [event["content"] for event in await stage.log(session) if event["type"] == "agent_output"]
            assert said == ["In the backup.", "After it.", "A whole answer.", "And on."]
