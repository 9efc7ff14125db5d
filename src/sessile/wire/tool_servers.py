"""Tool servers, and the tools that agents can name: what a caller sends, and what an answer shows."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from sessile.wire.agents import ListMetadata, Metadata
from sessile.wire.ids import Timestamp
from sessile.wire.limits import (
    MAX_DESCRIPTION_CHARS,
    MAX_HEADER_VALUE_CHARS,
    MAX_TOOL_SERVER_HEADERS,
    MAX_TOOL_SERVER_NAME_CHARS,
    MAX_URI_CHARS,
)

ToolServerId = Annotated[str, Meta(pattern=r"^tsr_.*\Z", max_length=255)]
ToolServerName = Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_SERVER_NAME_CHARS)]
Transport = Literal["sse", "streamable-http"]
Uri = Annotated[str, Meta(min_length=1, max_length=MAX_URI_CHARS, extra_json_schema={"format": "uri"})]
Description = Annotated[str, Meta(max_length=MAX_DESCRIPTION_CHARS)]
Secret = Annotated[str, Meta(max_length=MAX_HEADER_VALUE_CHARS)]
HeaderName = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}\Z")]
HeaderValue = Annotated[str, Meta(pattern=r"^[\t -~\u0080-\u00ff]*\Z", max_length=MAX_HEADER_VALUE_CHARS)]
Headers = Annotated[dict[HeaderName, HeaderValue], Meta(max_length=MAX_TOOL_SERVER_HEADERS)]


class BearerAuth(Struct, tag_field="type", tag="bearer", forbid_unknown_fields=True):
    """A bearer token."""

    token: HeaderValue


class HeaderAuth(Struct, tag_field="type", tag="header", forbid_unknown_fields=True):
    """A header of the caller's choice."""

    header: HeaderName
    value: HeaderValue


class ClientCredentialsAuth(Struct, tag_field="type", tag="oauth_client_credentials", forbid_unknown_fields=True):
    """OAuth 2 client credentials."""

    client_id: Secret
    client_secret: Secret
    token_endpoint: Uri
    scopes: Annotated[list[Secret], Meta(max_length=50)] | UnsetType = UNSET


RemoteAuth = BearerAuth | HeaderAuth | ClientCredentialsAuth


class CreateToolServerRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new tool server. Its tools are there after a sync."""

    name: ToolServerName
    type: Literal["mcp"]
    description: Description | UnsetType = UNSET
    uri: Uri
    headers: Headers = field(default_factory=dict)
    transport: Transport
    auth: RemoteAuth | UnsetType = UNSET
    enabled: bool = True
    metadata: Metadata = field(default_factory=dict)


class UpdateToolServerRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of a tool server to change; each is replaced whole."""

    name: ToolServerName | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    uri: Uri | UnsetType = UNSET
    headers: Headers | UnsetType = UNSET
    transport: Transport | UnsetType = UNSET
    auth: RemoteAuth | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class ToolServer(Struct, kw_only=True):
    """A tool server as an answer shows it: values of headers are masked, `auth` is not shown."""

    id: ToolServerId
    name: ToolServerName
    type: Literal["mcp"]
    description: str | UnsetType = UNSET
    uri: Uri
    headers: dict[str, str]
    transport: Transport
    enabled: bool
    metadata: dict[str, Any]
    created_at: Timestamp
    updated_at: Timestamp


class ListToolServersResponse(Struct):
    """A page of tool servers, newest first."""

    tool_servers: list[ToolServer]
    metadata: ListMetadata


class ToolAnnotations(Struct, kw_only=True, omit_defaults=True):
    """What a tool server says of a tool; nobody checks it."""

    read_only_hint: bool | UnsetType = UNSET
    destructive_hint: bool | UnsetType = UNSET
    idempotent_hint: bool | UnsetType = UNSET
    open_world_hint: bool | UnsetType = UNSET


class _Tool(Struct, kw_only=True, tag_field="type"):
    id: Annotated[str, Meta(pattern=r"^tol_.*\Z", max_length=255)]
    name: str
    title: str | UnsetType = UNSET
    description: str
    enabled: bool
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | UnsetType = UNSET
    created_at: Timestamp | UnsetType = UNSET
    updated_at: Timestamp | UnsetType = UNSET


class McpTool(_Tool, kw_only=True, tag="mcp"):
    """A tool of a tool server."""

    server_id: ToolServerId
    annotations: ToolAnnotations | UnsetType = UNSET


class FunctionDefinition(Struct):
    """A function of this server. Its code stays on the server: `code` is empty."""

    language: Literal["python"]
    code: str


class LambdaTool(_Tool, kw_only=True, tag="lambda"):
    """A function of the server's configuration."""

    language: Literal["python"]
    function_definition: FunctionDefinition


Tool = McpTool | LambdaTool


class ListToolsResponse(Struct):
    """A page of tools: the functions of the server by name, then the tools of tool servers, newest first."""

    tools: list[Tool]
    metadata: ListMetadata


class UpdateMcpToolRequest(Struct, tag_field="type", tag="mcp", forbid_unknown_fields=True):
    """Whether a tool of a tool server may be used."""

    enabled: bool | UnsetType = UNSET
