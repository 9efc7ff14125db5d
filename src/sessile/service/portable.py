"""Use-cases of sessions that travel: one as a file, and a file as a session."""

from collections.abc import AsyncIterator

import msgspec
from msgspec import UNSET, UnsetType

from sessile.domain.log import Entry
from sessile.domain.portable import Export, Import
from sessile.ports import Clock, Principal, Store
from sessile.rows import AgentRow, EventQuery, NewSession, SessionRef, SessionRow
from sessile.wire import codec
from sessile.wire.errors import InvalidRequest, NotFound, StorageUnavailable
from sessile.wire.limits import MAX_METADATA_BYTES
from sessile.wire.portable import FORMAT, AgentLine, SessionLine
from sessile.wire.sessions import Origin

_PAGE = 100
_SLICE_EVENTS = 500
_SLICE_BYTES = 1024 * 1024


class Portable:
    """Export and import."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def export(self, principal: Principal, agent_key: str, key: str) -> AsyncIterator[bytes]:
        """The lines of a session, up to the newest event of this moment. Raises NotFound, before the first of them.

        When the session is deleted meanwhile, or the store fails, the last line is missing.
        """
        session = await self._store.get_session(SessionRef(principal.tenant_id, agent_key, key))
        agent = await self._store.get_agent(principal.tenant_id, agent_key)
        return self._lines(session, agent)

    async def import_(
        self, principal: Principal, agent_key: str, chunks: AsyncIterator[bytes], key: str | UnsetType, repair: bool
    ) -> SessionRow:
        """A session from the bytes of an export, under its own key or another one.

        Raises InvalidRequest, NotSupported, TranscriptInvalid, NotFound for the agent, KeyTaken; nothing is left then.
        """
        reading = Import()
        slices = self._slices(reading, chunks, repair)
        first = await anext(slices, None)
        assert reading.session is not None
        new = _new_session(reading.session, key)

        async def log() -> AsyncIterator[list[Entry]]:
            if first is not None:
                yield first
                async for entries in slices:
                    yield entries

        return await self._store.import_session(principal.tenant_id, agent_key, new, log())

    async def _lines(self, session: SessionRow, agent: AgentRow) -> AsyncIterator[bytes]:
        export = Export()
        yield export.head(
            _session_line(session), AgentLine(key=agent.key, document=msgspec.json.decode(agent.document))
        )
        cursor: int | None = 0
        sent = 0
        while cursor is not None and sent < session.last_sequence:
            query = EventQuery(cursor=cursor, limit=_PAGE, records=True, include_deleted=True)
            try:
                page = await self._store.read_log(session.id, query)
            except StorageUnavailable:
                return  # the answer has begun: that it lacks its last line is all that can still be told
            entries = [entry for entry in page.rows if entry.sequence <= session.last_sequence]
            sent += len(entries)
            yield export.events(entries)
            cursor = page.next
        if sent == session.last_sequence and await self._is_there(session):
            yield export.end()

    async def _is_there(self, session: SessionRow) -> bool:
        try:
            ref = SessionRef(session.tenant_id, session.agent_key, session.key)
            return (await self._store.get_session(ref)).id == session.id
        except (NotFound, StorageUnavailable):
            return False

    async def _slices(self, reading: Import, chunks: AsyncIterator[bytes], repair: bool) -> AsyncIterator[list[Entry]]:
        """The events of an import, some at a time."""
        waiting: list[Entry] = []
        size = 0
        async for chunk in chunks:
            for entry in reading.feed(chunk):
                waiting.append(entry)
                size += len(entry.body)
                if len(waiting) == _SLICE_EVENTS or size >= _SLICE_BYTES:
                    yield waiting
                    waiting, size = [], 0
        waiting += reading.end(repair, self._clock.now())
        if waiting:
            yield waiting


def _session_line(session: SessionRow) -> SessionLine:
    return SessionLine(
        format=FORMAT,
        key=session.key,
        name=session.name,
        description=UNSET if session.description is None else session.description,
        metadata=msgspec.json.decode(session.metadata),
        enabled=session.enabled,
        tti_minutes=session.tti_minutes,
        from_session=msgspec.json.decode(session.origin, type=Origin) if session.origin else UNSET,
    )


def _new_session(line: SessionLine, key: str | UnsetType) -> NewSession:
    metadata = codec.encode(line.metadata)
    if len(metadata) > MAX_METADATA_BYTES:
        reason = f"Larger than {MAX_METADATA_BYTES} bytes."
        raise InvalidRequest(f"metadata: {reason}", field_errors={"metadata": reason})
    return NewSession(
        key=line.key if key is UNSET else key,
        name=line.name,
        description=line.description or None,
        metadata=metadata,
        enabled=line.enabled,
        tti_minutes=line.tti_minutes,
        origin=None if line.from_session is UNSET else msgspec.json.encode(line.from_session),
    )
