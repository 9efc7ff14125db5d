"""However a stream is cut into chunks, its frames are the same; and what the server writes comes back as it was."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sessile.client.sse import Frame, SseParser
from sessile.wire import sse

LINES = st.one_of(
    st.sampled_from([b"", b"data: a", b"data", b"event: x", b": comment", b":", b"id: 3", "data: “é\u2028”".encode()]),
    st.binary(max_size=12),
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=20).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


def parse(chunks: list[bytes]) -> list[Frame]:
    parser = SseParser()
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


@given(STREAMS, st.lists(st.integers(0, 400), max_size=30))
def test_any_chunks_give_the_same_frames(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:end] for start, end in pairwise(places)]
    assert b"".join(chunks) == stream
    assert parse(chunks) == parse([stream])


@given(
    st.lists(
        st.tuples(st.sampled_from(["end", "error"]), st.text(st.characters(codec="utf-8", exclude_characters="\n\r")))
    )
)
def test_what_the_server_writes_is_read(written: list[tuple[str, str]]) -> None:
    stream = b"".join(sse.frame(event, data.encode()) + sse.HEARTBEAT for event, data in written)
    breaks = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
    assert [(frame.event, frame.data.decode()) for frame in parse([stream])] == [
        (event, data.translate(breaks)) for event, data in written
    ]
