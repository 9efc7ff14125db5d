"""What a conversation looks like, from live frames and from the log, and that nothing of it is shown twice."""

from typing import Any

import pytest

from sessile.cli.transcript import SHORT, Kind, Piece, Transcript, call_text, event_type, result_text, summary
from sessile.wire.events import (
    AgentOutputEvent,
    CompactionEvent,
    CompactionStarted,
    ContextConsumed,
    InputMessageEvent,
    SkillLoadEvent,
    SkillPart,
    StreamEnd,
    StreamError,
    StreamingAgentOutput,
    StreamingAgentOutputEnd,
    StreamingThinking,
    StreamingThinkingEnd,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnError,
    TurnStartedRecord,
)
from sessile.wire.sessions import InputTokens, OutputTokens, SessionContextUsage, Usage

NOW = "2026-01-31T09:30:00.000000Z"


def envelope(sequence: int, turn: str = "trn_1") -> dict[str, Any]:
    return {
        "id": f"aev_{sequence:030x}",
        "session_key": "s",
        "created_at": NOW,
        "sequence": sequence,
        "turn_id": turn,
    }


def said(sequence: int, text: str = "Hello?", turn: str = "trn_1") -> InputMessageEvent:
    return InputMessageEvent(messages=[TextPart(text)], content=text, **envelope(sequence, turn))


def call(sequence: int, name: str = "look_up", **arguments: Any) -> ToolInputEvent:
    return ToolInputEvent(
        tool_call_id="c", tool_configuration_name=name, tool_name=name, tool_input=arguments, **envelope(sequence)
    )


def result(sequence: int, output: dict[str, Any], *, error: bool = False) -> ToolOutputEvent:
    return ToolOutputEvent(
        tool_call_id="c",
        tool_configuration_name="look_up",
        tool_name="look_up",
        tool_output=output,
        error=error,
        **envelope(sequence),
    )


def answer(sequence: int, text: str, output: str = "out_1", *, partial: bool = False) -> AgentOutputEvent:
    return AgentOutputEvent(content=text, output_id=output, partial=partial, **envelope(sequence))


def thought(sequence: int, text: str, output: str = "out_1") -> ThinkingEvent:
    return ThinkingEvent(content=text, output_id=output, **envelope(sequence))


def delta(text: str, offset: int = 0, output: str = "out_1") -> StreamingAgentOutput:
    return StreamingAgentOutput(content=text, output_id=output, offset=offset, turn_id="trn_1", created_at=NOW)


def musing(text: str, offset: int = 0, output: str = "out_1") -> StreamingThinking:
    return StreamingThinking(content=text, output_id=output, offset=offset, turn_id="trn_1", created_at=NOW)


def output_end(sequence: int | None, output: str = "out_1") -> StreamingAgentOutputEnd:
    end = StreamingAgentOutputEnd(output_id=output, turn_id="trn_1", created_at=NOW)
    if sequence is not None:
        end.event_id = envelope(sequence)["id"]
    return end


def ended(sequence: int, error: TurnError | None = None, turn: str = "trn_1") -> TurnEndedRecord:
    return TurnEndedRecord(
        stop_reason="error" if error else "end_turn", error=error, usage=Usage(), **envelope(sequence, turn)
    )


def started(sequence: int) -> TurnStartedRecord:
    return TurnStartedRecord(input_event_id="aev_1", **envelope(sequence))


def live(transcript: Transcript, *frames: Any) -> list[Piece]:
    return [piece for frame in frames for piece in transcript.frame(frame)]


def read(transcript: Transcript, *events: Any) -> list[Piece]:
    return [piece for event in events for piece in transcript.event(event)]


THINKING_END = StreamingThinkingEnd(output_id="out_1", turn_id="trn_1", created_at=NOW)
CONSUMED = ContextConsumed(
    session_context_usage=SessionContextUsage(InputTokens(1), OutputTokens(1), 2), turn_id="trn_1", created_at=NOW
)
TURN = [
    said(1),
    musing("Let me "),
    musing("see.", 7),
    THINKING_END,
    CONSUMED,
    thought(3, "Let me see."),
    call(4, number="A-1042"),
    result(5, {"status": "shipped"}),
    delta("It has ", 0, "out_2"),
    delta("shipped.", 7, "out_2"),
    output_end(6, "out_2"),
    StreamEnd(status="stopped", stop_reason="end_turn"),
]
LOG = [
    said(1),
    started(2),
    thought(3, "Let me see."),
    call(4, number="A-1042"),
    result(5, {"status": "shipped"}),
    answer(6, "It has shipped.", "out_2"),
    ended(7),
]
SHOWN = [
    (Kind.THINKING, "Let me see."),
    (Kind.TOOL, 'look_up(number="A-1042")'),
    (Kind.TOOL, 'look_up -> {"status": "shipped"}'),
    (Kind.ANSWER, "It has shipped."),
]


