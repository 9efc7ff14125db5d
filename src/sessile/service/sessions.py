"""Use-cases over sessions: create, show, list, change, delete."""

from typing import Any, cast

import msgspec
from msgspec import UNSET

from sessile.domain import compaction
from sessile.ports import LiveSink, Principal, Store, TurnQueue
from sessile.rows import NewSession, Once, Page, SessionChanges, SessionRef, SessionRow
from sessile.wire import codec, ids
from sessile.wire.errors import InvalidRequest, NotSupported
from sessile.wire.limits import MAX_METADATA_BYTES
from sessile.wire.sessions import CreateSessionRequest, Session, SessionContextUsage, UpdateSessionRequest, Usage


class Sessions:
    """Everything that can be done with sessions, but for their events."""

    def __init__(self, store: Store, queue: TurnQueue, live: LiveSink) -> None:
        self._store = store
        self._queue = queue
        self._live = live

    async def create(
        self, principal: Principal, agent_key: str, request: CreateSessionRequest, once: Once | None = None
    ) -> SessionRow:
        """Raises InvalidRequest, NotSupported, NotFound for the agent, KeyTaken, IdempotencyKeyReused."""
        _refuse_unbuilt(request, "secrets", "from_session")
        key = ids.session_key(request.name or "") if request.key is UNSET else request.key
        new = NewSession(
            key=key,
            name=key if request.name is UNSET else request.name,
            description=request.description or None,
            metadata=_metadata(request.metadata),
            enabled=request.enabled,
            tti_minutes=request.tti_minutes,
        )
        return await self._store.create_session(principal.tenant_id, agent_key, new, once)

    async def get(self, principal: Principal, agent_key: str, key: str) -> SessionRow:
        """Raises NotFound."""
        return await self._store.get_session(SessionRef(principal.tenant_id, agent_key, key))

    async def list(self, principal: Principal, agent_key: str, *, cursor: int | None, limit: int) -> Page[SessionRow]:
        """A page, newest first. Raises NotFound for the agent."""
        return await self._store.list_sessions(principal.tenant_id, agent_key, cursor=cursor, limit=limit)

    async def update(
        self, principal: Principal, agent_key: str, key: str, request: UpdateSessionRequest, if_match: int | None
    ) -> SessionRow:
        """Change what was sent. Raises InvalidRequest, NotSupported, NotFound, PreconditionFailed."""
        _refuse_unbuilt(request, "secrets")
        changes = SessionChanges(
            name=request.name,
            description=request.description,
            metadata=UNSET if request.metadata is UNSET else _metadata(request.metadata),
            enabled=request.enabled,
            tti_minutes=request.tti_minutes,
        )
        return await self._store.update_session(SessionRef(principal.tenant_id, agent_key, key), changes, if_match)

    async def delete(self, principal: Principal, agent_key: str, key: str, if_match: int | None) -> None:
        """Delete a session, its log and its running turn. Raises NotFound, PreconditionFailed."""
        session_id = await self._store.delete_session(SessionRef(principal.tenant_id, agent_key, key), if_match)
        await self._queue.cancel_session(session_id)
        self._live.close_session(session_id)


def shown(row: SessionRow) -> Session:
    """The session as an answer shows it."""
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
    )


def _metadata(metadata: dict[str, object]) -> bytes:
    encoded = codec.encode(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        reason = f"Larger than {MAX_METADATA_BYTES} bytes."
        raise InvalidRequest(f"metadata: {reason}", field_errors={"metadata": reason})
    return encoded


def _refuse_unbuilt(request: CreateSessionRequest | UpdateSessionRequest, *names: str) -> None:
    for name in names:
        if getattr(request, name) is not UNSET:
            reason = "Not supported yet."
            raise NotSupported(f"{name}: {reason}", field_errors={name: reason})
