"""Files that come with inputs: uploaded, listed, read whole and in part, by raw HTTP and by the contract's SDK."""

import base64
import hashlib
from typing import Any

import pytest

from acceptance.stage import Stage, types
from sessile.testing.script import say
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

TEXT = b"one\ntwo\nthree\n"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
Files = list[tuple[str, tuple[str, bytes, str]]]


def sent(*files: tuple[str, bytes, str]) -> Files:
    return [("files", file) for file in files]


async def upload(stage: Stage, path: str, files: Files, headers: dict[str, str] | None = None, **data: Any) -> Any:
    answer = await stage.client.post(f"{path}/events", files=files, data=data, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_file_comes_with_an_input_and_can_be_read(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Three lines."))
    answer = await upload(stage, path, sent(("notes.txt", TEXT, "text/plain")), message="Count the lines.")
    assert types(answer["events"]) == ["input_message", "artifact_upload", "agent_output"]
    (file,) = answer["events"][1]["artifacts"]
    assert file["artifact_id"].startswith("art_")
    assert {**file, "artifact_id": ""} == {
        "artifact_id": "",
        "filename": "notes.txt",
        "mime_type": "text/plain",
        "size_bytes": len(TEXT),
    }
    listed = (await stage.get(f"{path}/artifacts"))["artifacts"]
    assert [one["checksum_sha256"] for one in listed] == [hashlib.sha256(TEXT).hexdigest()]
    assert "data" not in listed[0]
    whole = await stage.get(f"{path}/artifacts/{file['artifact_id']}")
    assert {**listed[0], "data": base64.b64encode(TEXT).decode()} == whole
    (message,) = [one for one in (await upstream.arrived(1)).messages if one["role"] == "user"]
    assert message["content"].startswith(
        "Count the lines.\n\nThe user has sent these files:\n- notes.txt (artifact_id "
    )
    assert file["artifact_id"] in message["content"]
    assert (await stage.get(f"{path}/check"))["ok"]
    assert (await stage.get(path))["last_event_id"] == answer["events"][-1]["id"]
