"""Instructions of an agent as one text."""

import pytest

from sessile.domain.instructions import Instructions
from sessile.domain.templates import MAX_RENDERED_CHARS
from sessile.wire.errors import TemplateInvalid


def instructions(*templates: str) -> Instructions:
    step = {"instructions": [{"type": "inline", "name": "i", "template": template} for template in templates]}
    return Instructions.of("a", {"name": "A", "metadata": {}, "first_step": step})


def test_what_is_the_same_for_every_turn_is_rendered_once() -> None:
    assert instructions("One.", "Two.").constant == "One.\n\nTwo."


def test_what_depends_on_the_session_is_rendered_for_each_turn() -> None:
    made = instructions("Plan: ${session.metadata.plan}, ${agent.name}, ${currentDate}")
    assert made.constant is None
    assert made.render({"metadata": {"plan": "gold"}}, "2026-01-31") == "Plan: gold, A, 2026-01-31"


def test_the_length_of_all_instructions_together_is_limited() -> None:
    made = instructions(*["${session.text}"] * 4)
    made.render({"text": "x" * (MAX_RENDERED_CHARS // 4 - 10)}, "")
    with pytest.raises(TemplateInvalid):
        made.render({"text": "x" * (MAX_RENDERED_CHARS // 3)}, "")


def test_disabled_and_referenced_instructions_are_left_out() -> None:
    step = {
        "instructions": [
            {"type": "inline", "name": "i", "template": "No.", "enabled": False},
            {"type": "reference", "id": "ins_1"},
            {"type": "inline", "name": "j", "template": "Yes $5.", "template_type": "text"},
        ]
    }
    assert Instructions.of("a", {"name": "A", "metadata": {}, "first_step": step}).constant == "Yes $5."
