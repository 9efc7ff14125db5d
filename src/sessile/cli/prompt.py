"""The line that a person types: edited with readline where there is one, with a history."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

from sessile.cli.terminal import Style, has_styles, styled

try:
    import readline
except ImportError:  # Windows has none; the terminal's own line editing is left.
    readline = None  # type: ignore[assignment]

_MARK = "> "


class Prompt:
    """Asks for lines on a terminal."""

    def __init__(self, history: Iterable[str] = ()) -> None:
        self._edits = readline is not None and sys.stdout.isatty()
        if self._edits:
            for line in history:
                readline.add_history(line)

    def read(self, draft: str = "") -> str:
        """The next line, begun with `draft`. Raises EOFError at its end (Ctrl-D) and KeyboardInterrupt for Ctrl-C."""
        with self._begun_with(draft):
            return self._line(_MARK)

    def ask(self, question: str) -> str:
        """The answer to a question. Raises as `read`."""
        answer = self._line(f"{question} ")
        self._forget(answer)
        return answer

    def agree(self, question: str) -> bool:
        """Whether the person agrees; an empty line does, the end of input does not. Raises KeyboardInterrupt."""
        try:
            answer = self._line(f"{question} [Y/n] ")
        except EOFError:
            return False
        self._forget(answer)
        return answer.strip().lower() in ("", "y", "yes")

    def _forget(self, answer: str) -> None:
        """What answers a question is no line to come back to."""
        if self._edits and answer:
            readline.remove_history_item(readline.get_current_history_length() - 1)

    def _line(self, mark: str) -> str:
        try:
            if self._edits:
                return input(_marked(mark))
            sys.stderr.write(mark)
            sys.stderr.flush()
            return input()
        except (EOFError, KeyboardInterrupt):
            stream = sys.stdout if self._edits else sys.stderr
            stream.write("\n")
            stream.flush()
            raise

    @contextlib.contextmanager
    def _begun_with(self, draft: str) -> Iterator[None]:
        if not self._edits:
            yield
            return
        readline.set_startup_hook((lambda: readline.insert_text(draft)) if draft else None)
        try:
            yield
        finally:
            readline.set_startup_hook(None)


def _marked(mark: str) -> str:
    """The prompt; readline must be told which characters take no room."""
    if not has_styles(sys.stdout):
        return mark
    start, end = styled("|", Style.BOLD, sys.stdout).split("|")
    return f"\001{start}\002{mark}\001{end}\002"
