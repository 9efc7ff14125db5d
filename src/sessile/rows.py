"""What a store keeps and what its verbs exchange: rows, the right to write a turn, and what callers ask for.

Frozen data without behaviour of its own. Times are microseconds since the epoch.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, Literal, TypeVar

from msgspec import UNSET, Struct, UnsetType, json

from sessile.domain.log import Draft, Entry
from sessile.domain.metadata_filter import Filter
from sessile.wire.events import ArtifactReference, CompactionOrder, TurnError
from sessile.wire.inputs import Behavior
from sessile.wire.limits import MAX_INTEGER, MIN_INTEGER
from sessile.wire.sessions import SessionContextUsage, Status, StopReason, Usage

Row = TypeVar("Row")
_CLAIM_BYTES = 4096
LEASE_SECONDS = 15.0
"""How long a claim of a turn holds unless it is renewed."""


class TenantRow(Struct, frozen=True, kw_only=True):
    """A tenant. All other rows belong to one."""

    id: int
    key: str
    name: str
    created_at: int


class ApiKeyRow(Struct, frozen=True, kw_only=True):
    """An API key without its secret. `agent_roles` maps agent keys to the roles held for that agent only."""

    key_id: str
    tenant_id: int
    name: str
    roles: list[str]
    agent_roles: dict[str, list[str]]
    created_at: int
    revoked_at: int | None = None


class AgentRow(Struct, frozen=True, kw_only=True):
    """A stored agent. `document` is its JSON without `id`, `key` and the times; times are microseconds."""

    id: int
    tenant_id: int
    key: str
    enabled: bool
    version: int
    document: bytes
    created_at: int
    updated_at: int


class ToolServerRow(Struct, frozen=True, kw_only=True):
    """A stored tool server. `document` is JSON; `secrets` are the names of what nobody is shown."""

    id: int
    tenant_id: int
    key: str
    enabled: bool
    document: bytes
    created_at: int
    updated_at: int
    secrets: Collection[str] = frozenset()

    @property
    def owner(self) -> int:
        """Whom its secrets belong to, in the place of an agent's id, of which none is negative."""
        return -self.id


class ToolRow(Struct, frozen=True, kw_only=True):
    """A stored tool of a tool server. `document` is what the server says of it, JSON."""

    id: int
    key: str
    name: str
    enabled: bool
    document: bytes
    created_at: int
    updated_at: int
    server_key: str


class SessionRow(Struct, frozen=True):
    """A stored session. `metadata`, `usage` and `context_usage` are JSON; times are microseconds."""

    id: int
    tenant_id: int
    agent_id: int
    agent_key: str
    key: str
    name: str
    description: str | None
    metadata: bytes
    enabled: bool
    tti_minutes: int
    version: int
    status: Status
    stop_reason: StopReason | None
    last_sequence: int
    last_event_id: str | None
    usage: bytes
    context_usage: bytes | None
    created_at: int
    updated_at: int
    origin: bytes | None = None
    """JSON of the session that this one was forked from, if it was."""
    compaction: str | None = None
    """How the agent wants its sessions compacted, JSON; None when its document does not say."""
    creator: bytes | None = None
    """JSON of the `Creator` of a session that a tool call has created."""
    running_turn: str | None = None
    """The turn that runs, or waits for client tools."""

    def scope(self) -> dict[str, Any]:
        """What an instruction template can say about the session."""
        return {
            "id": self.key,
            "key": self.key,
            "name": self.name,
            "description": self.description or "",
            "metadata": json.decode(self.metadata),
        }


class NewSession(Struct, frozen=True, kw_only=True):
    """What a caller chose for a new session."""

    key: str
    name: str
    description: str | None
    metadata: bytes
    enabled: bool
    tti_minutes: int
    origin: bytes | None = None


