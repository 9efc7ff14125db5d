"""Every port of Sessile, in one file. The docstrings are the contract; `sessile.testing` has suites that check it.

A port is cut at verbs of the domain. No port knows which adapter stands behind it.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from sessile.domain.log import Draft, Entry
from sessile.domain.messages import Message, ToolCall, ToolSpec
from sessile.domain.tool_servers import Endpoint, RemoteTool
from sessile.rows import (
    AgentRow,
    ApiKeyRow,
    Claim,
    EventQuery,
    Fence,
    Interruption,
    NewSession,
    Once,
    Page,
    Rejoined,
    SessionChanges,
    SessionRef,
    SessionRow,
    TenantRow,
    ToolRow,
    ToolServerRow,
    TurnEnd,
    TurnProgress,
    TurnRow,
)
from sessile.wire.events import LiveFrame

# A rule that the store applies inside the commit that accepts an input: it raises what the caller shall get.
Admit = Callable[[AgentRow, SessionRow], None]


class AccountStore(Protocol):
    """Tenants and API keys, durable. What `Store` promises holds here."""

    async def create_tenant(self, key: str, name: str) -> TenantRow:
        """Raises KeyTaken."""

    async def list_tenants(self) -> list[TenantRow]:
        """All tenants, oldest first."""

    async def create_key(self, key: ApiKeyRow, digest: bytes) -> None:
        """Store a key under the hash of its secret. An existing digest is left as it is."""

    async def list_keys(self, tenant_id: int) -> list[ApiKeyRow]:
        """All keys of a tenant, revoked ones too, oldest first."""

    async def revoke_key(self, tenant_id: int, key_id: str) -> ApiKeyRow:
        """Revoke a key for ever; a second time changes nothing. Raises NotFound."""

    async def find_key(self, digest: bytes) -> ApiKeyRow | None:
        """The key whose secret has this hash, revoked or not."""


class AgentStore(Protocol):
    """Agents, durable. What `Store` promises holds here."""

    async def create_agent(
        self,
        tenant_id: int,
        key: str,
        document: bytes,
        enabled: bool,
        once: Once | None = None,
        admit: Callable[[], None] | None = None,
    ) -> AgentRow:
        """Raises KeyTaken, and what `admit` raises inside the commit; NotFound when what `once` made was deleted.

        Keys of `once` are the tenant's, for agents.
        """

    async def get_agent(self, tenant_id: int, key: str) -> AgentRow:
        """Raises NotFound."""

    async def list_agents(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None
    ) -> Page[AgentRow]:
        """Newest first. Filtered pages examine a bounded number of rows."""

    async def save_agent(
        self, tenant_id: int, key: str, document: bytes, enabled: bool, expected_version: int
    ) -> AgentRow | None:
        """Replace the document if its version is still the expected one, else return None. Raises NotFound."""

    async def delete_agent(self, tenant_id: int, key: str) -> int:
        """Delete an agent and all its sessions; returns the internal id. Raises NotFound.

        At once nothing of it can be reached; `purge` removes the rows.
        """


class SessionStore(Protocol):
    """Sessions, durable, without their logs. What `Store` promises holds here."""

    async def create_session(
        self, tenant_id: int, agent_key: str, new: NewSession, once: Once | None = None
    ) -> SessionRow:
        """Raises NotFound for the agent, KeyTaken for the session; NotFound too when what `once` made was deleted.

        Keys of `once` are the tenant's, for sessions.
        """

    async def get_session(self, ref: SessionRef) -> SessionRow:
        """Raises NotFound."""

    async def list_sessions(
        self, tenant_id: int, agent_key: str, *, cursor: int | None, limit: int
    ) -> Page[SessionRow]:
        """Newest first, the same cost however many there are, reading no event. Raises NotFound for the agent."""

    async def update_session(self, ref: SessionRef, changes: SessionChanges, if_match: int | None) -> SessionRow:
        """Change fields and increment the version. Raises NotFound, or PreconditionFailed for another version."""

    async def delete_session(self, ref: SessionRef, if_match: int | None) -> int:
        """Delete a session and its log; returns the internal id. Raises as `update_session`.

        At once nothing of it can be reached; `purge` removes the rows.
        """


class LogStore(Protocol):
    """Logs of sessions, and the turns that write them, durable. What `Store` promises holds here."""

    async def accept_input(
        self,
        ref: SessionRef,
        input: Draft,
        turn_id: str,
        admit: Admit,
        once: Once | None = None,
        if_match: str | None = None,
    ) -> Claim | Rejoined:
        """Append the input and its `turn_started`, and claim the turn, in one commit.

        `admit` runs inside the commit; what it raises is raised here and nothing is written. Raises NotFound,
        SessionRunning with the turn's id while another turn runs, or PreconditionFailed when the session's last event
        is not `if_match` (`start`: it has none). Keys of `once` are the session's; only with one there is a Rejoined.
        """

    async def interrupt(self, ref: SessionRef) -> Interruption:
        """Record that the running turn of a session shall stop; without one, nothing is written. Raises NotFound.

        From then on the turn's claim says so. It ends by an `append` like any other turn, and an end that was on its
        way counts. A second time changes nothing.
        """

    async def append(
        self, fence: Fence, drafts: Sequence[Draft], progress: TurnProgress, end: TurnEnd | None = None
    ) -> list[Entry]:
        """Append events to a turn's log in one commit, with consecutive sequences; with `end` also its `turn_ended`.

        Raises FenceLost when the fence is not the turn's current one, the turn has ended or the session is gone.
        """

    async def list_events(self, ref: SessionRef, query: EventQuery) -> Page[Entry]:
        """A page of a session's log, the same cost however long the log is. Raises NotFound for the session."""

    async def read_log(self, session_id: int, query: EventQuery) -> Page[Entry]:
        """As `list_events`, for a caller that holds the internal id; empty when the session is gone."""

    async def heads(self, session_ids: Collection[int]) -> dict[int, int]:
        """The newest sequence of each of these sessions, 0 in an empty log; a session that is gone is left out."""

    async def get_event(self, ref: SessionRef, event_id: str) -> Entry:
        """Raises NotFound."""

    async def get_turn(self, ref: SessionRef, turn_id: str) -> TurnRow:
        """Raises NotFound."""

    async def take_unfinished_turns(self) -> list[Claim]:
        """Claim every running turn under a new fence: for a start, when whoever ran them is known to be gone."""


