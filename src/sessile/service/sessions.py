"""Use-cases over sessions: create, show, list, change, delete."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, cast

import msgspec
from msgspec import UNSET

from sessile.domain import compaction, filter_parser, name_filter
from sessile.ports import Admit, LiveSink, Principal, Store, TurnQueue, Vault
from sessile.rows import (
    AgentRow,
    Claim,
    Creator,
    NewSession,
    Once,
    Page,
    SessionChanges,
    SessionQuery,
    SessionRef,
    SessionRow,
    weight,
)
from sessile.service.room import Room
from sessile.service.secrets import checked
from sessile.wire import codec, ids
from sessile.wire.errors import InvalidRequest
from sessile.wire.limits import MAX_METADATA_BYTES
from sessile.wire.secrets import masked
from sessile.wire.sessions import (
    CreateSessionRequest,
    FromSession,
    Origin,
    Session,
    SessionContextUsage,
    UpdateSessionRequest,
    Usage,
)


class Sessions:
    """Everything that can be done with sessions, but for their events."""

    def __init__(self, store: Store, queue: TurnQueue, live: LiveSink, vault: Vault, admit: Admit) -> None:
        """`admit` says whether a turn may start."""
        self._store = store
        self._admit = admit
        self._vault = vault
        self._queue = queue
        self._live = live

    async def create(
        self, principal: Principal, agent_key: str, request: CreateSessionRequest, once: Once | None = None
    ) -> SessionRow:
        """Create a session, empty or as a fork of another one of this tenant, which the caller may read.

        Raises InvalidRequest, NotFound for the agent and the source, KeyTaken, IdempotencyKeyReused; when it is to be
        compacted also NothingToCompact, AgentDisabled, SessionDisabled, TemplateInvalid, Draining, Overloaded.
        """
        origin = None if request.from_session is UNSET else _origin(request.from_session, agent_key)
        key = ids.session_key(request.name or "") if request.key is UNSET else request.key
        new = NewSession(
            key=key,
            name=key if request.name is UNSET else request.name,
            description=request.description or None,
            metadata=_metadata(request.metadata),
            enabled=request.enabled,
            tti_minutes=request.tti_minutes,
            origin=None if origin is None else codec.encode(origin),
        )
        secrets = {} if request.secrets is UNSET else checked(request.secrets)
        with Room(self._queue, principal.tenant_id) as room:
            create = self._creation(principal.tenant_id, agent_key, new, origin, once, room)
            made = await (self._vault.write(secrets, create) if secrets else create())
            if isinstance(made, SessionRow):
                return made
            self._live.announce(made.session.id, made.opened)
            self._queue.submit(made)
        return await self._store.get_session(SessionRef(principal.tenant_id, agent_key, key))

    def _creation(
        self, tenant_id: int, agent_key: str, new: NewSession, origin: Origin | None, once: Once | None, room: Room
    ) -> Callable[..., Awaitable[SessionRow | Claim]]:
        """The verb that makes the session; what it takes yet is the secrets, encrypted."""
        if origin is None:
            return partial(self._store.create_session, tenant_id, agent_key, new, once)
        source = SessionRef(tenant_id, origin.agent_key, origin.session_key)
        if not origin.compact_up_to_event_id:
            up_to = origin.include_up_to_event_id or None
            return partial(self._store.fork_session, tenant_id, agent_key, new, source, up_to, once)

        def admit(agent: AgentRow, session: SessionRow) -> None:
            self._admit(agent, session)
            room.take(weight(agent, session))

        order = (origin.compact_up_to_event_id, ids.turn_id(), admit)
        return partial(self._store.fork_compacted, tenant_id, agent_key, new, source, *order, once)

    async def get(self, principal: Principal, agent_key: str, key: str) -> SessionRow:
        """Raises NotFound."""
        return await self._store.get_session(SessionRef(principal.tenant_id, agent_key, key))

    async def shown(self, rows: Collection[SessionRow]) -> list[Session]:
        """Sessions as an answer shows them."""
        names = await self._store.session_secret_names([row.id for row in rows])
        return [shown(row, names.get(row.id)) for row in rows]

    async def list(self, principal: Principal, agent_key: str, *, cursor: int | None, limit: int) -> Page[SessionRow]:
        """A page, newest first. Raises NotFound for the agent."""
        return await self._store.list_sessions(principal.tenant_id, agent_key, cursor=cursor, limit=limit)

    async def find(self, principal: Principal, query: SessionQuery, metadata_filter: str | None) -> Page[SessionRow]:
        """A page of the sessions that a query takes, newest first. Raises InvalidFilter."""
        if query.pattern is not None:
            name_filter.check(query.pattern)
        if metadata_filter is not None:  # on a thread: a long one takes some milliseconds
            tree = await asyncio.to_thread(filter_parser.parse, metadata_filter)
            query = msgspec.structs.replace(query, metadata=tree)
        return await self._store.find_sessions(principal.tenant_id, query)

    async def update(
        self, principal: Principal, agent_key: str, key: str, request: UpdateSessionRequest, if_match: int | None
    ) -> SessionRow:
        """Change what was sent. Raises InvalidRequest, NotFound, PreconditionFailed."""
        changes = SessionChanges(
            name=request.name,
            description=request.description,
            metadata=UNSET if request.metadata is UNSET else _metadata(request.metadata),
            enabled=request.enabled,
            tti_minutes=request.tti_minutes,
        )
        ref = SessionRef(principal.tenant_id, agent_key, key)
        update = partial(self._store.update_session, ref, changes, if_match)
        if request.secrets is UNSET or not request.secrets:
            return await update()
        return await self._vault.write(checked(request.secrets), update)

    async def delete(self, principal: Principal, agent_key: str, key: str, if_match: int | None) -> None:
        """Delete a session, its log and its running turn. Raises NotFound, PreconditionFailed."""
        session_id = await self._store.delete_session(SessionRef(principal.tenant_id, agent_key, key), if_match)
        await self._queue.cancel_session(session_id)
        self._live.close_session(session_id)

    async def sweep(self) -> bool:
        """Delete sessions whose time to idle is over, and remove what was deleted; True when more is left."""
        idle = await self._store.delete_idle_sessions()
        for session_id in idle:
            await self._queue.cancel_session(session_id)
            self._live.close_session(session_id)
        return await self._store.purge() or bool(idle)


def shown(row: SessionRow, secrets: list[str] | None) -> Session:
    """A session as an answer shows it, with the names of its secrets."""
    creator = None if row.creator is None else msgspec.json.decode(row.creator, type=Creator)
    return Session(
        id=row.key,
        key=row.key,
        agent_id=row.agent_key,
        agent_key=row.agent_key,
        name=row.name,
        description=UNSET if row.description is None else row.description,
        metadata=cast(Any, msgspec.Raw(row.metadata)),  # JSON already: it is copied into the answer, not read
        enabled=row.enabled,
        status=row.status,
        stop_reason=row.stop_reason,
        last_event_id=row.last_event_id,
        tti_minutes=row.tti_minutes,
        created_at=codec.rfc3339(row.created_at),
        updated_at=codec.rfc3339(row.updated_at),
        session_context_usage=(
            msgspec.json.decode(row.context_usage, type=SessionContextUsage) if row.context_usage else UNSET
        ),
        usage=msgspec.json.decode(row.usage, type=Usage),
        effective_compaction=compaction.effective(row.compaction),
        created_by_agent_key=UNSET if creator is None else creator.agent_key,
        created_by_session_key=UNSET if creator is None else creator.session_key,
        from_session=msgspec.json.decode(row.origin, type=Origin) if row.origin else UNSET,
        secrets=UNSET if secrets is None else masked(secrets),
    )


def _origin(source: FromSession, agent_key: str) -> Origin:
    if source.compact_up_to_event_id and source.include_up_to_event_id:
        field = "from_session.compact_up_to_event_id"
        reason = "Give either include_up_to_event_id or compact_up_to_event_id."
        raise InvalidRequest(f"{field}: {reason}", field_errors={field: reason})
    return Origin(
        agent_key=source.agent_key or agent_key,
        session_key=source.session_key,
        include_up_to_event_id=source.include_up_to_event_id or UNSET,
        compact_up_to_event_id=source.compact_up_to_event_id or UNSET,
    )


def _metadata(metadata: dict[str, object]) -> bytes:
    encoded = codec.encode(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        reason = f"Larger than {MAX_METADATA_BYTES} bytes."
        raise InvalidRequest(f"metadata: {reason}", field_errors={"metadata": reason})
    return encoded
