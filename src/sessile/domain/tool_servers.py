"""Rules over tool servers: what is stored of a request, what of it is secret, and what an answer shows. Pure.

What is secret (the headers and `auth`) is kept apart from the document, so that it can be sealed.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, structs

from sessile.domain.overrides import MASK
from sessile.wire import codec
from sessile.wire.errors import InvalidRequest
from sessile.wire.limits import MAX_METADATA_BYTES
from sessile.wire.tool_servers import (
    CreateToolServerRequest,
    HeaderAuth,
    RemoteAuth,
    ToolServer,
    UpdateToolServerRequest,
)

_NOT_OURS = frozenset({"connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"})
_PLAIN = ("name", "type", "description", "uri", "transport", "metadata")


class Secret(Struct, kw_only=True):
    """What a tool server is sent and nobody is shown."""

    headers: dict[str, str] = {}
    auth: RemoteAuth | None = None


class Endpoint(Struct, frozen=True, kw_only=True):
    """How a tool server is reached, with the secrets that it takes."""

    uri: str
    transport: Literal["sse", "streamable-http"]
    headers: Mapping[str, str]
    auth: RemoteAuth | None


class RemoteTool(Struct, frozen=True, kw_only=True):
    """A tool as its server describes it; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]
    idempotent: bool = False


def split(request: CreateToolServerRequest) -> tuple[bytes, bytes]:
    """The document and the secret of a new tool server. Raises InvalidRequest."""
    document = {name: value for name in _PLAIN if (value := getattr(request, name)) is not UNSET}
    _check(document)
    auth = None if request.auth is UNSET else request.auth
    _check_secret(request.headers, auth)
    return codec.encode(document), codec.encode(Secret(headers=request.headers, auth=auth))


def changed(document: bytes, secret: bytes, changes: UpdateToolServerRequest) -> tuple[bytes, bytes]:
    """Document and secret after a PATCH. A header that comes back masked keeps its value. Raises InvalidRequest."""
    old: dict[str, Any] = msgspec.json.decode(document)
    new = {name: value for name, value in structs.asdict(changes).items() if name in _PLAIN and value is not UNSET}
    _check(new)
    kept = msgspec.json.decode(secret, type=Secret)
    if changes.headers is not UNSET:
        kept.headers = {name: _unmasked(name, value, kept.headers) for name, value in changes.headers.items()}
    if changes.auth is not UNSET:
        kept.auth = changes.auth
    _check_secret(kept.headers, kept.auth)
    return codec.encode(old | new), codec.encode(kept)


def shown(key: str, enabled: bool, document: bytes, secret: bytes, created_at: int, updated_at: int) -> ToolServer:
    """A tool server as an answer shows it."""
    headers = msgspec.json.decode(secret, type=Secret).headers
    return ToolServer(
        id=key,
        **msgspec.json.decode(document),
        headers=dict.fromkeys(headers, MASK),
        enabled=enabled,
        created_at=codec.rfc3339(created_at),
        updated_at=codec.rfc3339(updated_at),
    )


def endpoint(document: bytes, secret: bytes) -> Endpoint:
    """How the server is reached."""
    plain: dict[str, Any] = msgspec.json.decode(document)
    hidden = msgspec.json.decode(secret, type=Secret)
    return Endpoint(uri=plain["uri"], transport=plain["transport"], headers=hidden.headers, auth=hidden.auth)


def described(name: str, document: bytes) -> RemoteTool:
    """A stored tool, for a model."""
    tool: dict[str, Any] = msgspec.json.decode(document)
    hints = tool.get("annotations", {})
    return RemoteTool(
        name=name,
        description=tool["description"],
        parameters=tool["input_schema"],
        idempotent=hints.get("read_only_hint") is True or hints.get("idempotent_hint") is True,
    )


def _check_headers(headers: Mapping[str, str], field: str) -> None:
    """Raise InvalidRequest for a header that is not the caller's to send."""
    for name in headers:
        if name.lower() in _NOT_OURS:
            reason = f"The header {name[:100]!r} cannot be sent."
            raise InvalidRequest(f"{field}: {reason}", field_errors={field: reason})


def _check_secret(headers: Mapping[str, str], auth: RemoteAuth | None) -> None:
    _check_headers(headers, "headers")
    if isinstance(auth, HeaderAuth):
        _check_headers({auth.header: auth.value}, "auth")


def _check(document: Mapping[str, Any]) -> None:
    if len(codec.encode(document.get("metadata", {}))) > MAX_METADATA_BYTES:
        reason = f"The metadata is larger than {MAX_METADATA_BYTES} bytes."
        raise InvalidRequest(f"metadata: {reason}", field_errors={"metadata": reason})


def _unmasked(name: str, value: str, kept: Mapping[str, str]) -> str:
    return kept[name] if value == MASK and name in kept else value