class Creator(Struct, frozen=True, kw_only=True):
    """The session whose tool call has created another one, as it was named then, and its internal ids."""

    agent_key: str
    session_key: str
    agent_id: int
    session_id: int

    def shares(self, other: "Creator", by: Literal["session", "agent"]) -> bool:
        """Whether both are the same session, or sessions of the same agent."""
        return self.agent_id == other.agent_id and (by == "agent" or self.session_id == other.session_id)


class SubCall(Struct, frozen=True, kw_only=True):
    """A tool call that starts a turn in a session of another agent of the same tenant: its turn, its `tool_input`.

    `shared_by`: whose calls may go on in the session, when it is there already: those of one session or of all sessions
    of the calling agent. Without `creates` it has to be there.
    """

    tenant_id: int
    turn_id: str
    event_id: str
    creator: Creator
    agent_key: str
    shared_by: Literal["session", "agent"] = "session"
    creates: bool = True


class SessionChanges(Struct, frozen=True, kw_only=True):
    """The fields of a session to change; UNSET leaves a field as it is."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    metadata: bytes | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    tti_minutes: int | UnsetType = UNSET


class SessionQuery(Struct, frozen=True, kw_only=True):
    """Which sessions of a tenant to list: those before `cursor`, at most `limit`; what is None does not matter.

    Times are exclusive. `pattern` is one of `domain.name_filter`, on names and descriptions. The store examines a
    bounded number of rows, so a page may hold fewer than `limit` sessions and still have a `next`.
    """

    cursor: int | None = None
    limit: int
    agent_keys: Collection[str] | None = None
    status: Status | None = None
    created_after: int = MIN_INTEGER
    created_before: int = MAX_INTEGER
    updated_after: int = MIN_INTEGER
    updated_before: int = MAX_INTEGER
    pattern: str | None = None
    metadata: Filter | None = None


class Backlog(Struct, frozen=True, kw_only=True):
    """What a store has to do yet, of all tenants. Turns: those that run or shall, and those that are parked."""

    waiting_inputs: int
    running_turns: int
    parked_turns: int
    purges: int
    """Deletions whose rows are not all removed."""


class TableSize(Struct, frozen=True, kw_only=True):
    """How large a table is. `bytes`: with its indexes, as they stand on the disk."""

    name: str
    rows: int
    bytes: int


class SessionSize(Struct, frozen=True, kw_only=True):
    """How large the log of a session is. `bytes`: those of its events' bodies."""

    tenant_key: str
    agent_key: str
    session_key: str
    events: int
    bytes: int


class SessionRef(Struct, frozen=True):
    """How a caller names a session."""

    tenant_id: int
    agent_key: str
    session_key: str


class SealedSecret(Struct, frozen=True, kw_only=True):
    """A stored secret, encrypted with the key that `key_id` names. An agent's own have the session 0."""

    agent_id: int
    session_id: int
    name: str
    key_id: str
    value: bytes


class SealedSecrets(Struct, frozen=True):
    """Secrets to be stored for one owner, by name, all encrypted with one key; None removes one."""

    key_id: str
    values: dict[str, bytes | None]


class Standing(Struct, frozen=True):
    """How a turn that runs stands: whether a caller wants it stopped, and whether inputs wait to join it."""

    interrupted: bool
    steered: bool


class Heard(Struct, frozen=True):
    """Internal ids of what other processes on the store have changed, or deleted."""

    sessions: frozenset[int]
    agents: frozenset[int]


class TurnRow(Struct, frozen=True, kw_only=True):
    """A stored turn; `usage` and `error` are JSON."""

    id: int
    turn_id: str
    input_sequence: int
    input_event_id: str
    fence: int
    running: bool
    stop_reason: StopReason | None
    error: bytes | None
    usage: bytes
    created_at: int
    ended_at: int | None
    parked: bool = False
    """Whether it waits for client tools; it is `running` all the same."""


class Fence(Struct, frozen=True):
    """The right to write one turn. The store refuses an append whose token is not the turn's current one."""

    session_id: int
    turn: int
    token: int

    @property
    def order(self) -> tuple[int, int]:
        """Of two claims of one session the later one is greater."""
        return self.turn, self.token


