"""Texts of servers, models and tools, made harmless for a terminal."""

import re

_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, what turns the direction of writing, and halves of a character."""


def printable(text: str) -> str:
    """The text with nothing in it that a terminal would act on: `ESC` becomes `\\x1b`; carriage returns are dropped."""
    return _HARMFUL.sub(_visible, text)


def one_line(text: str, limit: int | None = None) -> str:
    """A printable text on one line, cut to `limit` characters."""
    flat = " ".join(printable(text).split())
    return flat if limit is None or len(flat) <= limit else f"{flat[: limit - 3]}..."


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code == 0x0D:
        return ""
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
