from hypothesis import given
from hypothesis import strategies as st

from sessile.domain.context import chars
from sessile.domain.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from sessile.testing.conversation import build
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    InputMessageEvent,
    SessionInterruptedEvent,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnStartedRecord,
)

words = st.text(max_size=20)
hidden = st.booleans()
call_ids = st.sampled_from(["c1", "c2", "c1_3", "c1_"])
output_ids = st.sampled_from(["o1", "o2"])
names = st.just("plus")

events = st.lists(
    st.one_of(
        st.builds(
            InputMessageEvent,
            messages=st.builds(TextPart, words).map(lambda part: [part]),
            content=words,
            hidden=hidden,
        ),
        st.builds(AgentOutputEvent, content=words, output_id=output_ids, hidden=hidden),
        st.builds(ThinkingEvent, content=words, output_id=output_ids, hidden=hidden),
        st.builds(
            ToolInputEvent,
            tool_call_id=call_ids,
            tool_configuration_name=names,
            tool_name=names,
            tool_input=st.dictionaries(st.just("a"), words),
            hidden=hidden,
            sequence=st.integers(0, 5),
        ),
        st.builds(
            ToolOutputEvent,
            tool_call_id=call_ids,
            tool_configuration_name=names,
            tool_name=names,
            tool_output=st.dictionaries(st.just("r"), words),
            error=st.booleans(),
            hidden=hidden,
        ),
        st.builds(SessionInterruptedEvent, hidden=hidden),
        st.builds(TurnStartedRecord, input_event_id=st.just("aev_1")),
    ),
    max_size=30,
)


@given(events, words, st.integers(0, 400))
def test_every_call_is_answered_once_right_after_its_message(log: list[AnyEvent], text: str, limit: int) -> None:
    messages = build(text, log, limit)
    asked: list[str] = []
    seen: set[str] = set()
    for message in messages:
        if isinstance(message, ToolMessage):
            assert asked
            assert message.tool_call_id == asked.pop(0)
            continue
        assert not asked
        if isinstance(message, AssistantMessage):
            assert message.content or message.tool_calls
            asked = [call.id for call in message.tool_calls]
            assert not seen & set(asked)
            assert len(set(asked)) == len(asked)
            seen |= set(asked)
    assert not asked


@given(events, words, st.integers(0, 400))
def test_the_result_fits_or_is_the_last_turn(log: list[AnyEvent], text: str, limit: int) -> None:
    messages = build(text, log, limit)
    if sum(map(chars, messages)) > limit:
        inputs = [i for i, message in enumerate(messages) if isinstance(message, UserMessage)]
        assert len(inputs) <= 1
        assert all(i == bool(text) for i in inputs)


@given(events, words, st.integers(0, 400))
def test_a_smaller_limit_gives_an_end_of_the_whole(log: list[AnyEvent], text: str, limit: int) -> None:
    whole, cut = build(text, log, 10**6), build(text, log, limit)
    if text:
        assert whole.pop(0) == cut.pop(0) == SystemMessage(text)
    assert whole[len(whole) - len(cut) :] == cut
    if len(cut) < len(whole):
        assert isinstance(cut[0], UserMessage)
