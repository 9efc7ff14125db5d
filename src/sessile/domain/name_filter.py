"""What a `filter` of a list means: a regular expression on names and descriptions, by an engine with linear time."""

from functools import lru_cache

import re2

from sessile.domain.filter_parser import invalid

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20


def check(pattern: str) -> None:
    """Raises InvalidFilter, which points at what is wrong, for what is no pattern of RE2."""
    try:
        re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace")
        what, _, part = reason.partition(": ")
        at = pattern.find(part) if part else len(pattern)
        raise invalid("filter", pattern, max(at, 0), what) from None


def matches(pattern: str, *texts: str | None) -> bool:
    """Whether the pattern is found anywhere in one of the texts."""
    search = _compiled(pattern).search
    return any(text is not None and search(text) is not None for text in texts)


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> "re2._Regexp":
    return re2.compile(pattern, _OPTIONS)
