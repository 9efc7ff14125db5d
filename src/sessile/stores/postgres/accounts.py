"""Tenants and API keys in PostgreSQL."""

from sessile.rows import ApiKeyRow, TenantRow
from sessile.stores import rows
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs, insert, one
from sessile.wire import codec


class Accounts(Verbs):
    """Verbs of the `Store` port."""

    async def create_tenant(self, key: str, name: str) -> TenantRow:
        now = self._clock.now()

        async def verb(db: Db) -> TenantRow:
            ((row_id,),) = await insert(db, "insert_tenant", "tenant", key=key, name=name, now=now)
            return TenantRow(id=row_id, key=key, name=name, created_at=now)

        return await self._write(verb)

    async def list_tenants(self) -> list[TenantRow]:
        return [rows.tenant(row) for row in await self._read(lambda db: db.all("list_tenants"))]

    async def create_key(self, key: ApiKeyRow, digest: bytes) -> None:
        async def verb(db: Db) -> None:
            await db.count(
                "insert_key",
                tenant_id=key.tenant_id,
                key_id=key.key_id,
                name=key.name,
                digest=digest,
                roles=codec.encode(key.roles),
                agent_roles=codec.encode(key.agent_roles),
                now=key.created_at,
            )

        await self._write(verb)

    async def list_keys(self, tenant_id: int) -> list[ApiKeyRow]:
        return [rows.api_key(row) for row in await self._read(lambda db: db.all("list_keys", tenant_id=tenant_id))]

    async def revoke_key(self, tenant_id: int, key_id: str) -> ApiKeyRow:
        now = self._clock.now()

        async def verb(db: Db) -> ApiKeyRow:
            await db.count("revoke_key", tenant_id=tenant_id, key_id=key_id, now=now)
            return rows.api_key(await one(db, "get_key", "key", key_id, tenant_id=tenant_id, key_id=key_id))

        return await self._write(verb)

    async def find_key(self, digest: bytes) -> ApiKeyRow | None:
        row = await self._read(lambda db: db.one("find_key", digest=digest))
        return rows.api_key(row) if row else None
