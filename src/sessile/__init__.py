"""Sessile: a home for the conversations between people and AI agents.

`import sessile` loads next to nothing; what is used comes on first use.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessile.client.client import AsyncClient
    from sessile.client.errors import (
        ConnectionLost,
        RequestTimedOut,
        ServerUnreachable,
        StreamBroken,
        UnexpectedAnswer,
        UnknownFault,
    )
    from sessile.client.sync import Client
    from sessile.library import open as open
    from sessile.wire.errors import (
        AgentDisabled,
        BadRequest,
        Draining,
        Forbidden,
        HeadersTooLarge,
        HostNotAllowed,
        IdempotencyKeyReused,
        InputTaken,
        InputWithdrawn,
        InvalidFilter,
        InvalidJson,
        InvalidMultipart,
        InvalidPageKey,
        InvalidParameter,
        InvalidRequest,
        KeyTaken,
        MethodNotAllowed,
        NotFound,
        NothingToCompact,
        NotSupported,
        OriginNotAllowed,
        Overloaded,
        PreconditionFailed,
        RangeNotSatisfiable,
        RecordFixed,
        SecretsUnavailable,
        SessileError,
        SessionDisabled,
        SessionFull,
        SessionRunning,
        StorageUnavailable,
        TemplateInvalid,
        TooLarge,
        ToolCallNotOutstanding,
        ToolServerFailed,
        TooManyInputs,
        TooManyRequests,
        TranscriptInvalid,
        Unauthenticated,
        Unavailable,
        UnknownCursor,
        UnknownModel,
        UnknownTool,
        Unprocessable,
        UnsupportedMediaType,
    )

__all__ = [
    "AgentDisabled",
    "AsyncClient",
    "BadRequest",
    "Client",
    "ConnectionLost",
    "Draining",
    "Forbidden",
    "HeadersTooLarge",
    "HostNotAllowed",
    "IdempotencyKeyReused",
    "InputTaken",
    "InputWithdrawn",
    "InvalidFilter",
    "InvalidJson",
    "InvalidMultipart",
    "InvalidPageKey",
    "InvalidParameter",
    "InvalidRequest",
    "KeyTaken",
    "MethodNotAllowed",
    "NotFound",
    "NotSupported",
    "NothingToCompact",
    "OriginNotAllowed",
    "Overloaded",
    "PreconditionFailed",
    "RangeNotSatisfiable",
    "RecordFixed",
    "RequestTimedOut",
    "SecretsUnavailable",
    "ServerUnreachable",
    "SessileError",
    "SessionDisabled",
    "SessionFull",
    "SessionRunning",
    "StorageUnavailable",
    "StreamBroken",
    "TemplateInvalid",
    "TooLarge",
    "TooManyInputs",
    "TooManyRequests",
    "ToolCallNotOutstanding",
    "ToolServerFailed",
    "TranscriptInvalid",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "UnknownCursor",
    "UnknownFault",
    "UnknownModel",
    "UnknownTool",
    "Unprocessable",
    "UnsupportedMediaType",
]  # `open` is not among them: a star import must not hide the built-in one.

_HOMES = {
    "AsyncClient": "sessile.client.client",
    "Client": "sessile.client.sync",
    "open": "sessile.library",
    "ConnectionLost": "sessile.client.errors",
    "RequestTimedOut": "sessile.client.errors",
    "ServerUnreachable": "sessile.client.errors",
    "StreamBroken": "sessile.client.errors",
    "UnexpectedAnswer": "sessile.client.errors",
    "UnknownFault": "sessile.client.errors",
}
"""Where a name lives; the others live in `sessile.wire.errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__ and name not in _HOMES:
        raise AttributeError(f"module 'sessile' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES.get(name, "sessile.wire.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})
