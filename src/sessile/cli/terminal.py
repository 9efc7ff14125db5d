"""Styled text for a terminal, and plain text where there is none."""

import os
from enum import Enum
from typing import TextIO


class Style(Enum):
    """How a text stands out, as the parameter of the escape sequence that starts it."""

    PLAIN = ""
    DIM = "2"
    BOLD = "1"
    GREEN = "32"
    YELLOW = "33"
    RED = "31"


def has_styles(stream: TextIO) -> bool:
    """Whether a person looks at the stream and wants styles: NO_COLOR and dumb terminals have none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Style, stream: TextIO) -> str:
    """The text as it is written to this stream."""
    if not text or style is Style.PLAIN or not has_styles(stream):
        return text
    return f"\x1b[{style.value}m{text}\x1b[0m"
