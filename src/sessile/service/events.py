"""Use-cases of reading a log: pages, single events, turns."""

from msgspec import json

from sessile.domain.log import Entry
from sessile.ports import EventQuery, Page, Principal, SessionRef, Store, TurnRow
from sessile.wire import codec
from sessile.wire.events import Turn, TurnError
from sessile.wire.sessions import Usage


class Events:
    """Everything that can be read of a session's log."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, principal: Principal, agent_key: str, session_key: str, query: EventQuery) -> Page[Entry]:
        """A page of the log. Raises NotFound for the session."""
        return await self._store.list_events(SessionRef(principal.tenant_id, agent_key, session_key), query)

    async def get(self, principal: Principal, agent_key: str, session_key: str, event_id: str) -> Entry:
        """One event. Raises NotFound."""
        return await self._store.get_event(SessionRef(principal.tenant_id, agent_key, session_key), event_id)

    async def get_turn(self, principal: Principal, agent_key: str, session_key: str, turn_id: str) -> Turn:
        """How a turn stands. Raises NotFound."""
        row = await self._store.get_turn(SessionRef(principal.tenant_id, agent_key, session_key), turn_id)
        return _shown(agent_key, session_key, row)


def _shown(agent_key: str, session_key: str, row: TurnRow) -> Turn:
    return Turn(
        id=row.turn_id,
        session_key=session_key,
        agent_key=agent_key,
        status="running" if row.running else "stopped",
        stop_reason=row.stop_reason,
        error=json.decode(row.error, type=TurnError) if row.error else None,
        usage=json.decode(row.usage, type=Usage),
        input_event_id=row.input_event_id,
        created_at=codec.rfc3339(row.created_at),
        ended_at=None if row.ended_at is None else codec.rfc3339(row.ended_at),
    )
