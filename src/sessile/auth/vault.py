"""Secrets, encrypted: AES-256 in GCM, a random nonce each, bound to the owner and the name they belong to.

What is stored names its key, so that a key can be replaced while a server runs: a write under a key that is not in use
any more is refused by the store and done again, a value under a key that is not known makes the keys be read again.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from sessile.auth.keyring import VARIABLE, Key, Keyring, new_key
from sessile.ports import Seal, SecretStore, StaleKey
from sessile.rows import SealedSecret, SealedSecrets
from sessile.wire.errors import SecretsUnavailable

T = TypeVar("T")
_NONCE = 12
_ATTEMPTS = 5
_SLICE = 100
_MISSING = "The key that the secrets are encrypted with is not here."


class Vault:
    """The `Vault` port over a store and a keyring."""

    def __init__(self, store: SecretStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._keys: list[Key] = []

    async def write(self, values: Mapping[str, str | None], verb: Callable[[Seal], Awaitable[T]]) -> T:
        """Run a verb that stores these secrets; None removes one. Raises SecretsUnavailable, and what the verb does."""
        for _ in range(_ATTEMPTS):
            seal = partial(_sealed, await self._key_in_use(), values)
            with contextlib.suppress(StaleKey):  # a rotation was faster
                return await verb(seal)
        raise SecretsUnavailable("The key of the secrets does not stay the same.")

    async def reveal(self, agent_id: int, session_id: int) -> dict[str, str]:
        """The secrets of an agent and of one of its sessions, whose own win. Raises SecretsUnavailable."""
        found = await self._store.sealed_secrets(agent_id, session_id)
        if any(secret.key_id not in {key.id for key in self._keys} for secret in found):
            self._keys = await asyncio.to_thread(self._keyring.keys)
        return {secret.name: _open(self._keys, secret) for secret in found}

    async def _key_in_use(self) -> Key:
        used = await self._store.secrets_key()
        if used is None:
            self._keys = await asyncio.to_thread(self._keyring.first)
            return self._keys[0]
        for _ in range(2):
            for key in self._keys:
                if key.id == used:
                    return key
            self._keys = await asyncio.to_thread(self._keyring.keys)
        raise SecretsUnavailable(_MISSING)


async def rotate(store: SecretStore, keyring: Keyring) -> int:
    """Encrypt all secrets with a new key; returns how many. Raises SecretsUnavailable.

    The old keys stay until nothing needs them. A rotation that was cut off is finished by the next one: the key file
    then begins with a key that the store does not use yet, or holds more than one.
    """
    used = await store.secrets_key()
    known = keyring.first() if used is None else keyring.keys()
    if used is not None and used not in {key.id for key in known}:
        raise SecretsUnavailable(_MISSING)
    finishing = len(known) > 1 or known[0].id != used
    if keyring.in_file and not finishing:
        known = [new_key(), *known]
        keyring.replace(known)
    if not finishing and not keyring.in_file:
        raise SecretsUnavailable(f"{VARIABLE} holds no new key: put one in front of the old, with a comma between.")
    await store.use_secrets_key(known[0].id)
    moved = 0
    while old := await store.secrets_under_other_keys(known[0].id, _SLICE):
        new = [_seal(known[0], one.agent_id, one.session_id, one.name, _open(known, one)) for one in old]
        await store.replace_sealed(old, new)
        moved += len(old)
    if keyring.in_file:
        keyring.replace(known[:1])
    return moved


def _sealed(key: Key, values: Mapping[str, str | None], agent_id: int, session_id: int) -> SealedSecrets:
    sealed = {
        name: None if value is None else _seal(key, agent_id, session_id, name, value).value
        for name, value in values.items()
    }
    return SealedSecrets(key.id, sealed)


def _seal(key: Key, agent_id: int, session_id: int, name: str, value: str) -> SealedSecret:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(_NONCE)
    text = nonce + AESGCM(key.material).encrypt(nonce, value.encode(), _bound_to(agent_id, session_id, name))
    return SealedSecret(agent_id=agent_id, session_id=session_id, name=name, key_id=key.id, value=text)


def _open(keys: list[Key], secret: SealedSecret) -> str:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = next((key for key in keys if key.id == secret.key_id), None)
    if key is None:
        raise SecretsUnavailable(f"The secret {secret.name!r} is encrypted with a key that is not here.")
    bound_to = _bound_to(secret.agent_id, secret.session_id, secret.name)
    try:
        return AESGCM(key.material).decrypt(secret.value[:_NONCE], secret.value[_NONCE:], bound_to).decode()
    except (InvalidTag, ValueError):  # the latter: too short to have a tag
        raise SecretsUnavailable(f"The secret {secret.name!r} was changed in the database.") from None


def _bound_to(agent_id: int, session_id: int, name: str) -> bytes:
    return msgspec.json.encode([agent_id, session_id, name])
