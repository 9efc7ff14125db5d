"""Settings: defaults, then `sessile.toml`, then `SESSILE_*` variables, then the command line."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct, field

Positive = Annotated[float, Meta(gt=0)]


class ConfigError(Exception):
    """The configuration is not valid; the text says where and why."""


class DatabaseInUse(ConfigError):
    """Another process owns the database file; the text names it."""


class ModelConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """One `[models.NAME]` table. `model` is the provider's own name for it; the key comes from `api_key_env`.

    With the provider `local`, `model` is a GGUF file.
    """

    provider: str
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    context_window: Annotated[int, Meta(ge=256)] | None = None
    """Tokens the model can read and write in one call; by default 128 000, and for a local model what it is given."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Sent with every call, such as `temperature`; an agent's own parameters win."""
    structured_output: Literal["json_schema", "json_object", "none"] | None = None
    """How the provider is asked for output of a JSON schema; by default in the way it is known to take."""
    timeout_seconds: Positive = 120
    """Longest wait for the first and for each further chunk of an answer."""


class ToolConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """One `[tools.NAME]` table: a Python function as `package.module:function`."""

    function: str
    description: str | None = None
    timeout_seconds: Positive = 30
    idempotent: bool = False


class WebGetConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """The table `[web_get]`: what the tool `web_get` may do."""

    enabled: bool = True
    allow: list[str] = field(default_factory=list)
    """Addresses and networks that it may reach besides public ones, such as `10.0.0.0/8`."""


class McpConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """The table `[mcp]`: what tool servers may be."""

    allow: list[str] = field(default_factory=list)
    """Addresses and networks that tool servers may have besides public ones, such as `127.0.0.1`."""
    timeout_seconds: Positive = 60
    """How long a call of a tool, or a sync, may take."""


Limit = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class LimitsConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """The table `[limits]`: how much a server takes on at a time; 0 is no limit."""

    running_turns: Limit = 1000
    """Turns that run at once. Those that wait for client tools or for sub-agents do not count."""
    running_turns_per_tenant: Limit = 0
    waiting_turns: Limit = 5000
    """Turns that wait for others to end. When there are as many, what would start another one is refused."""
    waiting_turns_per_tenant: Limit = 2500
    waiting_bytes: Limit = 256 * 1024 * 1024
    """Memory that they may need, about: their inputs, agents and the metadata of their sessions."""
    followers: Limit = 10_000
    """Streams that follow sessions."""
    followers_per_key: Limit = 5000
    requests_in_flight: Limit = 20_000
    """Requests whose answer is not complete, streams and those who wait for turns too."""
    request_bytes: Limit = 256 * 1024 * 1024
    """Bytes of the bodies of these requests."""
    connections: Limit = 25_000
    """Connections, also those on which nothing is asked."""
    patience_seconds: Positive = 30
    """How long a client may take for the head of a request, or send next to nothing within a body."""
    requests_per_second: Annotated[float, Meta(ge=0)] = 1000
    """Requests of one API key, in the long run."""
    requests_burst: Annotated[int, Meta(ge=1)] = 5000
    """Requests that it may send at once after a pause."""


class MetricsConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """The table `[metrics]`: who may read `/metrics`."""

    access: Literal["loopback", "key", "open", "off"] = "loopback"
    """Who needs no key: programs on this machine, nobody, everybody. `off`: there is no such page."""


class TracesConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """The table `[traces]`: whether turns are sent to a collector of OpenTelemetry."""

    enabled: bool | None = None
    """By default, when `endpoint` or one of the standard variables says where the collector is."""
    endpoint: str | None = None
    """Where it takes traces by OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`."""
    content: bool = False
    """Whether what was said, and what tools were given and returned, is recorded too."""


class Config(Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration of a server."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8700
    data: str = "data"
    """The folder that a server keeps its database in; made when it is not there."""
    database: str | None = None
    """A database file, in a folder that exists, or a PostgreSQL database as `postgresql://…`.

    By default, `sessile.db` in the data folder."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """How many processes share the port. More than one need a PostgreSQL database."""
    no_auth: bool = False
    allowed_hosts: list[str] = field(default_factory=list)
    """Names a Host header may carry besides loopback and `host`."""
    cors_origins: list[str] = field(default_factory=list)
    """Origins whose pages may call this server from a browser."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_model_calls: Annotated[int, Meta(ge=1, le=1000)] = 25
    """Model calls in one turn; the turn ends with `limit` when it wants more."""
    heartbeat_seconds: Positive = 10
    lease_seconds: Positive = 15
    """How long a turn is left to a worker that does not renew its claim; it does so three times in that time."""
    drain_seconds: Annotated[float, Meta(ge=0)] = 2
    """How long running turns may go on once the server was told to stop; then they are left to the next start."""
    shutdown_seconds: Positive = 3
    """How long what is left may take to stop then."""
    provider_models: bool = True
    """Whether agents may name `provider:model` beside what `models` lists. That uses this server's provider keys."""
    default_model: str | None = None
    """What the model name `default` stands for; without it, the best that is there (`models/default.py`)."""
    models: dict[str, ModelConfig] = field(default_factory=dict)
    tools: dict[str, ToolConfig] = field(default_factory=dict)
    web_get: WebGetConfig = field(default_factory=WebGetConfig)
    mcp: McpConfig = field(default_factory=McpConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    traces: TracesConfig = field(default_factory=TracesConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)


def is_url(database: str | None) -> bool:
    """Whether a database is a PostgreSQL server's, and no file."""
    return database is not None and database.startswith(("postgresql://", "postgres://"))


def without_secrets(url: str) -> str:
    """A database's URL as people and logs may see it: without the password, and without what follows the name."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}@{host}" if user else host
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))


def load(path: str | None = None, overrides: dict[str, Any] | None = None, *, default_file: bool = True) -> Config:
    """Read the configuration. Without `path`, `sessile.toml` in the working folder is used if it is there.

    `default_file=False` leaves that file alone: a library is not configured by the folder it happens to run in.

    Raises ConfigError.
    """
    values: dict[str, Any] = {}
    file = Path(path) if path else Path("sessile.toml")
    if path or (default_file and file.exists()):
        values = _read(file)
    values |= _from_environment()
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
    return values


def _from_environment() -> dict[str, Any]:
    """`SESSILE_PORT=9000` and so on for every plain setting; lists are separated by commas."""
    values: dict[str, Any] = {}
    for setting in msgspec.structs.fields(Config):
        text = os.environ.get(f"SESSILE_{setting.name.upper()}")
        if text is None or setting.name in ("models", "tools", "web_get", "mcp", "metrics", "traces", "limits"):
            continue
        value: Any = [part.strip() for part in text.split(",") if part.strip()] if setting.type == list[str] else text
        try:
            values[setting.name] = msgspec.convert(value, setting.type, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"SESSILE_{setting.name.upper()}: {error}") from None
    return values
