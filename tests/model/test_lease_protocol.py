"""Every state that two nodes and a store can reach with one turn: no promise breaks, unless a rule is taken out."""

import pytest

from model.lease_protocol import OUTPUT, TOOL_UNKNOWN, Rules, explore, leading_to_the_end

BROKEN = {
    "checks_the_fence": "an event was appended twice",
    "checks_where_it_writes": "an event was appended twice",
    "raises_the_fence": "an event was appended twice",
    "keeps_the_call_before_the_tool": "a tool that is not idempotent started twice",
    "reads_the_log_when_taking_up": "an event was appended twice",
}


def test_no_promise_breaks_in_any_state() -> None:
    explored = explore(Rules())
    assert explored.broken is None, explored.way
    logs = {state.log for state in explored.before}
    assert any(TOOL_UNKNOWN in log for log in logs), "no node took up a turn whose tool had begun"
    assert any(OUTPUT in log and TOOL_UNKNOWN not in log for log in logs)
    assert len(explored.before) > 1000


def test_a_turn_can_end_from_every_state_while_it_may_be_taken_up() -> None:
    explored = explore(Rules())
    good = leading_to_the_end(explored)
    stuck = [state for state in explored.before if state not in good and state.claims < 3]
    assert stuck == []


@pytest.mark.parametrize("rule", Rules._fields)
def test_a_protocol_without_one_of_its_rules_breaks_a_promise(rule: str) -> None:
    explored = explore(Rules()._replace(**{rule: False}))
    print(*explored.way, sep="\n")
    assert explored.broken == BROKEN[rule]