def joined(pieces: list[Piece]) -> list[tuple[Kind, str]]:
    """Pieces as they stand on the screen: what is not fresh goes on where the last one stopped."""
    shown: list[tuple[Kind, str]] = []
    for kind, text, fresh in pieces:
        if not fresh and shown and shown[-1][0] is kind:
            shown[-1] = (kind, shown[-1][1] + text)
        else:
            shown.append((kind, text))
    return shown


def test_a_turn_looks_alike_live_and_from_the_log() -> None:
    assert joined(live(Transcript(), *TURN)) == SHOWN
    assert joined(read(Transcript(), *LOG)) == [(Kind.INPUT, "Hello?"), *SHOWN]


def test_each_piece_of_a_delta_is_shown_as_it_comes() -> None:
    first, second = live(Transcript(), delta("It has "), delta("shipped.", 7))
    assert (first, second) == (Piece(Kind.ANSWER, "It has ", True), Piece(Kind.ANSWER, "shipped.", False))


@pytest.mark.parametrize("cut", range(1, len(TURN) + 1))
def test_wherever_watching_ends_the_log_shows_exactly_the_rest(cut: int) -> None:
    transcript = Transcript()
    pieces = live(transcript, *TURN[:cut])
    pieces += read(transcript, *LOG)
    assert joined(pieces) == SHOWN
    assert read(transcript, *LOG) == []


def test_an_output_that_was_cut_off_goes_on_on_the_same_line() -> None:
    transcript = Transcript()
    live(transcript, said(1), delta("It ha"))
    (rest,) = read(transcript, answer(3, "It has shipped."))
    assert rest == Piece(Kind.ANSWER, "s shipped.", fresh=False)


def test_a_delta_that_repeats_what_was_shown_adds_only_the_rest() -> None:
    assert joined(live(Transcript(), delta("It has"), delta("It has shipped.", 0))) == [
        (Kind.ANSWER, "It has shipped.")
    ]


def test_thinking_with_gaps_is_not_said_again() -> None:
    pieces = live(Transcript(), musing("One. "), musing("Three.", 10), thought(3, "One. Two. Three."))
    assert joined(pieces) == [(Kind.THINKING, "One. Three.")]


def test_deltas_are_void_when_their_output_ends_without_an_event() -> None:
    pieces = live(Transcript(), delta("Wro"), output_end(None), delta("Right.", 0, "out_2"), output_end(3, "out_2"))
    assert [kind for kind, _ in joined(pieces)] == [Kind.ANSWER, Kind.NOTE, Kind.ANSWER]


def test_deltas_are_void_when_another_output_begins() -> None:
    pieces = live(Transcript(), delta("Wro"), delta("Right.", 0, "out_2"))
    assert joined(pieces) == [
        (Kind.ANSWER, "Wro"),
        (Kind.NOTE, "(The text above is withdrawn.)"),
        (Kind.ANSWER, "Right."),
    ]


def test_what_was_cut_off_is_void_when_the_log_has_another_output() -> None:
    transcript = Transcript()
    live(transcript, said(1), delta("It ha"))
    assert read(transcript, answer(3, "It has shipped.", "out_2")) == [
        Piece(Kind.NOTE, "(The text above is withdrawn.)"),
        Piece(Kind.ANSWER, "It has shipped."),
    ]


def test_why_a_turn_failed_is_told_once() -> None:
    transcript = Transcript()
    error = TurnError("model_timeout", "The model was silent.")
    pieces = live(
        transcript,
        said(1),
        StreamError(messages=[error.message], code=error.code),
        StreamEnd(status="stopped", stop_reason="error"),
    )
    told = Piece(Kind.PROBLEM, "The turn ended with an error: The model was silent. (model_timeout)")
    assert pieces == [told]
    assert read(transcript, said(1), started(2), ended(3, error)) == []
    other = read(transcript, said(4, "Again?", "trn_2"), ended(5, error, "trn_2"))
    assert other == [Piece(Kind.INPUT, "Again?"), told]


