"""The index by which lists find equal values in metadata: kept in the commit that writes the metadata."""

import sqlite3

from sessile.domain import metadata_filter
from sessile.rows import SessionRow
from sessile.stores.sqlite.verbs import QUERIES


def keep(db: sqlite3.Connection, session_id: int, tenant_id: int, agent_id: int, metadata: bytes) -> None:
    """Remember the terms of a new session's metadata."""
    if metadata != b"{}":
        rows = [(session_id, term, tenant_id, agent_id) for term in metadata_filter.terms(metadata)]
        db.executemany(QUERIES["insert_term"], rows)


def replace(db: sqlite3.Connection, session: SessionRow, metadata: bytes) -> None:
    """Remember the terms of a session's new metadata, and forget the old ones."""
    db.execute(QUERIES["delete_terms"], {"session_id": session.id})
    keep(db, session.id, session.tenant_id, session.agent_id, metadata)
