import pytest
from msgspec import json

from sessile.domain import compaction
from sessile.domain.compaction import CompactionFailed
from sessile.domain.messages import SystemMessage, UserMessage
from sessile.wire.agents import CompactionConfig
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    ArtifactReference,
    ArtifactUploadEvent,
    CompactionEvent,
    InputMessageEvent,
    StructuredOutputEvent,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
)

PLAIN = CompactionConfig()


def said(text: str, **envelope: bool) -> InputMessageEvent:
    return InputMessageEvent(messages=[TextPart(content=text)], content=text, **envelope)  # type: ignore[arg-type]


def answer(text: str) -> AgentOutputEvent:
    return AgentOutputEvent(content=text, output_id="o")


def tool(turn: str = "trn_1", *, hide: tuple[bool, bool] = (False, False)) -> list[AnyEvent]:
    called = ToolInputEvent(
        tool_call_id="c1",
        tool_configuration_name="find",
        tool_name="find",
        tool_input={"n": 1},
        turn_id=turn,
        hidden=hide[0],
    )
    output = ToolOutputEvent(
        tool_call_id="c1",
        tool_configuration_name="find",
        tool_name="find",
        tool_output={"found": 2},
        error=False,
        turn_id=turn,
        hidden=hide[1],
    )
    return [called, output]


def asked(
    events: list[AnyEvent], config: CompactionConfig = PLAIN, earlier: str | None = None, most: int = 1000
) -> str:
    system, user = compaction.request("Q", earlier, events, config, most)
    assert system == SystemMessage("Q")
    assert isinstance(user, UserMessage)
    return user.content


def test_the_threshold() -> None:
    assert not compaction.due(PLAIN, 799, 1000)
    assert compaction.due(PLAIN, 800, 1000)
    assert compaction.due(CompactionConfig(threshold_percent=50), 500, 1000)
    assert not compaction.due(CompactionConfig(enabled=False), 5000, 1000)


def test_the_settings_of_an_agent() -> None:
    assert compaction.settings(b'{"name":"a"}') == PLAIN
    document = json.encode({"compaction": {"enabled": False, "keep_recent_inputs": 4}})
    assert compaction.settings(document) == CompactionConfig(enabled=False, keep_recent_inputs=4)
    assert compaction.effective(None) == PLAIN
    assert compaction.effective('{"threshold_percent":60}') == CompactionConfig(threshold_percent=60)


def test_what_the_model_is_asked_for() -> None:
    configured = CompactionConfig(compaction_message="By the agent.")
    assert compaction.prompt(configured, "By the caller.") == "By the caller."
    assert compaction.prompt(configured, None) == "By the agent."
    assert compaction.prompt(PLAIN, None) == compaction.DEFAULT_MESSAGE


def test_the_conversation_is_one_text() -> None:
    events = [said("Hi."), ThinkingEvent(content="Hm.", output_id="o"), answer("Yes."), answer(""), said("And?")]
    assert asked(events) == "User: Hi.\nAssistant: Yes.\nUser: And?"
    assert asked(events, earlier="Before.").startswith("Summary of what came before:\nBefore.\n\nUser: Hi.")


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("exclude", ""),
        ("include_outputs", 'Result of find: {"found":2}'),
        ("include_all", 'Tool call find: {"n":1}\nResult of find: {"found":2}'),
    ],
)
def test_what_of_tool_calls_is_told(policy: str, text: str) -> None:
    assert asked(tool(), CompactionConfig(tool_event_policy=policy)) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("hide", [(True, False), (False, True), (True, True)])
def test_a_hidden_half_hides_the_other_in_its_turn_only(hide: tuple[bool, bool]) -> None:
    every = CompactionConfig(tool_event_policy="include_all")
    assert asked(tool(hide=hide), every) == ""
    both = asked([*tool(hide=hide), *tool("trn_2")], every)
    assert both == 'Tool call find: {"n":1}\nResult of find: {"found":2}'


def test_answers_of_a_schema_and_files_are_told_too() -> None:
    """Else the model would know neither what it has answered nor the ids of the files that it can read."""
    reference = ArtifactReference(artifact_id="art_1", filename="a.txt", mime_type="text/plain", size_bytes=1)
    sent = ArtifactUploadEvent(artifacts=[reference], agent_upload_message="a.txt is art_1.")
    made = ArtifactUploadEvent(artifacts=[reference])
    events = [said("Hi."), sent, made, StructuredOutputEvent(schema_name="s", content={"n": 1})]
    assert asked(events) == 'User: Hi.\nUser: a.txt is art_1.\nAssistant: {"n":1}'


def test_hidden_events_and_old_summaries_are_not_told() -> None:
    old = CompactionEvent(turns_compacted=1, events_compacted=1, summary_key="s", summary_text="Old.")
    assert asked([said("a", hidden=True), old, said("b")]) == "User: b"


def test_what_does_not_fit_is_left_out_from_the_beginning() -> None:
    events: list[AnyEvent] = [said(str(n) * 20) for n in range(5)]
    assert asked(events, most=1 + 2 * 27) == f"User: {'3' * 20}\nUser: {'4' * 20}"
    assert asked([said("x" * 100)], most=1 + 20) == f"User: {'x' * 13}…"
    assert len(asked(events, earlier="E" * 40, most=20)) >= 40


@pytest.mark.parametrize("text", ["", " \n", "x" * 751])
def test_summaries_that_are_no_good(text: str) -> None:
    with pytest.raises(CompactionFailed):
        compaction.checked(text, 1000)


def test_a_good_summary() -> None:
    assert compaction.checked(" Fine.\n", 1000) == "Fine."
    assert compaction.checked("x" * 750, 1000) == "x" * 750
    assert compaction.request_chars(1000, 1.0) == 2250
    assert compaction.request_chars(1000, 0.5) == 1125
