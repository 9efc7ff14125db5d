import typing

import pytest
from msgspec import json, structs

from sessile.domain.log import DELETED, HIDDEN, VISIBLE, Entry, draft
from sessile.domain.visibility import check, erased
from sessile.wire import events
from sessile.wire.errors import RecordFixed, SessionRunning

TEXT = "tortoise"
VALUES: dict[str, typing.Any] = {
    "messages": [events.TextPart(content=TEXT)],
    "tool_input": {"what": TEXT},
    "tool_output": {"what": TEXT},
    "artifacts": [events.ArtifactReference(artifact_id=TEXT, filename=TEXT, mime_type=TEXT, size_bytes=7)],
    "pending_calls": [],
    "error": True,
    "partial": True,
    "turns_compacted": 3,
    "events_compacted": 4,
    "tool_call_id": "c1",
    "output_id": "out_1",
}


@pytest.mark.parametrize("kind", typing.get_args(events.ContractEvent))
def test_an_erased_event_has_its_type_and_no_text(kind: type[events.Event]) -> None:
    wanted = {field.name: field for field in structs.fields(kind) if field.name not in events.Event.__struct_fields__}
    event = kind(**{name: VALUES.get(name, TEXT) for name in wanted})
    left = erased(event)  # type: ignore[arg-type]
    assert left.type == kind.__struct_config__.tag
    assert TEXT.encode() not in left.body
    entry = Entry("aev_1", "s", 1, "trn_1", left.type, 0, DELETED, left.body)
    again = entry.event()
    for name in wanted.keys() & {"tool_call_id", "output_id", "partial", "error"}:
        assert getattr(again, name) == VALUES[name]


def test_who_sees_an_entry() -> None:
    made = draft(events.AgentOutputEvent(content="x", output_id="o"))
    entries = [Entry("aev_1", "s", 1, "trn_1", made.type, 0, who, made.body) for who in range(4)]
    assert [entry.hidden for entry in entries] == [False, True, True, True]
    assert [entry.deleted for entry in entries] == [False, False, False, True]
    assert [b'"hidden":true' in entry.json for entry in entries] == [False, True, True, True]
    assert (VISIBLE, HIDDEN) == (0, 2)


def test_a_record_of_no_turn_has_no_turn_id() -> None:
    made = draft(events.EventHiddenRecord(event_id="aev_0"))
    entry = Entry("aev_1", "s", 1, "", made.type, 0, VISIBLE, made.body)
    assert json.decode(entry.json).keys() == {"id", "session_key", "created_at", "sequence", "type", "event_id"}


def test_what_may_be_changed() -> None:
    check("agent_output", "trn_1", None)
    check("agent_output", "trn_1", "trn_2")
    with pytest.raises(SessionRunning) as caught:
        check("agent_output", "trn_1", "trn_1")
    assert caught.value.id == "trn_1"
    for record in events.RECORD_TYPES:
        with pytest.raises(RecordFixed):
            check(record, "trn_1", None)
