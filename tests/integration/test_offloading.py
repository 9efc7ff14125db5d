"""Outputs that should become files and cannot: they are cut."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sessile.clock import SystemClock
from sessile.ports import ToolContext
from sessile.rows import NewArtifact, SessionRef
from sessile.runner import offloading
from sessile.runner.dispatch import PreparedCall
from sessile.runner.offloading import Offloading
from sessile.runner.plan import Plan
from sessile.stores.files import LocalFiles
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.store_world import AGENT, new_session

RESULT = {"result": "x" * 5_000}
CALL = PreparedCall(id="c1", configuration_name="t", tool_name="t", arguments={})


class Wanted:
    """What an agent says of its outputs."""

    output_limit: int | None = 1_000
    output_share = 0.7
    offloads = True


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "sessile.db", SystemClock())
    yield store
    await store.close()


async def fitted(store: SqliteStore, folder: Path, call: PreparedCall = CALL) -> tuple[dict[str, Any], list[str]]:
    """What becomes of a large output, and the files that were made."""
    tenant = await store.create_tenant("default", "Default")
    await store.create_agent(tenant.id, AGENT, b'{"name":"A"}', True)
    await new_session(store, tenant.id, "s")
    session = await store.get_session(SessionRef(tenant.id, AGENT, "s"))
    made: list[NewArtifact] = []
    context = ToolContext(session=session, turn_id="trn_1", tool_call_id="c1", add_artifact=made.append)
    maker = Offloading(store, LocalFiles(folder, SystemClock()), cast(Plan, Wanted()))
    return await maker.fitted(call, RESULT, context), [one.name for one in made]


async def test_it_becomes_a_file(store: SqliteStore, tmp_path: Path) -> None:
    result, made = await fitted(store, tmp_path / "files")
    assert (result["artifact"]["filename"], made) == ("t.txt", ["t.txt"])


async def test_a_disk_that_takes_nothing(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "files").write_text("in the way")
    result, made = await fitted(store, tmp_path / "files")
    assert (result["truncated"], "artifact" in result, made) == (True, False, [])


async def test_a_session_without_room(store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloading, "MAX_SESSION_FILE_BYTES", 4_999)
    result, made = await fitted(store, tmp_path / "files")
    assert (result["truncated"], "artifact" in result, made) == (True, False, [])


async def test_what_reads_files_makes_none(store: SqliteStore, tmp_path: Path) -> None:
    call = PreparedCall(id="c1", configuration_name="r", tool_name="artifact_read", arguments={})
    result, made = await fitted(store, tmp_path / "files", call)
    assert (result["truncated"], made) == (True, [])
