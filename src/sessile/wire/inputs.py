"""What may be posted to a session, and what a synchronous answer looks like."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sessile.wire.events import ContractEvent, InputPart, TurnError
from sessile.wire.ids import Key, TurnId
from sessile.wire.limits import MAX_INPUT_CHARS, MAX_INPUT_MESSAGES
from sessile.wire.sessions import StopReason

_MAX_EVENT_ID_CHARS = 100
CompactionMessage = Annotated[str, Meta(min_length=1, max_length=10_000)]
InputText = Annotated[str, Meta(min_length=1, max_length=MAX_INPUT_CHARS)]
Behavior = Literal["steer", "follow_up"]
Since = Annotated[str, Meta(pattern=r"^(start|aev_[0-9a-zA-Z_-]+)\Z")]


class InputMessageRequest(Struct, kw_only=True, tag_field="type", tag="input_message", forbid_unknown_fields=True):
    """An input of one or more parts, or the shorthand `content` for one text. Exactly one of the two."""

    messages: Annotated[list[InputPart], Meta(min_length=1, max_length=MAX_INPUT_MESSAGES)] | UnsetType = UNSET
    content: InputText | UnsetType = UNSET
    stream_response: bool = False
    since: Since | UnsetType = UNSET
    behavior: Behavior | UnsetType = UNSET


class InterruptRequest(Struct, kw_only=True, tag_field="type", tag="interrupt", forbid_unknown_fields=True):
    """Stop the turn that runs. The answer comes when it has stopped."""

    stream_response: bool = False


class CompactRequest(Struct, kw_only=True, tag_field="type", tag="compact", forbid_unknown_fields=True):
    """Summarise what came before the recent inputs, or all up to an event, in a turn of its own."""

    compact_up_to_event_id: Annotated[str, Meta(min_length=1, max_length=_MAX_EVENT_ID_CHARS)] | UnsetType = UNSET
    compaction_message: CompactionMessage | UnsetType = UNSET
    stream_response: bool = False


InputRequest = InputMessageRequest | InterruptRequest | CompactRequest
"""What may be posted to a session."""


class InputResponse(Struct, kw_only=True):
    """The durable events of the turn so far, the input first, and how the turn stands.

    To an interrupt: the events that came since it was recorded. `turn_id` is null when no turn ran.
    """

    events: list[ContractEvent]
    session_key: Key
    turn_id: TurnId | None
    status: Literal["running", "stopped"]
    stop_reason: StopReason | None
    error: TurnError | None
