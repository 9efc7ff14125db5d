"""The port of storage: the verbs of a store, by noun. The docstrings are the contract; `sessile.testing` checks it."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol

from sessile.domain.client_tools import CallOutput
from sessile.domain.log import Draft, Entry
from sessile.relay_port import Relay as Relay
from sessile.rows import (
    AgentRow,
    Answered,
    ApiKeyRow,
    Appended,
    ArtifactRow,
    Claim,
    Cover,
    EventQuery,
    Fence,
    FileName,
    Heard,
    Interruption,
    NewArtifact,
    NewSession,
    Once,
    Page,
    Queued,
    Rejoined,
    SessionChanges,
    SessionQuery,
    SessionRef,
    SessionRow,
    Shown,
    Span,
    Standing,
    StreamOnce,
    SubCall,
    Summary,
    TenantRow,
    TurnEnd,
    TurnProgress,
    TurnRow,
    Uploaded,
    WaitingInput,
)
from sessile.sealed_ports import Seal, SecretStore, ToolServerStore
from sessile.upkeep_port import UpkeepStore
from sessile.wire.inputs import Behavior

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
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None = None
    ) -> Page[AgentRow]:
        """Newest first; with a `pattern` of `domain.name_filter`, those with such a name or description.

        A page with a pattern examines a bounded number of rows, so it may be short and still have a `next`.
        """

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
        self, tenant_id: int, agent_key: str, new: NewSession, once: Once | None = None, seal: Seal | None = None
    ) -> SessionRow:
        """Raises NotFound for the agent, KeyTaken for the session; NotFound too when what `once` made was deleted.

        Keys of `once` are the tenant's, for sessions. `seal` gives the session's secrets; raises StaleKey.
        """

    async def get_session(self, ref: SessionRef) -> SessionRow:
        """Raises NotFound."""

    async def list_sessions(
        self, tenant_id: int, agent_key: str, *, cursor: int | None, limit: int
    ) -> Page[SessionRow]:
        """Newest first, the same cost however many there are, reading no event. Raises NotFound for the agent."""

    async def find_sessions(self, tenant_id: int, query: SessionQuery) -> Page[SessionRow]:
        """Sessions of a tenant that a query takes, newest first; agents that are not there have none."""

    async def update_session(
        self, ref: SessionRef, changes: SessionChanges, if_match: int | None, seal: Seal | None = None
    ) -> SessionRow:
        """Change fields and increment the version. Raises NotFound, or PreconditionFailed for another version.

        `seal` gives secrets to set and to remove; raises StaleKey, InvalidRequest when they become too many.
        """

    async def delete_session(self, ref: SessionRef, if_match: int | None) -> int:
        """Delete a session and its log; returns the internal id. Raises as `update_session`.

        At once nothing of it can be reached; `purge` removes the rows.
        """

    async def delete_idle_sessions(self) -> list[int]:
        """Delete a slice of the sessions that nobody has used for their time to idle; returns the internal ids.

        Changes and commits of turns are use, and a session whose turn runs is not idle. Each is deleted once, however
        many processes ask. As `delete_session` otherwise.
        """


class CopyStore(Protocol):
    """Sessions that are made from others, durable. What `Store` promises holds here."""

    async def fork_session(
        self,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        source: SessionRef,
        up_to: str | None,
        once: Once | None = None,
        seal: Seal | None = None,
    ) -> SessionRow:
        """A new session whose log is a copy of the source's, up to the event `up_to` or all that is durable.

        It has the artifacts that its log tells of, under their ids, for as long as the source would have had them. What
        is hidden because a summary covers it is visible when that summary is not copied.

        Nobody sees it before it is whole; what is left of one that was cut off, `purge` removes. Places, times and
        bodies are kept; events and turns get new ids, also where events name each other. The end of a turn that follows
        `up_to` directly is copied too. A turn that goes no further ends as interrupted, without usage, its open calls
        answered. It never holds the writer for more than some milliseconds.

        Raises NotFound for the agent and the source, KeyTaken, InvalidRequest when `up_to` is no event of the source or
        there are more than MAX_FORK_EVENTS, and as `create_session` with `once` and `seal`.
        """

    async def fork_compacted(
        self,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        source: SessionRef,
        up_to: str,
        turn_id: str,
        admit: Admit,
        once: Once | None = None,
        seal: Seal | None = None,
    ) -> SessionRow | Claim:
        """As `fork_session` of all that is durable; the commit that shows the session starts a turn that compacts it.

        It compacts all up to the event that is `up_to` in the source. Returns the session when `once` made it before.
        Raises NothingToCompact, InvalidRequest when `up_to` is no event of the source, and what `admit` raises.
        """

    async def import_session(
        self,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        slices: AsyncIterator[Sequence[Entry | NewArtifact]],
        once: StreamOnce | None = None,
    ) -> SessionRow:
        """A new session with a whole log, which comes in slices and holds the rules of a transcript, then its files.

        Nobody sees it before it is whole, as with `fork_session`; what `slices` raises is raised here. Ids of events
        and turns are kept, or all are new when the first turn of the log is in the store already, or in another import
        that is being made. What `once` has made before is returned when `slices` has ended.

        Raises NotFound for the agent, KeyTaken, InvalidRequest when a later turn is in the store already.
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
        behavior: Behavior | None = None,
        uploaded: Uploaded | None = None,
    ) -> Claim | Rejoined | Queued:
        """Append the input and its `turn_started`, and claim the turn, in one commit.

        What is `uploaded` becomes the session's, and its event stands behind `turn_started`; SessionFull when that are
        too many files or bytes together with those that are there.

        While another turn runs, an input with a `behavior` waits instead (`InputStore`). Raises TooManyInputs when
        MAX_WAITING_INPUTS wait already; InputWithdrawn when the input of `once` was withdrawn.

        `admit` runs inside the commit; what it raises is raised here and nothing is written. Raises NotFound,
        SessionRunning with the turn's id while another turn runs, or PreconditionFailed when the session's last event
        is not `if_match` (`start`: it has none). Keys of `once` are the session's; only with one there is a Rejoined.
        Given again, one that waits is Queued again.
        """

    async def interrupt(self, ref: SessionRef) -> Interruption:
        """Record that the running turn of a session shall stop; without one, nothing is written. Raises NotFound.

        From then on the turn's claim says so. It ends by an `append` like any other turn, and an end that was on its
        way counts. A second time changes nothing. A parked turn is claimed, under a new fence, to be ended. The same
        happens, in the same commit, to the running turns that tool calls of the turn have started, and to theirs.
        """

    async def append(
        self,
        fence: Fence,
        drafts: Sequence[Draft],
        progress: TurnProgress,
        end: TurnEnd | None = None,
        cover: Cover | None = None,
        artifacts: Sequence[NewArtifact] = (),
    ) -> Appended:
        """Append events to a turn's log in one commit, with consecutive sequences; with `end` also its `turn_ended`.

        The commit also makes `artifacts` the session's; the events tell of them. Raises SessionFull, with nothing
        written, when they are too many for it.

        The commit that ends a turn also takes the input that has waited longest, whatever its behavior: its event and
        its `turn_started` come next in the log, and the claim is given back. The others wait for turns of their own.

        With `cover` the visible events of its span become hidden in the same commit; raises LogMovedOn instead when
        an event was hidden, unhidden or deleted since.

        Raises FenceLost when the fence is not the turn's current one, the turn has ended or is parked, or the
        session is gone.
        """

    async def list_events(self, ref: SessionRef, query: EventQuery) -> Page[Entry]:
        """A page of a session's log, the same cost however long the log is. Raises NotFound for the session.

        What stands in the place of deleted events has no text; it is left out unless the query asks for it.
        """

    async def read_log(self, session_id: int, query: EventQuery) -> Page[Entry]:
        """As `list_events`, for a caller that holds the internal id; empty when the session is gone."""

    async def heads(self, session_ids: Collection[int]) -> dict[int, int]:
        """The newest sequence of each of these sessions, 0 in an empty log; a session that is gone is left out."""

    async def get_event(self, ref: SessionRef, event_id: str) -> Entry:
        """One event; also what stands in the place of a deleted one. Raises NotFound.

        The id that an input has waited under names it too, once it was taken.
        """

    async def get_turn(self, ref: SessionRef, turn_id: str) -> TurnRow:
        """Raises NotFound."""

    async def take_unfinished_turns(self) -> list[Claim]:
        """Claim every running turn under a new fence: for a start, when whoever ran them is known to be gone.

        Parked turns are left alone. The claims count the takes.
        """

    async def renew(self, fences: Collection[Fence]) -> Collection[Fence]:
        """Let these claims hold for another lease, in one commit; returns those that are not the turn's current one.

        Every claim holds for a lease, whoever gave it. A lease that has run out only lets others claim the turn: what
        may be written is decided by the fence alone, so a clock that is moved harms nothing.
        """

    async def take_expired_turns(self, limit: int | None = None) -> list[Claim]:
        """Claim the running turns whose lease has run out under a greater fence, so many at most.

        Without any, write nothing.
        """

    async def next_expiry(self) -> float | None:
        """Seconds until the first lease of a running turn runs out, below zero when it has; None without any."""

    async def standing(self, fences: Collection[Fence]) -> Mapping[Fence, Standing]:
        """How these claims stand; one that is not its turn's current one, or whose session is gone, is left out."""

    async def hand_over(self, fences: Collection[Fence]) -> None:
        """These turns are left running on purpose: anybody may take them up at once, and that take does not count."""


