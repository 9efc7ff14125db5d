"""What is kept of sessions beside their rows: terms of their metadata, by which lists find them, and times to idle.

Kept in the transaction that writes the session.
"""

from sessile.domain import metadata_filter
from sessile.rows import SessionRow
from sessile.stores.postgres.db import Db

_MINUTE = 60_000_000


async def keep(db: Db, session_id: int, tenant_id: int, agent_id: int, metadata: bytes) -> None:
    """Remember the terms of a new session's metadata."""
    if metadata != b"{}":
        terms = metadata_filter.terms(metadata)
        await db.count("insert_terms", session_id=session_id, tenant_id=tenant_id, agent_id=agent_id, terms=terms)


async def replace(db: Db, session: SessionRow, metadata: bytes) -> None:
    """Remember the terms of a session's new metadata, and forget the old ones."""
    await db.count("delete_terms", session_id=session.id)
    await keep(db, session.id, session.tenant_id, session.agent_id, metadata)


def idle_at(used_at: int, tti_minutes: int) -> int:
    """When a session is idle that is not used again."""
    return used_at + tti_minutes * _MINUTE


async def look_when_idle(db: Db, session_id: int, used_at: int, tti_minutes: int) -> None:
    """Look at a session when its time to idle is over, if it has one. Other uses meanwhile are seen then."""
    if tti_minutes > 0:
        await db.count("look_later", session_id=session_id, since=used_at, look_at=idle_at(used_at, tti_minutes))
