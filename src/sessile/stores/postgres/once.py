"""Idempotency keys in PostgreSQL: found and kept within the transaction of the verb that creates. They know no verb."""

from sessile.rows import Once
from sessile.stores import rules
from sessile.stores.postgres.db import Db, Row
from sessile.wire.errors import IdempotencyKeyReused, NotFound


async def made(db: Db, tenant_id: int, scope: str, once: Once, now: int) -> int | None:
    """The internal id of what the key has made, if it came before. Raises IdempotencyKeyReused.

    Until the transaction ends, others with the same key wait here.
    """
    await db.one("once_at_a_time", tenant_id=tenant_id, scope=scope, key=once.key)
    return (await made_in(db, tenant_id, {scope: once}, now)).get(scope)


async def made_in(db: Db, tenant_id: int, wanted: dict[str, Once], now: int) -> dict[str, int]:
    """What keys have made, a scope each; whoever calls has locked what the scopes belong to."""
    found = await db.all(
        "find_idempotents",
        tenants=[tenant_id] * len(wanted),
        scopes=list(wanted),
        keys=[once.key for once in wanted.values()],
        expired=rules.expired(now),
    )
    for scope, _, fingerprint in found:
        if fingerprint != wanted[scope].fingerprint:
            raise IdempotencyKeyReused
    return {scope: made for scope, made, _ in found}


async def keep(db: Db, tenant_id: int, scope: str, once: Once, row_id: int, now: int) -> None:
    """Remember what the key has made."""
    await db.count(
        "keep_idempotents",
        tenants=[tenant_id],
        scopes=[scope],
        keys=[once.key],
        fingerprints=[once.fingerprint],
        made=[row_id],
        times=[now],
    )


async def still(db: Db, query: str, made: int, once: Once) -> Row:
    """The row of what the key has made, as it stands. Raises NotFound when it was deleted."""
    row = await db.one(query, made=made)
    if row is None:
        raise NotFound("What this Idempotency-Key has created was deleted.", id=once.key)
    return row
