"""API keys: how secrets are made, kept as hashes only, and recognised."""

import hashlib
import secrets
from collections import OrderedDict

from sessile.ports import Clock, Principal, Store
from sessile.rows import ApiKeyRow
from sessile.wire.errors import Unauthenticated

_PREFIX = "sk-sessile-"
_CACHED = 4096
_CACHE_MICROSECONDS = 1_000_000
"""How long a key that was found is trusted without asking the store: the longest a revoked key still works."""

Cached = tuple[int, Principal | None]


def new_secret() -> str:
    """A secret of 256 random bits. It is shown once and stored as a hash."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """What is stored of a secret. A fast hash is enough for 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_key(
    tenant_id: int, name: str, roles: list[str], agent_roles: dict[str, list[str]], now: int, key_id: str | None = None
) -> ApiKeyRow:
    """A key's row, without its secret."""
    return ApiKeyRow(
        key_id=key_id or f"key_{secrets.token_hex(8)}",
        tenant_id=tenant_id,
        name=name,
        roles=roles,
        agent_roles=agent_roles,
        created_at=now,
    )


class KeyAuthenticator:
    """The `Authenticator` over stored keys."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._cache: OrderedDict[bytes, Cached] = OrderedDict()

    async def authenticate(self, secret: str | None) -> Principal:
        """Who holds the secret. Raises Unauthenticated."""
        if not secret:
            raise Unauthenticated
        hashed = digest(secret)
        now = self._clock.now()
        cached = self._cache.get(hashed)
        if cached is None or not 0 <= now - cached[0] < _CACHE_MICROSECONDS:
            cached = self._remember(hashed, now, await self._store.find_key(hashed))
        if cached[1] is None:
            raise Unauthenticated
        return cached[1]

    def _remember(self, hashed: bytes, now: int, row: ApiKeyRow | None) -> Cached:
        principal = _principal(row) if row is not None and row.revoked_at is None else None
        self._cache[hashed] = (now, principal)
        self._cache.move_to_end(hashed)
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return self._cache[hashed]


class NoAuthentication:
    """The `Authenticator` of `--no-auth`: everybody is the owner of one tenant."""

    def __init__(self, tenant_id: int) -> None:
        self._owner = Principal(tenant_id=tenant_id, key_id=None, roles=frozenset({"owner"}), agent_roles={})

    async def authenticate(self, secret: str | None) -> Principal:
        """The owner, whatever was sent."""
        return self._owner


def _principal(row: ApiKeyRow) -> Principal:
    return Principal(
        tenant_id=row.tenant_id,
        key_id=row.key_id,
        roles=frozenset(row.roles),
        agent_roles={key: frozenset(roles) for key, roles in row.agent_roles.items()},
    )
