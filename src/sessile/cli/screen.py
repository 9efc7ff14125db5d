"""Where the pieces of a conversation are written: the answer to one stream, all else to that one or to another."""

from collections.abc import Container, Iterable
from typing import TextIO

from sessile.cli.terminal import Style, has_styles, styled
from sessile.cli.text import printable
from sessile.cli.transcript import Kind, Piece

_STYLES = {
    Kind.INPUT: Style.BOLD,
    Kind.ANSWER: Style.PLAIN,
    Kind.THINKING: Style.DIM,
    Kind.TOOL: Style.GREEN,
    Kind.FAILURE: Style.YELLOW,
    Kind.NOTE: Style.DIM,
    Kind.PROBLEM: Style.RED,
}
_MARKS = {Kind.INPUT: "> ", Kind.TOOL: "  ", Kind.FAILURE: "  "}
_MARKS_WITHOUT_STYLES = {Kind.THINKING: "(thinking) "}


class Screen:
    """Writes pieces as they come, and knows which lines are unfinished.

    `asides` takes whatever is not the answer; kinds in `hidden` are not shown. Two streams that both lead to a terminal
    share their lines.
    """

    def __init__(self, answers: TextIO, asides: TextIO, hidden: Container[Kind] = ()) -> None:
        self._answers, self._asides, self._hidden = answers, asides, hidden
        self._shared = answers.isatty() and asides.isatty()
        self._unfinished: set[TextIO] = set()
        self._used: set[TextIO] = set()

    def show(self, pieces: Iterable[Piece]) -> None:
        """Write pieces, each at once."""
        for kind, text, fresh in pieces:
            if kind in self._hidden:
                continue
            stream = self._answers if kind is Kind.ANSWER else self._asides
            if fresh:
                self.finish()
                if kind is Kind.INPUT:
                    self.gap()
                marks = _MARKS if has_styles(stream) else _MARKS | _MARKS_WITHOUT_STYLES
                text = marks.get(kind, "") + text
            self._write(stream, printable(text), _STYLES[kind])

    def note(self, text: str) -> None:
        """Write a remark of ours."""
        self.show([Piece(Kind.NOTE, text)])
        self.finish()

    def problem(self, text: str) -> None:
        """Write what went wrong."""
        self.show([Piece(Kind.PROBLEM, text)])
        self.finish()

    def finish(self) -> None:
        """End the lines that are unfinished."""
        self._finish_line(self._answers)
        self._finish_line(self._asides)

    def gap(self) -> None:
        """Leave a line empty, if anything stands above it."""
        self.finish()
        if self._line(self._asides) in self._used:
            self._write(self._asides, "\n", Style.PLAIN)

    def _write(self, stream: TextIO, text: str, style: Style) -> None:
        stream.write(styled(text, style, stream))
        stream.flush()
        if text:
            self._used.add(self._line(stream))
            change = self._unfinished.discard if text.endswith("\n") else self._unfinished.add
            change(self._line(stream))

    def _finish_line(self, stream: TextIO) -> None:
        if self._line(stream) in self._unfinished:
            self._write(stream, "\n", Style.PLAIN)

    def _line(self, stream: TextIO) -> TextIO:
        return self._answers if self._shared else stream
