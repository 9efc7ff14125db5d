"""Export and import, over a real server: what comes out goes in, and what is broken is told where."""

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import sessile
from acceptance.cli_support import environment, run
from acceptance.stage import Stage, eventually, lambdas, refused, types
from sessile.testing.script import call, say, think, usage, wait_for
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

JSONL = {"content-type": "application/jsonl"}
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"move_tools": 'def stock(item: str) -> dict:\n    """How many there are."""\n    return {"left": 3}\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.stock]\nfunction = "move_tools:stock"\n'


async def talked(stage: Stage, upstream: Upstream, **fields: Any) -> str:
    """A session with two turns, the first of which called a tool."""
    agent = await stage.agent(tool_configurations=lambdas("stock"))
    session = await stage.session(agent, key=f"s{secrets.token_hex(4)}", **fields)
    upstream.add(think("Hats?"), call("stock", {"item": "h\u00fct"}), usage(10, 5)).add(say("Three."), usage(20, 2))
    upstream.add(say("You are\u2028welcome."), usage(30, 4))
    await stage.post(session, "How many hats?")
    await stage.post(session, "Thank you.")
    return session


async def exported(stage: Stage, session: str) -> bytes:
    answer = await stage.client.get(f"{session}/export")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    return answer.content


async def post(stage: Stage, agent: str, data: bytes | AsyncIterator[bytes], **params: Any) -> httpx.Response:
    path = f"/v2/agents/{agent}/session_imports"
    return await stage.client.post(path, content=data, headers=JSONL, params=params)


async def imported(stage: Stage, agent: str, data: bytes | AsyncIterator[bytes], **params: Any) -> str:
    """The path of a session that an import has made, and that holds every rule."""
    answer = await post(stage, agent, data, **params)
    assert answer.status_code == 201, answer.text
    path = f"/v2/agents/{agent}/sessions/{answer.json()['key']}"
    assert answer.json() == await stage.get(path)
    assert answer.headers["etag"] == '"1"'
    assert (await stage.get(f"{path}/check"))["violations"] == []
    return path


def lines_of(data: bytes) -> Lines:
    return [json.loads(line) for line in data.splitlines()]


