"""What nodes say to one another about the turns that one of them runs and others show."""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from sessile.wire import codec
from sessile.wire.events import (
    CompactionStarted,
    ContextConsumed,
    LiveFrame,
    StreamingAgentOutput,
    StreamingAgentOutputEnd,
    StreamingThinking,
    StreamingThinkingEnd,
    ToolActivity,
)


class Want(Struct, frozen=True, tag="want"):
    """To all: followers here want what the turns of these sessions show, `afresh` of those with the text so far.

    It holds for a few heartbeats.
    """

    sessions: list[int]
    afresh: list[int]


class Leave(Struct, frozen=True, tag="leave"):
    """To whoever runs the turn: nobody here wants it any more."""

    session: int


class Start(Struct, frozen=True, tag="start"):
    """To whoever wants it: the text so far of the output in flight, or that there is none; what is new follows.

    `head`: the newest event of the log that was told before, here and in `Piece`; None when it is not known.
    """

    session: int
    head: int | None
    output: StreamingAgentOutput | None


class Piece(Struct, frozen=True, tag="piece"):
    """To whoever wants it: a frame of the turn."""

    session: int
    head: int | None
    frame: LiveFrame


Message = Want | Leave | Start | Piece


class _Activity(ToolActivity, kw_only=True, tag="tool_activity"):
    """What a tool reports, whose event is passed on as it is."""

    agent_event: msgspec.Raw | UnsetType = UNSET  # type: ignore[assignment]


class _Received(Piece, frozen=True, tag="piece"):
    frame: (
        StreamingAgentOutput
        | StreamingAgentOutputEnd
        | StreamingThinking
        | StreamingThinkingEnd
        | ContextConsumed
        | CompactionStarted
        | _Activity
    )


_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Want | Leave | Start | _Received)


def encode(message: Message) -> bytes:
    """A message on one line."""
    return codec.encode(message)


def decode(line: bytes) -> Message | None:
    """A message, or None when it is of a version that knows others."""
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None
