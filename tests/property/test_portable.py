"""An exported log, imported and exported again, is the same bytes, however it is cut on its way."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from sessile.domain.log import COMPACTED, DELETED, HIDDEN, VISIBLE, Entry, draft
from sessile.domain.portable import Export, Import
from sessile.domain.visibility import erased
from sessile.wire import ids
from sessile.wire.events import (
    RECORD_TYPES,
    VISIBILITY_TYPES,
    AgentOutputEvent,
    AnyEvent,
    EventHiddenRecord,
    InputMessageEvent,
    SessionInterruptedEvent,
    SkillPart,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnError,
    TurnStartedRecord,
)
from sessile.wire.portable import AgentLine, SessionLine
from sessile.wire.sessions import Usage

texts = st.sampled_from(["", "a", '"\\', "\n\r\u2028", "é\U0001f9a9", "null", "aev_00000000010000000000000000000a"])
values = st.sampled_from(
    [None, True, 0, -(2**63), 2**63 - 1, 0.1, -0.0, 1e300, 5e-324, 1e16, "x", [], {}, [[1.0, {"a": [None]}]]]
)
objects = st.dictionaries(texts, values, max_size=2)
moments = st.integers(0, 4 * 10**15)
parts = st.lists(st.builds(TextPart, texts) | st.builds(SkillPart, texts), min_size=1, max_size=3)


@st.composite
def turns(draw: st.DrawFn, whole: bool = True) -> list[AnyEvent]:
    """The events of a turn, whose first one names the input by an id that is filled in later."""
    said = draw(parts)
    events: list[AnyEvent] = [
        InputMessageEvent(messages=said, content=draw(texts)),
        TurnStartedRecord(input_event_id=""),
    ]
    for number in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            events.append(ThinkingEvent(content=draw(texts), output_id="out_1"))
        name = {"tool_call_id": f"call_{number}", "tool_configuration_name": draw(texts), "tool_name": draw(texts)}
        events.append(ToolInputEvent(**name, tool_input=draw(objects)))
        events.append(ToolOutputEvent(**name, tool_output=draw(objects), error=draw(st.booleans())))
    events.append(AgentOutputEvent(content=draw(texts), output_id="out_2", partial=draw(st.booleans())))
    if draw(st.booleans()):
        events.append(SessionInterruptedEvent())
    if draw(st.booleans()):
        events.insert(draw(st.integers(2, len(events))), EventHiddenRecord(event_id=ids.event_id(1)))
    error = draw(st.none() | st.builds(TurnError, code=texts, message=texts))
    usage = Usage(*draw(st.tuples(*[st.integers(0, 10**6)] * 5)))
    events.append(TurnEndedRecord(stop_reason="error" if error else "end_turn", error=error, usage=usage))
    return events


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    entries: list[Entry] = []
    for number, turn in enumerate(draw(st.lists(turns(), max_size=3))):
        turn_id = f"trn_{number:020x}"
        for event in turn:
            if isinstance(event, TurnStartedRecord):
                event.input_event_id = entries[-1].id
            place = len(entries) + 1
            bare = draft(event)
            visibility = draw(st.sampled_from([VISIBLE, COMPACTED, HIDDEN, DELETED]))
            if visibility == DELETED:
                visibility, bare = (VISIBLE, bare) if bare.type in RECORD_TYPES else (DELETED, erased(event))
            of = "" if bare.type in VISIBILITY_TYPES else turn_id
            made = Entry(ids.event_id(place), "first", place, of, bare.type, draw(moments), visibility, bare.body)
            entries.append(made)
    return entries


sessions = st.builds(
    SessionLine,
    format=st.just(1),
    key=st.just("first"),
    name=texts,
    description=st.just(UNSET) | texts,
    metadata=objects,
    enabled=st.booleans(),
    tti_minutes=st.integers(0, 100),
)
agents = st.builds(AgentLine, key=st.just("helper"), document=objects)


def exported(session: SessionLine, agent: AgentLine, entries: list[Entry]) -> bytes:
    export = Export()
    return export.head(session, agent) + export.events(entries) + export.end()


def in_session(entry: Entry) -> Entry:
    fields: Any = [getattr(entry, name) for name in entry.__struct_fields__[2:-1]]
    return Entry(entry.id, "first", *fields)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions, agents, logs(), st.integers(1, 400))
def test_what_is_imported_is_what_was_exported(
    session: SessionLine, agent: AgentLine, entries: list[Entry], size: int
) -> None:
    data = exported(session, agent, entries)
    reading = Import()
    read: list[Entry] = []
    for start in range(0, len(data), size):
        read += reading.feed(data[start : start + size])
    read += reading.end(False, 0)
    assert reading.session is not None
    assert exported(reading.session, agent, [in_session(entry) for entry in read]) == data
