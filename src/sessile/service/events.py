"""Use-cases of reading a log: pages, single events, turns."""

from msgspec import Struct, json

from sessile.domain.client_tools import pending_call
from sessile.domain.log import Entry
from sessile.ports import Principal, Store
from sessile.rows import EventQuery, Page, SessionRef, TurnRow
from sessile.service.log_check import check_log
from sessile.wire import codec
from sessile.wire.errors import NotFound, UnknownCursor
from sessile.wire.events import SessionState, ToolInputEvent, Turn, TurnError
from sessile.wire.inputs import OutstandingToolCalls
from sessile.wire.limits import MAX_PAGE_BYTES
from sessile.wire.sessions import SessionCheck, Usage


class Attachment(Struct, frozen=True):
    """Where somebody starts to follow a session."""

    session_id: int
    agent_id: int
    cursor: int
    """The sequence of the last event that they know."""
    position: str
    """The same as a client names it: `start` or an event id."""


class Events:
    """Everything that can be read of a session's log."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, principal: Principal, agent_key: str, session_key: str, query: EventQuery) -> Page[Entry]:
        """A page of the log, which ends early when its events are large. Raises NotFound for the session."""
        page = await self._store.list_events(SessionRef(principal.tenant_id, agent_key, session_key), query)
        return _cut(page, MAX_PAGE_BYTES)

    async def get(self, principal: Principal, agent_key: str, session_key: str, event_id: str) -> Entry:
        """One event. Raises NotFound."""
        entry = await self._store.get_event(SessionRef(principal.tenant_id, agent_key, session_key), event_id)
        if entry.deleted:
            raise NotFound(f"The event {event_id!r} was deleted.", id=event_id)
        return entry

    async def check(self, principal: Principal, agent_key: str, session_key: str) -> SessionCheck:
        """Read a whole log and check it against the rules, and the cached state of its session. Raises NotFound.

        It costs what the log is long; other requests are answered between its pages.
        """
        ref = SessionRef(principal.tenant_id, agent_key, session_key)
        session = await self._store.get_session(ref)
        found = await check_log(self._store, session)
        return SessionCheck(ok=not found, events=session.last_sequence, violations=found)

    async def locate(self, principal: Principal, agent_key: str, session_key: str, since: str) -> Attachment:
        """Where to follow from: `start`, the id of an event, or `now`. Raises NotFound, UnknownCursor."""
        ref = SessionRef(principal.tenant_id, agent_key, session_key)
        session = await self._store.get_session(ref)
        cursor, position = 0, "start"
        if since == "now":
            newest = EventQuery(limit=1, order="desc", records=True, include_hidden=True)
            for entry in (await self._store.read_log(session.id, newest)).rows:
                cursor, position = entry.sequence, entry.id
        elif since != "start":
            try:
                entry = await self._store.get_event(ref, since)
            except NotFound:
                message = f"{since[:100]!r} is no event of this session; `start` and `now` can be followed from too."
                raise UnknownCursor(message, field_errors={"since": message}) from None
            cursor, position = entry.sequence, entry.id
        return Attachment(session.id, session.agent_id, cursor, position)

    async def state(self, principal: Principal, agent_key: str, session_key: str, session_id: int) -> SessionState:
        """How a session stands that somebody has attached to. Raises NotFound when it has gone meanwhile."""
        session = await self._store.get_session(SessionRef(principal.tenant_id, agent_key, session_key))
        if session.id != session_id:
            raise NotFound(f"There is no session {session_key!r} any more.", id=session_key)
        return SessionState(
            status=session.status,
            stop_reason=session.stop_reason,
            turn_id=session.running_turn,
            last_event_id=session.last_event_id,
        )

    async def outstanding(self, principal: Principal, agent_key: str, session_key: str) -> OutstandingToolCalls:
        """The client tool calls that wait for an output. Raises NotFound for the session."""
        entries = await self._store.outstanding_calls(SessionRef(principal.tenant_id, agent_key, session_key))
        calls = [event for entry in entries if isinstance(event := entry.event(), ToolInputEvent)]
        return OutstandingToolCalls([pending_call(call) for call in calls])

    async def get_turn(self, principal: Principal, agent_key: str, session_key: str, turn_id: str) -> Turn:
        """How a turn stands. Raises NotFound."""
        row = await self._store.get_turn(SessionRef(principal.tenant_id, agent_key, session_key), turn_id)
        return _shown(agent_key, session_key, row)


def _cut(page: Page[Entry], most: int) -> Page[Entry]:
    """As much of a page as fits into so many bytes, but at least its first event."""
    size = 0
    for count, entry in enumerate(page.rows):
        size += len(entry.body)
        if size > most and count:
            return Page(page.rows[:count], page.rows[count - 1].sequence)
    return page


def _shown(agent_key: str, session_key: str, row: TurnRow) -> Turn:
    return Turn(
        id=row.turn_id,
        session_key=session_key,
        agent_key=agent_key,
        status="running" if row.running and not row.parked else "stopped",
        stop_reason="requires_action" if row.parked else row.stop_reason,
        error=json.decode(row.error, type=TurnError) if row.error else None,
        usage=json.decode(row.usage, type=Usage),
        input_event_id=row.input_event_id or None,
        created_at=codec.rfc3339(row.created_at),
        ended_at=None if row.ended_at is None else codec.rfc3339(row.ended_at),
    )
