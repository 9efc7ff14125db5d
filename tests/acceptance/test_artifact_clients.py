"""Files through the Python client, the terminal, library mode and the contract's SDK."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from vectara import Vectara
from vectara import types as sdk
from vectara.environment import VectaraEnvironment

import sessile
from acceptance.cli_support import environment, run
from acceptance.stage import Stage
from sessile.client import AsyncClient, event_type
from sessile.testing.script import call, say
from sessile.testing.upstream import Upstream
from sessile.wire.errors import InvalidParameter, NotFound

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

CONTENT = os.urandom(700_000)


async def conversation(stage: Stage, **fields: Any) -> tuple[str, str]:
    """A new agent and session, by their keys."""
    path = (await stage.conversation(**fields)).split("/")
    return path[3], path[5]


async def test_the_client_sends_files_from_the_disk_and_from_memory(
    stage: Stage, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / 'a "b".bin').write_bytes(CONTENT)
    keys = await conversation(stage)
    async with AsyncClient(stage.server.url, stage.server.key) as client:
        upstream.add(say("Thanks."))
        files = [tmp_path / 'a "b".bin', ("\u00fc.txt", b"")]
        answer = await client.events.send(*keys, [{"type": "text", "content": "Look."}], files=files, ttl_days=2)
        assert [event_type(event) for event in answer.events][:2] == ["input_message", "artifact_upload"]
        shown = [one async for one in client.artifacts.list(*keys, order="asc", limit=1)]
        assert [(one.filename, one.size_bytes, one.ttl_days) for one in shown] == [
            ("a _b_.bin", len(CONTENT), 2),
            ("\u00fc.txt", 0, 2),
        ]
        assert (await client.artifacts.get(*keys, shown[0].artifact_id)).data == CONTENT
        for one, content in zip(shown, (CONTENT, b""), strict=True):
            assert await client.artifacts.download(*keys, one.artifact_id, tmp_path / "copy") == len(content)
            assert (tmp_path / "copy").read_bytes() == content
        assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []
        with pytest.raises(NotFound):
            await client.artifacts.download(*keys, "art_00", tmp_path / "none")
        assert not (tmp_path / "none").exists()
        with pytest.raises(FileNotFoundError):
            await client.events.send(*keys, "Look.", files=[tmp_path / "none"])
        with pytest.raises(InvalidParameter):
            await client.events.send(*keys, "Look.", ttl_days=2)


async def test_a_stream_with_files(stage: Stage, upstream: Upstream) -> None:
    keys = await conversation(stage)
    upstream.add(say("I have it."))
    async with AsyncClient(stage.server.url, stage.server.key) as client:
        async with client.events.stream(*keys, "", files=[("a.txt", b"abc")]) as turn:
            seen = [event_type(frame) async for frame in turn]
        assert seen[:2] == ["input_message", "artifact_upload"]
        assert seen[-1] == "end"
        (one,) = [one async for one in client.artifacts.list(*keys)]
        assert one.checksum_sha256 == hashlib.sha256(b"abc").hexdigest()


async def test_library_mode_takes_files(tmp_path: Path) -> None:
    await asyncio.to_thread(_in_library_mode, tmp_path)


def _in_library_mode(tmp_path: Path) -> None:
    with sessile.open(tmp_path / "chat.db", default_model="demo") as client:
        client.agents.create(key="helper", name="Helper", model="demo")
        client.sessions.create("helper", key="first")
        (tmp_path / "a.txt").write_bytes(CONTENT)
        client.events.send("helper", "first", "Look.", files=[tmp_path / "a.txt"])
        (one,) = client.artifacts.list("helper", "first")
        assert client.artifacts.get("helper", "first", one.artifact_id).data == CONTENT
        assert client.artifacts.download("helper", "first", one.artifact_id, tmp_path / "copy") == len(CONTENT)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert (tmp_path / "chat.db.files").is_dir()


async def test_the_terminal_sends_lists_and_gets(stage: Stage, upstream: Upstream, tmp_path: Path) -> None:
    agent, session = await conversation(stage)
    env = environment(stage.server.url)
    (tmp_path / "a.csv").write_text("a,b\n")
    upstream.add(say("Two columns."))
    sent = await run(env, "events", "send", agent, session, "Look.", "--file", str(tmp_path / "a.csv"))
    assert (sent.code, sent.stdout) == (0, "Two columns.\n")
    listed = await run(env, "artifacts", "list", agent, session)
    ((id, name, kind, size, _, digest),) = listed.rows()
    assert (name, kind, size, digest) == ("a.csv", "text/csv", "4", hashlib.sha256(b"a,b\n").hexdigest())
    assert (await run(env, "artifacts", "list", agent, session, "--json")).json()["artifact_id"] == id
    got = await run(env, "artifacts", "get", agent, session, id, "--output", str(tmp_path / "copy.csv"))
    assert (got.code, got.stdout, (tmp_path / "copy.csv").read_text()) == (0, "", "a,b\n")
    told = await run(env, "events", "list", agent, session, "--type", "artifact_upload")
    assert f"files: a.csv {id}" in told.stdout
    missing = await run(env, "artifacts", "get", agent, session, "art_00", "--output", str(tmp_path / "none"))
    assert missing.code == 4
    unread = await run(env, "events", "send", agent, session, "Look.", "--file", str(tmp_path / "none"))
    nowhere = await run(env, "artifacts", "get", agent, session, id, "--output", str(tmp_path / "no" / "file"))
    assert (unread.code, nowhere.code) == (2, 2)


async def test_the_sdk_reads_what_was_uploaded(stage: Stage, upstream: Upstream) -> None:
    tools = {"make": {"type": "artifact_create"}, "read": {"type": "artifact_read"}, "grep": {"type": "artifact_grep"}}
    agent, session = await conversation(stage, tool_configurations=tools)
    upstream.add(call("make", {"filename": "b.txt", "content": "bee"})).add(say("Made."))
    files = {"files": ("a.txt", b"abc", "text/plain")}
    answer = await stage.client.post(f"/v2/agents/{agent}/sessions/{session}/events", files=files)
    assert answer.status_code == 201, answer.text

    def read() -> None:
        ours = {name: stage.server.url for name in ("default", "auth")}
        with httpx.Client() as http:
            read_with(Vectara(api_key=stage.server.key, environment=VectaraEnvironment(**ours), httpx_client=http))

    def read_with(vectara: Vectara) -> None:
        kinds = {type(one) for one in vectara.agents.get(agent).tool_configurations.values()}
        assert kinds == {
            sdk.AgentToolConfiguration_ArtifactCreate,
            sdk.AgentToolConfiguration_ArtifactRead,
            sdk.AgentToolConfiguration_ArtifactGrep,
        }
        listed = list(vectara.agent_artifacts.list(agent, session, limit=1, order_by="asc"))
        assert [one.filename for one in listed] == ["a.txt", "b.txt"]
        assert [one.data for one in listed] == [None, None]
        got = [vectara.agent_artifacts.get(agent, session, one.artifact_id).data for one in listed]
        assert got == ["YWJj", "YmVl"]
        uploads = [one for one in vectara.agent_events.list(agent, session) if one.type == "artifact_upload"]
        assert [type(one) for one in uploads] == [sdk.AgentEvent_ArtifactUpload] * 2
        assert [one.artifacts[0].filename for one in uploads] == ["a.txt", "b.txt"]

    await asyncio.to_thread(read)