class ToolServerStore(Protocol):
    """Tool servers and their tools, durable. What `Store` promises holds here."""

    async def create_tool_server(
        self, tenant_id: int, key: str, enabled: bool, document: bytes, secret: bytes
    ) -> ToolServerRow:
        """Raises KeyTaken."""

    async def get_tool_server(self, tenant_id: int, key: str) -> ToolServerRow:
        """Raises NotFound."""

    async def list_tool_servers(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None
    ) -> Page[ToolServerRow]:
        """Newest first."""

    async def update_tool_server(
        self, tenant_id: int, key: str, change: Callable[[ToolServerRow], ToolServerRow]
    ) -> ToolServerRow:
        """Replace `enabled`, `document` and `secret` by what `change` makes of the row, inside the commit.

        What `change` raises is raised, and nothing is changed. Raises NotFound.
        """

    async def delete_tool_server(self, tenant_id: int, key: str) -> None:
        """Delete a tool server and its tools. Raises NotFound."""

    async def sync_tools(self, tenant_id: int, server_key: str, tools: Mapping[str, bytes]) -> None:
        """Make these the tools of a tool server: name to document. Raises NotFound.

        A tool that was there keeps its key and whether it is enabled; one that is not among these is removed.
        """

    async def get_tool(self, tenant_id: int, key: str) -> ToolRow:
        """Raises NotFound."""

    async def list_tools(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None, server_key: str | None
    ) -> Page[ToolRow]:
        """Newest first."""

    async def enable_tool(self, tenant_id: int, key: str, enabled: bool) -> ToolRow:
        """Say whether a tool may be used. Raises NotFound."""

    async def delete_tool(self, tenant_id: int, key: str) -> None:
        """Remove a tool until its server is synced again. Raises NotFound."""

    async def usable_tools(self, tenant_id: int, keys: Collection[str]) -> dict[str, tuple[ToolRow, ToolServerRow]]:
        """Those of these tools that are enabled and whose servers are, by key."""


class Store(AccountStore, AgentStore, SessionStore, LogStore, ToolServerStore, Protocol):
    """Agents, sessions and logs, durable.

    Every verb is atomic. When a writing verb returns, its effect survives the loss of the process and of power; when
    it raises StorageUnavailable, it had no effect. Rows of another tenant do not exist: NotFound. Verbs may be called
    by any number of tasks at once.
    """

    async def close(self) -> None:
        """Finish what was queued and let go of the files."""

    async def ping(self) -> None:
        """Raise StorageUnavailable unless the store can commit."""

    async def purge(self) -> bool:
        """Remove a slice of what was deleted, or of idempotency keys whose time is over; True when more is left.

        Each call holds the writer a few milliseconds.
        """


class TurnQueue(Protocol):
    """Whoever runs turns."""

    def submit(self, claim: Claim) -> None:
        """Run a claimed turn. Never blocks."""

    def interrupt(self, session_id: int, turn_id: str) -> None:
        """Stop a turn whose interrupt is recorded; one that does not run any more is left alone. Never blocks."""

    async def cancel_session(self, session_id: int) -> None:
        """Stop the turn of a session that is gone, and wait until it has stopped."""

    async def cancel_agent(self, agent_id: int) -> None:
        """Stop the turns of all sessions of an agent that is gone, and wait until they have stopped."""


