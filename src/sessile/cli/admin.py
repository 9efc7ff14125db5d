"""Administration of a data folder: tenants and keys. Works beside a running server, and without one."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct

from sessile.auth import keys
from sessile.auth.roles import AGENT_ROLES, API_ROLES
from sessile.clock import SystemClock
from sessile.compose.access import DEFAULT_TENANT, default_tenant
from sessile.compose.storage import open_store
from sessile.config import Config, ConfigError
from sessile.ports import Store
from sessile.rows import TenantRow
from sessile.wire import codec
from sessile.wire.ids import KEY_PATTERN
from sessile.wire.limits import MAX_KEY_CHARS

__all__ = ["DEFAULT_TENANT", "create_key", "create_tenant", "list_keys", "list_tenants", "revoke_key"]

T = TypeVar("T")
_MAX_AGENT_ROLES = 100


class ShownKey(Struct, frozen=True):
    """A key for people."""

    id: str
    name: str
    roles: str
    created_at: str
    revoked_at: str | None


class ShownTenant(Struct, frozen=True):
    """A tenant for people."""

    key: str
    name: str
    created_at: str


def create_key(config: Config, tenant: str, name: str, roles: list[str], agent_roles: list[str]) -> str:
    """Make a key; returns its secret. Raises ConfigError for roles that do not exist or an unknown tenant."""
    for role in roles:
        if role not in API_ROLES:
            raise ConfigError(f"{role!r} is not a role; roles are {', '.join(sorted(API_ROLES))}.")
    by_agent = _by_agent(agent_roles)
    if not roles and not by_agent:
        raise ConfigError("A key needs at least one --role or --agent-role.")
    secret = keys.new_secret()

    async def work(store: Store) -> None:
        row = keys.new_key((await _tenant(store, tenant)).id, name, roles, by_agent, SystemClock().now())
        await store.create_key(row, keys.digest(secret))

    _with_store(config, work)
    return secret


def list_keys(config: Config, tenant: str) -> list[ShownKey]:
    """All keys of a tenant, oldest first. Raises ConfigError for an unknown tenant."""

    async def work(store: Store) -> list[ShownKey]:
        return [
            ShownKey(
                id=row.key_id,
                name=row.name,
                roles=", ".join([*row.roles, *(f"{a}={r}" for a, rs in row.agent_roles.items() for r in rs)]),
                created_at=codec.rfc3339(row.created_at),
                revoked_at=codec.rfc3339(row.revoked_at) if row.revoked_at else None,
            )
            for row in await store.list_keys((await _tenant(store, tenant)).id)
        ]

    return _with_store(config, work)


def revoke_key(config: Config, tenant: str, key_id: str) -> None:
    """Revoke a key. Raises ConfigError for an unknown tenant, NotFound for an unknown key."""

    async def work(store: Store) -> None:
        await store.revoke_key((await _tenant(store, tenant)).id, key_id)

    _with_store(config, work)


def create_tenant(config: Config, key: str, name: str) -> str:
    """Make a tenant with an owner key; returns the secret. Raises ConfigError, KeyTaken."""
    if not re.match(KEY_PATTERN, key) or len(key) > MAX_KEY_CHARS:
        raise ConfigError("A tenant's key has 1 to 50 of 0-9 a-z A-Z _ -")
    secret = keys.new_secret()

    async def work(store: Store) -> None:
        tenant = await store.create_tenant(key, name)
        row = keys.new_key(tenant.id, "owner", ["owner"], {}, SystemClock().now())
        await store.create_key(row, keys.digest(secret))

    _with_store(config, work)
    return secret


def list_tenants(config: Config) -> list[ShownTenant]:
    """All tenants, oldest first."""

    async def work(store: Store) -> list[ShownTenant]:
        return [ShownTenant(row.key, row.name, codec.rfc3339(row.created_at)) for row in await store.list_tenants()]

    return _with_store(config, work)


def _with_store(config: Config, work: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_store(config) as store:
            await default_tenant(store)
            return await work(store)

    return asyncio.run(run())


async def _tenant(store: Store, key: str) -> TenantRow:
    for row in await store.list_tenants():
        if row.key == key:
            return row
    raise ConfigError(f"There is no tenant {key!r}.")


def _by_agent(agent_roles: list[str]) -> dict[str, list[str]]:
    by_agent: dict[str, list[str]] = {}
    for text in agent_roles:
        agent, _, role = text.partition("=")
        if not agent or role not in AGENT_ROLES:
            raise ConfigError(f"{text!r} is not AGENT=ROLE with a role of {', '.join(sorted(AGENT_ROLES))}.")
        by_agent.setdefault(agent, []).append(role)
    if len(by_agent) > _MAX_AGENT_ROLES:
        raise ConfigError(f"A key can hold roles for {_MAX_AGENT_ROLES} agents at most.")
    return by_agent