def file_of(lines: Lines) -> bytes:
    """Lines with the end that they should have."""
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines if line["kind"] != "end")
    events = sum(line["kind"] == "event" for line in lines)
    end = {"kind": "end", "events": events, "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_an_export_says_all_and_proves_itself(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream, name="Hats", description="About hats", metadata={"n": [1, None]})
    data = await exported(stage, session)
    first, agent, *events, end = lines_of(data)
    log = await stage.log(session, records="true")
    assert [line["event"] for line in events] == log
    shown = await stage.get(session)
    kept = ("key", "name", "description", "metadata", "enabled", "tti_minutes")
    assert first == {"kind": "session", "format": 1, **{name: shown[name] for name in kept}}
    assert agent["key"] == shown["agent_key"]
    assert agent["document"]["tool_configurations"] == lambdas("stock")
    before = data[: data.rindex(b"\n", 0, -1) + 1]
    assert end == {"kind": "end", "events": len(log), "sha256": hashlib.sha256(before).hexdigest()}


async def test_what_is_imported_where_it_never_was_keeps_its_ids(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream, metadata={"a": 1})
    agent, key = session.split("/")[3::2]
    before, log = await stage.get(session), await stage.log(session, records="true")
    data = await exported(stage, session)
    refused(await post(stage, agent, data), 400, "key_taken", "key")
    assert (await stage.client.delete(session)).status_code == 204

    async def purged() -> str:
        while True:
            path = await imported(stage, agent, in_pieces(data, 1000))
            if (await stage.log(path, records="true"))[0]["id"] == log[0]["id"]:
                return path
            assert (await stage.client.delete(path)).status_code == 204
            await asyncio.sleep(0.1)

    async with asyncio.timeout(30):
        path = await purged()
    assert path.endswith(key)
    assert await stage.log(path, records="true") == log
    assert await exported(stage, path) == data
    after = await stage.get(path)
    same = ("name", "metadata", "status", "stop_reason", "last_event_id", "usage")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    turn = await stage.get(f"{path}/turns/{log[0]['turn_id']}")
    assert (turn["input_event_id"], turn["stop_reason"]) == (log[0]["id"], "end_turn")
    upstream.add(say("Blue."))
    assert (await stage.post(path, "Which colour?"))["events"][0]["sequence"] == len(log) + 1


async def test_an_import_beside_its_original_has_new_ids(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    log = await stage.log(session, records="true")
    path = await imported(stage, session.split("/")[3], await exported(stage, session), key="beside")
    copy = await stage.log(path, records="true")
    assert types(copy) == types(log)
    assert not {event["id"] for event in copy} & {event["id"] for event in log}
    assert copy[1]["input_event_id"] == copy[0]["id"]
    assert (await stage.get(f"{path}/turns/{copy[0]['turn_id']}"))["input_event_id"] == copy[0]["id"]


async def test_an_empty_session_travels_too(stage: Stage) -> None:
    session = await stage.conversation()
    path = await imported(stage, session.split("/")[3], await exported(stage, session), key="empty")
    assert (await stage.get(path))["status"] == "unstarted"


async def test_a_turn_that_runs_is_refused_or_ended(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("stock"))
    agent = session.split("/")[3]
    go_on = asyncio.Event()
    upstream.add(say("Let me "), call("stock", {"item": "x"})).add(say("Well "), wait_for(go_on))
    async with stage.stream(session, "Hello?") as answer:
        await answer.until("tool_output")
        data = await exported(stage, session)
        go_on.set()
        await answer.rest()
    whole = lines_of(data)
    open_call = file_of([line for line in whole if line.get("event", {}).get("type") != "tool_output"])
    for broken in (data, open_call):
        told = refused(await post(stage, agent, broken, key="repaired"), 422, "transcript_invalid")
        assert "has not ended at sequence" in told["messages"][0]
    path = await imported(stage, agent, open_call, key="repaired", repair="true")
    events = await stage.log(path, records="true")
    assert types(events)[-3:] == ["tool_output", "session_interrupted", "turn_ended"]
    assert events[-3]["tool_output"]["code"] == "turn_interrupted"
    assert (await stage.get(path))["stop_reason"] == "interrupted"


def changed(number: int, **fields: Any) -> Callable[[Lines], None]:
    """Change the event on a line."""
    return lambda lines: lines[number - 1]["event"].update(fields)


def without(number: int) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        del lines[number - 1]

    return change


def put(number: int, line: dict[str, Any]) -> Callable[[Lines], None]:
    return lambda lines: lines.insert(number - 1, line)


@pytest.mark.parametrize(
    ("change", "place", "rule"),
    [
        (without(4), "Line 4, sequence 3", "sequence_gap"),
        (changed(4, input_event_id="aev_00000000010000000000000000000a"), "Line 4, sequence 2", "turn_without_input"),
        (changed(6, tool_call_id="other"), "Line 7, sequence 5", "output_without_call"),
        (changed(9, turn_id="trn_0000000000000000000a"), "Line 9, sequence 7", "outside_turn"),
    ],
)
async def test_a_broken_log_is_refused_with_the_place(
    stage: Stage, upstream: Upstream, change: Callable[[Lines], None], place: str, rule: str
) -> None:
    session = await talked(stage, upstream)
    lines = lines_of(await exported(stage, session))
    change(lines)
    answer = await post(stage, session.split("/")[3], file_of(lines), key="broken", repair="true")
    (message,) = refused(answer, 422, "transcript_invalid")["messages"]
    assert message.startswith(place), message
    assert rule in message
    refused(await stage.client.get(f"{session.rsplit('/', 1)[0]}/broken"), 404, "not_found")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (without(1), "line 1"),
        (without(2), "line 2"),
        (put(4, {"kind": "agent", "key": "a", "document": {}}), "line 4"),
        (put(3, {"kind": "unheard"}), "line 3"),
        (changed(3, created_at="2026-01-31"), "line 3"),
        (changed(3, created_at="2026-01-31T09:30:00.000000+01:00"), "line 3"),
        (changed(3, id="aev_00000000020000000000000000000a"), "line 3"),
        (changed(3, id="aev_foreign"), "line 3"),
        (changed(3, turn_id="trn_abc"), "line 3"),
        (changed(3, content=7), "line 3"),
        (changed(3, type="unheard_of"), "line 3"),
        (lambda lines: lines[0].update(format=2), "line 1"),
        (lambda lines: lines[0].update(secrets={"a": "b"}), "line 1"),
        (lambda lines: lines[0].update(metadata={"a": "x" * 70_000}), "metadata"),
    ],
)
async def test_what_is_no_export_is_refused_with_the_line(
    stage: Stage, upstream: Upstream, change: Callable[[Lines], None], line: str
) -> None:
    session = await talked(stage, upstream)
    lines = lines_of(await exported(stage, session))
    change(lines)
    refused(await post(stage, session.split("/")[3], file_of(lines), key="no"), 400, "invalid_request", line)