class ClientToolStore(Protocol):
    """Turns that are parked: they wait for outputs of client tools, and nobody runs them. What `Store` promises holds.

    The session of a parked turn says `stopped` and `requires_action`; the turn is still its turn.
    """

    async def park(
        self,
        fence: Fence,
        drafts: Sequence[Draft],
        progress: TurnProgress,
        outstanding: Sequence[str],
        artifacts: Sequence[NewArtifact] = (),
    ) -> list[Entry] | None:
        """As `append`, and in the same commit park the turn until outputs for the events `outstanding` have come.

        Returns None, with nothing written, when a caller wants the turn stopped. Raises what `append` raises.
        """

    async def answer_calls(
        self, ref: SessionRef, outputs: Sequence[CallOutput], admit: Admit, once: Once | None = None
    ) -> Answered | Rejoined:
        """Append the outputs to the log of the parked turn, in one commit.

        When no call is left without one, the same commit claims the turn under a new fence. Else it also appends
        `client_tool_pending` with the calls that are left. `admit` and `once` as in `accept_input`.

        Raises NotFound, ToolCallNotOutstanding, and SessionRunning for a call of a running turn that has not parked.
        """

    async def outstanding_calls(self, ref: SessionRef) -> list[Entry]:
        """The `tool_input` events that the session's parked turn waits for, in log order. Raises NotFound."""


