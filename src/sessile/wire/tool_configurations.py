"""The tool configurations an agent document may hold, one shape a `type`, as in the Agents v2 contract.

Sessile keeps all of them. It runs `lambda`, a Python function that the server's configuration registers, `mcp`, a tool
of a tool server, `web_get`, `sub_agent`, and those for the files of a session; and it offers `client`, which whoever
talks to the session runs.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from sessile.wire.ids import Key, Name

VENDOR_TYPES = frozenset(
    {
        "corpora_search",
        "web_search",
        "dynamic_vectara",
        "document_conversion",
        "get_document_text",
        "reference",
    }
)
"""Types that real callers configure and that Sessile does not run: kept as given, never offered to a model."""

ToolId = Annotated[str, Meta(pattern=r"^tol_.*\Z", max_length=255)]
Transform = Annotated[str, Meta(max_length=4096)]
DescriptionTemplate = Annotated[str, Meta(max_length=10_000)]
Arguments = dict[str, Any]
Moment = Annotated[datetime, Meta(tz=True)]


class EagerReference(Struct, forbid_unknown_fields=True):
    """A value to be looked up when the tool is called."""

    ref: str = field(name="$ref")


class _ToolConfiguration(Struct, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    key: Key | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    description: str | UnsetType = UNSET
    description_template: DescriptionTemplate | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    created_at: Moment | UnsetType = UNSET
    updated_at: Moment | UnsetType = UNSET
    output_transform: Transform | UnsetType = UNSET
    input_transform: Transform | UnsetType = UNSET


class McpToolConfiguration(_ToolConfiguration, kw_only=True, tag="mcp"):
    """A tool of a tool server: `tool_id` is its id; without it, `tol_` and the name of the configuration."""

    tool_id: ToolId | UnsetType = UNSET
    argument_override: Arguments | UnsetType = UNSET


class LambdaToolConfiguration(_ToolConfiguration, kw_only=True, tag="lambda"):
    """A Python function of this server: `tool_id` is `tol_` and its name in `sessile.toml`.

    Without `tool_id` the name of the configuration is the name of the function.
    """

    tool_id: ToolId | UnsetType = UNSET
    argument_override: Arguments | UnsetType = UNSET


class ClientToolConfiguration(_ToolConfiguration, kw_only=True, tag="client"):
    """A tool that the caller runs. `input_schema`, the JSON schema of its arguments, is an addition to the contract."""

    tool_id: ToolId
    input_schema: dict[str, Any] | UnsetType = UNSET
    argument_override: Arguments | UnsetType = UNSET


class SubAgentParameters(Struct, forbid_unknown_fields=True):
    """Arguments of a sub-agent call."""

    message: str | UnsetType = UNSET
    session_tti_minutes: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class SubAgentConfiguration(Struct, forbid_unknown_fields=True):
    """Which agent a sub-agent tool calls, and in which session."""

    agent_key: Key
    session_mode: Literal["ephemeral", "persistent", "session_scoped", "agent_scoped", "llm_controlled"] | UnsetType = (
        UNSET
    )
    session_metadata: dict[str, Any] | UnsetType = UNSET


class SubAgentToolConfiguration(_ToolConfiguration, kw_only=True, tag="sub_agent"):
    """Another agent as a tool."""

    argument_override: SubAgentParameters | UnsetType = UNSET
    sub_agent_configuration: SubAgentConfiguration


class WebGetNoAuth(Struct, tag_field="type", tag="none", forbid_unknown_fields=True):
    """No authentication."""


class WebGetBearerAuth(Struct, tag_field="type", tag="bearer", forbid_unknown_fields=True):
    """A bearer token."""

    token: str | EagerReference


class WebGetHeaderAuth(Struct, tag_field="type", tag="header", forbid_unknown_fields=True):
    """A header of the caller's choice."""

    header: str
    value: str | EagerReference


class WebGetClientCredentialsAuth(Struct, tag_field="type", tag="oauth_client_credentials", forbid_unknown_fields=True):
    """OAuth 2 client credentials."""

    client_id: str | EagerReference
    client_secret: str | EagerReference
    token_endpoint: str
    scopes: list[str] | UnsetType = UNSET


