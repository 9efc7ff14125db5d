"""What is known of the files of sessions, in SQLite."""

import sqlite3
from collections.abc import Sequence
from typing import Literal

from sessile.rows import ArtifactRow, FileName, NewArtifact, Page, SessionRef
from sessile.stores import rows, rules
from sessile.stores.sqlite.verbs import QUERIES, Verbs, before, locate, one
from sessile.wire import codec


class Artifacts(Verbs):
    """Verbs of the `Store` port."""

    async def list_artifacts(
        self, ref: SessionRef, *, cursor: int | None, limit: int, order: Literal["asc", "desc"]
    ) -> Page[ArtifactRow]:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> Page[ArtifactRow]:
            place = before(cursor) if order == "desc" else cursor or 0
            values = {"session_id": locate(db, ref), "cursor": place, "limit": limit + 1, "now": now}
            found = [rows.artifact(row) for row in db.execute(QUERIES[f"list_artifacts_{order}"], values)]
            return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

        return self._lookups.run(verb)

    async def get_artifact(self, ref: SessionRef, artifact_id: str) -> ArtifactRow:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> ArtifactRow:
            values = {"session_id": locate(db, ref), "artifact_id": artifact_id, "now": now}
            return rows.artifact(one(db, "get_artifact", values, "artifact", artifact_id))

        return self._lookups.run(verb)

    async def count_artifacts(self, session_id: int) -> tuple[int, int]:
        now = self._clock.now()
        return self._lookups.run(lambda db: count(db, session_id, now))

    async def take_expired_artifacts(self, limit: int) -> list[FileName]:
        values = {"now": self._clock.now(), "limit": limit}
        if self._lookups.run(lambda db: db.execute(QUERIES["expired_artifact"], values).fetchone()) is None:
            return []
        taken = await self._writer.run(lambda db: db.execute(QUERIES["take_expired_artifacts"], values).fetchall())
        return [FileName(*row) for row in taken]

    async def named_files(self, files: Sequence[FileName]) -> set[FileName]:
        wanted = {"files": codec.encode([[file.tenant_id, file.sha256] for file in files]).decode()}
        found = await self._readers.run(lambda db: db.execute(QUERIES["named_files"], wanted).fetchall())
        return {FileName(*row) for row in found}


def count(db: sqlite3.Connection, session_id: int, now: int) -> tuple[int, int]:
    """`Store.count_artifacts` within a transaction."""
    files, size = db.execute(QUERIES["count_artifacts"], {"session_id": session_id, "now": now}).fetchone()
    return files, size


def take(db: sqlite3.Connection, tenant_id: int, session_id: int, artifacts: Sequence[NewArtifact], now: int) -> None:
    """Make new artifacts a session's. Raises SessionFull when they are too many for it."""
    files, size = count(db, session_id, now)
    rules.check_room(artifacts, files, size)
    insert(db, tenant_id, session_id, artifacts, now)


def expire(db: sqlite3.Connection, session_id: int, told: bytes) -> None:
    """The time of the artifacts is over that the body of an `artifact_upload` tells of."""
    event = codec.decode(told)
    for artifact in event["artifacts"]:
        db.execute(QUERIES["expire_artifact"], {"session_id": session_id, "artifact_id": artifact["artifact_id"]})


def insert(db: sqlite3.Connection, tenant_id: int, session_id: int, artifacts: Sequence[NewArtifact], now: int) -> None:
    """Make artifacts a session's, within a transaction."""
    for artifact in artifacts:
        created_at = now if artifact.created_at is None else artifact.created_at
        values = {
            "tenant_id": tenant_id,
            "session_id": session_id,
            "artifact_id": artifact.artifact_id,
            "name": artifact.name,
            "content_type": artifact.content_type,
            "size": artifact.size,
            "sha256": artifact.sha256,
            "ttl_days": artifact.ttl_days,
            "now": created_at,
            "expires_at": rules.expires_at(artifact, created_at),
        }
        db.execute(QUERIES["insert_artifact"], values)
