"""The limits of an import, which no file of a test needs to reach: made small here."""

import base64
import gc
import hashlib
import json
import threading
from collections.abc import AsyncIterator

import pytest

from sessile.domain import portable
from sessile.domain.log import Entry
from sessile.domain.portable import File, Import
from sessile.service import portable as service
from sessile.wire.errors import InvalidRequest, TooLarge
from sessile.wire.events import ThinkingEvent
from sessile.wire.limits import MAX_FILE_BYTES

SESSION = {"kind": "session", "format": 1, "key": "s", "name": "", "metadata": {}, "enabled": True, "tti_minutes": 0}
ONE, TWO = "art_1", "art_2"
AGENT = {"kind": "agent", "key": "a", "document": {}}


def event(place: int) -> dict[str, object]:
    return {
        "type": "input_message" if place == 1 else "turn_started" if place == 2 else "thinking",
        "id": f"aev_{place:010x}{place:020x}",
        "session_key": "s",
        "created_at": "2026-01-31T09:30:00.000000Z",
        "sequence": place,
        "turn_id": "trn_" + "0" * 20,
        "messages": [],
        "content": "",
        "input_event_id": f"aev_{1:010x}{1:020x}",
        "output_id": "out_1",
    }


def lines(events: list[dict[str, object]]) -> bytes:
    whole = [SESSION, AGENT, *({"kind": "event", "event": event} for event in events)]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in whole)
    end = {"kind": "end", "events": len(events), "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


def upload(*ids: str) -> dict[str, object]:
    told = [{"artifact_id": id, "filename": "a.txt", "mime_type": "text/plain", "size_bytes": 3} for id in ids]
    return {"kind": "event", "event": event(3) | {"type": "artifact_upload", "artifacts": told}}


def stored(content: bytes = b"abc", **fields: object) -> dict[str, object]:
    return {
        "kind": "file",
        "artifact_id": ONE,
        "filename": "a.txt",
        "mime_type": "text/plain",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "created_at": "2026-01-31T09:30:00.000000Z",
        **fields,
    }


def data(content: bytes) -> dict[str, object]:
    return {"kind": "data", "base64": base64.b64encode(content).decode()}


def with_files(*lines: dict[str, object]) -> list[object]:
    """What an import gives for these lines behind a turn whose input brought two files."""
    first = [SESSION, AGENT, *({"kind": "event", "event": event(place)} for place in (1, 2)), upload(ONE, TWO)]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in [*first, *lines])
    events = 3 + sum(line["kind"] == "event" for line in lines)
    end = {"kind": "end", "events": events, "sha256": hashlib.sha256(body).hexdigest()}
    reading = Import()
    found = list(reading.feed(body + json.dumps(end).encode() + b"\n"))
    reading.end(True, 0)
    return found[3:]


def file(events: int) -> bytes:
    return lines([event(place) for place in range(1, events + 1)])


FORTY = file(40)


def read(data: bytes, size: int = 1000) -> int:
    """How many events there are, those of a repair too."""
    reading = Import()
    found = 0
    for start in range(0, len(data), size):
        found += len(list(reading.feed(data[start : start + size])))
    return found + len(reading.end(True, 0))


def test_within_the_limits() -> None:
    assert read(file(0)) == 0
    assert read(file(3), 1) == 5


def test_too_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "MAX_IMPORT_EVENTS", 3)
    assert read(file(3)) == 5
    with pytest.raises(InvalidRequest, match="line 6: There are more than 3 events"):
        read(file(4))


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = file(3)
    monkeypatch.setattr(portable, "MAX_IMPORT_BYTES", len(data))
    assert read(data) == 5
    monkeypatch.setattr(portable, "MAX_IMPORT_BYTES", len(data) - 1)
    with pytest.raises(TooLarge):
        read(data)


