"""Artifacts: the files of a session."""

import asyncio
import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from sessile.client.call import Caller, path
from sessile.client.errors import ConnectionLost, UnexpectedAnswer
from sessile.client.pages import AsyncPages, Page
from sessile.client.reading import read, read_page

_ARTIFACTS = "/v2/agents/{agent_key}/sessions/{session_key}/artifacts"
_ARTIFACT = "/v2/agents/{agent_key}/sessions/{session_key}/artifacts/{artifact_id}"
_RAW = "application/octet-stream"


class Artifact(Struct, kw_only=True, omit_defaults=True):
    """A file of a session. None: there is no value."""

    artifact_id: str
    filename: str
    mime_type: str
    size_bytes: int
    checksum_sha256: str
    metadata: dict[str, Any]
    description: str | None = None
    ttl_days: int | None = None
    created_at: str
    updated_at: str
    data: bytes | None = None
    """The content; only in what `get` gives."""


class AsyncArtifacts:
    """List and read the files of a session. Send them with `events.send` or `events.stream`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(
        self,
        agent_key: str,
        session_key: str,
        *,
        order: Literal["asc", "desc"] = "desc",
        limit: int | None = None,
    ) -> AsyncPages[Artifact]:
        """List the files of a session, newest first (`desc`) or oldest first. `limit` is the size of a page."""
        artifacts = path(_ARTIFACTS, agent_key=agent_key, session_key=session_key)

        async def fetch(page_key: str | None) -> Page[Artifact]:
            query = {"order_by": order, "limit": limit, "page_key": page_key}
            reply = await self._caller.whole("GET", artifacts, query=query)
            return read_page("artifacts", reply.body, lambda item: read(Artifact, item))

        return AsyncPages(fetch)

    async def get(self, agent_key: str, session_key: str, artifact_id: str) -> Artifact:
        """Show a file, with its whole content in memory. Raises NotFound."""
        artifact = path(_ARTIFACT, agent_key=agent_key, session_key=session_key, artifact_id=artifact_id)
        return read(Artifact, (await self._caller.whole("GET", artifact)).body)

    async def download(self, agent_key: str, session_key: str, artifact_id: str, target: str | Path) -> int:
        """Write the content of a file to `target`, which is there whole or not at all; returns its bytes.

        Raises NotFound, ConnectionLost, and UnexpectedAnswer when what came is not what the server has; OSError.
        """
        artifact = path(_ARTIFACT, agent_key=agent_key, session_key=session_key, artifact_id=artifact_id)
        response = await self._caller.open(artifact, _RAW)
        place = Path(target)
        partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
        digest, size = hashlib.sha256(), 0
        try:
            with partial.open("xb") as file:
                async for piece in response.chunks():
                    digest.update(piece)
                    size += len(piece)
                    await asyncio.to_thread(file.write, piece)
            if str(size) != response.headers.get("content-length", str(size)):
                raise ConnectionLost
            if response.headers.get("etag") != f'"{digest.hexdigest()}"':
                raise UnexpectedAnswer("What came is not the file that the server has.")
            os.replace(partial, place)
        finally:
            await response.close()
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
        return size