class LiveSink(Protocol):
    """Where followers of a session get what happens. Never blocks, never raises, keeps nothing for good."""

    def announce(self, session_id: int, entries: Sequence[Entry]) -> None:
        """Durable events, after their commit, in log order. A hint: a follower that missed one reads the log."""

    def publish(self, session_id: int, frame: LiveFrame) -> None:
        """An ephemeral frame of the running turn."""

    def close_session(self, session_id: int) -> None:
        """The session is gone: end its followers."""

    def close_agent(self, agent_id: int) -> None:
        """The agent is gone: end the followers of its sessions."""


class ThinkingDelta(Struct, frozen=True):
    """A piece of the model's thinking."""

    text: str


class TextDelta(Struct, frozen=True):
    """A piece of the model's answer."""

    text: str


class ModelUsage(Struct, frozen=True):
    """Tokens of one model call, as the provider counts them; cached and reasoning tokens are parts of the totals."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


ModelChunk = ThinkingDelta | TextDelta | ToolCall | ModelUsage
"""What a model streams: deltas, then each tool call once and whole, and its usage when known."""


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One model call. `parameters` are the agent's own (temperature and so on), passed to the provider as given."""

    messages: list[Message]
    tools: list[ToolSpec]
    parameters: dict[str, Any]


class ModelFault(Exception):
    """A model call failed. `retryable` says whether the same call may succeed later.

    Codes: `model_unavailable`, `model_timeout`, `model_rate_limited`, `model_rejected` (the request is wrong),
    `model_unauthorized`, `model_protocol` (the answer makes no sense).
    """

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        """Seconds the provider asks to wait, if it does."""


class Model(Protocol):
    """A chat model under one name."""

    @property
    def name(self) -> str:
        """The name agents use."""

    @property
    def context_window(self) -> int:
        """Tokens the model can read and write in one call."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Call the model once. Raises ModelFault.

        Closing the iterator, or cancelling the task that reads it, closes the connection to the provider at once.
        An end without ModelFault means that the answer is complete.
        """


class Models(Protocol):
    """The models that the server's configuration names."""

    def get(self, name: str) -> Model:
        """The model an agent calls `name`. Raises UnknownModel, which lists what is configured."""

    async def close(self) -> None:
        """Close connections and end child processes."""


class ToolFault(Exception):
    """A tool call failed; the text is for the model.

    Codes: `tool_arguments_invalid`, `tool_failed`, `tool_timeout`, `tool_address_refused` (tools may not connect to
    it), `tool_unreachable` (nobody answers there, or nothing that makes sense).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ToolContext(Struct, frozen=True, kw_only=True):
    """The call that a tool runs for. What a tool reads or writes for a session is this session's alone."""

    session: SessionRow
    """As it was when the turn started."""
    turn_id: str
    tool_call_id: str
    fixed: frozenset[str] = frozenset()
    """The arguments that the agent fixes, not the model."""
    report: Callable[[str], None] = lambda message: None
    """Show the followers of the turn what the tool is doing; it is kept nowhere. Never blocks."""


class Tool(Protocol):
    """Something a model can call."""

    @property
    def name(self) -> str:
        """The name in the server's configuration."""

    @property
    def description(self) -> str:
        """What the tool is for, for a model."""

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON schema of the arguments: an object."""

    @property
    def idempotent(self) -> bool:
        """Whether running the same call again does no harm."""

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """Run one call within the tool's own time limit. Raises ToolFault. Cancelling stops what can be stopped.

        The result is a JSON object; a tool that returns something else gives `{"result": …}`.
        """


class RemoteTools(Protocol):
    """Tool servers elsewhere. Nothing they do harms more than the call that it answers."""

    async def list(self, endpoint: Endpoint) -> dict[str, bytes]:
        """What a server offers: names, and documents as the store keeps them. Raises ToolFault."""

    def tool(self, endpoint: Endpoint, described: RemoteTool) -> Tool:
        """A tool that calls the server; nothing is sent before it is run."""


class Sealer(Protocol):
    """Keeps secrets from whoever reads the database."""

    def seal(self, secret: bytes) -> bytes:
        """What is stored for a secret."""

    def unseal(self, sealed: bytes) -> bytes:
        """The secret again."""


class Tools(Protocol):
    """The functions that the server's configuration names, and the tools that the server has by itself."""

    def of(self, name: str, configuration: Mapping[str, Any]) -> Tool | None:
        """The tool that an agent's configuration of this name stands for, or None when the server has no such tool."""

    def names(self) -> list[str]:
        """The names of all functions, sorted."""

    def kinds(self) -> Collection[str]:
        """The types of configurations, besides `lambda`, that stand for tools of the server."""


class Principal(Struct, frozen=True, kw_only=True):
    """Who calls: a tenant and the roles of the key. `key_id` is None without authentication."""

    tenant_id: int
    key_id: str | None
    roles: frozenset[str]
    agent_roles: dict[str, frozenset[str]]


class Authenticator(Protocol):
    """Tells who holds a secret."""

    async def authenticate(self, secret: str | None) -> Principal:
        """Raises Unauthenticated."""


class Clock(Protocol):
    """Time, injected so that tests control it. Order never depends on it."""

    def now(self) -> int:
        """Microseconds since the epoch."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
