"""Inputs that wait, in SQLite: each verb in a lane; what it does is in `waiting`."""

import sqlite3
from collections.abc import Collection

from sessile.domain.log import Entry
from sessile.rows import Fence, SessionRef, WaitingInput
from sessile.stores import rows
from sessile.stores.sqlite import waiting
from sessile.stores.sqlite.verbs import QUERIES, Verbs, locate
from sessile.wire import codec
from sessile.wire.limits import MAX_WAITING_INPUTS


class Inputs(Verbs):
    """Verbs of the `Store` port."""

    async def take_steering(self, fence: Fence) -> list[Entry]:
        now = self._clock.now()
        return await self._writer.run(lambda db: waiting.take_steering(db, fence, now))

    async def list_waiting(self, ref: SessionRef) -> list[WaitingInput]:
        def verb(db: sqlite3.Connection) -> list[WaitingInput]:
            values = {"session_id": locate(db, ref), "limit": MAX_WAITING_INPUTS}
            return [rows.waiting_input(row) for row in db.execute(QUERIES["list_waiting"], values)]

        return await self._readers.run(verb)

    async def withdrawn_inputs(self, session_id: int, event_ids: Collection[str]) -> Collection[str]:
        values = {"session_id": session_id, "ids": codec.encode(list(event_ids)).decode()}
        return self._lookups.run(lambda db: [row[0] for row in db.execute(QUERIES["withdrawn_inputs"], values)])

    async def withdraw_input(self, ref: SessionRef, event_id: str) -> int:
        def verb(db: sqlite3.Connection) -> int:
            session_id = locate(db, ref)
            waiting.withdraw(db, session_id, event_id)
            return session_id

        return await self._writer.run(verb)
