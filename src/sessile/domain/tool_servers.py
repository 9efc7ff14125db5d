"""Rules over tool servers: what is stored of a request, what of it is secret, and what an answer shows. Pure.

What is secret (the headers and `auth`) is no part of the document: each has a name, and goes to the vault.
"""

from collections.abc import Collection, Mapping
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
_AUTH, _HEADER = "auth", "header "
"""The names of the secrets: that of `auth`, and what stands before the name of a header."""
_REMOTE_AUTH: Any = RemoteAuth  # a union is no `type` to the type checker
_PLAIN = ("name", "type", "description", "uri", "transport", "metadata")


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


def document(request: CreateToolServerRequest) -> bytes:
    """What is stored in the clear of a new tool server. Raises InvalidRequest."""
    plain = {name: value for name in _PLAIN if (value := getattr(request, name)) is not UNSET}
    _check(plain)
    return codec.encode(plain)


def secrets(request: CreateToolServerRequest | UpdateToolServerRequest) -> dict[str, str]:
    """The secrets that a request sets, by name; headers that come masked are not among them. Raises InvalidRequest."""
    found = {}
    if request.headers is not UNSET:
        _check_headers(request.headers, "headers")
        found = {_HEADER + name: value for name, value in request.headers.items() if value != MASK}
    if request.auth is not UNSET:
        if isinstance(request.auth, HeaderAuth):
            _check_headers({request.auth.header: request.auth.value}, "auth")
        found[_AUTH] = codec.encode(request.auth).decode()
    return found


def check_masks(request: CreateToolServerRequest | UpdateToolServerRequest, kept: Collection[str]) -> None:
    """Raise InvalidRequest for a header that comes masked and is not among the secrets that are there."""
    for name, value in ({} if request.headers is UNSET else request.headers).items():
        if value == MASK and _HEADER + name not in kept:
            reason = f"{MASK} is how a header is shown, and there is no {name!r} to keep."
            raise InvalidRequest(f"headers: {reason}", field_errors={"headers": reason})


def changed(document: bytes, kept: Collection[str], changes: UpdateToolServerRequest) -> tuple[bytes, Collection[str]]:
    """The document after a PATCH, and the names of the secrets that there are then. Raises InvalidRequest."""
    old: dict[str, Any] = msgspec.json.decode(document)
    new = {name: value for name, value in structs.asdict(changes).items() if name in _PLAIN and value is not UNSET}
    _check(new)
    check_masks(changes, kept)
    names = {name for name in kept if name == _AUTH or changes.headers is UNSET}
    if changes.headers is not UNSET:
        names.update(_HEADER + name for name in changes.headers)
    if changes.auth is not UNSET:
        names.add(_AUTH)
    return codec.encode(old | new), names


def shown(
    key: str, enabled: bool, document: bytes, secrets: Collection[str], created_at: int, updated_at: int
) -> ToolServer:
    """A tool server as an answer shows it."""
    headers = sorted(name.removeprefix(_HEADER) for name in secrets if name != _AUTH)
    return ToolServer(
        id=key,
        **msgspec.json.decode(document),
        headers=dict.fromkeys(headers, MASK),
        enabled=enabled,
        created_at=codec.rfc3339(created_at),
        updated_at=codec.rfc3339(updated_at),
    )


def endpoint(document: bytes, secrets: Mapping[str, str]) -> Endpoint:
    """How the server is reached, with its secrets by name."""
    plain: dict[str, Any] = msgspec.json.decode(document)
    auth = secrets.get(_AUTH)
    return Endpoint(
        uri=plain["uri"],
        transport=plain["transport"],
        headers={name.removeprefix(_HEADER): value for name, value in secrets.items() if name != _AUTH},
        auth=None if auth is None else msgspec.json.decode(auth, type=_REMOTE_AUTH),
    )


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


def _check(document: Mapping[str, Any]) -> None:
    if len(codec.encode(document.get("metadata", {}))) > MAX_METADATA_BYTES:
        reason = f"The metadata is larger than {MAX_METADATA_BYTES} bytes."
        raise InvalidRequest(f"metadata: {reason}", field_errors={"metadata": reason})
