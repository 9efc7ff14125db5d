"""Every port of Sessile; that of storage is large, and has its verbs in `store_ports.py`.

The docstrings are the contract; `sessile.testing` has suites that check it. A port is cut at verbs of the domain. No
port knows which adapter stands behind it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from sessile.domain.log import Entry
from sessile.domain.messages import Message, OutputSchema, ToolCall, ToolSpec
from sessile.domain.tool_servers import Endpoint, RemoteTool
from sessile.relay_port import Relay as Relay
from sessile.rows import Claim, FileName, HeldFile, NewArtifact, NewSession, SessionRow, SubCall
from sessile.sealed_ports import Seal as Seal
from sessile.sealed_ports import SecretStore as SecretStore
from sessile.sealed_ports import StaleKey as StaleKey
from sessile.store_ports import Admit as Admit  # `as`: whoever needs a port finds it here
from sessile.store_ports import CallsTooDeep as CallsTooDeep
from sessile.store_ports import LogMovedOn as LogMovedOn
from sessile.store_ports import Store as Store
from sessile.store_ports import TooManyCalls as TooManyCalls
from sessile.wire.events import LiveFrame

Result = TypeVar("Result")


class Upload(Protocol):
    """A file that is being written. Raises StorageUnavailable when it cannot be; then nothing of it is left."""

    @property
    def size(self) -> int:
        """Bytes so far."""

    @property
    def sha256(self) -> str:
        """The SHA-256 in hex of the bytes so far."""

    async def write(self, data: bytes) -> None:
        """Go on."""

    async def keep(self) -> HeldFile:
        """Make it durable under the hash of its bytes. It is held until it is released."""

    async def discard(self) -> None:
        """Forget what is not kept."""


Named = Callable[[Sequence[FileName]], Awaitable[Collection[FileName]]]
"""Tells which of some files are still wanted."""


class Files(Protocol):
    """The bytes of files, by tenant and hash: what a tenant has twice is stored once, and tenants share nothing."""

    def create(self, tenant_id: int) -> Upload:
        """Start a file."""

    async def read(self, name: FileName, start: int, length: int) -> bytes:
        """Bytes from a place on; fewer than `length` at the end only. Raises StorageUnavailable."""

    def hold(self, name: FileName) -> HeldFile:
        """Keep a file from being removed."""

    def release(self, held: HeldFile) -> None:
        """Hold a file no longer; a second time does nothing. Whoever forgets it lets go of the object some day."""

    async def remove(self, names: Collection[FileName], named: Named) -> set[FileName]:
        """Remove files, but not those that `named` names; returns those that somebody holds, to be tried again.

        A file that is kept again while this runs stays.
        """

    async def sweep(self, named: Named) -> int:
        """Remove what a crash has left: files that `named` does not name, older than a safe age; returns how many."""


class TurnQueue(Protocol):
    """Whoever runs turns."""

    def reserve(self, tenant_id: int, size: int) -> Callable[[], None]:
        """Keep room for a turn that is about to be claimed, until what is returned is called. Never blocks.

        `size`: the bytes of its claim, about.

        Raises Overloaded. A turn that was claimed is run in any case, with or without.
        """

    def submit(self, claim: Claim) -> None:
        """Run a claimed turn. Never blocks."""

    def interrupt(self, session_id: int, turn_id: str) -> None:
        """Stop a turn whose interrupt is recorded; one that does not run any more is left alone. Never blocks."""

    def log_changed(self, session_id: int) -> None:
        """Events of a session were hidden, unhidden or deleted: its turn reads the log again before it calls a model.

        Never blocks. A turn that runs elsewhere notices by its next append.
        """

    def steer(self, session_id: int) -> None:
        """An input waits to join the turn that runs in a session. A hint: the turn's commits tell too. Never blocks."""

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

    def left(self, session_id: int) -> None:
        """No turn of the session runs here, though its log does not end one: somebody else goes on with it."""

    def withdrawn(self, session_id: int, event_id: str) -> None:
        """An input that waited was withdrawn: end those who wait for its turn."""

    def close_session(self, session_id: int) -> None:
        """The session is gone: end its followers."""

    def close_agent(self, agent_id: int) -> None:
        """The agent is gone: end the followers of its sessions."""


