"""Tools for files, called by a scripted model: what they give, what they refuse, and what they leave in the log."""

import base64
import json
from typing import Any

import pytest

from acceptance.stage import Stage, types
from sessile.testing.script import call, say
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

TOOLS = {
    "read": {"type": "artifact_read", "tool_configuration": {"max_lines": 3, "max_size_bytes": 100}},
    "grep": {"type": "artifact_grep"},
    "create": {"type": "artifact_create", "description": "Write a report."},
    "off": {"type": "artifact_read", "enabled": False},
}
LINES = "".join(f"line {n}\n" for n in range(1, 8))


async def prepared(stage: Stage, upstream: Upstream, content: bytes = LINES.encode()) -> tuple[str, str]:
    """A session with these tools and a file, and the id of the file."""
    path = await stage.conversation(tool_configurations=TOOLS)
    upstream.add(say("Thanks."))
    answer = await stage.client.post(f"{path}/events", files={"files": ("a.txt", content, "text/plain")})
    assert answer.status_code == 201, answer.text
    return path, answer.json()["events"][1]["artifacts"][0]["artifact_id"]


async def used(stage: Stage, upstream: Upstream, path: str, tool: str, **arguments: Any) -> dict[str, Any]:
    """The output of one call."""
    upstream.add(call(tool, arguments)).add(say("Done."))
    events = (await stage.post(path))["events"]
    (output,) = [event for event in events if event["type"] == "tool_output"]
    assert (await stage.get(f"{path}/check"))["ok"]
    shown: dict[str, Any] = output["tool_output"]
    return shown


async def test_they_are_offered(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent(tool_configurations=TOOLS)
    answer = await stage.client.get(f"/v2/agents/{agent}")
    assert answer.headers["x-sessile-inactive"] == "off=artifact_read"
    upstream.add(say("Hello."))
    await stage.post(await stage.session(agent))
    offered = {one["function"]["name"]: one["function"] for one in (await upstream.arrived(1)).body["tools"]}
    assert offered.keys() == {"read", "grep", "create"}
    assert offered["create"]["description"] == "Write a report."


@pytest.mark.parametrize(
    ("arguments", "content", "end", "truncated"),
    [
        ({}, "line 1\nline 2\nline 3", 3, True),
        ({"start_line": 6}, "line 6\nline 7", 7, False),
        ({"start_line": 2, "end_line": 2}, "line 2", 2, True),
        ({"start_line": 5, "end_line": 7}, "line 5\nline 6\nline 7", 7, False),
        ({"start_line": 99}, "", 98, False),
    ],
)
async def test_lines_are_read(
    stage: Stage, upstream: Upstream, arguments: dict[str, Any], content: str, end: int, truncated: bool
) -> None:
    path, file = await prepared(stage, upstream)
    output = await used(stage, upstream, path, "read", artifact_id=file, **arguments)
    assert (output["content"], output["end_line"], output["truncated"]) == (content, end, truncated)


async def test_reading_is_bounded_and_bytes_come_in_base64(stage: Stage, upstream: Upstream) -> None:
    path, file = await prepared(stage, upstream, b"x" * 1000)
    output = await used(stage, upstream, path, "read", artifact_id=file)
    assert (output["content"], output["truncated"]) == ("x" * 100, True)
    path, file = await prepared(stage, upstream, b"\0" + b"x" * 1000)
    output = await used(stage, upstream, path, "read", artifact_id=file)
    assert output["code"] == "tool_arguments_invalid"
    assert "base64" in output["error"]
    output = await used(stage, upstream, path, "read", artifact_id=file, encoding="base64")
    assert (base64.b64decode(output["content"]), output["truncated"]) == (b"\0" + b"x" * 99, True)


@pytest.mark.parametrize(
    ("pattern", "options", "count", "lines"),
    [
        ("line [67]", [], 2, [6, 7]),
        ("LINE 1", ["-i"], 1, [1]),
        ("line [1-6]", ["-v"], 1, [7]),
        ("line .", ["-m 2"], 2, [1, 2]),
        ("line 4", ["-C1"], 1, [3, 4, 5]),
        ("line 1", ["-A", "-B"], None, []),
        ("[4", ["-F"], 0, []),
    ],
)
async def test_lines_are_found(
    stage: Stage, upstream: Upstream, pattern: str, options: list[str], count: int | None, lines: list[int]
) -> None:
    path, file = await prepared(stage, upstream)
    output = await used(stage, upstream, path, "grep", artifact_id=file, pattern=pattern, grep_options=options)
    if count is None:
        assert output["code"] == "tool_arguments_invalid"
    else:
        assert (output["count"], [line["line"] for line in output["lines"]]) == (count, lines)


async def test_a_pattern_that_would_blow_up_elsewhere(stage: Stage, upstream: Upstream) -> None:
    path, file = await prepared(stage, upstream, b"a" * 60_000 + b"!\n" + b"b\n" * 100_000)
    output = await used(stage, upstream, path, "grep", artifact_id=file, pattern="(a+)+$")
    assert output["count"] == 0
    output = await used(stage, upstream, path, "grep", artifact_id=file, pattern="b")
    assert (output["count"], len(output["lines"]), output["truncated"]) == (200, 200, True)
    output = await used(stage, upstream, path, "grep", artifact_id=file, pattern="b", grep_options=["-c"])
    assert (output["count"], "lines" in output) == (100_000, False)
    for pattern in ("(", "", "x" * 1001, "(?:x{500}){500}"):
        output = await used(stage, upstream, path, "grep", artifact_id=file, pattern=pattern)
        assert output["code"] == "tool_arguments_invalid"


async def test_a_file_is_made(stage: Stage, upstream: Upstream) -> None:
    path, _ = await prepared(stage, upstream)
    upstream.add(call("create", {"filename": "../report.csv", "content": "a,b\n"})).add(say("Done."))
    events = (await stage.post(path))["events"]
    assert types(events) == ["input_message", "tool_input", "artifact_upload", "tool_output", "agent_output"]
    (made,) = events[2]["artifacts"]
    assert "agent_upload_message" not in events[2]
    assert made == events[3]["tool_output"]
    assert (made["filename"], made["mime_type"], made["size_bytes"]) == ("report.csv", "text/csv", 4)
    whole = await stage.get(f"{path}/artifacts/{made['artifact_id']}")
    assert base64.b64decode(whole["data"]) == b"a,b\n"
    for message in (await upstream.arrived(3)).messages:
        assert "sent these files" not in json.dumps(message) or message["role"] == "user"
    output = await used(stage, upstream, path, "create", filename="a.bin", content="no!", encoding="base64")
    assert output["code"] == "tool_arguments_invalid"
    output = await used(stage, upstream, path, "create", filename="a.bin", content="AAE=", encoding="base64")
    assert (output["size_bytes"], output["mime_type"]) == (2, "application/octet-stream")
    assert (await stage.get(f"{path}/check"))["ok"]


async def test_other_sessions_have_no_such_file(stage: Stage, upstream: Upstream) -> None:
    _, file = await prepared(stage, upstream)
    path, _ = await prepared(stage, upstream)
    for tool, more in (("read", {}), ("grep", {"pattern": "x"})):
        output = await used(stage, upstream, path, tool, artifact_id=file, **more)
        assert output["code"] == "tool_arguments_invalid"
        assert "no artifact" in output["error"]
