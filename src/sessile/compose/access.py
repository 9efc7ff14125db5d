"""Who may come in: the tenant and the key that a fresh store starts with."""

import contextlib
import os

from sessile.auth import keys
from sessile.config import Config, ConfigError
from sessile.ports import Authenticator, Clock, Store
from sessile.rows import TenantRow
from sessile.wire.errors import KeyTaken

DEFAULT_TENANT = "default"


async def default_tenant(store: Store) -> TenantRow:
    """The tenant that a fresh store starts with."""
    with contextlib.suppress(KeyTaken):  # by another server that starts on the same database
        tenants = {tenant.key: tenant for tenant in await store.list_tenants()}
        return tenants.get(DEFAULT_TENANT) or await store.create_tenant(DEFAULT_TENANT, "Default tenant")
    return await default_tenant(store)


async def owner_key(store: Store, tenant: TenantRow, clock: Clock) -> str | None:
    """Make sure that somebody can get in; returns the secret of a new owner key on the first start only.

    `SESSILE_OWNER_KEY` sets the owner key instead; one that it had set before is revoked.
    """
    given = os.environ.get("SESSILE_OWNER_KEY")
    existing = await store.list_keys(tenant.id)
    if given:
        if len(given) < 16:
            raise ConfigError("SESSILE_OWNER_KEY must have at least 16 characters.")
        digest = keys.digest(given)
        key_id = f"key_env_{digest.hex()[:12]}"
        row = keys.new_key(tenant.id, "SESSILE_OWNER_KEY", ["owner"], {}, clock.now(), key_id)
        await store.create_key(row, digest)
        stored = await store.find_key(digest)
        if stored is None or stored.revoked_at is not None or stored.tenant_id != tenant.id:
            raise ConfigError("SESSILE_OWNER_KEY holds a key that was revoked or is another tenant's; choose another.")
        for old in existing:
            if old.key_id.startswith("key_env_") and old.key_id != key_id:
                await store.revoke_key(tenant.id, old.key_id)
        return None
    if existing:
        return None
    secret = keys.new_secret()
    await store.create_key(keys.new_key(tenant.id, "owner", ["owner"], {}, clock.now()), keys.digest(secret))
    return secret


def authenticator(config: Config, store: Store, tenant: TenantRow, clock: Clock) -> Authenticator:
    """Who tells principals by their keys. Raises ConfigError when `no_auth` would be open to other machines."""
    if not config.no_auth:
        return keys.KeyAuthenticator(store, clock)
    if not is_loopback(config):
        raise ConfigError("--no-auth is for loopback only; bind to 127.0.0.1 or use keys.")
    return keys.NoAuthentication(tenant.id)


def is_loopback(config: Config) -> bool:
    """Whether only this machine can reach the server."""
    return config.host in ("127.0.0.1", "::1", "localhost")