class CallsTooDeep(Exception):
    """As many turns as may stand one above the other, each started by a tool call of the one before."""


class TooManyCalls(Exception):
    """As many turns as may stand below one turn, at all levels."""


class SubTurnStore(Protocol):
    """Turns that tool calls start in sessions of other agents. What `Store` promises holds here."""

    async def start_sub_turn(
        self, call: SubCall, new: NewSession, input: Draft, turn_id: str, admit: Admit
    ) -> Claim | Rejoined:
        """Start the turn of a tool call, in one commit: in the session of the key of `new`, made if it is not there.

        The same call again gives its turn as it stands, as long as its session is there. `admit` as in `accept_input`.
        Raises FenceLost when the calling turn does not run or is to be interrupted, CallsTooDeep beyond
        MAX_SUB_AGENT_DEPTH, TooManyCalls beyond MAX_SUB_AGENT_TURNS below the turn that no call has started, NotFound
        for the agent and for a session that others have created, SessionRunning.
        """


class VisibilityStore(Protocol):
    """Hiding, unhiding and deleting events, durable. What `Store` promises holds here.

    With an `artifact_upload` its files are deleted.

    A change and its record, which goes to the end of the log and belongs to no turn, are one commit. What is so
    already is left as it is, without a record. `last_event_id` stays. Events of a turn that has not ended can be
    neither hidden nor deleted: SessionRunning with the turn's id. Raises NotFound, for deleted events too, and
    RecordFixed for records.
    """

    async def set_hidden(self, ref: SessionRef, event_id: str, hidden: bool) -> Shown:
        """Hide an event from models and readers, or show it again. One that a summary covers is hidden already."""

    async def delete_event(self, ref: SessionRef, event_id: str) -> Shown:
        """Erase an event for good. Its place in the log stays, with what the transcript rules need and no text."""


