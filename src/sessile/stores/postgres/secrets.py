"""Secrets in PostgreSQL, encrypted by others: of an agent under the session 0, of a session under its own id."""

from collections.abc import Collection, Sequence

from sessile.ports import Seal, StaleKey
from sessile.rows import SealedSecret, SealedSecrets
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.verbs import Verbs, one
from sessile.wire.errors import InvalidRequest
from sessile.wire.limits import MAX_SECRETS

OF_THE_AGENT = 0


class Secrets(Verbs):
    """Verbs of the `Store` port."""

    async def agent_secret_names(self, tenant_id: int, agent_key: str) -> list[str]:
        async def verb(db: Db) -> list[str]:
            (agent_id,) = await one(db, "get_agent_id", "agent", agent_key, tenant_id=tenant_id, key=agent_key)
            return await _names(db, agent_id, OF_THE_AGENT)

        return await self._read(verb)

    async def write_agent_secrets(self, tenant_id: int, agent_key: str, seal: Seal, replace: bool) -> list[str]:
        async def verb(db: Db) -> list[str]:
            (agent_id,) = await one(db, "lock_agent", "agent", agent_key, tenant_id=tenant_id, key=agent_key)
            sealed = seal(agent_id, OF_THE_AGENT)
            if replace:
                await db.count("delete_agent_secrets", agent_id=agent_id)
            await write(db, agent_id, OF_THE_AGENT, sealed)
            return await _names(db, agent_id, OF_THE_AGENT)

        return await self._write(verb)

    async def session_secret_names(self, session_ids: Collection[int]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        ids = list(session_ids)
        for session_id, name in await self._read(lambda db: db.all("session_secret_names", ids=ids)):
            found.setdefault(session_id, []).append(name)
        return found

    async def sealed_secrets(self, agent_id: int, session_id: int) -> list[SealedSecret]:
        values = {"agent_id": agent_id, "session_id": session_id}
        return _sealed(await self._read(lambda db: db.all("sealed_secrets", **values)))

    async def secrets_key(self) -> str | None:
        row = await self._read(lambda db: db.one("secrets_key"))
        return None if row is None else str(row[0])

    async def use_secrets_key(self, key_id: str) -> None:
        await self._write(lambda db: db.count("use_secrets_key", key_id=key_id))

    async def secrets_under_other_keys(self, key_id: str, limit: int) -> list[SealedSecret]:
        return _sealed(await self._read(lambda db: db.all("secrets_under_other_keys", key_id=key_id, limit=limit)))

    async def replace_sealed(self, old: Sequence[SealedSecret], new: Sequence[SealedSecret]) -> None:
        values = {
            "sessions": [secret.session_id for secret in new],
            "agents": [secret.agent_id for secret in new],
            "names": [secret.name for secret in new],
            "key_ids": [secret.key_id for secret in new],
            "sealed": [secret.value for secret in new],
            "old": [secret.value for secret in old],
        }
        await self._write(lambda db: db.count("replace_sealed", **values))


async def write(db: Db, agent_id: int, session_id: int, sealed: SealedSecrets) -> None:
    """Set and remove secrets of one owner, whom the caller has locked.

    Raises StaleKey, InvalidRequest when it makes too many.
    """
    await _check_key(db, sealed)
    owner = {"agent_id": agent_id, "session_id": session_id}
    gone = [name for name, value in sealed.values.items() if value is None]
    kept = {name: value for name, value in sealed.values.items() if value is not None}
    if gone:
        await db.count("delete_secrets", **owner, names=gone)
    if kept:
        new = {"names": list(kept), "sealed": list(kept.values())}
        await db.count("write_secrets", **owner, key_id=sealed.key_id, **new)
    if len(await _names(db, agent_id, session_id)) > MAX_SECRETS:
        reason = f"More than {MAX_SECRETS}."
        raise InvalidRequest(f"secrets: {reason}", field_errors={"secrets": reason})


async def _check_key(db: Db, sealed: SealedSecrets) -> None:
    """Raise StaleKey unless what is written is encrypted with the key in use; the first key that comes is it.

    Nobody changes the key before the transaction ends.
    """
    used = await db.one("hold_secrets_key")
    if used is None:
        await db.count("first_secrets_key", key_id=sealed.key_id)
        used = await db.one("hold_secrets_key")
    if used is None or used[0] != sealed.key_id:
        raise StaleKey


async def _names(db: Db, agent_id: int, session_id: int) -> list[str]:
    return [name for (name,) in await db.all("secret_names", session_id=session_id, agent_id=agent_id)]


def _sealed(found: Sequence[Row]) -> list[SealedSecret]:
    return [SealedSecret(agent_id=row[0], session_id=row[1], name=row[2], key_id=row[3], value=row[4]) for row in found]