def test_a_limit_is_no_error() -> None:
    (piece,) = live(Transcript(), StreamError(messages=["Too many calls."], code="model_call_limit"))
    assert piece.text == "The turn was cut off: Too many calls. (model_call_limit)"


def test_a_session_that_is_deleted_meanwhile_is_told() -> None:
    pieces = live(Transcript(), said(1), StreamEnd(status="stopped", reason="deleted"))
    assert pieces == [Piece(Kind.PROBLEM, "The session was deleted.")]


def test_long_tool_texts_are_short_and_on_one_line() -> None:
    transcript = Transcript()
    pieces = live(transcript, call(1, text="a\nb" * 1000), result(2, {"text": "x" * 10_000}))
    assert all(len(text) == SHORT and "\n" not in text for _, text, _ in pieces)


def test_tool_calls_read_like_calls() -> None:
    assert call_text(call(1)) == "look_up()"
    assert call_text(call(1, a=1, b={"c": [True, None]}, d="ü")) == 'look_up(a=1, b={"c": [true, null]}, d="ü")'
    assert result_text(result(1, {"result": [1, 2]})) == "look_up -> [1, 2]"
    assert result_text(result(1, {"error": "No.", "code": "tool_failed"}, error=True)) == (
        "look_up failed: No. (tool_failed)"
    )
    assert result_text(result(1, {}, error=True)) == "look_up failed: no reason was given"


def test_a_failed_call_stands_out() -> None:
    assert [kind for kind, *_ in live(Transcript(), result(1, {"error": "No."}, error=True))] == [Kind.FAILURE]


class Unknown:
    """An event of a newer server, as the client shows one."""

    def __init__(self, id: str, type: str, **data: Any) -> None:
        self.id, self.type, self.sequence, self.data = id, type, 9, {"type": type, "id": id, **data}


def test_events_of_a_newer_server_are_named() -> None:
    transcript = Transcript()
    event = Unknown("aev_9", "holograms", content="hi")
    assert read(transcript, event, event) == [Piece(Kind.NOTE, '(holograms {"content": "hi"})')]
    assert live(transcript, Unknown("", "streaming_hologram")) == []
    assert event_type(event) == "holograms"


def test_events_that_have_no_look_of_their_own_are_named() -> None:
    event = SkillLoadEvent(skill_name="refunds", content="How to.", **envelope(3))
    (piece,) = read(Transcript(), event)
    assert piece == Piece(Kind.NOTE, '(skill_load {"skill_name": "refunds", "content": "How to."})')


def test_a_compaction_is_told_and_is_no_place_in_the_log_while_it_begins() -> None:
    transcript = Transcript()
    begun = CompactionStarted(id="aev_live_1", session_key="s", turn_id="trn_1", created_at="")
    event = CompactionEvent(turns_compacted=2, events_compacted=9, summary_key="k", **envelope(3))
    assert live(transcript, begun) == [Piece(Kind.NOTE, "(Older parts of the conversation are being summarised.)")]
    assert live(transcript, event) == [Piece(Kind.NOTE, "(2 turns are summarised.)")]
    assert transcript.last_id == envelope(3)["id"]


def test_skills_that_were_asked_for_are_named() -> None:
    event = InputMessageEvent(messages=[TextPart("Please."), SkillPart("refunds")], content="Please.", **envelope(1))
    assert read(Transcript(), event) == [Piece(Kind.INPUT, "Please.\n[skill refunds]")]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (said(1, "a\nb"), "a b"),
        (answer(1, "Yes."), "Yes."),
        (thought(1, "Hm."), "Hm."),
        (call(1, n=1), "look_up(n=1)"),
        (result(1, {"result": 1}), "look_up -> 1"),
        (ended(1), "end_turn"),
        (ended(1, TurnError("model_timeout", "x")), "error: model_timeout"),
        (
            CompactionEvent(
                turns_compacted=1, events_compacted=2, summary_key="k", summary_text="Short.", **envelope(1)
            ),
            "Short.",
        ),
        (started(1), 'turn_started {"input_event_id": "aev_1"}'),
    ],
)
def test_every_event_has_a_summary(event: Any, text: str) -> None:
    assert summary(event) == text


def test_the_newest_event_is_remembered_in_the_order_of_the_log() -> None:
    transcript = Transcript()
    live(transcript, said(9), output_end(11))
    assert transcript.last_id == envelope(11)["id"]
    assert read(transcript, said(10), said(11)) == []
