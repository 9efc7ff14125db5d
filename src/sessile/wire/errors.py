"""What can be refused or fail, as data: one root, one leaf for each stable code.

SessileError
├── BadRequest            the request itself is wrong
│   ├── InvalidJson, InvalidMultipart, InvalidRequest, InvalidParameter, InvalidPageKey, InvalidFilter, UnknownCursor,
│   │   NotSupported
│   ├── KeyTaken, UnknownModel, UnknownTool, ToolCallNotOutstanding, RecordFixed
│   ├── NothingToCompact
├── Unauthenticated, Forbidden, HostNotAllowed, OriginNotAllowed
├── TooManyRequests
├── NotFound              agent, session, event, turn, route
├── MethodNotAllowed, UnsupportedMediaType, TooLarge, HeadersTooLarge
├── SessionRunning, InputTaken, InputWithdrawn, PreconditionFailed, RangeNotSatisfiable
├── Unprocessable         SessionDisabled, AgentDisabled, TemplateInvalid, IdempotencyKeyReused, TooManyInputs,
│                         TranscriptInvalid, SessionFull, ToolServerFailed
├── Unavailable           StorageUnavailable, SecretsUnavailable, Draining, Overloaded
└── FenceLost             inside only: another worker owns the turn

An HTTP status is not part of what is raised on the server; `api/errors` has the table. The docstring of a leaf is its
default message.
"""

from collections.abc import Sequence


class SessileError(Exception):
    """Something went wrong."""

    code: str = "internal_error"
    status: int | None = None
    """The HTTP status of the answer, where a client raises what a server answered."""
    request_id: str | None = None
    """The request that failed, as the log of the server names it; a client sets it."""
    retry_after: int | None = None
    """Seconds after which it may be tried again, where somebody knows."""

    def __init__(
        self,
        message: str | None = None,
        *,
        field_errors: dict[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.field_errors = field_errors
        self.id = id
        super().__init__(self.message)

    def __str__(self) -> str:
        if self.request_id is None or self.status is None or self.status < 500:
            return self.message
        return f"{self.message} (request {self.request_id})"


class BadRequest(SessileError):
    """The request is not valid."""

    code = "invalid_request"


class InvalidJson(BadRequest):
    """The body is not JSON that Sessile accepts."""

    code = "invalid_json"


class InvalidMultipart(BadRequest):
    """The body is not multipart/form-data that Sessile accepts."""

    code = "invalid_multipart"


class InvalidRequest(BadRequest):
    """A field of the body is not valid."""


class InvalidParameter(BadRequest):
    """A path, query or header parameter is not valid."""

    code = "invalid_parameter"


class InvalidPageKey(BadRequest):
    """The page_key does not come from an earlier page of this list."""

    code = "invalid_page_key"


class InvalidFilter(BadRequest):
    """A filter that cannot be read; the message points at the character."""

    code = "invalid_filter"


class UnknownCursor(BadRequest):
    """The cursor is not an event of this session, `start` or `now`."""

    code = "unknown_cursor"


class NotSupported(BadRequest):
    """This part of the contract is not built yet."""

    code = "not_supported"


class KeyTaken(BadRequest):
    """The key is already in use."""

    code = "key_taken"


class UnknownModel(BadRequest):
    """No configured model has this name."""

    code = "unknown_model"


class UnknownTool(BadRequest):
    """No configured tool has this name."""

    code = "unknown_tool"


class ToolCallNotOutstanding(BadRequest):
    """No client tool call with this id waits for an output."""

    code = "tool_call_not_outstanding"


class RecordFixed(BadRequest):
    """Records of the server can be neither hidden nor deleted."""

    code = "record_fixed"


class NothingToCompact(BadRequest):
    """There are too few turns to compact."""

    code = "nothing_to_compact"


class Unauthenticated(SessileError):
    """The API key is missing or not valid."""

    code = "unauthenticated"


class Forbidden(SessileError):
    """The API key does not have a role that allows this."""

    code = "forbidden"


class TooManyRequests(SessileError):
    """This API key sends more than it may; nothing was done, try again later."""

    code = "too_many_requests"

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HostNotAllowed(SessileError):
    """The Host header does not name this server."""

    code = "host_not_allowed"


class OriginNotAllowed(SessileError):
    """Pages of this origin may not call this server."""

    code = "origin_not_allowed"


class NotFound(SessileError):
    """There is no such thing here."""

    code = "not_found"


class InputWithdrawn(SessileError):
    """This input was withdrawn before a turn took it; it is not taken again."""

    code = "input_withdrawn"


class MethodNotAllowed(SessileError):
    """This path does not take this method."""

    code = "method_not_allowed"

    def __init__(self, message: str | None = None, *, allowed: Sequence[str] = ()) -> None:
        self.allowed = allowed
        super().__init__(message)


class UnsupportedMediaType(SessileError):
    """The body must be application/json."""

    code = "unsupported_media_type"


class TooLarge(SessileError):
    """The body is larger than this server accepts."""

    code = "request_too_large"


class HeadersTooLarge(SessileError):
    """The request line or the headers are larger than this server accepts."""

    code = "headers_too_large"


class SessionRunning(SessileError):
    """A turn of this session is running."""

    code = "session_running"


class InputTaken(SessileError):
    """The input was taken by a turn; it waits no more."""

    code = "input_taken"


class PreconditionFailed(SessileError):
    """The If-Match header names another version than the stored one."""

    code = "precondition_failed"


class RangeNotSatisfiable(SessileError):
    """The file is shorter than the range asks for."""

    code = "range_not_satisfiable"

    def __init__(self, message: str | None = None, *, size: int = 0) -> None:
        super().__init__(message)
        self.size = size
        """Bytes of the file."""


class Unprocessable(SessileError):
    """The request is well formed and cannot be carried out."""

    code = "unprocessable"


class SessionDisabled(Unprocessable):
    """The session is not enabled and takes no input."""

    code = "session_disabled"


class AgentDisabled(Unprocessable):
    """The agent is not enabled and takes no input."""

    code = "agent_disabled"


class TemplateInvalid(Unprocessable):
    """An instruction template names something that does not exist."""

    code = "template_invalid"


class TranscriptInvalid(Unprocessable):
    """The events are not a log that a session may have."""

    code = "transcript_invalid"


class SessionFull(Unprocessable):
    """The session cannot hold more files."""

    code = "session_full"


class IdempotencyKeyReused(Unprocessable):
    """This Idempotency-Key came with another request before."""

    code = "idempotency_key_reused"


class TooManyInputs(Unprocessable):
    """As many inputs wait as may wait in one session."""

    code = "too_many_inputs"


class ToolServerFailed(Unprocessable):
    """The tool server cannot be reached, or what it answers makes no sense."""

    code = "tool_server_failed"


class Unavailable(SessileError):
    """The server cannot do this now; try again."""

    code = "unavailable"


class StorageUnavailable(Unavailable):
    """The store could not make this durable; nothing was changed."""

    code = "storage_unavailable"


class SecretsUnavailable(Unavailable):
    """The server lacks the key that its secrets are encrypted with."""

    code = "secrets_unavailable"


class Draining(Unavailable):
    """The server is shutting down; try again on another one."""

    code = "server_draining"


class Overloaded(Unavailable):
    """The server has as much to do as it may take; nothing was stored, try again later."""

    code = "overloaded"

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class FenceLost(SessileError):
    """This worker no longer owns the turn."""

    code = "fence_lost"
