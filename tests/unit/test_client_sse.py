"""The SSE parser on the cases that the WHATWG's text names, and on a stream without end."""

import pytest

from sessile.client.sse import Frame, FrameTooLarge, SseParser


def parse(*chunks: bytes) -> list[tuple[str, bytes]]:
    parser = SseParser()
    return [(frame.event, frame.data) for chunk in chunks for frame in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"event: a\ndata: 1\n\n", [("a", b"1")]),
        (b"data: 1\n\n", [("message", b"1")]),
        (b"event: a\r\ndata: 1\r\n\r\n", [("a", b"1")]),
        (b"event: a\rdata: 1\r\r", [("a", b"1")]),
        (b"data: 1\r\n\n", [("message", b"1")]),
        (b"\xef\xbb\xbfdata: 1\n\n", [("message", b"1")]),
        (b"data: 1\n\xef\xbb\xbfdata: 2\n\n", [("message", b"1")]),
        (b"data: 1\ndata: 2\n\n", [("message", b"1\n2")]),
        (b"data\n\n", [("message", b"")]),
        (b"data:\ndata:\n\n", [("message", b"\n")]),
        (b"data:  1 \n\n", [("message", b" 1 ")]),
        (b"data:1\n\n", [("message", b"1")]),
        (b"data: a: b\n\n", [("message", b"a: b")]),
        (b": heartbeat\n: heartbeat\ndata: 1\n\n", [("message", b"1")]),
        (b"event: a\n\ndata: 1\n\n", [("message", b"1")]),
        (b"event: a\ndata: 1\n\ndata: 2\n\n", [("a", b"1"), ("message", b"2")]),
        (b"retry: 10\nunknown: x\ndata: 1\n\n", [("message", b"1")]),
        (b"\n\n\n", []),
        (b"event: a\ndata: not the end\n", []),
        ("event: ü\ndata: “é”\n\n".encode(), [("ü", "“é”".encode())]),
    ],
)
def test_frames(stream: bytes, frames: list[tuple[str, bytes]]) -> None:
    assert parse(stream) == frames
    assert parse(*(stream[i : i + 1] for i in range(len(stream)))) == frames


def test_ids_stay_until_another_comes() -> None:
    frames = SseParser().feed(b"id: 7\ndata: a\n\ndata: b\n\nid: x\0\ndata: c\n\nid\ndata: d\n\n")
    assert [frame.id for frame in frames] == ["7", "7", "7", ""]


def test_a_return_at_the_end_of_a_chunk_ends_its_line_at_once() -> None:
    parser = SseParser()
    assert parser.feed(b"data: 1\r\n\r") == [Frame("message", b"1")]
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: 2\n\n") == [Frame("message", b"2")]


@pytest.mark.parametrize(
    "stream", [[b"data: " + b"x" * 101], [b"data: 12345\n"] * 10, [b"x" * 60, b"x" * 60], [b"unknown: x\n"] * 12]
)
def test_a_frame_without_end_is_refused(stream: list[bytes]) -> None:
    def feed() -> None:
        for chunk in stream:
            parser.feed(chunk)

    parser = SseParser(max_frame_bytes=100)
    with pytest.raises(FrameTooLarge):
        feed()


def test_neither_many_frames_nor_heartbeats_count_as_one_large_frame() -> None:
    parser = SseParser(max_frame_bytes=100)
    for _ in range(100):
        assert len(parser.feed(b"data: 12345\n\n")) == 1
        assert parser.feed(b": heartbeat\n" * 20) == []
