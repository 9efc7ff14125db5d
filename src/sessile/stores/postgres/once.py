"""Idempotency keys in PostgreSQL: found and kept within the transaction of the verb that creates. They know no verb."""

from sessile.rows import Kept, Once
from sessile.stores import rules
from sessile.stores.postgres.db import Db, Row
from sessile.wire.errors import NotFound


async def made(db: Db, tenant_id: int, scope: str, once: Once, now: int) -> int | None:
    """The internal id of what the key has made, if it came before. Raises IdempotencyKeyReused.

    Until the transaction ends, others with the same key wait here.
    """
    kept = await find(db, tenant_id, scope, once.key, now)
    return None if kept is None else rules.same(kept, once)


async def find(db: Db, tenant_id: int, scope: str, key: str, now: int) -> Kept | None:
    """What a key has made, whatever request it comes with now. Others with the same key wait here, as in `made`."""
    await db.one("once_at_a_time", tenant_id=tenant_id, scope=scope, key=key)
    found = await db.one(
        "find_idempotents", tenants=[tenant_id], scopes=[scope], keys=[key], expired=rules.expired(now)
    )
    return None if found is None else Kept(made=found[1], fingerprint=found[2])


async def made_in(db: Db, tenant_id: int, wanted: dict[str, Once], now: int) -> dict[str, int]:
    """What keys have made, a scope each; whoever calls has locked what the scopes belong to."""
    found = await db.all(
        "find_idempotents",
        tenants=[tenant_id] * len(wanted),
        scopes=list(wanted),
        keys=[once.key for once in wanted.values()],
        expired=rules.expired(now),
    )
    return {scope: rules.same(Kept(made, fingerprint), wanted[scope]) for scope, made, fingerprint in found}


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
