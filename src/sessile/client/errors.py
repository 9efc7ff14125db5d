"""What can go wrong between a client and its server, besides what the server answers (`sessile.wire.errors`)."""

from sessile.wire import errors
from sessile.wire.errors import FenceLost, SessileError


class ServerUnreachable(SessileError, ConnectionError):
    """No connection to the server could be made. Nothing was sent."""

    code = "server_unreachable"


class ConnectionLost(SessileError, ConnectionError):
    """The connection broke before the answer was complete; the server may have done what was asked."""

    code = "connection_lost"


class RequestTimedOut(SessileError, TimeoutError):
    """The answer took too long; the server may have done what was asked."""

    code = "request_timed_out"


class StreamBroken(SessileError):
    """The stream broke off. The turn goes on: `turns.wait` waits for it, and `events.list` has what it said."""

    code = "stream_broken"

    def __init__(self, message: str | None = None, *, turn_id: str = "", event_id: str = "") -> None:
        self.turn_id = turn_id
        self.event_id = event_id
        super().__init__(message)


class UnexpectedAnswer(SessileError):
    """The answer does not come from a Sessile server, or from one that this client does not understand."""

    code = "unexpected_answer"


class UnknownFault(SessileError):
    """The server refused with a code that this client does not know; it is in `code`."""

    code = "unknown_fault"


def _leaves(kind: type[SessileError]) -> list[type[SessileError]]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [leaf for child in children for leaf in _leaves(child)] if children else [kind]


KINDS: dict[str, type[SessileError]] = {SessileError.code: SessileError} | {
    leaf.code: leaf for leaf in _leaves(SessileError) if leaf is not FenceLost
}
"""What is raised for each code of an error answer."""


def fault(
    code: str,
    message: str,
    *,
    status: int,
    request_id: str | None,
    field_errors: dict[str, str] | None = None,
    id: str | None = None,
) -> SessileError:
    """The exception for an error answer."""
    error = KINDS.get(code, UnknownFault)(message)
    error.code, error.status, error.request_id = code, status, request_id
    error.field_errors, error.id = field_errors, id
    return error
