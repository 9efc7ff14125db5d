"""The limits of an import, which no file of a test needs to reach: made small here."""

import hashlib
import json

import pytest

from sessile.domain import portable
from sessile.domain.portable import Import
from sessile.wire.errors import InvalidRequest, TooLarge

SESSION = {"kind": "session", "format": 1, "key": "s", "name": "", "metadata": {}, "enabled": True, "tti_minutes": 0}
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


def file(events: int) -> bytes:
    lines = [SESSION, AGENT, *({"kind": "event", "event": event(place)} for place in range(1, events + 1))]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    end = {"kind": "end", "events": events, "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


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
    with pytest.raises(TooLarge):
        read(data + b"\n")


@pytest.mark.parametrize("size", [7, 10_000])
def test_a_line_that_is_too_long(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    longest = max(map(len, file(3).splitlines()))
    monkeypatch.setattr(portable, "MAX_IMPORT_LINE_BYTES", longest)
    assert read(file(3), size) == 5
    monkeypatch.setattr(portable, "MAX_IMPORT_LINE_BYTES", longest - 1)
    with pytest.raises(InvalidRequest, match=r"line \d: The line is longer"):
        read(file(3), size)