class Claim(Struct, frozen=True, kw_only=True):
    """A turn that the caller now owns, with all it needs to start. `opened`: the events of the accepting commit.

    `usage`: what the turn has used so far, JSON. `interrupted`: whether a caller wants it stopped. Without `opened` the
    turn is under way: what it has done stands in the log. `takes`: how many starts in a row have taken it up.
    `waited`: whether its input has waited for it, and nothing was done since: nobody has checked that the agent still
    takes input.
    """

    agent: AgentRow
    session: SessionRow
    turn_id: str
    fence: Fence
    opened: list[Entry]
    usage: bytes = b"{}"
    interrupted: bool = False
    takes: int = 0
    waited: bool = False
    order: CompactionOrder | None = None
    """The turn is a compaction that a caller has ordered."""

    @property
    def size(self) -> int:
        """Bytes that it needs in memory, about."""
        return weight(self.agent, self.session) + sum(len(entry.body) for entry in self.opened)


def weight(agent: AgentRow, session: SessionRow) -> int:
    """Bytes in memory of what a claim holds besides events, about."""
    return _CLAIM_BYTES + len(agent.document) + len(session.metadata)


class WaitingInput(Struct, frozen=True, kw_only=True):
    """An input that was accepted while a turn ran, and that no turn has taken yet. `body` is that of its event.

    `turn_id`: the turn that it will be, unless it joins the one that runs. `upload`: the body of the `artifact_upload`
    that follows it, when files came with it.
    """

    event_id: str
    turn_id: str
    behavior: Behavior
    body: bytes
    upload: bytes | None = None
    created_at: int


class Queued(Struct, frozen=True, kw_only=True):
    """An input that waits in its session, which runs."""

    session: SessionRow
    input: WaitingInput


class Appended(Struct, frozen=True):
    """What a commit of a turn has added to the log, and what it found: whether inputs wait to steer the turn.

    `next`: after the end of the turn, the turn of the input that waited longest. It runs from this commit on.
    """

    entries: list[Entry]
    steered: bool = False
    next: Claim | None = None


class Interruption(Struct, frozen=True):
    """An interrupt that is recorded: the session as it was then, and the turn that shall stop, if there was one.

    `claim`: the turn was waiting for client tools, and the caller now owns it.
    """

    session: SessionRow
    turn_id: str | None
    claim: Claim | None = None
    below: Sequence["Interruption"] = ()
    """The same of the turns that tool calls of this one have started, and of theirs."""


class Answered(Struct, frozen=True, kw_only=True):
    """Outputs of client tools that are in the log now. `opened`: the events of the commit.

    `claim`: the turn goes on, and the caller owns it; without one, other calls are still outstanding.
    """

    session: SessionRow
    turn_id: str
    opened: list[Entry]
    claim: Claim | None


class Rejoined(Struct, frozen=True, kw_only=True):
    """The turn of an input that was accepted before, under the same idempotency key. Its caller does not own it.

    `opened`: the input, or the first of the tool outputs. `running`: neither ended nor waiting for client tools.
    """

    session: SessionRow
    turn_id: str
    opened: list[Entry]
    running: bool


class Shown(Struct, frozen=True):
    """An event as it stands after its visibility was asked to change, and the record of the change, if it did."""

    session_id: int
    entry: Entry
    records: list[Entry]


class Once(Struct, frozen=True):
    """An idempotency key, and the fingerprint of the request it came with.

    A verb that takes one remembers it, in the commit that creates, for IDEMPOTENCY_SECONDS. Given again in that time
    with the same fingerprint, the verb creates nothing and returns what the first one made, as it stands, before it
    checks anything else; with another fingerprint it raises IdempotencyKeyReused. A verb that raises remembers nothing.
    """

    key: str
    fingerprint: bytes


