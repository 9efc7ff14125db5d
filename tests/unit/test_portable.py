"""The limits of an import, which no file of a test needs to reach: made small here."""

import gc
import hashlib
import json

import pytest

from sessile.domain import portable
from sessile.domain.portable import Import
from sessile.wire.errors import InvalidRequest, TooLarge
from sessile.wire.events import ThinkingEvent

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


def lines(events: list[dict[str, object]]) -> bytes:
    whole = [SESSION, AGENT, *({"kind": "event", "event": event} for event in events)]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in whole)
    end = {"kind": "end", "events": len(events), "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


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
