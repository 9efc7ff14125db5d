import pytest

from sessile.domain.messages import ToolCall
from sessile.domain.turn import CHARS_PER_TOKEN, ModelAnswer, context_usage, history_chars, model_calls, retry_delay
from sessile.wire.agents import RetryConfiguration
from sessile.wire.events import AgentOutputEvent, ThinkingEvent, ToolInputEvent, ToolOutputEvent
from sessile.wire.sessions import Usage

RETRIES = RetryConfiguration(
    enabled=True, max_retries=4, initial_backoff_ms=1000, max_backoff_ms=5000, backoff_factor=2
)
CALL = ToolCall("call_1", "ping", "{}")


def test_an_answer_becomes_its_thinking_then_its_text() -> None:
    answer = ModelAnswer("out_1", thinking=["I ", "think."], text=["I ", "say."])
    assert answer.events() == [
        ThinkingEvent(content="I think.", output_id="out_1"),
        AgentOutputEvent(content="I say.", output_id="out_1"),
    ]


def test_an_empty_answer_is_an_empty_output() -> None:
    assert ModelAnswer("out_1").events() == [AgentOutputEvent(content="", output_id="out_1")]


def test_tool_calls_alone_need_no_output() -> None:
    assert ModelAnswer("out_1", tool_calls=[CALL]).events() == []
    spoken = ModelAnswer("out_1", text=["Wait."], tool_calls=[CALL])
    assert spoken.events() == [AgentOutputEvent(content="Wait.", output_id="out_1")]


def test_a_cut_answer_keeps_what_was_shown_and_says_so() -> None:
    assert ModelAnswer("out_1").events(partial=True) == []
    cut = ModelAnswer("out_1", text=["Half"])
    assert cut.events(partial=True) == [AgentOutputEvent(content="Half", output_id="out_1", partial=True)]


@pytest.mark.parametrize(
    ("answer", "begun"),
    [
        (ModelAnswer("o"), False),
        (ModelAnswer("o", tool_calls=[CALL]), False),
        (ModelAnswer("o", thinking=["a"]), True),
        (ModelAnswer("o", text=["a"]), True),
    ],
)
def test_an_answer_has_begun_once_something_was_shown(answer: ModelAnswer, begun: bool) -> None:
    assert answer.begun is begun


def test_an_attempt_counts_as_a_call_from_the_start() -> None:
    assert ModelAnswer("o").usage == Usage(model_calls=1)
    assert ModelAnswer("o").usage is not ModelAnswer("p").usage


def test_waits_double_up_to_the_longest() -> None:
    assert [retry_delay(RETRIES, n, True, None) for n in range(1, 6)] == [1, 2, 4, 5, None]


def test_a_fault_that_would_come_again_is_not_retried() -> None:
    assert retry_delay(RETRIES, 1, False, None) is None
    assert retry_delay(RETRIES, 1, False, 1.0) is None


def test_disabled_retries_are_none() -> None:
    assert retry_delay(RetryConfiguration(enabled=False), 1, True, None) is None


@pytest.mark.parametrize(("asked", "waited"), [(0.0, 1), (0.5, 1), (3.0, 3), (60.0, 5)])
def test_a_providers_wish_is_honoured_up_to_the_longest_wait(asked: float, waited: float) -> None:
    assert retry_delay(RETRIES, 1, True, asked) == waited


def test_the_window_pays_for_a_fixed_share_of_history() -> None:
    assert history_chars(1000) == 1000 * CHARS_PER_TOKEN


def test_context_usage_is_of_one_call() -> None:
    usage = context_usage(Usage(10, 4, 5, 2, 1), 1000)
    assert (usage.input_tokens.count, usage.input_tokens.cached_tokens) == (10, 4)
    assert (usage.output_tokens.count, usage.output_tokens.reasoning_tokens) == (5, 2)
    assert (usage.total_tokens, usage.model_context_window) == (15, 1000)


def test_model_calls_are_counted_by_the_tool_calls_that_stand_together() -> None:
    def called(number: int) -> ToolInputEvent:
        return ToolInputEvent(tool_call_id=f"c{number}", tool_configuration_name="t", tool_name="t", tool_input={})

    def answered(number: int) -> ToolOutputEvent:
        return ToolOutputEvent(
            tool_call_id=f"c{number}", tool_configuration_name="t", tool_name="t", tool_output={}, error=False
        )

    first = [ThinkingEvent(content="Hm", output_id="o"), called(1), called(2), answered(1), answered(2)]
    assert model_calls([]) == 0
    assert model_calls(first) == 1
    assert model_calls([*first, called(3)]) == 2
