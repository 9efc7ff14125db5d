"""Files that tools make, in turns that do not go as planned."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from integration.test_turns import MAX_MODEL_CALLS, OWNER, Harness, types
from sessile.clock import SystemClock
from sessile.config import ToolConfig
from sessile.domain import large_outputs
from sessile.domain.context import Conversation
from sessile.ports import Tool, ToolContext
from sessile.rows import NewArtifact
from sessile.runner.artifacts import fewer, told
from sessile.runner.history import Histories
from sessile.runner.plan import Planner
from sessile.runner.turn import TurnEnvironment
from sessile.runner.worker import Worker
from sessile.service.inputs import Inputs
from sessile.stores import rules
from sessile.stores.files import LocalFiles
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.script import call, say
from sessile.testing.scripted_model import ScriptedModel, ScriptedModels
from sessile.tools.artifacts import ArtifactCreate, ArtifactRead
from sessile.tools.python import PythonTool
from sessile.wire.events import ArtifactUploadEvent, ToolOutputEvent

MAKE = {"filename": "a.txt", "content": "abc"}


class Telling(ArtifactCreate):
    """Tells when it has made a file."""

    def __init__(self, store: SqliteStore, files: LocalFiles, made: asyncio.Event) -> None:
        super().__init__(store, files)
        self._made = made

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        result = await super().run(arguments, context)
        self._made.set()
        return result


class Toolbox:
    """A tool that makes files, and one that hangs."""

    def __init__(self, store: SqliteStore, files: LocalFiles) -> None:
        self.hanging, self.made = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            self.hanging.set()
            await asyncio.Event().wait()

        self._tools: dict[str, Tool] = {
            "make": Telling(store, files, self.made),
            "hang": PythonTool("hang", ToolConfig(function="x:y"), hang),
        }

    def of(self, name: str, configuration: Mapping[str, Any]) -> Tool | None:
        return self._tools.get(name)

    def names(self) -> list[str]:
        return sorted(self._tools)

    def kinds(self) -> list[str]:
        return []


class Stage(Harness):
    """The harness of turns, with these tools."""

    def __init__(self, store: SqliteStore, model: ScriptedModel, files: LocalFiles) -> None:
        super().__init__(store, model)
        self.box = Toolbox(store, files)
        models, clock = ScriptedModels(model), SystemClock()
        env = TurnEnvironment(store, Planner(models, self.box), Histories(store), self.hub, clock, MAX_MODEL_CALLS)
        self.worker = Worker(env)
        self.inputs = Inputs(store, self.worker, self.hub, clock)

    async def names(self) -> list[str]:
        page = await self.store.list_artifacts(self.ref, cursor=None, limit=100, order="asc")
        return [row.name for row in page.rows]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = await SqliteStore.open(tmp_path / "sessile.db", SystemClock())
    await store.create_tenant("default", "Default")
    stage = Stage(store, ScriptedModel(), LocalFiles(tmp_path / "files", SystemClock()))
    tools = {"add": {"type": "lambda"}}
    await stage.create(tool_configurations=tools | {name: {"type": "mcp"} for name in ("make", "hang")})
    yield stage
    await stage.drain()
    await store.close()


async def test_a_file_is_kept_when_the_turn_is_interrupted_beside_another_tool(stage: Stage) -> None:
    stage.model.add(call("hang"), call("make", MAKE))
    tail = await stage.post()
    async with asyncio.timeout(20):
        await stage.box.hanging.wait()
        await stage.box.made.wait()
    await stage.inputs.interrupt(OWNER, "a", "s", lambda found: None)
    log = await stage.until_ended(tail)
    outputs = ["tool_output", "artifact_upload", "tool_output"]
    assert types(log)[-5:] == [*outputs, "session_interrupted", "turn_ended"]
    assert await stage.names() == ["a.txt"]


async def test_a_call_that_fails_keeps_no_file(stage: Stage) -> None:
    stage.model.add(call("make", {"filename": "a.txt", "content": "no!", "encoding": "base64"})).add(say("Well."))
    assert "artifact_upload" not in types(await stage.turn())
    assert await stage.names() == []


async def test_several_files_of_one_answer(stage: Stage) -> None:
    stage.model.add(call("make", MAKE), call("make", MAKE | {"filename": "b.txt"})).add(say("Both."))
    log = await stage.turn()
    assert types(log)[4:8] == ["artifact_upload", "tool_output", "artifact_upload", "tool_output"]
    assert await stage.names() == ["a.txt", "b.txt"]
    (rows, size) = await stage.store.count_artifacts(1)
    assert (rows, size) == (2, 6)


async def test_files_that_are_too_many_together_are_refused_by_the_commit(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call found room; what counts is what is there when they become durable."""
    monkeypatch.setattr(rules, "MAX_SESSION_FILES", 1)
    stage.model.add(call("make", MAKE), call("make", MAKE | {"filename": "b.txt"})).add(say("One."))
    log = await stage.turn()
    assert types(log)[4:7] == ["artifact_upload", "tool_output", "tool_output"]
    outputs = [event for entry in log if isinstance(event := entry.event(), ToolOutputEvent)]
    assert [output.error for output in outputs] == [False, True]
    assert outputs[1].tool_output["code"] == "tool_failed"
    assert await stage.names() == ["a.txt"]


