"""What the followers of a turn see of its tool calls while they run."""

from types import SimpleNamespace
from typing import Any

from sessile.domain.messages import ToolCall
from sessile.runner.dispatch import prepare
from sessile.runner.surroundings import MAX_ACTIVITY_CHARS, TurnSurroundings


def test_what_a_call_reports_is_shown_without_secrets() -> None:
    shown: list[Any] = []
    turn: Any = SimpleNamespace(
        publish=shown.append,
        turn_id="trn_1",
        now=lambda: "",
        making=lambda call_id: print,
        resting=None,
        open_calls={"c1": SimpleNamespace(id="aev_1")},
        claim=SimpleNamespace(session=None),
    )
    other: Any = None
    around = TurnSurroundings(turn, other, None, other)
    context = around.context(prepare(ToolCall("c1", "plus", "{}"), {}), frozenset({"s3cret"}))
    context.report("with s3cret \ud800")
    context.report("x" * (MAX_ACTIVITY_CHARS - 3) + "s3cret")
    assert [frame.message for frame in shown] == ["with *** ?", "x" * (MAX_ACTIVITY_CHARS - 3) + "***"]