class Onlooker(Protocol):
    """Whoever has something here of sessions that other processes on the same store change."""

    def concerned(self, sessions: Collection[int]) -> set[int]:
        """Those of some sessions that matter here."""

    async def look(self, sessions: Collection[int] | None) -> None:
        """Look at the store: these sessions may have changed, or, with None, any. Raises StorageUnavailable."""

    def close_agent(self, agent_id: int) -> None:
        """The agent was deleted. Never blocks."""


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


class Finished(Struct, frozen=True):
    """Why the model stopped, in the provider's own word: `stop`, `tool_calls`, `length` …"""

    reason: str


ModelChunk = ThinkingDelta | TextDelta | ToolCall | ModelUsage | Finished
"""What a model streams: deltas, then each tool call once and whole, and its usage and why it stopped when known."""


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One model call. `parameters` are the agent's own (temperature and so on), passed to the provider as given.

    With `output`, the answer is to be JSON of this schema: a model that can be held to one is, others read of it.
    """

    messages: list[Message]
    tools: list[ToolSpec]
    parameters: dict[str, Any]
    output: OutputSchema | None = None


class ModelFault(Exception):
    """A model call failed. `retryable` says whether the same call may succeed later.

    Codes: `model_unavailable`, `model_timeout`, `model_rate_limited`, `model_rejected` (the request is wrong),
    `model_unauthorized`, `model_protocol` (the answer makes no sense), `model_context_exceeded` (the request is longer
    than the model's window).
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
    it), `tool_unreachable` (nobody answers there, or nothing that makes sense), `sub_agent_refused` (another
    agent takes no input), `sub_agent_too_deep`, `sub_agent_too_many`, `sub_agent_failed` (its turn has no answer),
    `turn_interrupted`.
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
    add_artifact: Callable[[NewArtifact], None]
    """Make a file an artifact of the session, in the commit that holds the output of the call, if it succeeds."""
    fixed: frozenset[str] = frozenset()
    """The arguments that the agent fixes, not the model."""
    resting: Callable[[], AbstractContextManager[None]] = nullcontext
    """Inside, the turn takes none of the slots for running turns: it waits for another turn, which may need one."""
    report: Callable[[str], None] = lambda message: None
    """Show the followers of the turn what the tool is doing; it is kept nowhere. Never blocks."""
    configuration_name: str = ""
    """The name that the model knows the tool by."""
    event_id: str = ""
    """The `tool_input` event of the call: the same when the call is run again after a crash."""
    relay: Callable[[Entry], None] = lambda entry: None
    """Show the followers of the turn an event of another session that the tool waits for. Never blocks."""


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


Follow = Callable[[int, int], AsyncGenerator[Entry, None]]
"""The events of a session's log after a place, as they become durable, until it is gone or the server stops."""


class SubAnswer(Struct, frozen=True):
    """What another agent has answered, text or structured, and in which of its sessions."""

    session_key: str
    answer: Any


class SubAgents(Protocol):
    """Other agents of the same tenant, as tools."""

    async def ask(self, call: SubCall, session: NewSession, message: str, relay: Callable[[Entry], None]) -> SubAnswer:
        """Start the turn of a call, or find it again, and wait for its end, however long that takes.

        `relay` is told of the turn's events. Cancelling stops the waiting, not the turn. Raises ToolFault.
        """


class RemoteTools(Protocol):
    """Tool servers elsewhere. Nothing they do harms more than the call that it answers."""

    async def list(self, endpoint: Endpoint) -> dict[str, bytes]:
        """What a server offers: names, and documents as the store keeps them. Raises ToolFault."""

    def tool(self, endpoint: Endpoint, described: RemoteTool) -> Tool:
        """A tool that calls the server; nothing is sent before it is run."""


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


class Vault(Protocol):
    """Secrets in the clear, for whoever must have them: they go into no log, no event and no answer."""

    async def write(self, values: Mapping[str, str | None], verb: Callable[[Seal], Awaitable[Result]]) -> Result:
        """Run a verb of the store with these secrets encrypted. Raises SecretsUnavailable, and what the verb raises."""

    async def reveal(self, agent_id: int, session_id: int) -> dict[str, str]:
        """The secrets of an agent and of one of its sessions by name; the session's win. Raises SecretsUnavailable.

        Those of a tool server: the owner that its row tells, and the session 0.
        """


class Clock(Protocol):
    """Time, injected so that tests control it. Order never depends on it."""

    def now(self) -> int:
        """Microseconds since the epoch."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
