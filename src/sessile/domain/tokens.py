"""How many tokens a text is, roughly, for providers that do not count. Pure.

The tokenizers of current models make one token of 3 to 5 bytes of UTF-8 in prose, fewer in code, tables and scripts
that they know badly. A token for every BYTES_PER_TOKEN bytes is right within a factor of ERROR for prose, code and
JSON; a test holds it against the counts of the offline model.
"""

from collections.abc import Iterable

from sessile.domain.context import text
from sessile.domain.messages import Message

BYTES_PER_TOKEN = 3.5
ERROR = 2.0
_MESSAGE_TOKENS = 4
"""What the frame of a message costs besides its text."""


def estimate(words: str) -> int:
    """About so many tokens."""
    return round(len(words.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


def most_tokens(chars: int) -> int:
    """No text of so many characters is estimated to have more."""
    return round(chars * 4 / BYTES_PER_TOKEN)


def estimate_messages(messages: Iterable[Message]) -> int:
    """About so many tokens, frames of messages included."""
    return sum(estimate(text(message)) + _MESSAGE_TOKENS for message in messages)
