"""Any log and any range of it that is summarised: what the model is asked, and what it reads afterwards."""

from hypothesis import given
from hypothesis import strategies as st

from property.test_context import events, words
from sessile.domain import compaction
from sessile.domain.context import Conversation
from sessile.domain.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from sessile.wire.agents import CompactionConfig
from sessile.wire.events import AnyEvent

configs = st.builds(CompactionConfig, tool_event_policy=st.sampled_from(["exclude", "include_outputs", "include_all"]))


def after(log: list[AnyEvent], place: int, summary: str | None, instructions: str = "") -> list[Message]:
    conversation = Conversation(summary)
    for event in log[place:]:
        conversation.add(event)
    return conversation.messages(instructions, 10**6)


@given(events, st.integers(0, 30), configs, st.none() | words, st.integers(0, 300))
def test_a_model_is_asked_with_one_text(
    log: list[AnyEvent], place: int, config: CompactionConfig, earlier: str | None, most: int
) -> None:
    messages = compaction.request("Q", earlier, log[:place], config, most)
    assert [type(message) for message in messages] == [SystemMessage, UserMessage]
    size = sum(len(message.content) for message in messages)
    assert size <= max(most, 1 + len(f"Summary of what came before:\n{earlier}\n\n" if earlier else ""))


@given(events, st.integers(0, 30), words, words)
def test_what_is_read_after_a_compaction_is_well_formed(
    log: list[AnyEvent], place: int, summary: str, instructions: str
) -> None:
    messages = after(log, place, summary, instructions)
    if instructions:
        assert messages.pop(0) == SystemMessage(instructions)
    first, *rest = messages
    assert isinstance(first, UserMessage)
    assert first.content.endswith(summary)
    assert not rest or isinstance(rest[0], AssistantMessage), "roles alternate after the summary"
    asked: list[str] = []
    for message in rest:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id == asked.pop(0)
            continue
        assert not asked, "no half of a call is left over"
        assert not isinstance(message, SystemMessage)
        if isinstance(message, AssistantMessage):
            asked = [call.id for call in message.tool_calls]
    assert not asked


@given(events, st.integers(0, 30), words)
def test_a_summary_changes_nothing_behind_it(log: list[AnyEvent], place: int, summary: str) -> None:
    plain, summed = after(log, place, None), after(log, place, summary)
    assert summed[len(summed) - len(plain) :] == plain
    assert len(summed) - len(plain) in (1, 2)
