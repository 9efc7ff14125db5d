"""`sessile db`: on the database of a running server, on one that is damaged, and on one of an earlier version."""

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.cli_support import Done, environment, run
from acceptance.documents import ROOT
from acceptance.stage import WAIT_SECONDS, EventStream, Stage, model_config
from sessile.stores.queries import load_migrations, statements
from sessile.stores.sqlite import functions
from sessile.stores.sqlite.owner import owned
from sessile.testing.script import hang, say
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


async def db(data: Path, *arguments: str) -> Done:
    done = await run(environment(""), "db", *arguments, "--data", str(data))
    assert "Traceback" not in done.stderr
    return done


async def talked(stage: Stage, upstream: Upstream) -> list[str]:
    """Two sessions with a turn each; returns their paths."""
    agent = await stage.agent()
    sessions = [await stage.session(agent) for _ in range(2)]
    for session in sessions:
        upstream.add(say("Yes."))
        await stage.post(session)
    return sessions


@pytest.fixture
def copy(stage: Stage, tmp_path: Path) -> Callable[[], Path]:
    """Copies the database of the running server, as a backup does; returns the data folder of the copy."""

    def make() -> Path:
        data = tmp_path / "copy"
        data.mkdir()
        with (
            closing(sqlite3.connect(stage.server.data / "sessile.db")) as source,
            closing(sqlite3.connect(data / "sessile.db")) as target,
        ):
            source.backup(target)
        return data

    return make


async def test_a_running_server_is_checked_and_measured(stage: Stage, upstream: Upstream) -> None:
    sessions = await talked(stage, upstream)
    checked = await db(stage.server.data, "check")
    assert (checked.code, checked.stdout) == (0, "")
    assert "all is well" in checked.stderr
    sizes = (await db(stage.server.data, "size", "--sessions", "1", "--json")).json()
    tables = {table["name"]: table for table in sizes["tables"]}
    assert tables["events"]["rows"] >= 8
    assert tables["events"]["bytes"] >= 4096
    assert len(sizes["sessions"]) == 1
    rows = (await db(stage.server.data, "size", "--sessions", "100")).rows()
    assert ["events", str(tables["events"]["rows"]), str(tables["events"]["bytes"])] in rows
    assert {sessions[0].rsplit("/", 1)[1], sessions[1].rsplit("/", 1)[1]} <= {row[2] for row in rows if len(row) > 3}
    assert (await db(stage.server.data, "migrate")).stderr == "Nothing to do.\n"


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("DELETE FROM events WHERE rowid = (SELECT min(rowid) FROM events) + 1", "sequence_gap"),
        ("UPDATE events SET body = X'7B' WHERE type = 'agent_output'", "unreadable"),
        ("UPDATE sessions SET stop_reason = 'error'", "stale_session"),
        ("UPDATE sessions SET usage = X'00'", "unreadable"),
    ],
)
async def test_a_log_that_breaks_a_rule_is_found(
    stage: Stage, upstream: Upstream, copy: Callable[[], Path], damage: str, rule: str
) -> None:
    await talked(stage, upstream)
    data = copy()
    with closing(sqlite3.connect(data / "sessile.db")) as database, database:
        database.execute(damage)
    found = await db(data, "check")
    assert found.code == 1
    places = {(row[0].rpartition(":")[0], row[1]) for row in found.rows()}
    (document, *_) = [
        finding for finding in (await db(data, "check", "--json")).json_lines() if finding["rule"] == rule
    ]
    assert (f"{document['tenant']}/{document['agent']}/{document['session']}", rule) in places


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            "UPDATE sessions SET last_sequence = last_sequence - 1",
            "session {key}: event 4 is behind the end of the log, 3",
        ),
        ("UPDATE sessions SET running_turn = 'trn_gone'", "session {key}: its turn trn_gone does not run"),
        ("DELETE FROM agents", "session {key}: its agent is not there"),
        ("DELETE FROM tenants", "its tenant is not there"),
        ("DELETE FROM sessions", "turns of a session that is not there, number "),
        ("UPDATE agents SET document = X'7B'", "The agent cannot be read: "),
    ],
)
async def test_rows_that_no_server_leaves_behind_are_found(
    stage: Stage, upstream: Upstream, copy: Callable[[], Path], damage: str, line: str
) -> None:
    session, _ = await talked(stage, upstream)
    data = copy()
    with closing(sqlite3.connect(data / "sessile.db")) as database, database:
        database.execute(damage)
    found = await db(data, "check")
    assert found.code == 1
    told = [row[2] for row in found.rows()]
    assert any(line.format(key=session.rsplit("/", 1)[1]) in words for words in told), found.stdout


