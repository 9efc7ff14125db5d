"""multipart/form-data in any pieces, and the limits that no test wants to fill."""

from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from sessile.api import multipart
from sessile.api.multipart import Form
from sessile.service import artifacts
from sessile.service.artifacts import Incoming
from sessile.stores.files import LocalFiles
from sessile.testing.clock import FakeClock
from sessile.wire.errors import InvalidMultipart, InvalidRequest, TooLarge
from sessile.wire.multipart import MultipartReader, PartBegin, PartEnd

TYPE = b'multipart/form-data; boundary="b 1"'
BODY = (
    b'--b 1\r\nContent-Disposition: form-data; name="message"\r\n\r\nHello\r\n'
    b'--b 1\r\nContent-Disposition: form-data; name="files"; filename="\xc3\xbc.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\n"
    b"one\r\n--b\r\ntwo\r\n--b 1--\r\n"
)


async def pieces(body: bytes, length: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), length):
        yield body[start : start + length]


def new(tmp_path: Path) -> Incoming:
    return Incoming(LocalFiles(tmp_path, FakeClock()), 1)


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    return new(tmp_path)


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_the_same_parts_in_any_pieces(length: int) -> None:
    reader, seen = MultipartReader(TYPE), []
    content = b""
    for start in range(0, len(BODY), length):
        for step in reader.feed(BODY[start : start + length]):
            if isinstance(step, bytes):
                content += step
            else:
                seen.append((step, content))
                content = b""
    reader.close()
    assert seen == [
        (PartBegin("message", None, None), b""),
        (PartEnd(), b"Hello"),
        (PartBegin("files", "\u00fc.txt", "text/plain"), b""),
        (PartEnd(), b"one\r\n--b\r\ntwo"),
    ]


@pytest.mark.parametrize("length", range(0, len(BODY) - 4))
def test_a_body_that_is_cut_off_anywhere(length: int) -> None:
    reader = MultipartReader(TYPE)
    reader.feed(BODY[:length])
    with pytest.raises(InvalidMultipart):
        reader.close()


@pytest.mark.parametrize("boundary", [b"", b"; boundary=", b"; boundary=" + b"b" * 71, b'; boundary="a\xff"'])
def test_no_boundary(boundary: bytes) -> None:
    with pytest.raises(InvalidMultipart):
        MultipartReader(b"multipart/form-data" + boundary)


async def test_a_form(incoming: Incoming) -> None:
    form = Form(incoming)
    await form.read(TYPE, pieces(BODY, 5))
    assert form.document() == {"type": "input_message", "content": "Hello"}
    assert form.ttl_days() is None
    (kept,) = await incoming.keep(3)
    assert (kept.name, kept.content_type, kept.size, kept.ttl_days) == ("\u00fc.txt", "text/plain", 13, 3)
    await incoming.discard()


@pytest.mark.parametrize(
    ("place", "name", "value", "error"),
    [
        (artifacts, "MAX_FILE_BYTES", 12, TooLarge),
        (artifacts, "MAX_UPLOAD_FILES", 0, InvalidRequest),
        (multipart, "MAX_UPLOAD_BYTES", len(BODY) - 1, TooLarge),
        (multipart, "MAX_BODY_BYTES", 4, TooLarge),
        (multipart, "_MAX_PARTS", 1, InvalidMultipart),
    ],
)
async def test_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, value: int, error: type[Exception]
) -> None:
    for allowed, raised in ((value, error), (value + 1, None)):
        monkeypatch.setattr(place, name, allowed)
        incoming = new(tmp_path)
        with pytest.raises(raised) if raised else nullcontext():
            await Form(incoming).read(TYPE, pieces(BODY, 5))
        await incoming.discard()