def test_a_large_output_whose_file_has_no_room_stays_cut() -> None:
    kept = NewArtifact(artifact_id="art", name="o.txt", content_type="text/plain", size=9, sha256="a" * 64)
    cut = large_outputs.referring({"content": "abc"}, kept.reference())
    output = ToolOutputEvent(
        tool_call_id="c1", tool_configuration_name="t", tool_name="t", tool_output=cut, error=False
    )
    (left,), made = fewer(*told([output], {"c1": [kept]}))
    assert isinstance(left, ToolOutputEvent)
    assert (left.error, made) == (False, [])
    assert left.tool_output.keys() == {"truncated", "remark", "content"}
    assert left.tool_output["content"] == "abc"


async def test_a_disk_that_fails_is_the_models_to_know(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise OSError

    monkeypatch.setattr(LocalFiles, "keep", fails)
    stage.model.add(call("make", MAKE)).add(say("A pity."))
    log = await stage.turn()
    (output,) = [entry.event() for entry in log if entry.type == "tool_output"]
    assert output.tool_output["code"] == "tool_failed"  # type: ignore[union-attr]
    assert log[-1].type == "turn_ended"
    assert await stage.names() == []


async def test_the_last_line_is_the_last_one_that_came(stage: Stage, tmp_path: Path) -> None:
    """Characters that JSON writes with six bytes make a result larger than what was read: its end is left out."""
    content = "\n".join(f"{number:04}" + "\x01" * 246 for number in range(1, 751)).encode()
    stage.model.add(call("make", {"filename": "a.txt", "content": b64encode(content).decode(), "encoding": "base64"}))
    stage.model.add(say("Made."))
    await stage.turn()
    (row,) = (await stage.store.list_artifacts(stage.ref, cursor=None, limit=1, order="asc")).rows
    session = await stage.store.get_session(stage.ref)
    context = ToolContext(session=session, turn_id="", tool_call_id="", add_artifact=lambda artifact: None)
    read = ArtifactRead(stage.store, LocalFiles(tmp_path / "files", SystemClock()), max_lines=1000)
    found = await read.run({"artifact_id": row.artifact_id}, context)
    last = found["content"].rpartition("\n")[2]
    assert last.startswith(f"{found['end_line']:04}")
    assert found["truncated"] is True


def test_a_hidden_upload_is_not_read() -> None:
    for hidden, expected in ((False, ["Look."]), (True, [])):
        conversation = Conversation()
        conversation.add(ArtifactUploadEvent(artifacts=[], agent_upload_message="Look.", hidden=hidden))
        conversation.add(ArtifactUploadEvent(artifacts=[]))
        assert [message.content for message in conversation.messages("", 100)] == expected