class WebGetRefreshTokenAuth(Struct, tag_field="type", tag="oauth_refresh_token", forbid_unknown_fields=True):
    """An OAuth 2 refresh token."""

    client_id: str | EagerReference
    client_secret: str | EagerReference
    refresh_token: str | EagerReference
    token_endpoint: str


WebGetAuth = WebGetNoAuth | WebGetBearerAuth | WebGetHeaderAuth | WebGetClientCredentialsAuth | WebGetRefreshTokenAuth


class WebGetParameters(Struct, forbid_unknown_fields=True):
    """Arguments of a web request. `headers` is a map; one that holds only `$ref` stands for another map."""

    url: str | EagerReference | UnsetType = UNSET
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] | UnsetType = UNSET
    headers: dict[str, str | EagerReference] | UnsetType = UNSET
    body: str | EagerReference | UnsetType = UNSET
    follow_redirects: bool | EagerReference | UnsetType = UNSET
    timeout_seconds: int | EagerReference | UnsetType = UNSET
    head_lines: int | EagerReference | UnsetType = UNSET
    tail_lines: int | EagerReference | UnsetType = UNSET
    ssl_verify: bool | EagerReference | UnsetType = UNSET
    max_content_bytes: int | EagerReference | UnsetType = UNSET
    auth: WebGetAuth | UnsetType = UNSET


class WebGetToolConfiguration(_ToolConfiguration, kw_only=True, tag="web_get"):
    """Fetch a page of the web."""

    argument_override: WebGetParameters | UnsetType = UNSET


class ArtifactReadParameters(Struct, forbid_unknown_fields=True):
    """Arguments of an artifact read."""

    artifact_id: str | UnsetType = UNSET
    encoding: Literal["raw", "base64"] | UnsetType = UNSET
    start_line: int | UnsetType = UNSET
    end_line: int | UnsetType = UNSET


class ArtifactReadConfiguration(Struct, forbid_unknown_fields=True):
    """Bounds of an artifact read."""

    max_size_bytes: Annotated[int, Meta(ge=1, le=10_485_760)] | UnsetType = UNSET
    max_lines: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET


class ArtifactReadToolConfiguration(_ToolConfiguration, kw_only=True, tag="artifact_read"):
    """Read a file of the session."""

    argument_override: ArtifactReadParameters | UnsetType = UNSET
    tool_configuration: ArtifactReadConfiguration | UnsetType = UNSET


class ArtifactGrepParameters(Struct, forbid_unknown_fields=True):
    """Arguments of an artifact search."""

    artifact_id: str | UnsetType = UNSET
    pattern: str | UnsetType = UNSET
    grep_options: list[str] | UnsetType = UNSET


class ArtifactGrepToolConfiguration(_ToolConfiguration, kw_only=True, tag="artifact_grep"):
    """Search in a file of the session."""

    argument_override: ArtifactGrepParameters | UnsetType = UNSET


class ArtifactCreateToolConfiguration(_ToolConfiguration, kw_only=True, tag="artifact_create"):
    """Make a file of the session. The contract has this tool, but no configuration of it; its clients know one."""


class ImageReadParameters(Struct, forbid_unknown_fields=True):
    """Arguments of an image read."""

    artifact_id: Annotated[str, Meta(pattern=r"^art_[a-z0-9_-]+\Z")] | UnsetType = UNSET
    detail: Literal["auto", "low", "high"] | UnsetType = UNSET


class ImageReadToolConfiguration(_ToolConfiguration, kw_only=True, tag="image_read"):
    """Show an image of the session to the model. Kept; not run yet."""

    argument_override: ImageReadParameters | UnsetType = UNSET


ToolConfiguration = (
    McpToolConfiguration
    | WebGetToolConfiguration
    | LambdaToolConfiguration
    | ClientToolConfiguration
    | SubAgentToolConfiguration
    | ArtifactReadToolConfiguration
    | ArtifactGrepToolConfiguration
    | ArtifactCreateToolConfiguration
    | ImageReadToolConfiguration
)
