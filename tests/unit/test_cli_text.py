"""Texts of others never reach a terminal with anything in them that it would act on."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessile.cli.text import one_line, printable

ATTACKS = [
    ("\x1b[2J\x1b[1;1Howned", "\\x1b[2J\\x1b[1;1Howned"),
    ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    ("\x9b31mred", "\\x9b31mred"),
    ("safe\rEVIL", "safeEVIL"),
    ("a\x08\x7fb\x00", "a\\x08\\x7fb\\x00"),
    ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
    ("\ud800", "\\ud800"),
    ("one\u2028two", "one\\u2028two"),
]


@pytest.mark.parametrize(("text", "shown"), ATTACKS)
def test_what_a_terminal_would_act_on_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["Grüße\tan\nalle", "日本語 🎉 👩‍👩‍👧", "مرحبا\u200f", "a\\x1b"])
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


def test_line_ends_of_the_network_become_line_feeds_even_in_pieces() -> None:
    assert printable("a\r\nb") == printable("a\r") + printable("\nb") == "a\nb"


@given(st.text(st.characters()))
def test_nothing_of_the_control_category_is_left(text: str) -> None:
    left = {unicodedata.category(character) for character in printable(text) if character not in "\n\t"}
    assert not left & {"Cc", "Cs", "Zl", "Zp"}


@given(st.text(st.characters()), st.integers(3, 50))
def test_one_line_is_one_line_within_its_limit(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert len(shown) <= limit
    assert not set(shown) & set("\n\t\r\x1b")


def test_a_cut_line_says_so() -> None:
    assert one_line("one  two\n\tthree") == "one two three"
    assert one_line("x" * 11, 10) == "xxxxxxx..."
    assert one_line("x" * 10, 10) == "x" * 10
