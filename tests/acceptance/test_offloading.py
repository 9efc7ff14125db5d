"""Large outputs of tools as files: what the log says of them, and how a model reads the rest."""

import json
from typing import Any

import pytest

from acceptance.stage import Stage, lambdas, types
from sessile.testing.script import call, say
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 2_000
AGENT: dict[str, Any] = {
    "tool_configurations": {
        **lambdas("listing", "report"),
        "read": {"type": "artifact_read"},
        "grep": {"type": "artifact_grep"},
    },
    "tool_output_offloading": {"enabled": True, "mode": "artifact", "max_threshold_bytes": LIMIT},
}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {
        "large_tools": '''
def listing(lines: int) -> str:
    """Many lines."""
    return "".join(f"item {n}\\n" for n in range(lines))


def report(rows: int) -> dict:
    """Many rows."""
    return {"rows": [{"n": n} for n in range(rows)]}
'''
    }


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return "".join(f'[tools.{name}]\nfunction = "large_tools:{name}"\n' for name in ("listing", "report"))


async def used(stage: Stage, upstream: Upstream, path: str, tool: str, **arguments: Any) -> list[dict[str, Any]]:
    """The events of one call."""
    upstream.add(call(tool, arguments)).add(say("Done."))
    events: list[dict[str, Any]] = (await stage.post(path))["events"]
    assert (await stage.get(f"{path}/check"))["ok"]
    return events


async def test_a_large_output_is_a_file_that_the_model_reads(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation(**AGENT)
    events = await used(stage, upstream, path, "listing", lines=5_000)
    assert types(events)[1:4] == ["tool_input", "artifact_upload", "tool_output"]
    output = events[3]["tool_output"]
    assert output["truncated"] is True
    assert events[2]["artifacts"] == [output["artifact"]]
    assert (output["artifact"]["filename"], output["artifact"]["mime_type"]) == ("listing.txt", "text/plain")
    assert output["content"].startswith('{"result":"item 0')
    assert len(output["content"]) <= LIMIT
    assert "item 4999" not in json.dumps(upstream.requests[-1].body)
    file = output["artifact"]["artifact_id"]
    raw = await stage.client.get(f"{path}/artifacts/{file}", headers={"accept": "application/octet-stream"})
    assert raw.text == "".join(f"item {n}\n" for n in range(5_000))
    read = await used(stage, upstream, path, "read", artifact_id=file, start_line=4_998)
    assert read[2]["tool_output"]["content"] == "item 4997\nitem 4998\nitem 4999"
    found = await used(stage, upstream, path, "grep", artifact_id=file, pattern="item 42..")
    assert found[2]["type"] == "tool_output"
    assert found[2]["tool_output"]["truncated"], "what reads a file is cut, and no file again"
    assert "artifact" not in found[2]["tool_output"]
    assert len((await stage.get(f"{path}/artifacts"))["artifacts"]) == 1


async def test_an_object_is_json_in_lines(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation(**AGENT)
    events = await used(stage, upstream, path, "report", rows=1_000)
    artifact = events[3]["tool_output"]["artifact"]
    assert (artifact["filename"], artifact["mime_type"]) == ("report.json", "application/json")
    raw = await stage.client.get(
        f"{path}/artifacts/{artifact['artifact_id']}", headers={"accept": "application/octet-stream"}
    )
    assert raw.json() == {"rows": [{"n": n} for n in range(1_000)]}
    assert raw.text.count("\n") > 1_000


async def test_a_small_output_stays_as_it_is(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation(**AGENT)
    events = await used(stage, upstream, path, "listing", lines=3)
    assert events[2]["tool_output"] == {"result": "item 0\nitem 1\nitem 2\n"}
    assert (await stage.get(f"{path}/artifacts"))["artifacts"] == []
