"""The logs of sessions, and the turns that write them, in PostgreSQL: each verb; what it does is in `log`."""

from collections.abc import Callable, Collection, Mapping, Sequence

from sessile.domain.log import Draft, Entry, draft
from sessile.ports import Admit, Clock
from sessile.rows import (
    Appended,
    Claim,
    Cover,
    EventQuery,
    Fence,
    Interruption,
    NewArtifact,
    Once,
    Page,
    Queued,
    Rejoined,
    SessionRef,
    Standing,
    TurnEnd,
    TurnProgress,
    TurnRow,
    Uploaded,
)
from sessile.stores import rows, rules
from sessile.stores.postgres import log, sub_turns
from sessile.stores.postgres.accepting import Acceptance, Accepted, accept_inputs
from sessile.stores.postgres.compactions import covering
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.lanes import BatchLane
from sessile.stores.postgres.log import Append
from sessile.stores.postgres.pool import Connections
from sessile.stores.postgres.verbs import LAST, Verbs, check, locate, one, place
from sessile.stores.postgres.waiting import place_of
from sessile.wire import ids
from sessile.wire.errors import NotFound
from sessile.wire.inputs import Behavior


class Logs(Verbs):
    """Verbs of the `Store` port. The hot ones wait in lanes and go in batches."""

    def __init__(
        self, connections: Connections, clock: Clock, lease_now: Callable[[], int], lease_seconds: float
    ) -> None:
        super().__init__(connections, clock, lease_now, lease_seconds)
        self._accepting = BatchLane[Acceptance, Accepted](connections, accept_inputs, lambda call: call.ref)
        self._appending = BatchLane[Append, Appended](connections, log.append_all)

    async def accept_input(
        self,
        ref: SessionRef,
        input: Draft,
        turn_id: str,
        admit: Admit,
        once: Once | None = None,
        if_match: str | None = None,
        behavior: Behavior | None = None,
        uploaded: Uploaded | None = None,
    ) -> Claim | Rejoined | Queued:
        place(ref)
        call = Acceptance(
            ref=ref,
            input=input,
            turn_id=turn_id,
            admit=admit,
            once=once,
            if_match=if_match,
            behavior=behavior,
            uploaded=uploaded,
            now=self._clock.now(),
            lease_until=self._until(),
        )
        return await self._accepting.run(call)

    async def interrupt(self, ref: SessionRef) -> Interruption:
        now, until = self._clock.now(), self._until()
        return await self._write(lambda db: sub_turns.interrupt(db, ref, now, until))

    async def append(
        self,
        fence: Fence,
        drafts: Sequence[Draft],
        progress: TurnProgress,
        end: TurnEnd | None = None,
        cover: Cover | None = None,
        artifacts: Sequence[NewArtifact] = (),
    ) -> Appended:
        if end is not None:
            drafts = [*drafts, draft(rules.turn_ended(end, progress))]
        call = Append(
            fence=fence,
            drafts=drafts,
            progress=progress,
            end=end,
            artifacts=artifacts,
            now=self._clock.now(),
            lease_until=self._until(),
        )
        if cover is not None:
            return await self._write(lambda db: covering(db, call, cover))
        return await self._appending.run(call)

    async def list_events(self, ref: SessionRef, query: EventQuery) -> Page[Entry]:
        async def verb(db: Db) -> Page[Entry]:
            return await log.read(db, await one(db, "locate_session", "session", ref.session_key, **place(ref)), query)

        return await self._read(verb)

    async def read_log(self, session_id: int, query: EventQuery) -> Page[Entry]:
        async def verb(db: Db) -> Page[Entry]:
            return await log.read(db, await db.one("session_head", session_id=session_id), query)

        return await self._read(verb)

    async def heads(self, session_ids: Collection[int]) -> dict[int, int]:
        found = await self._read(lambda db: db.all("heads", ids=list(session_ids)))
        return {session_id: head for session_id, head in found}

    async def get_event(self, ref: SessionRef, event_id: str) -> Entry:
        check("event", event_id)

        async def verb(db: Db) -> Entry:
            session_id, waited = await locate(db, ref), ids.is_waiting(event_id)
            sequence = await place_of(db, session_id, event_id) if waited else ids.sequence_of(event_id)
            row = await db.one("get_event", session_id=session_id, sequence=sequence)
            if row is None or (row[0] != event_id and not waited):
                raise NotFound(f"There is no event {event_id!r} in this session.", id=event_id)
            return rows.entry(ref.session_key, row)

        return await self._read(verb)

    async def get_turn(self, ref: SessionRef, turn_id: str) -> TurnRow:
        async def verb(db: Db) -> TurnRow:
            session_id = await locate(db, ref)
            return rows.turn(await one(db, "get_turn", "turn", turn_id, session_id=session_id, turn_id=turn_id))

        return await self._read(verb)

    async def take_unfinished_turns(self) -> list[Claim]:
        until = self._until()
        return await self._write(lambda db: log.take_turns(db, "unfinished_turns", LAST, until, None))

    async def renew(self, fences: Collection[Fence]) -> Collection[Fence]:
        until = self._until()
        return await self._write(lambda db: log.renew(db, fences, until))

    async def take_expired_turns(self, limit: int | None = None) -> list[Claim]:
        now = self._lease_now()
        if await self._read(lambda db: db.one("any_expired_turn", now=now)) is None:
            return []
        return await self._write(lambda db: log.take_turns(db, "expired_turns", now, now + self._lease, limit))

    async def next_expiry(self) -> float | None:
        row = await self._read(lambda db: db.one("next_expiry"))
        return None if row is None or row[0] is None else (row[0] - self._lease_now()) / 1_000_000

    async def standing(self, fences: Collection[Fence]) -> Mapping[Fence, Standing]:
        return await self._read(lambda db: log.standing(db, fences))

    async def hand_over(self, fences: Collection[Fence]) -> None:
        await self._write(lambda db: log.hand_over(db, fences))
