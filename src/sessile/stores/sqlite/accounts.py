"""Tenants and API keys in SQLite."""

import sqlite3

from sessile.rows import (
    ApiKeyRow,
    TenantRow,
)
from sessile.stores import rows
from sessile.stores.sqlite.verbs import QUERIES, Verbs, insert, one
from sessile.wire import codec


class Accounts(Verbs):
    """Verbs of the `Store` port."""

    async def create_tenant(self, key: str, name: str) -> TenantRow:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> TenantRow:
            (row_id,) = insert(db, "insert_tenant", "tenant", {"key": key, "name": name, "now": now})
            return TenantRow(id=row_id, key=key, name=name, created_at=now)

        return await self._writer.run(verb)

    async def list_tenants(self) -> list[TenantRow]:
        return self._lookups.run(lambda db: [rows.tenant(row) for row in db.execute(QUERIES["list_tenants"])])

    async def create_key(self, key: ApiKeyRow, digest: bytes) -> None:
        values = {
            "tenant_id": key.tenant_id,
            "key_id": key.key_id,
            "name": key.name,
            "digest": digest,
            "roles": codec.encode(key.roles),
            "agent_roles": codec.encode(key.agent_roles),
            "now": key.created_at,
        }
        await self._writer.run(lambda db: db.execute(QUERIES["insert_key"], values) and None)

    async def list_keys(self, tenant_id: int) -> list[ApiKeyRow]:
        return self._lookups.run(
            lambda db: [rows.api_key(row) for row in db.execute(QUERIES["list_keys"], {"tenant_id": tenant_id})]
        )

    async def revoke_key(self, tenant_id: int, key_id: str) -> ApiKeyRow:
        values = {"tenant_id": tenant_id, "key_id": key_id, "now": self._clock.now()}

        def verb(db: sqlite3.Connection) -> ApiKeyRow:
            db.execute(QUERIES["revoke_key"], values)
            return rows.api_key(one(db, "get_key", values, "key", key_id))

        return await self._writer.run(verb)

    async def find_key(self, digest: bytes) -> ApiKeyRow | None:
        def verb(db: sqlite3.Connection) -> ApiKeyRow | None:
            row = db.execute(QUERIES["find_key"], {"digest": digest}).fetchone()
            return rows.api_key(row) if row else None

        return self._lookups.run(verb)