@pytest.mark.parametrize("size", [7, 10_000])
def test_a_line_that_is_too_long(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    longest = max(map(len, file(3).splitlines()))
    monkeypatch.setattr(portable, "MAX_IMPORT_LINE_BYTES", longest)
    assert read(file(3), size) == 5
    monkeypatch.setattr(portable, "MAX_IMPORT_LINE_BYTES", longest - 1)
    with pytest.raises(InvalidRequest, match=r"line \d: The line is longer"):
        read(file(3), size)


def test_files_come_with_their_bytes() -> None:
    empty = stored(b"", artifact_id=TWO, ttl_days=7)
    found = with_files(stored(), data(b"a"), data(b"bc"), empty)
    assert [item if isinstance(item, bytes) else item.artifact_id for item in found if not isinstance(item, Entry)] == [
        ONE,
        b"a",
        b"bc",
        TWO,
    ]
    last = found[-1]
    assert isinstance(last, File)
    assert (last.size, last.ttl_days, last.created_at) == (0, 7, 1_769_851_800_000_000)


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ([data(b"a")], 6, "more bytes"),
        ([stored()], 7, "not complete"),
        ([stored(), stored(artifact_id=TWO)], 7, "not complete"),
        ([stored(), data(b"abcd")], 7, "more bytes"),
        ([stored(), data(b"abd")], 7, "SHA-256"),
        ([stored(b"", sha256="0" * 64)], 6, "SHA-256"),
        ([stored(), {"kind": "data", "base64": "a"}], 7, "not base64"),
        ([stored(), {"kind": "data", "base64": ""}], 7, "or none"),
        ([stored(), data(b"abc"), stored()], 8, "come before"),
        ([stored(artifact_id="art_3")], 6, "No event tells"),
        ([stored(filename="../a.txt")], 6, "name"),
        ([stored(size_bytes=-1)], 6, ""),
        ([stored(size_bytes=MAX_FILE_BYTES + 1)], 6, "larger"),
        ([stored(sha256="A" * 64)], 6, ""),
        ([stored(ttl_days=0)], 6, ""),
        ([stored(created_at="now")], 6, "not a time"),
        ([stored(x=1)], 6, ""),
        ([stored(), data(b"abc"), {"kind": "event", "event": event(4)}], 8, "behind a file"),
    ],
)
def test_files_that_are_wrong(lines: list[dict[str, object]], line: int, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"line {line}: .*{reason}"):
        with_files(*lines)


def test_too_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [stored(), data(b"abc"), stored(artifact_id=TWO), data(b"abc")]
    for limit in ("MAX_SESSION_FILES", "MAX_SESSION_FILE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(portable, limit, 1 if limit == "MAX_SESSION_FILES" else 5)
            with pytest.raises(InvalidRequest, match="line 8: More than"):
                with_files(*lines)
    assert len(with_files(*lines)) == 4


def test_bytes_of_files_do_not_count_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "MAX_IMPORT_BYTES", 2000)
    big = bytes(3000)
    assert with_files(stored(big), data(big))[1:] == [big]


def test_what_was_read_is_not_kept() -> None:
    """One turn may be as large as the whole file: it goes on to the store, and is forgotten here."""
    reading = Import()
    given = [entry for start in range(0, len(FORTY), 1000) for entry in reading.feed(FORTY[start : start + 1000])]
    bodies = {id(entry.body) for entry in given}
    held = [found for found in gc.get_referents(*vars(reading).values()) if isinstance(found, ThinkingEvent)]
    assert len(given) == len(bodies) == 40
    assert len(held) <= 1


@pytest.mark.parametrize(("levels", "taken"), [(64, True), (65, False)])
def test_a_line_holds_what_a_log_may_hold(levels: int, taken: bool) -> None:
    deep = json.loads('{"a":' * levels + "1" + "}" * levels)
    call = {"tool_call_id": "c", "tool_configuration_name": "t", "tool_name": "t"}
    events = [event(1), event(2)]
    events.append({**event(3), "type": "tool_input", **call, "tool_input": {}})
    events.append({**event(4), "type": "tool_output", **call, "tool_output": deep, "error": False})
    if taken:
        assert read(lines(events)) == 6
    else:
        with pytest.raises(InvalidRequest, match="deeper than 66 levels"):
            read(lines(events))


async def test_others_have_their_turn_while_large_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of many small values takes seconds: it is read on a thread, and small lines are not all read at once."""
    here, read_here, takes = threading.get_ident(), [0], []

    def take(reading: Import, line: bytes) -> Entry | File | bytes | None:
        on_loop = threading.get_ident() == here
        takes.append((len(line), on_loop))
        read_here.append(read_here[-1] + len(line) if on_loop else 0)
        return original(reading, line)

    original = Import.take
    monkeypatch.setattr(Import, "take", take)

    async def chunks() -> AsyncIterator[bytes]:
        whole = lines([event(1) | {"messages": [{"role": "user", "content": "x" * 200_000}]}, event(2)])
        whole += b"\n".join([b"{}"] * 5)
        yield whole

    reading = Import()
    with pytest.raises(InvalidRequest):
        _ = [item async for item in service._items(reading, chunks())]
    assert [on_loop for size, on_loop in takes if size > 200_000] == [False]
    assert [on_loop for size, on_loop in takes[:2]] == [True, True]
    many = [event(1), event(2), *(event(place) | {"content": "x" * 1_000} for place in range(3, 203))]

    async def small() -> AsyncIterator[bytes]:
        yield lines(many)

    read_here[:] = [0]
    given = [item async for item in service._items(Import(), small())]
    assert len(given) == len(many)
    assert 0 < max(read_here) <= service._HELD_BYTES


def test_the_digest_is_of_all_before_the_last_line_however_it_came() -> None:
    data = lines([event(1)])
    before = data[: data.rindex(b"\n", 0, -1) + 1]
    for size in (1, 100, len(data)):
        reading = Import()
        for start in range(0, len(data), size):
            list(reading.feed(data[start : start + size]))
        assert reading.ended
        assert reading.digest == hashlib.sha256(before).digest()
