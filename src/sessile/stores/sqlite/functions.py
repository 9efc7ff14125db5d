"""Functions of Sessile that queries and migrations call."""

import sqlite3

from sessile.domain.metadata_filter import terms
from sessile.domain.name_filter import matches
from sessile.wire import codec


def register(connection: sqlite3.Connection) -> None:
    """Make them known to a connection."""
    connection.create_function("pattern_matches", 3, matches, deterministic=True)
    connection.create_function("metadata_terms", 1, _metadata_terms, deterministic=True)


def _metadata_terms(metadata: bytes | str) -> str:
    """The terms of a session's metadata, as a JSON list."""
    return codec.encode(terms(metadata)).decode()
