from sessile.domain.messages import AssistantMessage, ToolCall, UserMessage
from sessile.domain.tokens import estimate, estimate_messages, most_tokens


def test_an_estimate_grows_with_the_text() -> None:
    assert estimate("") == 0
    assert estimate("x" * 350) == 100
    assert estimate("ö" * 350) == 200
    assert estimate("\ud800" * 7) == 6


def test_no_text_is_estimated_higher_than_the_bound() -> None:
    for character in ("x", "ö", "\u6f22", "\U0001f422"):
        assert most_tokens(350) >= estimate(character * 350)


def test_messages_cost_their_text_and_their_calls() -> None:
    plain = [UserMessage("x" * 35)]
    called = [AssistantMessage("", (ToolCall("c", "x" * 10, "y" * 25),))]
    assert estimate_messages(plain) == estimate_messages(called) == 10 + 4
    assert estimate_messages([*plain, *called]) == 28