class StreamOnce(Struct, frozen=True):
    """An idempotency key that comes with a stream: the fingerprint is known when the stream was read to its end.

    A verb that takes one looks the key up when it begins. When the key has made something, it calls `skip`, because
    nothing of the stream will be wanted, reads it to its end all the same, and then does as with `Once`. Else it looks
    again in the commit that creates: of two at once with one key, one creates, and both return what that one made.
    """

    key: str
    fingerprint: Callable[[], bytes]
    skip: Callable[[], None]

    def whole(self) -> Once:
        """The key with its fingerprint, behind the end of the stream."""
        return Once(self.key, self.fingerprint())


class Kept(Struct, frozen=True):
    """What an idempotency key has made, by its internal id, and the fingerprint of the request it came with."""

    made: int
    fingerprint: bytes


class Summary(Struct, frozen=True):
    """What stands for the beginning of a log: a text, and the place up to which it covers it; no text when none does.

    `stale_through`: a newer summary that covered the log up to there is stale and has to be made again; 0 without one.
    """

    text: str | None = None
    through: int = 0
    stale_through: int = 0


class Span(Struct, frozen=True):
    """A part of a log to be summarised: the places after one and up to another, the id there, and what is in it."""

    after: int
    through: int
    last_event_id: str
    turns: int
    events: int


class Cover(Struct, frozen=True):
    """What the summary in an append covers, when nothing was hidden, unhidden or deleted after the place `seen`."""

    span: Span
    seen: int


class FileName(Struct, frozen=True):
    """What the bytes of files are known by: a tenant, and their SHA-256 in hex."""

    tenant_id: int
    sha256: str


class HeldFile(Struct, weakref=True, eq=False):
    """A file that stays where it is for as long as somebody holds this object and has not released it."""

    name: FileName


class NewArtifact(Struct, frozen=True, kw_only=True):
    """A file whose bytes are durable already, to become an artifact of a session."""

    artifact_id: str
    name: str
    content_type: str
    size: int
    sha256: str
    ttl_days: int | None = None
    created_at: int | None = None
    """When it was made; None: by the commit that names it."""
    held: HeldFile | None = None
    """Keeps the bytes until the commit that names them."""

    def reference(self) -> ArtifactReference:
        """What an event says of it."""
        return ArtifactReference(
            artifact_id=self.artifact_id, filename=self.name, mime_type=self.content_type, size_bytes=self.size
        )


class Uploaded(Struct, frozen=True):
    """Files that come with an input, and the `artifact_upload` event that tells of them."""

    event: Draft
    artifacts: Sequence[NewArtifact]


class ArtifactRow(Struct, frozen=True, kw_only=True):
    """A stored artifact."""

    id: int
    tenant_id: int
    session_id: int
    artifact_id: str
    name: str
    content_type: str
    size: int
    sha256: str
    ttl_days: int | None
    created_at: int

    @property
    def file(self) -> FileName:
        """Where its bytes are."""
        return FileName(self.tenant_id, self.sha256)


class TurnProgress(Struct, frozen=True, kw_only=True):
    """Totals to be stored beside events: of the turn, of the session, and of the last model call."""

    turn_usage: Usage
    session_usage: Usage
    context_usage: SessionContextUsage | None


class TurnEnd(Struct, frozen=True):
    """How a turn ends."""

    stop_reason: StopReason
    error: TurnError | None = None


class EventQuery(Struct, frozen=True, kw_only=True):
    """Which events of a log to read: those after (`desc`: before) `cursor`, at most `limit`.

    The store examines a bounded number of rows, so a page may hold fewer than `limit` events and still have a `next`.
    """

    cursor: int | None = None
    limit: int
    order: Literal["asc", "desc"] = "asc"
    types: Collection[str] | None = None
    records: bool = False
    include_hidden: bool = False
    include_deleted: bool = False
    """Whether what stands in the place of deleted events is wanted too; hidden ones are then."""


class Page(Struct, Generic[Row], frozen=True):
    """Rows in order, and the cursor after which the next page starts, or None on the last page."""

    rows: list[Row]
    next: int | None
