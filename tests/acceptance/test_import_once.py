"""An import with an Idempotency-Key: repeated, concurrent, cut off, killed; whatever happens, it makes one session."""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

import sessile
from acceptance.cli_support import environment, run
from acceptance.databases import database as database
from acceptance.stage import Stage, eventually, refused, types
from acceptance.test_client_faults import Wire, cuts
from acceptance.test_idempotency import a_key, new_key
from acceptance.test_kills import Mortal
from acceptance.test_kills import mortal as mortal  # the fixture
from acceptance.test_portable import JSONL, exported, file_of, in_pieces, lines_of
from sessile.testing.script import say, usage
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

MANY = 8
COMMITS = ("its begin", "its events", "its end")
Body = bytes | AsyncIterator[bytes]


async def an_export(stage: Stage, upstream: Upstream) -> tuple[str, bytes]:
    """The path to import at, and a session with two turns and a file."""
    session = await stage.conversation()
    for text in ("Three.", "Welcome."):
        upstream.add(say(text), usage(7, 3))
    sent = await stage.client.post(f"{session}/events", files=[("files", ("a.bin", secrets.token_bytes(300_000)))])
    assert sent.status_code == 201
    await stage.post(session, "Thank you.")
    return f"/v2/agents/{session.split('/')[3]}/session_imports", await exported(stage, session)


async def bring(stage: Stage, path: str, data: Body, headers: dict[str, str], **params: Any) -> httpx.Response:
    return await stage.client.post(path, content=data, headers={**JSONL, **headers}, params={"key": "copy", **params})


