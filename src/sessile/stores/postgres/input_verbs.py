"""Inputs that wait, in PostgreSQL: each verb in a transaction; what it does is in `waiting`."""

from collections.abc import Collection

from sessile.domain.log import Entry
from sessile.rows import Fence, SessionRef, WaitingInput
from sessile.stores import rows
from sessile.stores.postgres import waiting
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs, check, is_text, locate, session_row
from sessile.wire.limits import MAX_WAITING_INPUTS


class Inputs(Verbs):
    """Verbs of the `Store` port."""

    async def take_steering(self, fence: Fence) -> list[Entry]:
        now = self._clock.now()
        return await self._write(lambda db: waiting.take_steering(db, fence, now))

    async def list_waiting(self, ref: SessionRef) -> list[WaitingInput]:
        async def verb(db: Db) -> list[WaitingInput]:
            found = await db.all("list_waiting", session_id=await locate(db, ref), limit=MAX_WAITING_INPUTS)
            return [rows.waiting_input(row) for row in found]

        return await self._read(verb)

    async def withdrawn_inputs(self, session_id: int, event_ids: Collection[str]) -> Collection[str]:
        wanted = [event_id for event_id in event_ids if is_text(event_id)]
        found = await self._read(lambda db: db.all("withdrawn_inputs", session_id=session_id, ids=wanted))
        return [row[0] for row in found]

    async def withdraw_input(self, ref: SessionRef, event_id: str) -> int:
        check("input", event_id)

        async def verb(db: Db) -> int:
            session = await session_row(db, ref, "lock_session")
            await waiting.withdraw(db, session.id, event_id)
            return session.id

        return await self._write(verb)
