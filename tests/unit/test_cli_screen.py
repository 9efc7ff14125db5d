"""Where pieces are written, and that lines are begun and ended as they should be."""

import io

import pytest

from sessile.cli.screen import Screen
from sessile.cli.transcript import Kind, Piece


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


ANSWER = [
    Piece(Kind.THINKING, "Hm"),
    Piece(Kind.THINKING, ".", fresh=False),
    Piece(Kind.TOOL, "f()"),
    Piece(Kind.ANSWER, "One "),
    Piece(Kind.ANSWER, "two.", fresh=False),
    Piece(Kind.PROBLEM, "Oh."),
]


def test_a_terminal_shows_everything_on_lines_of_its_own() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    screen.show([Piece(Kind.INPUT, "Hi"), *ANSWER])
    screen.finish()
    screen.finish()
    assert terminal.getvalue() == (
        "\x1b[1m> Hi\x1b[0m\n\x1b[2mHm\x1b[0m\x1b[2m.\x1b[0m\n\x1b[32m  f()\x1b[0m\nOne two.\n\x1b[31mOh.\x1b[0m\n"
    )


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_styles_gets_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    screen.show(ANSWER)
    screen.finish()
    assert terminal.getvalue() == "(thinking) Hm.\n  f()\nOne two.\nOh.\n"


def test_a_pipe_gets_the_answer_and_nothing_else() -> None:
    answers, asides = io.StringIO(), io.StringIO()
    screen = Screen(answers, asides)
    screen.show(ANSWER)
    screen.show([Piece(Kind.ANSWER, "Three.")])
    screen.finish()
    assert answers.getvalue() == "One two.\nThree.\n"
    assert asides.getvalue() == "(thinking) Hm.\n  f()\nOh.\n"


def test_an_aside_is_ended_before_the_answer_goes_elsewhere() -> None:
    answers, asides = io.StringIO(), Terminal()
    screen = Screen(answers, asides)
    screen.show([Piece(Kind.NOTE, "Wait")])
    assert not asides.getvalue().endswith("\n")
    screen.show([Piece(Kind.ANSWER, "One")])
    assert asides.getvalue().endswith("\n")


def test_what_people_said_stands_apart() -> None:
    terminal = io.StringIO()
    Screen(terminal, terminal).show([Piece(Kind.INPUT, "1"), Piece(Kind.ANSWER, "2"), Piece(Kind.INPUT, "3")])
    assert terminal.getvalue() == "> 1\n2\n\n> 3"


def test_two_streams_on_one_terminal_share_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    answers, asides = Terminal(), Terminal()
    seen = io.StringIO()
    for stream in (answers, asides):
        monkeypatch.setattr(stream, "write", seen.write)
    screen = Screen(answers, asides)
    screen.show([Piece(Kind.ANSWER, "One"), Piece(Kind.NOTE, "(two)"), Piece(Kind.ANSWER, "three")])
    screen.finish()
    assert seen.getvalue() == "One\n(two)\nthree\n"


def test_hidden_kinds_are_not_written() -> None:
    answers, asides = io.StringIO(), io.StringIO()
    screen = Screen(answers, asides, {Kind.THINKING, Kind.TOOL})
    screen.show(ANSWER)
    assert asides.getvalue() == "Oh."


def test_an_answer_that_ends_its_line_is_not_followed_by_an_empty_one() -> None:
    answers = io.StringIO()
    screen = Screen(answers, answers)
    screen.show([Piece(Kind.ANSWER, "One\n")])
    screen.note("Two")
    assert answers.getvalue() == "One\nTwo\n"


def test_nothing_hostile_is_written() -> None:
    terminal = Terminal()
    Screen(terminal, terminal).show([Piece(Kind.ANSWER, "\x1b]0;owned\x07\x1b[2J")])
    assert "\x1b" not in terminal.getvalue()