async def test_the_backup_of_the_documentation_is_taken_while_a_turn_runs_and_goes_on(
    stage: Stage, upstream: Upstream, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    script = page.split("**`backup.py`**")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "backup.py").write_text(script)
    session = await stage.conversation()
    files = {"files": ("note.txt", b"kept bytes", "text/plain")}
    upstream.add(say("Half an answer", whole=True), hang())
    fields = {"message": "Look.", "stream_response": "true"}
    async with stage.client.stream("POST", f"{session}/events", data=fields, files=files) as response:
        assert response.status_code == 201
        await EventStream(response).until("streaming_agent_output")
        arguments = [str(stage.server.data), str(tmp_path / "restored" / "data")]
        script_run = [sys.executable, str(tmp_path / "backup.py"), *arguments]
        process = await asyncio.create_subprocess_exec(*script_run)
        assert await process.wait() == 0
    await stage.client.post(f"{session}/events", json={"type": "interrupt"})
    assert (await db(tmp_path / "restored" / "data", "check")).code == 0
    upstream.add(say("A whole answer."))
    with ServerProcess(tmp_path / "restored", model_config(upstream)) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            restored = Stage(server, upstream, client)
            await restored.stopped(session)
            said = [event for event in await restored.log(session) if event["type"] == "agent_output"]
            assert [event["content"] for event in said] == ["A whole answer."]
            (artifact,) = (await restored.get(f"{session}/artifacts"))["artifacts"]
            accept = {"accept": "application/octet-stream"}
            found = await client.get(f"{session}/artifacts/{artifact['artifact_id']}", headers=accept)
            assert found.content == b"kept bytes"
        server.terminate()


async def test_damage_of_the_file_itself_is_found(stage: Stage, upstream: Upstream, copy: Callable[[], Path]) -> None:
    await talked(stage, upstream)
    data = copy()
    file = data / "sessile.db"
    with closing(sqlite3.connect(file)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events_log'").fetchone()
    with file.open("r+b") as raw:
        raw.seek((page - 1) * 4096)
        raw.write(b"\xff" * 4096)
    found = await db(data, "check")
    assert found.code == 1
    assert found.stdout.startswith("database\tdamage\t")


async def test_a_database_of_an_earlier_version(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    known = load_migrations("sessile.stores.sqlite")
    with closing(sqlite3.connect(data / "sessile.db", isolation_level=None)) as database:
        functions.register(database)
        database.execute("CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT, applied_at INTEGER)")
        for version, name, script in known[:3]:
            for statement in statements(script):
                if "CREATE TABLE schema_migrations" not in statement:
                    database.execute(statement)
            database.execute("INSERT INTO schema_migrations VALUES (?, ?, 0)", (version, name))
    for command in ("check", "size"):
        refused = await db(data, command)
        assert (refused.code, "sessile db migrate" in refused.stderr) == (1, True)
    missing = [f"{version:04} {name}" for version, name, _ in known[3:]]
    assert (await db(data, "migrate", "--dry-run")).stdout.splitlines() == missing
    with owned(data / "sessile.db"):
        refused = await db(data, "migrate")
        assert (refused.code, "in use" in refused.stderr) == (1, True)
    assert (await db(data, "migrate", "--dry-run")).stdout.splitlines() == missing
    assert (await db(data, "migrate")).stdout.splitlines() == missing
    assert (await db(data, "migrate")).stdout == ""
    assert (await db(data, "check")).code == 0


async def test_what_is_no_database_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    for command in ("check", "size"):
        refused = await db(tmp_path / "nowhere", command)
        assert (refused.code, "There is no database" in refused.stderr) == (1, True)
    assert len((await db(tmp_path / "nowhere", "migrate", "--dry-run")).rows()) > 5
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "sessile.db").write_bytes(b"This is not a database at all. " * 100)
    answers: list[Any] = await asyncio.gather(*(db(tmp_path, command) for command in ("check", "size", "migrate")))
    assert [(answer.code, "cannot be opened" in answer.stderr) for answer in answers] == [(1, True)] * 3
