"""Secrets in SQLite, encrypted by others: of an agent under the session 0, of a session under its own id."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from sessile.ports import Seal, StaleKey
from sessile.rows import SealedSecret, SealedSecrets
from sessile.stores.sqlite.verbs import QUERIES, Verbs, one
from sessile.wire import codec
from sessile.wire.errors import InvalidRequest
from sessile.wire.limits import MAX_SECRETS

OF_THE_AGENT = 0


class Secrets(Verbs):
    """Verbs of the `Store` port."""

    async def agent_secret_names(self, tenant_id: int, agent_key: str) -> list[str]:
        return self._lookups.run(lambda db: _names(db, _agent(db, tenant_id, agent_key), OF_THE_AGENT))

    async def write_agent_secrets(self, tenant_id: int, agent_key: str, seal: Seal, replace: bool) -> list[str]:
        def verb(db: sqlite3.Connection) -> list[str]:
            agent_id = _agent(db, tenant_id, agent_key)
            sealed = seal(agent_id, OF_THE_AGENT)
            if replace:
                db.execute(QUERIES["delete_agent_secrets"], {"agent_id": agent_id})
            write(db, agent_id, OF_THE_AGENT, sealed)
            return _names(db, agent_id, OF_THE_AGENT)

        return await self._writer.run(verb)

    async def session_secret_names(self, session_ids: Collection[int]) -> dict[int, list[str]]:
        values = {"ids": codec.encode(list(session_ids)).decode()}

        def verb(db: sqlite3.Connection) -> dict[int, list[str]]:
            found: dict[int, list[str]] = {}
            for session_id, name in db.execute(QUERIES["session_secret_names"], values):
                found.setdefault(session_id, []).append(name)
            return found

        return self._lookups.run(verb)

    async def sealed_secrets(self, agent_id: int, session_id: int) -> list[SealedSecret]:
        values = {"agent_id": agent_id, "session_id": session_id}
        return self._lookups.run(lambda db: _sealed(db, "sealed_secrets", values))

    async def secrets_key(self) -> str | None:
        return self._lookups.run(_key)

    async def use_secrets_key(self, key_id: str) -> None:
        await self._writer.run(lambda db: db.execute(QUERIES["use_secrets_key"], {"key_id": key_id}) and None)

    async def secrets_under_other_keys(self, key_id: str, limit: int) -> list[SealedSecret]:
        values = {"key_id": key_id, "limit": limit}
        return self._lookups.run(lambda db: _sealed(db, "secrets_under_other_keys", values))

    async def replace_sealed(self, old: Sequence[SealedSecret], new: Sequence[SealedSecret]) -> None:
        rows = [
            {
                "agent_id": after.agent_id,
                "session_id": after.session_id,
                "name": after.name,
                "key_id": after.key_id,
                "value": after.value,
                "old": before.value,
            }
            for before, after in zip(old, new, strict=True)
        ]
        await self._writer.run(lambda db: db.executemany(QUERIES["replace_sealed"], rows) and None)


def write(db: sqlite3.Connection, agent_id: int, session_id: int, sealed: SealedSecrets) -> None:
    """Set and remove secrets of one owner. Raises StaleKey, InvalidRequest when it makes too many."""
    _check_key(db, sealed)
    owner = {"agent_id": agent_id, "session_id": session_id}
    for name, value in sealed.values.items():
        if value is None:
            db.execute(QUERIES["delete_secret"], owner | {"name": name})
        else:
            db.execute(QUERIES["write_secret"], owner | {"name": name, "key_id": sealed.key_id, "value": value})
    if len(_names(db, agent_id, session_id)) > MAX_SECRETS:
        reason = f"More than {MAX_SECRETS}."
        raise InvalidRequest(f"secrets: {reason}", field_errors={"secrets": reason})


def _check_key(db: sqlite3.Connection, sealed: SealedSecrets) -> None:
    """Raise StaleKey unless what is written is encrypted with the key in use; the first key that comes is it."""
    used = _key(db)
    if used is None:
        db.execute(QUERIES["use_secrets_key"], {"key_id": sealed.key_id})
    elif used != sealed.key_id:
        raise StaleKey


def _agent(db: sqlite3.Connection, tenant_id: int, agent_key: str) -> int:
    agent_id: int = one(db, "get_agent_id", {"tenant_id": tenant_id, "key": agent_key}, "agent", agent_key)[0]
    return agent_id


def _names(db: sqlite3.Connection, agent_id: int, session_id: int) -> list[str]:
    values = {"agent_id": agent_id, "session_id": session_id}
    return [name for (name,) in db.execute(QUERIES["secret_names"], values)]


def _key(db: sqlite3.Connection) -> str | None:
    row = db.execute(QUERIES["secrets_key"]).fetchone()
    return None if row is None else str(row[0])


def _sealed(db: sqlite3.Connection, query: str, values: Mapping[str, object]) -> list[SealedSecret]:
    return [
        SealedSecret(agent_id=row[0], session_id=row[1], name=row[2], key_id=row[3], value=row[4])
        for row in db.execute(QUERIES[query], values)
    ]
