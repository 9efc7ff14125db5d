"""A whole log as the messages of a model, for tests of the context."""

from collections.abc import Iterable

from sessile.domain.context import Conversation
from sessile.domain.messages import Message
from sessile.wire.events import AnyEvent


def build(instructions: str, events: Iterable[AnyEvent], max_chars: int) -> list[Message]:
    """The messages for the next model call, from events in log order."""
    conversation = Conversation()
    for event in events:
        conversation.add(event)
    return conversation.messages(instructions, max_chars)
