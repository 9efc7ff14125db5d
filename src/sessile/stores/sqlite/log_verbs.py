"""The logs of sessions, and the turns that write them, in SQLite: each verb in a lane; what it does is in `log`."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from sessile.domain.log import Draft, Entry, draft
from sessile.ports import Admit
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
from sessile.stores.sqlite import log, sub_turns
from sessile.stores.sqlite.compactions import covering
from sessile.stores.sqlite.verbs import LAST, QUERIES, Verbs, locate, one
from sessile.stores.sqlite.waiting import place_of
from sessile.wire import codec, ids
from sessile.wire.errors import NotFound
from sessile.wire.inputs import Behavior


class Logs(Verbs):
    """Verbs of the `Store` port."""

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
        now, lease = self._clock.now(), self._lease
        return await self._writer.run(
            lambda db: log.accept_input(db, ref, input, turn_id, admit, now, once, if_match, behavior, lease, uploaded)
        )

    async def interrupt(self, ref: SessionRef) -> Interruption:
        now = self._clock.now()
        return await self._writer.run(lambda db: sub_turns.interrupt(db, ref, now, self._lease))

    async def append(
        self,
        fence: Fence,
        drafts: Sequence[Draft],
        progress: TurnProgress,
        end: TurnEnd | None = None,
        cover: Cover | None = None,
        artifacts: Sequence[NewArtifact] = (),
    ) -> Appended:
        now, lease = self._clock.now(), self._lease
        if end is not None:
            drafts = [*drafts, draft(rules.turn_ended(end, progress))]
        if cover is not None:
            return await self._writer.run(
                lambda db: covering(db, fence, drafts, progress, end, cover, now, lease), long=True
            )
        return await self._writer.run(lambda db: log.append(db, fence, drafts, progress, end, now, lease, artifacts))

    async def list_events(self, ref: SessionRef, query: EventQuery) -> Page[Entry]:
        return await self._readers.run(lambda db: log.read(db, locate(db, ref), query))

    async def read_log(self, session_id: int, query: EventQuery) -> Page[Entry]:
        return await self._readers.run(lambda db: log.read(db, session_id, query))

    async def heads(self, session_ids: Collection[int]) -> dict[int, int]:
        wanted = {"ids": codec.encode(list(session_ids)).decode()}
        return await self._readers.run(lambda db: dict(db.execute(QUERIES["heads"], wanted).fetchall()))

    async def get_event(self, ref: SessionRef, event_id: str) -> Entry:
        def verb(db: sqlite3.Connection) -> Entry:
            session_id, waited = locate(db, ref), ids.is_waiting(event_id)
            sequence = place_of(db, session_id, event_id) if waited else ids.sequence_of(event_id)
            row = db.execute(QUERIES["get_event"], {"session_id": session_id, "sequence": sequence}).fetchone()
            if row is None or (row[0] != event_id and not waited):
                raise NotFound(f"There is no event {event_id!r} in this session.", id=event_id)
            return rows.entry(ref.session_key, row)

        return self._lookups.run(verb)

    async def get_turn(self, ref: SessionRef, turn_id: str) -> TurnRow:
        def verb(db: sqlite3.Connection) -> TurnRow:
            values = {"session_id": locate(db, ref), "turn_id": turn_id}
            return rows.turn(one(db, "get_turn", values, "turn", turn_id))

        return self._lookups.run(verb)

    async def take_unfinished_turns(self) -> list[Claim]:
        until = self._clock.now() + self._lease
        return await self._writer.run(lambda db: log.take_turns(db, LAST, until, None))

    async def renew(self, fences: Collection[Fence]) -> Collection[Fence]:
        until = self._clock.now() + self._lease
        return await self._writer.run(lambda db: log.renew(db, fences, until))

    async def take_expired_turns(self, limit: int | None = None) -> list[Claim]:
        now = self._clock.now()
        if not await self._readers.run(lambda db: db.execute(QUERIES["any_expired_turn"], {"now": now}).fetchone()):
            return []
        return await self._writer.run(lambda db: log.take_turns(db, now, now + self._lease, limit))

    async def next_expiry(self) -> float | None:
        (until,) = await self._readers.run(lambda db: db.execute(QUERIES["next_expiry"]).fetchone())
        return None if until is None else (until - self._clock.now()) / 1_000_000

    async def standing(self, fences: Collection[Fence]) -> Mapping[Fence, Standing]:
        return self._lookups.run(lambda db: log.standing(db, fences))

    async def hand_over(self, fences: Collection[Fence]) -> None:
        turns = [(fence.turn, fence.token) for fence in fences]
        await self._writer.run(lambda db: db.executemany(QUERIES["hand_over"], turns) and None)