class InputStore(Protocol):
    """Inputs that wait for the running turn of their session, durable. What `Store` promises holds here.

    They stand in no log until they are taken, and then under an event id with the random part of the id they waited
    under. A session in which inputs wait always has a running turn: the commit that ends one starts the next.

    Files that come with an input are the session's from its acceptance on, and go when it is withdrawn; the event that
    tells of them is taken with the input.
    """

    async def take_steering(self, fence: Fence) -> list[Entry]:
        """Append the inputs that wait to join the running turn to its log, in one commit; without any, do nothing.

        Raises FenceLost as `append`.
        """

    async def list_waiting(self, ref: SessionRef) -> list[WaitingInput]:
        """All inputs that wait, in the order of acceptance. Raises NotFound for the session."""

    async def withdrawn_inputs(self, session_id: int, event_ids: Collection[str]) -> Collection[str]:
        """Those of these inputs of a session, by the ids they waited under, that were withdrawn."""

    async def withdraw_input(self, ref: SessionRef, event_id: str) -> int:
        """Let an input wait no more; returns the internal id of its session.

        Raises InputTaken when a turn has taken it, NotFound when none waits under this id.
        """


class LogMovedOn(Exception):
    """What a summary was made of has changed meanwhile; nothing was written."""


class CompactionStore(Protocol):
    """Summaries that stand for the beginnings of logs, durable. What `Store` promises holds here.

    A `compaction` event stands for what it covers until something of that is deleted: the commit that deletes marks
    it, and every later one that covers the place, as stale, and erases their texts.
    """

    async def accept_compaction(
        self,
        ref: SessionRef,
        up_to_event_id: str | None,
        message: str | None,
        turn_id: str,
        admit: Admit,
        once: Once | None = None,
        if_match: str | None = None,
    ) -> Claim | Rejoined:
        """Start a turn that compacts a session: all up to an event, or all before the inputs that its agent keeps.

        One commit appends its `turn_started` and claims the turn. Otherwise as `accept_input`; raises NothingToCompact
        when no input would be covered that is not covered yet, and InvalidRequest for a place that is not there.
        """

    async def summary(self, session_id: int) -> Summary:
        """What stands for the beginning of a log now. Hidden and deleted summaries do not count."""

    async def span(self, session_id: int, *, keep: int | None = None, through: int | None = None) -> Span | None:
        """What there is to summarise: from the last good summary up to a place, or to the last `keep` inputs.

        None when that is nothing, or with `keep` no input. The cost depends on the length of the span alone.
        """


class ArtifactStore(Protocol):
    """What is known of the files of sessions, durable; their bytes are in `Files`. What `Store` promises holds here.

    An artifact whose `ttl_days` are over does not exist any more.
    """

    async def list_artifacts(
        self, ref: SessionRef, *, cursor: int | None, limit: int, order: Literal["asc", "desc"]
    ) -> Page[ArtifactRow]:
        """A page of a session's artifacts, in the order of their creation. Raises NotFound for the session."""

    async def get_artifact(self, ref: SessionRef, artifact_id: str) -> ArtifactRow:
        """Raises NotFound."""

    async def count_artifacts(self, session_id: int) -> tuple[int, int]:
        """How many artifacts a session has, and their bytes together."""

    async def take_expired_artifacts(self, limit: int) -> list[FileName]:
        """Remove some artifacts whose time is over or whose session is gone; returns what they named."""

    async def named_files(self, files: Sequence[FileName]) -> set[FileName]:
        """Those of these files that some artifact names."""


class Store(
    AccountStore,
    AgentStore,
    SessionStore,
    CopyStore,
    LogStore,
    InputStore,
    ClientToolStore,
    SubTurnStore,
    VisibilityStore,
    CompactionStore,
    SecretStore,
    ArtifactStore,
    ToolServerStore,
    UpkeepStore,
    Protocol,
):
    """Agents, sessions and logs, durable.

    Every verb is atomic. When a writing verb returns, its effect survives the loss of the process and of power; when
    it raises StorageUnavailable, it had no effect. Rows of another tenant do not exist: NotFound. Verbs may be called
    by any number of tasks at once.
    """

    async def close(self) -> None:
        """Finish what was queued and let go of the files."""

    async def listen(self, heard: Callable[[Heard | None], None]) -> Relay | None:
        """Call `heard` soon after other processes on the store have changed sessions or deleted agents.

        Returns what carries messages to and from them, or None when there can be no others.

        A hint that may be lost or come twice: whoever needs to know looks at the store, and looks now and then without
        one. With None anything may have happened. Never for what this process does itself.
        """

    async def ping(self) -> None:
        """Raise StorageUnavailable unless the store can commit."""

    async def purge(self) -> bool:
        """Remove a slice of what was deleted, or of idempotency keys whose time is over; True when more is left.

        Each call holds the writer a few milliseconds.
        """
