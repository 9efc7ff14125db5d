"""Use-cases of sessions that travel: one as a file, and a file as a session."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec
from msgspec import UNSET, UnsetType

from sessile.domain import artifacts as rules
from sessile.domain.idempotency import with_stream
from sessile.domain.log import Entry
from sessile.domain.portable import Export, File, Import, Item
from sessile.ports import Clock, Files, Principal, Store, Upload
from sessile.rows import (
    AgentRow,
    ArtifactRow,
    EventQuery,
    NewArtifact,
    NewSession,
    Once,
    SessionRef,
    SessionRow,
    StreamOnce,
)
from sessile.service.artifacts import Artifacts
from sessile.wire import codec
from sessile.wire.errors import InvalidRequest, NotFound, StorageUnavailable
from sessile.wire.limits import MAX_METADATA_BYTES
from sessile.wire.portable import FORMAT, AgentLine, FileLine, SessionLine
from sessile.wire.sessions import Origin

_PAGE = 100
_SLICE_EVENTS = 500
_SLICE_BYTES = 1024 * 1024
_HELD_BYTES = 64 * 1024
"""How much of an import is read on the event loop at a time: 30 milliseconds at the worst."""


class Portable:
    """Export and import."""

    def __init__(self, store: Store, files: Files, artifacts: Artifacts, clock: Clock) -> None:
        self._store = store
        self._files = files
        self._artifacts = artifacts
        self._clock = clock

    async def export(self, principal: Principal, agent_key: str, key: str) -> AsyncIterator[bytes]:
        """The lines of a session, up to the newest event of this moment. Raises NotFound, before the first of them.

        When the session is deleted meanwhile, or the store fails, the last line is missing.
        """
        session = await self._store.get_session(SessionRef(principal.tenant_id, agent_key, key))
        agent = await self._store.get_agent(principal.tenant_id, agent_key)
        return self._lines(session, agent)

    async def import_(
        self,
        principal: Principal,
        agent_key: str,
        chunks: AsyncIterator[bytes],
        key: str | UnsetType,
        repair: bool,
        once: Once | None = None,
    ) -> SessionRow:
        """A session from the bytes of an export, under its own key or another one.

        `once` is bound to the request without these bytes; they are added here.

        Raises InvalidRequest, TranscriptInvalid, NotFound for the agent and for what `once` made, KeyTaken,
        IdempotencyKeyReused; nothing is left then.
        """
        reading, arriving = Import(), _Arriving(self._files, principal.tenant_id)
        slices = self._slices(reading, chunks, repair, arriving)
        try:
            first = await anext(slices, None)
            assert reading.session is not None
            new = _new_session(reading.session, key)

            async def log() -> AsyncIterator[Sequence[Entry | NewArtifact]]:
                if first is not None:
                    yield first
                    async for items in slices:
                        yield items

            keyed = None if once is None else _bound(once, reading, arriving)
            return await self._store.import_session(principal.tenant_id, agent_key, new, log(), keyed)
        finally:
            await arriving.discard()
            self._artifacts.doubt(arriving.kept, principal)

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
        try:
            async for lines in self._lines_of_files(session, export):
                yield lines
        except (NotFound, StorageUnavailable):
            return
        if sent == session.last_sequence and await self._is_there(session):
            yield export.end()

    async def _lines_of_files(self, session: SessionRow, export: Export) -> AsyncIterator[bytes]:
        """The files that the events of an export tell of."""
        ref, cursor, more = SessionRef(session.tenant_id, session.agent_key, session.key), 0, bool(export.told)
        while more:
            page = await self._store.list_artifacts(ref, cursor=cursor, limit=_PAGE, order="asc")
            for row in page.rows:
                if row.artifact_id in export.told and row.session_id == session.id:
                    async with aclosing(await self._artifacts.open(row, 0, row.size)) as pieces:
                        yield export.file(_file_line(row))
                        async for piece in pieces:
                            yield export.data(piece)
            cursor, more = page.next or 0, page.next is not None

    async def _is_there(self, session: SessionRow) -> bool:
        try:
            ref = SessionRef(session.tenant_id, session.agent_key, session.key)
            return (await self._store.get_session(ref)).id == session.id
        except (NotFound, StorageUnavailable):
            return False

    async def _slices(
        self, reading: Import, chunks: AsyncIterator[bytes], repair: bool, arriving: "_Arriving"
    ) -> AsyncIterator[Sequence[Entry | NewArtifact]]:
        """The events of an import, some at a time, then its files, one at a time."""
        waiting: list[Entry] = []
        size = 0
        async with aclosing(_items(reading, chunks)) as items:
            async for item in items:
                if isinstance(item, Entry):
                    waiting.append(item)
                    size += len(item.body)
                if waiting and (len(waiting) == _SLICE_EVENTS or size >= _SLICE_BYTES or not isinstance(item, Entry)):
                    yield waiting
                    waiting, size = [], 0
                if not isinstance(item, Entry) and (artifact := await arriving.take(item)) is not None:
                    yield [artifact]
        waiting += reading.end(repair, self._clock.now())
        if waiting:
            yield waiting


async def _items(reading: Import, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Item]:
    """What an import gives. Now and then, and for large lines, a thread reads, so that others have their turn."""
    held = 0
    async for chunk in chunks:
        for line in reading.lines(chunk):
            held += len(line)
            if held <= _HELD_BYTES:
                item = reading.take(line)
            else:
                item, held = await asyncio.to_thread(reading.take, line), 0
            if item is not None:
                yield item


class _Arriving:
    """The files of an import as their bytes come: on the disk, never whole in memory."""

    def __init__(self, files: Files, tenant_id: int) -> None:
        self.kept: list[NewArtifact] = []
        self._wanted = True
        self._files = files
        self._tenant_id = tenant_id
        self._file: File | None = None
        self._upload: Upload | None = None
        self._head = b""

    async def take(self, item: File | bytes) -> NewArtifact | None:
        """Go on; the file, made durable, when it is complete."""
        if not self._wanted:
            return None
        if isinstance(item, File):
            self._file, self._upload, self._head = item, self._files.create(self._tenant_id), b""
        assert self._file is not None
        assert self._upload is not None
        if isinstance(item, bytes):
            self._head = (self._head + item)[: rules.HEAD_BYTES]
            await self._upload.write(item)
        if self._upload.size < self._file.size:
            return None
        held = await self._upload.keep()
        artifact = NewArtifact(
            artifact_id=self._file.artifact_id,
            name=self._file.name,
            content_type=rules.media_type(self._file.content_type, self._file.name, self._head),
            size=self._file.size,
            sha256=held.name.sha256,
            ttl_days=self._file.ttl_days,
            created_at=self._file.created_at,
            held=held,
        )
        self.kept.append(artifact)
        return artifact

    def skip(self) -> None:
        """Nobody wants those that come from now on."""
        self._wanted = False

    async def discard(self) -> None:
        """Forget what is not complete."""
        if self._upload is not None:
            await self._upload.discard()


def _bound(once: Once, reading: Import, arriving: _Arriving) -> StreamOnce:
    """The key of an import, bound to its bytes too."""
    return StreamOnce(once.key, lambda: with_stream(once.fingerprint, reading.digest), arriving.skip)


def _file_line(row: ArtifactRow) -> FileLine:
    return FileLine(
        artifact_id=row.artifact_id,
        filename=row.name,
        mime_type=row.content_type,
        size_bytes=row.size,
        sha256=row.sha256,
        ttl_days=UNSET if row.ttl_days is None else row.ttl_days,
        created_at=codec.rfc3339(row.created_at),
    )


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
