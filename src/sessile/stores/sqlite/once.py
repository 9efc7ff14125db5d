"""Idempotency keys in SQLite: found and kept within the transaction of the verb that creates. They know no verb."""

import sqlite3
from typing import Any

from sessile.rows import Kept, Once
from sessile.stores.rules import expired, same
from sessile.stores.sqlite.verbs import QUERIES
from sessile.wire.errors import NotFound


def made(db: sqlite3.Connection, tenant_id: int, scope: str, once: Once, now: int) -> int | None:
    """The internal id of what the key has made, if it came before. Raises IdempotencyKeyReused."""
    kept = find(db, tenant_id, scope, once.key, now)
    return None if kept is None else same(kept, once)


def find(db: sqlite3.Connection, tenant_id: int, scope: str, key: str, now: int) -> Kept | None:
    """What a key has made, whatever request it comes with now."""
    values = {"tenant_id": tenant_id, "scope": scope, "key": key, "expired": expired(now)}
    row = db.execute(QUERIES["find_idempotent"], values).fetchone()
    return None if row is None else Kept(*row)


def keep(db: sqlite3.Connection, tenant_id: int, scope: str, once: Once, row_id: int, now: int) -> None:
    """Remember what the key has made."""
    values: dict[str, Any] = {"tenant_id": tenant_id, "scope": scope, "key": once.key, "made": row_id, "now": now}
    db.execute(QUERIES["keep_idempotent"], values | {"fingerprint": once.fingerprint})


def still(db: sqlite3.Connection, query: str, made: int, once: Once) -> tuple[Any, ...]:
    """The row of what the key has made, as it stands. Raises NotFound when it was deleted."""
    row: tuple[Any, ...] | None = db.execute(QUERIES[query], {"made": made}).fetchone()
    if row is None:
        raise NotFound("What this Idempotency-Key has created was deleted.", id=once.key)
    return row
