"""What is known of the files of sessions, in PostgreSQL."""

from collections.abc import Iterable, Sequence
from typing import Literal

from sessile.rows import ArtifactRow, FileName, NewArtifact, Page, SessionRef
from sessile.stores import rows, rules
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.verbs import Verbs, before, locate, one
from sessile.wire import codec


class Artifacts(Verbs):
    """Verbs of the `Store` port."""

    async def list_artifacts(
        self, ref: SessionRef, *, cursor: int | None, limit: int, order: Literal["asc", "desc"]
    ) -> Page[ArtifactRow]:
        values = {"cursor": before(cursor) if order == "desc" else cursor or 0, "limit": limit + 1}
        now = self._clock.now()

        async def verb(db: Db) -> Sequence[Row]:
            return await db.all(f"list_artifacts_{order}", session_id=await locate(db, ref), now=now, **values)

        found = [rows.artifact(row) for row in await self._read(verb)]
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def get_artifact(self, ref: SessionRef, artifact_id: str) -> ArtifactRow:
        now = self._clock.now()

        async def verb(db: Db) -> ArtifactRow:
            values = {"session_id": await locate(db, ref), "artifact_id": artifact_id, "now": now}
            return rows.artifact(await one(db, "get_artifact", "artifact", artifact_id, **values))

        return await self._read(verb)

    async def count_artifacts(self, session_id: int) -> tuple[int, int]:
        now = self._clock.now()
        return await self._read(lambda db: count(db, session_id, now))

    async def take_expired_artifacts(self, limit: int) -> list[FileName]:
        now = self._clock.now()
        if await self._read(lambda db: db.one("expired_artifact", now=now)) is None:
            return []
        taken = await self._write(lambda db: db.change("take_expired_artifacts", now=now, limit=limit))
        return [FileName(*row) for row in taken]

    async def named_files(self, files: Sequence[FileName]) -> set[FileName]:
        values = {"tenants": [file.tenant_id for file in files], "hashes": [file.sha256 for file in files]}
        return {FileName(*row) for row in await self._read(lambda db: db.all("named_files", **values))}


async def count(db: Db, session_id: int, now: int) -> tuple[int, int]:
    """`Store.count_artifacts` within a transaction."""
    row = await db.one("count_artifacts", session_id=session_id, now=now)
    assert row is not None
    return row[0], row[1]


async def check_room(db: Db, session_id: int, artifacts: Sequence[NewArtifact], now: int) -> None:
    """Raise SessionFull when new artifacts are too many for a session, which is locked."""
    rules.check_room(artifacts, *await count(db, session_id, now))


async def expire(db: Db, session_id: int, told: bytes) -> None:
    """The time of the artifacts is over that the body of an `artifact_upload` tells of."""
    ids = [artifact["artifact_id"] for artifact in codec.decode(told)["artifacts"]]
    await db.count("expire_files", session_id=session_id, ids=ids)


async def insert(db: Db, artifacts: Iterable[tuple[int, int, NewArtifact, int]]) -> None:
    """Make artifacts sessions': each with its tenant's and its session's id, and when it came."""
    found = list(artifacts)
    if not found:
        return
    made = [now if artifact.created_at is None else artifact.created_at for *_, artifact, now in found]
    await db.count(
        "insert_artifacts",
        tenants=[tenant_id for tenant_id, *_ in found],
        sessions=[session_id for _, session_id, *_ in found],
        ids=[artifact.artifact_id for *_, artifact, _ in found],
        names=[artifact.name for *_, artifact, _ in found],
        types=[artifact.content_type for *_, artifact, _ in found],
        sizes=[artifact.size for *_, artifact, _ in found],
        hashes=[artifact.sha256 for *_, artifact, _ in found],
        ttls=[artifact.ttl_days for *_, artifact, _ in found],
        times=made,
        ends=[rules.expires_at(artifact, time) for (*_, artifact, _), time in zip(found, made, strict=True)],
    )
