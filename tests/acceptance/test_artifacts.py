"""Files that come with inputs: uploaded, listed, read whole and in part, by raw HTTP and by the contract's SDK."""

import base64
import hashlib
import json
from typing import Any

import pytest

from acceptance.stage import EventStream, Stage, eventually, frame_types, refused, types
from sessile.testing.script import say
from sessile.testing.upstream import Upstream
from sessile.wire import limits

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


async def test_the_bytes_come_whole_and_in_part(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Fine."))
    answer = await upload(stage, path, sent(("../../bild \u00fc.png", PNG, "image/png")))
    (file,) = answer["events"][1]["artifacts"]
    assert (file["filename"], file["mime_type"]) == ("bild \u00fc.png", "image/png")
    url, tag = f"{path}/artifacts/{file['artifact_id']}", f'"{hashlib.sha256(PNG).hexdigest()}"'
    raw = {"accept": "application/octet-stream, */*"}
    whole = await stage.client.get(url, headers=raw)
    assert (whole.status_code, whole.content) == (200, PNG)
    assert {name: whole.headers[name] for name in EXPECTED} == {**EXPECTED, "etag": tag}
    size = len(PNG)
    for wanted, start, end in (("bytes=0-0", 0, 0), ("bytes=10-", 10, size - 1), ("bytes=-4", size - 4, size - 1)):
        part = await stage.client.get(url, headers={**raw, "range": wanted})
        assert (part.status_code, part.content) == (206, PNG[start : end + 1])
        assert part.headers["content-range"] == f"bytes {start}-{end}/{size}"
        assert part.headers["content-length"] == str(end - start + 1)
    for wanted in ("bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=-", "bytes=5-2", "bytes=x-1"):
        assert (await stage.client.get(url, headers={**raw, "range": wanted})).status_code == 200
    for wanted in (f"bytes={size}-", "bytes=-0"):
        answer = await stage.client.get(url, headers={**raw, "range": wanted})
        refused(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{size}"
    same = await stage.client.get(url, headers={**raw, "if-none-match": f'W/"x", W/{tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    for condition, status in ((tag, 206), ('"other"', 200)):
        part = await stage.client.get(url, headers={**raw, "range": "bytes=0-0", "if-range": condition})
        assert part.status_code == status


EXPECTED = {
    "content-type": "application/octet-stream",
    "content-length": str(len(PNG)),
    "content-disposition": "attachment; filename=\"bild _.png\"; filename*=UTF-8''bild%20%C3%BC.png",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "accept-ranges": "bytes",
    "etag": "",
}


async def test_files_are_listed_in_both_orders_by_page(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Fine."))
    await upload(stage, path, sent(*((f"{n}.txt", str(n).encode(), "text/plain") for n in range(5))), ttl_days="7")
    for order in ("asc", "desc"):
        names, key = [], ""
        while key is not None:
            page = await stage.get(f"{path}/artifacts", limit=2, order_by=order, sort_by="updated_at", page_key=key)
            names += [one["filename"] for one in page["artifacts"]]
            assert {one["ttl_days"] for one in page["artifacts"]} == {7}
            key = page["metadata"].get("page_key")
        expected = [f"{n}.txt" for n in range(5)]
        assert names == (expected if order == "asc" else expected[::-1])
    refused(
        await stage.client.get(f"{path}/artifacts", params={"sort_by": "name"}), 400, "invalid_parameter", "sort_by"
    )
    other = await stage.conversation()
    (first, *_) = (await stage.get(f"{path}/artifacts"))["artifacts"]
    for wrong in (f"{other}/artifacts/{first['artifact_id']}", f"{path}/artifacts/art_00", f"{other}x/artifacts"):
        refused(await stage.client.get(wrong), 404, "not_found")


async def test_files_without_a_text_and_a_text_without_files(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("One file."))
    answer = await upload(stage, path, sent(("a.bin", b"\0\1", "")))
    assert (answer["events"][0]["messages"], answer["events"][0]["content"]) == ([], "")
    (message,) = (await upstream.arrived(1)).messages
    assert message["content"].startswith("The user has sent these files:")
    upstream.add(say("No file."))
    messages = json.dumps([{"type": "text", "content": "Hello."}, {"type": "text", "content": "You."}])
    answer = await stage.client.post(f"{path}/events", files={"messages": (None, messages, "application/json")})
    assert types(answer.json()["events"]) == ["input_message", "agent_output"]
    assert answer.json()["events"][0]["content"] == "Hello.\nYou."


async def test_a_streamed_answer_tells_of_the_files(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Fine."))
    data = {"message": "Look.", "stream_response": "true"}
    files = sent(("a.txt", TEXT, "text/plain"))
    async with stage.client.stream("POST", f"{path}/events", data=data, files=files) as response:
        assert response.status_code == 201
        frames = await EventStream(response).rest()
    assert frame_types(frames)[:2] == ["input_message", "artifact_upload"]
    assert frames[-1][0] == "end"
    assert (await stage.get(path))["last_event_id"] == (await stage.log(path))[-1]["id"]


LIES = [
    ("page.png", b"<html><script>alert(1)</script>", "image/png", "page.png", "application/octet-stream"),
    ("data.txt", b"a\0b", "text/plain", "data.txt", "application/octet-stream"),
    ("a.pdf", b"%PDF-1.7", "text/html", "a.pdf", "application/pdf"),
    ("a.md", b"# Title", "application/octet-stream", "a.md", "text/markdown"),
    ("..\\..\\con.txt", b"x", "text/plain", "_con.txt", "text/plain"),
    ("x" * 300 + ".csv", b"a,b", "text/csv", "x" * 251 + ".csv", "text/csv"),
    ("..", b"x", "not a type", "file", "text/plain"),
]


@pytest.mark.parametrize(("name", "content", "declared", "kept", "kind"), LIES)
async def test_names_and_types_are_only_a_word(
    stage: Stage, upstream: Upstream, name: str, content: bytes, declared: str, kept: str, kind: str
) -> None:
    path = await stage.conversation()
    upstream.add(say("Fine."))
    answer = await upload(stage, path, sent((name, content, declared)))
    (file,) = answer["events"][1]["artifacts"]
    assert (file["filename"], file["mime_type"]) == (kept, kind)


def part(name: str, content: bytes = b"x", headers: str = "") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (
        name.encode(),
        headers.encode(),
        content,
    )


END = b"--b--\r\n"
FILE = '; filename="a.txt"'
BROKEN = {
    "no boundary": ("multipart/form-data", END, "invalid_multipart"),
    "a boundary that is too long": (f"multipart/form-data; boundary={'b' * 71}", END, "invalid_multipart"),
    "no body": (None, b"", "invalid_multipart"),
    "no multipart": (None, b'{"content": "Hello"}', "invalid_multipart"),
    "another boundary": (None, part("message").replace(b"--b", b"--c"), "invalid_multipart"),
    "cut off in a file": (None, part("files", b"abc", FILE), "invalid_multipart"),
    "cut off in the head of a part": (None, b"--b\r\nContent-Dispo", "invalid_multipart"),
    "a part without a name": (None, b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, "invalid_multipart"),
    "a head that is too large": (None, part("files", b"", FILE + "\r\nX: " + "x" * 9000) + END, "invalid_multipart"),
    "too many headers": (None, part("files", b"", FILE + "\r\nX: y" * 20) + END, "invalid_multipart"),
    "too many parts": (None, part("messages", b"{}") * 200 + END, "invalid_multipart"),
    "a transfer encoding": (
        None,
        part("files", b"", FILE + "\r\nContent-Transfer-Encoding: base64") + END,
        "invalid_multipart",
    ),
    "a field that is not UTF-8": (None, part("message", b"\xff") + END, "invalid_multipart"),
    "NUL in a field": (None, part("message", b"a\0b") + END, "invalid_json"),
    "messages that are no JSON": (None, part("messages", b"{") + END, "invalid_json"),
    "nothing": (None, part("stream_response", b"false") + END, "invalid_request"),
    "an unknown field": (None, part("message") + part("colour") + END, "invalid_request"),
    "a doubled field": (None, part("message") + part("message") + END, "invalid_request"),
    "both texts": (None, part("message") + part("messages", b"[]") + END, "invalid_request"),
    "an empty text": (None, part("message", b"") + END, "invalid_request"),
    "parts that are none": (None, part("messages", b'["a"]') + END, "invalid_request"),
    "no boolean": (None, part("message") + part("stream_response", b"yes") + END, "invalid_request"),
    "no number": (None, part("message") + part("ttl_days", b"1.0") + END, "invalid_request"),
    "too many days": (None, part("message") + part("ttl_days", b"3651") + END, "invalid_request"),
    "an interrupt": (None, part("type", b"interrupt") + END, "invalid_request"),
    "too many files": (None, part("files", b"x", FILE) * 21 + END, "invalid_request"),
    "a cursor of nothing": (None, part("message") + part("since", b"aev_0") + END, "unknown_cursor"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_is_not_valid_is_refused(stage: Stage, what: str) -> None:
    path = await stage.conversation()
    content_type, body, code = BROKEN[what]
    headers = {"content-type": content_type or "multipart/form-data; boundary=b"}
    answer = await stage.client.post(f"{path}/events", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert await stage.log(path, records="true") == []
    assert (await stage.get(f"{path}/artifacts"))["artifacts"] == []


async def test_the_session_is_looked_up_before_the_body_is_read(stage: Stage) -> None:
    path = await stage.conversation()
    headers = {"content-type": "multipart/form-data"}
    refused(await stage.client.post(f"{path}x/events", content=b"{", headers=headers), 404, "not_found")


async def test_a_field_that_is_too_large(stage: Stage) -> None:
    path = await stage.conversation()
    body = part("message", b"x" * (limits.MAX_BODY_BYTES + 1)) + END
    headers = {"content-type": "multipart/form-data; boundary=b"}
    refused(await stage.client.post(f"{path}/events", content=body, headers=headers), 413, "request_too_large")


async def test_an_upload_that_is_sent_again_joins_its_turn(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Fine."))
    files, key = sent(("a.txt", TEXT, "text/plain")), {"idempotency-key": "u1"}
    first = await upload(stage, path, files, key, message="Look.")
    assert await upload(stage, path, files, key, message="Look.") == first
    assert len((await stage.get(f"{path}/artifacts"))["artifacts"]) == 1
    for other in (sent(("b.txt", TEXT, "text/plain")), sent(("a.txt", TEXT + b"!", "text/plain"))):
        answer = await stage.client.post(f"{path}/events", files=other, data={"message": "Look."}, headers=key)
        refused(answer, 422, "idempotency_key_reused")
    answer = await stage.client.post(f"{path}/events", files=files, data={"message": "See."}, headers=key)
    refused(answer, 422, "idempotency_key_reused")
    assert stored(stage) >= {hashlib.sha256(TEXT).hexdigest()}

    async def gone() -> bool:
        return hashlib.sha256(TEXT + b"!").hexdigest() not in stored(stage)

    await eventually(gone)


async def test_files_go_with_their_session_and_their_agent(stage: Stage, upstream: Upstream) -> None:
    agent = await stage.agent()
    contents = [b"kept twice", b"only here", b"in the other"]
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    paths = [await stage.session(agent) for _ in range(2)]
    for path, which in zip(paths, ((0, 1), (0, 2)), strict=True):
        upstream.add(say("Fine."))
        await upload(stage, path, sent(*((f"{n}", contents[n], "text/plain") for n in which)))
    assert stored(stage) >= set(hashes)

    async def left() -> set[str]:
        return stored(stage) & set(hashes)

    assert (await stage.client.delete(paths[0])).status_code == 204
    refused(await stage.client.get(f"{paths[0]}/artifacts"), 404, "not_found")

    async def one_is_gone() -> bool:
        return await left() == {hashes[0], hashes[2]}

    await eventually(one_is_gone)
    assert (await stage.client.delete(f"/v2/agents/{agent}")).status_code == 204

    async def all_are_gone() -> bool:
        return not await left()

    await eventually(all_are_gone)


def stored(stage: Stage) -> set[str]:
    """The names of all files that the server has stored."""
    folder = stage.server.data / "sessile.db.files"
    return {path.name for path in folder.glob("[0-9]*/??/*")}
