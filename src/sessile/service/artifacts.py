"""Use-cases of files: taking them in, listing and reading them, and removing bytes that nobody wants any more."""

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, NoReturn

import structlog
from msgspec import UNSET

from sessile.domain import artifacts as rules
from sessile.domain.log import draft
from sessile.ports import Files, Principal, Store, Upload
from sessile.rows import ArtifactRow, FileName, NewArtifact, Page, SessionRef, Uploaded
from sessile.wire import codec, ids
from sessile.wire.artifacts import SessionArtifact
from sessile.wire.errors import InvalidRequest, TooLarge
from sessile.wire.events import ArtifactUploadEvent
from sessile.wire.limits import MAX_FILE_BYTES, MAX_UPLOAD_FILES

CHUNK = 192 * 1024
"""Bytes that are read at a time; a multiple of three, so that pieces of base64 can be joined."""
_BUFFER = 256 * 1024
_SLICE = 100
_log = structlog.get_logger("sessile.files")


class Artifacts:
    """Everything that can be done with the files of a session."""

    def __init__(self, store: Store, files: Files) -> None:
        self._store = store
        self._files = files
        self._doubtful: set[FileName] = set()
        """Bytes that perhaps nobody names any more."""

    async def list(
        self,
        principal: Principal,
        agent_key: str,
        session_key: str,
        *,
        cursor: int | None,
        limit: int,
        order: Literal["asc", "desc"],
    ) -> Page[SessionArtifact]:
        """A page of a session's files, without their bytes. Raises NotFound."""
        ref = SessionRef(principal.tenant_id, agent_key, session_key)
        page = await self._store.list_artifacts(ref, cursor=cursor, limit=limit, order=order)
        return Page([shown(row) for row in page.rows], page.next)

    async def get(self, principal: Principal, agent_key: str, session_key: str, artifact_id: str) -> ArtifactRow:
        """One file of a session. Raises NotFound."""
        return await self._store.get_artifact(SessionRef(principal.tenant_id, agent_key, session_key), artifact_id)

    async def open(self, row: ArtifactRow, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a file, piece by piece. Raises StorageUnavailable, when they are not there: at once."""
        first = await self._files.read(row.file, start, min(CHUNK, length))
        return self._pieces(row.file, first, start, start + length)

    async def _pieces(self, name: FileName, piece: bytes, place: int, end: int) -> AsyncGenerator[bytes, None]:
        held = self._files.hold(name)
        try:
            while piece:
                yield piece
                place += len(piece)
                piece = await self._files.read(name, place, min(CHUNK, end - place)) if place < end else b""
        finally:
            self._files.release(held)

    async def find(self, principal: Principal, agent_key: str, session_key: str) -> None:
        """Raises NotFound unless the session is there: asked before a large body is read."""
        await self._store.get_session(SessionRef(principal.tenant_id, agent_key, session_key))

    def receive(self, principal: Principal) -> "Incoming":
        """The files of one request, still to come."""
        return Incoming(self._files, principal.tenant_id)

    def doubt(self, artifacts: Sequence[NewArtifact], principal: Principal) -> None:
        """Bytes whose input was taken or refused by now: `tidy` removes them if nothing names them."""
        for artifact in artifacts:
            self._doubtful.add(FileName(principal.tenant_id, artifact.sha256))
            if artifact.held is not None:
                self._files.release(artifact.held)

    async def tidy(self) -> bool:
        """Remove a slice of what is over: files past their time, of sessions that are gone. True: more may be left."""
        taken = await self._store.take_expired_artifacts(_SLICE)
        self._doubtful.update(taken)
        if self._doubtful:
            doubtful, self._doubtful = self._doubtful, set()
            try:
                self._doubtful |= await self._files.remove(doubtful, self._store.named_files)
                doubtful = set()
            finally:
                self._doubtful |= doubtful
        return len(taken) == _SLICE

    async def sweep(self) -> None:
        """Remove the bytes that a crash has left without a name."""
        if removed := await self._files.sweep(self._store.named_files):
            _log.warning("stray_files_removed", files=removed)


class Incoming:
    """The files of one request as they come in: on the disk, never whole in memory."""

    def __init__(self, files: Files, tenant_id: int) -> None:
        self._files = files
        self._tenant_id = tenant_id
        self._uploads: list[tuple[str, str | None, Upload]] = []
        self._heads: list[bytes] = []
        self._buffer = bytearray()

    def begin(self, name: str | None, declared: str | None) -> None:
        """A file starts. Raises InvalidRequest for one too many."""
        if len(self._uploads) == MAX_UPLOAD_FILES:
            _refuse(f"More than {MAX_UPLOAD_FILES} files.")
        self._uploads.append((rules.safe_name(name), declared, self._files.create(self._tenant_id)))
        self._heads.append(b"")

    async def write(self, data: bytes) -> None:
        """The file goes on. Raises TooLarge, StorageUnavailable."""
        name, _, upload = self._uploads[-1]
        if upload.size + len(self._buffer) + len(data) > MAX_FILE_BYTES:
            raise TooLarge(f"The file {name!r} is larger than {MAX_FILE_BYTES} bytes.")
        if len(self._heads[-1]) < rules.HEAD_BYTES:
            self._heads[-1] = (self._heads[-1] + data)[: rules.HEAD_BYTES]
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await self._flush()

    async def end(self) -> None:
        """The file is complete."""
        await self._flush()

    def described(self) -> list[list[str]]:
        """Name, type and hash of each file: what makes two uploads the same."""
        return [[name, declared or "", upload.sha256] for name, declared, upload in self._uploads]

    async def keep(self, ttl_days: int | None) -> list[NewArtifact]:
        """Make all of them durable."""
        kept = []
        for (name, declared, upload), head in zip(self._uploads, self._heads, strict=True):
            held = await upload.keep()
            kept.append(
                NewArtifact(
                    artifact_id=ids.artifact_id(),
                    name=name,
                    content_type=rules.media_type(declared, name, head),
                    size=upload.size,
                    sha256=held.name.sha256,
                    ttl_days=ttl_days,
                    held=held,
                )
            )
        return kept

    async def discard(self) -> None:
        """Forget what is not kept."""
        for _, _, upload in self._uploads:
            await upload.discard()

    async def _flush(self) -> None:
        if self._buffer:
            data, self._buffer = bytes(self._buffer), bytearray()
            await self._uploads[-1][2].write(data)


def uploaded(artifacts: Sequence[NewArtifact]) -> Uploaded | None:
    """Files as they come with an input, and the event that tells of them."""
    if not artifacts:
        return None
    references = [artifact.reference() for artifact in artifacts]
    event = ArtifactUploadEvent(artifacts=references, agent_upload_message=rules.remark(references))
    return Uploaded(draft(event), artifacts)


def shown(row: ArtifactRow) -> SessionArtifact:
    """A file as an answer shows it, without its bytes."""
    created = codec.rfc3339(row.created_at)
    return SessionArtifact(
        artifact_id=row.artifact_id,
        filename=row.name,
        mime_type=row.content_type,
        size_bytes=row.size,
        checksum_sha256=row.sha256,
        metadata={},
        ttl_days=UNSET if row.ttl_days is None else row.ttl_days,
        created_at=created,
        updated_at=created,
    )


def _refuse(reason: str) -> NoReturn:
    raise InvalidRequest(f"files: {reason}", field_errors={"files": reason})