async def test_a_file_that_is_not_whole_is_refused(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    agent = session.split("/")[3]
    data = await exported(stage, session)
    last = len(data.splitlines())
    for broken, line in (
        (b"", 1),
        (data[:-1], last),
        (data[: data.rindex(b"\n", 0, -1) + 1], last),
        (data + b"{}\n", last + 1),
        (data.replace(b"Thank you.", b"Thank her."), last),
        (data.replace(b'"events":', b'"events":1'), last),
        (data.replace(b'{"kind":"event"', b'{"kind":"event","kind":"event"', 1), 3),
        (data.replace(b"\n", b"\r\n\n", 1), 2),
        (b"not json\n", 1),
        (b"\xff\n", 1),
        (b'"' + b"x" * (8 * 1024 * 1024 + 1), 1),
    ):
        refused(await post(stage, agent, broken, key="no"), 400, "invalid_request", f"line {line}")
    with_file = file_of([*lines_of(data)[:-1], {"kind": "file", "name": "a.txt"}])
    refused(await post(stage, agent, with_file, key="no"), 400, "invalid_request", f"line {last}")


async def with_files(stage: Stage, upstream: Upstream) -> tuple[str, dict[str, bytes]]:
    """A session whose inputs brought files, one of them empty, one larger than a line of an export."""
    session = await stage.conversation()
    contents = {"a.txt": b"", "b.bin": secrets.token_bytes(700_000), "c.txt": secrets.token_hex(20).encode()}
    for name, content in contents.items():
        upstream.add(say("Fine."))
        sent = await stage.client.post(f"{session}/events", files=[("files", (name, content, "text/plain"))])
        assert sent.status_code == 201
    return session, contents


def kept_files(stage: Stage, content: bytes) -> list[Path]:
    return list(stage.server.data.glob(f"sessile.db.files/*/*/{hashlib.sha256(content).hexdigest()}"))


async def test_files_travel_with_their_session(stage: Stage, upstream: Upstream) -> None:
    session, contents = await with_files(stage, upstream)
    listed = (await stage.get(f"{session}/artifacts"))["artifacts"]
    data = await exported(stage, session)
    assert [line["filename"] for line in lines_of(data) if line["kind"] == "file"] == list(contents)
    assert sum(line["kind"] == "data" for line in lines_of(data)) > 2
    (gone,) = [one for one in listed if one["filename"] == "b.bin"]
    told = next(e for e in await stage.log(session) if e["type"] == "artifact_upload" and gone["artifact_id"] in str(e))
    assert (await stage.client.delete(f"{session}/events/{told['id']}")).status_code == 204
    without_one = await exported(stage, session)
    assert [line["filename"] for line in lines_of(without_one) if line["kind"] == "file"] == ["a.txt", "c.txt"]
    assert (await stage.client.delete(session)).status_code == 204

    async def removed() -> bool:
        return not any(kept_files(stage, content) for content in contents.values() if content)

    await eventually(removed)
    agent = session.split("/")[3]
    path = await imported(stage, agent, in_pieces(data, 10_000))
    after = (await stage.get(f"{path}/artifacts"))["artifacts"]
    same = ("artifact_id", "filename", "mime_type", "size_bytes", "checksum_sha256", "created_at")
    assert [[one[name] for name in same] for one in after] == [[one[name] for name in same] for one in listed]
    for one in after:
        raw = await stage.client.get(
            f"{path}/artifacts/{one['artifact_id']}", headers={"accept": "application/octet-stream"}
        )
        assert raw.content == contents[one["filename"]]
    part = await imported(stage, agent, without_one, key="part")
    assert len((await stage.get(f"{part}/artifacts"))["artifacts"]) == 2


async def test_a_refused_import_leaves_no_file(stage: Stage, upstream: Upstream) -> None:
    session, contents = await with_files(stage, upstream)
    agent = session.split("/")[3]
    lines = lines_of(await exported(stage, session))
    lines[-2]["base64"] = base64.b64encode(secrets.token_bytes(len(contents["c.txt"]))).decode()
    told = refused(await post(stage, agent, file_of(lines), key="no"), 400, "invalid_request", f"line {len(lines) - 1}")
    assert "SHA-256" in told["messages"][0]
    assert (await stage.client.delete(session)).status_code == 204

    async def removed() -> bool:
        return not any(kept_files(stage, content) for content in contents.values() if content)

    await eventually(removed)
    assert list(stage.server.data.glob("sessile.db.files/arriving/*")) == []


async def test_a_compaction_travels(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    upstream.add(say("Hats were counted."))
    first = await stage.log(session)
    body = {"type": "compact", "compact_up_to_event_id": first[4]["id"]}
    done = await stage.client.post(f"{session}/events", json=body)
    assert done.json()["stop_reason"] == "end_turn", done.text
    log = await stage.log(session, records="true", include_hidden="true")
    path = await imported(stage, session.split("/")[3], await exported(stage, session), key=f"k{secrets.token_hex(4)}")
    copy = await stage.log(path, records="true", include_hidden="true")
    shown = [(event["type"], event.get("hidden", False)) for event in log]
    assert [(event["type"], event.get("hidden", False)) for event in copy] == shown
    assert ("input_message", True) in shown
    (summary,) = [event for event in copy if event["type"] == "compaction"]
    assert summary["up_to_event_id"] in {event["id"] for event in copy}
    turn = await stage.get(f"{path}/turns/{summary['turn_id']}")
    assert (turn["status"], turn["stop_reason"]) == ("stopped", "end_turn")
    upstream.add(say("Yes."))
    await stage.post(path, "Still there?")
    assert "Hats were counted." in json.dumps(upstream.requests[-1].body)


async def test_requests_that_cannot_be_an_import_are_refused(stage: Stage, upstream: Upstream) -> None:
    session = await talked(stage, upstream)
    agent = session.split("/")[3]
    data = await exported(stage, session)
    path = f"/v2/agents/{agent}/session_imports"
    refused(await stage.client.post(path, content=data), 415, "unsupported_media_type")
    for media in ("application/json", "text/plain"):
        answer = await stage.client.post(path, content=data, headers={"content-type": media})
        refused(answer, 415, "unsupported_media_type")
    refused(await post(stage, agent, data, key="not a key"), 400, "invalid_parameter", "key")
    refused(await post(stage, agent, data, repair="perhaps"), 400, "invalid_parameter", "repair")
    refused(await post(stage, agent, data, unknown="1"), 400, "invalid_parameter", "unknown")
    refused(await post(stage, "nobody", data, key="x"), 404, "not_found")
    answer = await stage.client.post(path, content=data, headers={**JSONL, "idempotency-key": "two words"})
    refused(answer, 400, "invalid_parameter")
    refused(await stage.client.get(f"{session}x/export"), 404, "not_found")
    refused(await stage.client.get("/v2/agents/nobody/sessions/s/export"), 404, "not_found")


async def test_the_client_and_the_command_line_carry_a_session(
    stage: Stage, upstream: Upstream, tmp_path: Path
) -> None:
    session = await talked(stage, upstream)
    agent, key = session.split("/")[3::2]
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        data = await client.sessions.export(agent, key)
        made = await client.sessions.import_(agent, data, key="carried")
        assert (made.key, made.status, made.etag) == ("carried", "stopped", '"1"')
        with pytest.raises(sessile.KeyTaken):
            await client.sessions.import_(agent, data)
        with pytest.raises(sessile.InvalidRequest, match="line 1"):
            await client.sessions.import_(agent, data[1:], key="broken")
        with pytest.raises(sessile.NotFound):
            await client.sessions.export(agent, "nowhere")
    variables = environment(stage.server.url)
    shown = await run(variables, "sessions", "export", agent, key)
    assert (shown.code, shown.stdout.encode()) == (0, data)
    file = tmp_path / "session.jsonl"
    assert (await run(variables, "sessions", "export", agent, key, "-o", str(file))).stdout == ""
    assert file.read_bytes() == data
    made_here = await run(variables, "sessions", "import", agent, str(file), "--key", "by-hand")
    assert (made_here.code, made_here.stdout) == (0, "by-hand\n")
    piped = await run(variables, "sessions", "import", agent, "-", "--key", "piped", "--json", stdin=data)
    assert piped.json()["key"] == "piped"
    missing = await run(variables, "sessions", "import", agent, str(tmp_path / "no.jsonl"))
    assert (missing.code, "cannot read" in missing.stderr) == (2, True)
    lost = await run(variables, "sessions", "export", agent, key, "-o", str(tmp_path / "no" / "file"))
    assert (lost.code, "cannot write" in lost.stderr) == (2, True)
    assert (await run(variables, "sessions", "fork", agent, key, "--key", "forked")).stdout == "forked\n"
    shown = await run(variables, "sessions", "get", agent, "forked")
    assert dict(shown.rows())["forked from"] == f"{agent} {key}"