async def sessions_of(stage: Stage, path: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = (await stage.get(path.replace("session_imports", "sessions")))["sessions"]
    return shown


def arrivals(stage: Stage) -> list[int]:
    """When the folders last changed that files are written in as they come."""
    return [folder.stat().st_mtime_ns for folder in stage.server.data.rglob("arriving")]


async def test_the_same_import_is_answered_as_the_session_stands(stage: Stage, upstream: Upstream) -> None:
    path, data = await an_export(stage, upstream)
    key, before = a_key(), arrivals(stage)
    first = await bring(stage, path, data, key)
    assert first.status_code == 201, first.text
    assert arrivals(stage) != before
    before = arrivals(stage)
    for body in (data, in_pieces(data, 10_000)):
        again = await bring(stage, path, body, key, repair="false")
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["etag"] == first.headers["etag"] == '"1"'
    assert arrivals(stage) == before, "its files are not written again"
    refused(await bring(stage, path, data, {}), 400, "key_taken", "key")
    refused(await bring(stage, path, data, a_key()), 400, "key_taken", "key")
    session = path.replace("session_imports", "sessions/copy")
    changed = await stage.client.patch(session, json={"name": "New", "secrets": {"token": "hidden"}})
    later = await bring(stage, path, data, key)
    assert (later.json(), later.headers["etag"]) == (changed.json(), '"2"')
    assert len(await sessions_of(stage, path)) == 2
    assert (await stage.get(f"{session}/check"))["violations"] == []
    assert len((await stage.get(f"{session}/artifacts"))["artifacts"]) == 1
    assert (await stage.client.delete(session)).status_code == 204
    refused(await bring(stage, path, data, key), 404, "not_found")
    assert len(await sessions_of(stage, path)) == 1


async def test_another_import_with_the_key_is_refused(stage: Stage, upstream: Upstream, database: str | None) -> None:
    path, data = await an_export(stage, upstream)
    key = a_key()
    first = await bring(stage, path, data, key)
    lines = lines_of(data)
    lines[0]["name"] = "Another"
    other = (await an_export(stage, upstream))[0]
    foreign = {**key, "x-api-key": await new_key(stage, database)}
    for answer in (
        await bring(stage, path, file_of(lines), key),
        await bring(stage, path, data, key, key="elsewhere"),
        await stage.client.post(path, content=data, headers={**JSONL, **key}),
        await bring(stage, path, data, key, repair="true"),
        await bring(stage, other, data, key),
        await bring(stage, path, data, foreign),
    ):
        refused(answer, 422, "idempotency_key_reused")
    refused(await bring(stage, path, data[:-1], key), 400, "invalid_request", f"line {len(data.splitlines())}")
    refused(await bring(stage, path, b"", key), 400, "invalid_request", "line 1")
    file = next(n for n, line in enumerate(lines, 1) if line["kind"] == "data")
    lines[file - 1]["base64"] = base64.b64encode(b"too few").decode()
    refused(await bring(stage, path, file_of(lines), key), 400, "invalid_request", f"line {len(lines)}")
    assert [len(await sessions_of(stage, place)) for place in (path, other)] == [2, 1]
    assert (await bring(stage, path, data, key)).json() == first.json()
    body = {"name": "Plain"}
    made = await stage.client.post(path.replace("session_imports", "sessions"), json=body, headers=key)
    assert made.status_code == 201, "keys of other operations are others"


async def test_an_import_that_is_refused_leaves_its_key_free(stage: Stage, upstream: Upstream) -> None:
    path, data = await an_export(stage, upstream)
    key = a_key()
    refused(await bring(stage, path, data[:-1], key), 400, "invalid_request", f"line {len(data.splitlines())}")
    lines = lines_of(data)
    del lines[3]
    refused(await bring(stage, path, file_of(lines), key), 422, "transcript_invalid")
    (there,) = await sessions_of(stage, path)
    refused(await bring(stage, path, data, key, key=there["key"]), 400, "key_taken", "key")
    refused(await bring(stage, path.replace("agt_", "nobody_"), data, key), 404, "not_found")
    assert (await bring(stage, path, data, key)).status_code == 201


async def test_many_imports_at_once_make_one_session(stage: Stage, upstream: Upstream) -> None:
    path, data = await an_export(stage, upstream)
    key = a_key()
    answers = await asyncio.gather(*(bring(stage, path, in_pieces(data, 100_000), key) for _ in range(MANY)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({json.dumps(answer.json()) for answer in answers}) == 1
    assert [one["key"] for one in await sessions_of(stage, path)][:-1] == ["copy"]
    session = path.replace("session_imports", "sessions/copy")
    assert (await stage.get(f"{session}/check"))["violations"] == []
    (file,) = (await stage.get(f"{session}/artifacts"))["artifacts"]
    raw = await stage.client.get(
        f"{session}/artifacts/{file['artifact_id']}", headers={"accept": "application/octet-stream"}
    )
    assert len(raw.content) == 300_000


async def test_an_import_that_ends_while_another_one_comes_is_what_both_get(stage: Stage, upstream: Upstream) -> None:
    path, data = await an_export(stage, upstream)
    key, half, goes_on = a_key(), asyncio.Event(), asyncio.Event()

    async def slowly(body: bytes) -> AsyncIterator[bytes]:
        yield body[:-100]
        half.set()
        await goes_on.wait()
        yield body[-100:]

    lines = lines_of(data)
    lines[0]["name"] = "Another"
    same, other = (asyncio.ensure_future(bring(stage, path, slowly(body), key)) for body in (data, file_of(lines)))
    await half.wait()
    first = await bring(stage, path, data, key)
    goes_on.set()
    assert first.status_code == 201
    assert (await same).json() == first.json()
    refused(await other, 422, "idempotency_key_reused")
    assert len(await sessions_of(stage, path)) == 2


async def test_an_import_that_is_cut_off_is_made_by_its_repeat(stage: Stage, upstream: Upstream) -> None:
    path, data = await an_export(stage, upstream)
    key, parts = a_key(), urlsplit(stage.server.url)
    head = [f"POST {path}?key=copy HTTP/1.1", "host: localhost", f"x-api-key: {stage.server.key}"]
    head += ["content-type: application/jsonl", f"content-length: {len(data)}"]
    head += [f"{name}: {value}" for name, value in key.items()]
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data[:-10])
    await writer.drain()
    writer.transport.abort()
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
    await writer.drain()

    async def made() -> bool:
        return len(await sessions_of(stage, path)) == 2

    await eventually(made)
    writer.transport.abort()
    answer = await bring(stage, path, data, key)
    assert (answer.status_code, answer.json()["key"]) == (201, "copy")
    assert len(await sessions_of(stage, path)) == 2


async def test_the_client_repeats_an_import_whose_answer_is_lost(
    stage: Stage, upstream: Upstream, tmp_path: Path
) -> None:
    path, data = await an_export(stage, upstream)
    agent = path.split("/")[3]
    async with Wire(stage.server.url, cuts(b"POST ", times=2)) as wire:
        async with sessile.AsyncClient(wire.url, stage.server.key) as client:
            made = await client.sessions.import_(agent, data, key="copy")
        assert wire.requests("POST") == 3
    assert (made.key, made.status, made.etag) == ("copy", "stopped", '"1"')
    file = tmp_path / "session.jsonl"
    file.write_bytes(data)
    async with Wire(stage.server.url, cuts(b"POST ", times=1)) as wire:
        shown = await run(environment(wire.url), "sessions", "import", agent, str(file), "--key", "by-hand")
        assert (shown.code, shown.stdout) == (0, "by-hand\n"), shown.stderr
        assert wire.requests("POST") == 2
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        mine = await client.sessions.import_(agent, data, key="mine", idempotency_key="mine")
        assert await client.sessions.import_(agent, data, key="mine", idempotency_key="mine") == mine
        with pytest.raises(sessile.IdempotencyKeyReused):
            await client.sessions.import_(agent, data, key="other", idempotency_key="mine")
    assert [one["key"] for one in await sessions_of(stage, path)][:-1] == ["mine", "by-hand", "copy"]


@pytest.mark.asyncio(loop_scope="function")
async def test_a_kill_at_any_commit_of_an_import_makes_one_session(mortal: Mortal) -> None:
    events = await mortal.prepare("source")
    (await mortal.say(events, "Do it.")).raise_for_status()
    async with mortal.client() as client:
        data = (await client.get(events.replace("events", "export"))).raise_for_status().content
    log = await mortal.log(events)

    async def post(name: str) -> httpx.Response:
        async with mortal.client() as client:
            headers = {**JSONL, "idempotency-key": name}
            return await client.post(
                "/v2/agents/a/session_imports", content=data, headers=headers, params={"key": name}
            )

    for commit, what in enumerate(COMMITS, 1):
        for when in ("before", "after"):
            name = f"{when}-{commit}"
            mortal.shim.kill_at(commit, when)
            with pytest.raises(httpx.TransportError):
                await post(name)
            await mortal.back()
            async with mortal.client() as client:
                there = (await client.get(f"/v2/agents/a/sessions/{name}")).status_code == 200
            assert there == ((commit, when) == (len(COMMITS), "after")), (what, when)
            made = (await post(name)).raise_for_status().json()
            assert (made["key"], made["status"]) == (name, "stopped"), (what, when)
            assert types(await mortal.log(events.replace("source", name))) == types(log), (what, when)
            assert (await post(name)).raise_for_status().json() == made, (what, when)
