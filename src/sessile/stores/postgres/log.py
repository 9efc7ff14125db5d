"""The log of a session in PostgreSQL: append, interrupt, read, take up. Run inside a transaction; no verbs."""

from collections.abc import Collection, Sequence

from msgspec import Struct

from sessile.domain.log import Draft, Entry
from sessile.rows import (
    Appended,
    Claim,
    EventQuery,
    Fence,
    Interruption,
    NewArtifact,
    Page,
    SessionRef,
    Standing,
    TurnEnd,
    TurnProgress,
)
from sessile.stores import rows, rules
from sessile.stores.postgres import artifacts as files
from sessile.stores.postgres import waiting
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.opening import events
from sessile.stores.postgres.verbs import session_row
from sessile.wire import codec
from sessile.wire.errors import FenceLost, SessionFull


class Append(Struct, frozen=True, kw_only=True):
    """One call of `Store.append`; with `end`, the last draft is the turn's `turn_ended`."""

    fence: Fence
    drafts: Sequence[Draft]
    progress: TurnProgress
    end: TurnEnd | None
    artifacts: Sequence[NewArtifact]
    now: int
    lease_until: int


class _Move(Struct, omit_defaults=True):
    """What a batch changes of a turn and its session, as `append_events` reads it; a None is left out."""

    turn: int
    session_id: int
    head: int
    last_event_id: str | None
    turn_usage: bytes
    session_usage: bytes
    updated_at: int
    context_usage: bytes | None = None
    stop_reason: str | None = None
    error: bytes | None = None


class _Standing:
    """Where a running turn and its log stand, in the database and after each call of a batch."""

    def __init__(self, row: Row) -> None:
        turn, session_id, token, self.turn_id, self.tenant_id, self.session_key, self.head, self.last_event_id = row
        self.fence = Fence(session_id, turn, token)
        self.entries: list[Entry] = []
        self.artifacts: list[tuple[int, int, NewArtifact, int]] = []
        self.last: Append | None = None
        self.context: bytes | None = None

    def check(self, call: Append) -> None:
        """Raise FenceLost when the turn is not the call's any more."""
        if call.fence != self.fence or (self.last is not None and self.last.end is not None):
            raise FenceLost

    def append(self, call: Append) -> list[Entry]:
        """Add what a call brings."""
        entries = rules.placed(call.drafts, self.session_key, self.head, self.turn_id, call.now)
        self.head += len(entries)
        self.last_event_id = rules.last_shown(entries) or self.last_event_id
        self.entries += entries
        if call.progress.context_usage:
            self.context = codec.encode(call.progress.context_usage)
        self.artifacts += [(self.tenant_id, self.fence.session_id, artifact, call.now) for artifact in call.artifacts]
        self.last = call
        return entries

    def move(self, last: Append) -> _Move:
        """What the calls have changed, the last one among them."""
        end = last.end
        return _Move(
            turn=self.fence.turn,
            session_id=self.fence.session_id,
            head=self.head,
            last_event_id=self.last_event_id,
            turn_usage=codec.encode(last.progress.turn_usage),
            session_usage=codec.encode(last.progress.session_usage),
            updated_at=last.now,
            context_usage=self.context,
            stop_reason=end.stop_reason if end else None,
            error=codec.encode(end.error) if end and end.error else None,
        )


async def append_all(db: Db, calls: Sequence[Append]) -> list[Appended | Exception]:
    """`Store.append` for many turns, and for one several times, within a transaction.

    What one call raises stands in its place.
    """
    db.calls = len(calls)
    turns = list({call.fence.turn for call in calls})
    standings = {row[0]: _Standing(row) for row in await db.all("fenced_turns", turns=turns)}
    added: list[list[Entry] | Exception] = []
    for call in calls:
        try:
            if (standing := standings.get(call.fence.turn)) is None:
                raise FenceLost
            standing.check(call)
            if call.artifacts:
                together = [*(artifact for _, _, artifact, _ in standing.artifacts), *call.artifacts]
                await files.check_room(db, call.fence.session_id, together, call.now)
            added.append(standing.append(call))
        except (FenceLost, SessionFull) as refused:
            added.append(refused)
    waits = await _write(db, [standing for standing in standings.values() if standing.last is not None])
    return [
        outcome if isinstance(outcome, Exception) else await _appended(db, call, outcome, waits[call.fence.session_id])
        for call, outcome in zip(calls, added, strict=True)
    ]


async def _write(db: Db, moved: Sequence[_Standing]) -> dict[int, int | None]:
    """Append what has come together; returns for each session whether inputs wait, as `append_events` says."""
    moves = [standing.move(standing.last) for standing in moved if standing.last is not None]
    if not moves:
        return {}
    db.changed.sessions.update(move.session_id for move in moves)
    found = await db.change(
        "append_events",
        **events((s.tenant_id, s.fence.session_id, entry) for s in moved for entry in s.entries),
        moves=codec.encode(moves).decode(),
        count=len(moves),
    )
    await files.insert(db, (artifact for s in moved for artifact in s.artifacts))
    return {session_id: waits for session_id, waits in found}


async def _appended(db: Db, call: Append, entries: list[Entry], waits: int | None) -> Appended:
    if call.end is None:
        return Appended(entries, steered=bool(waits))
    if waits is None:
        return Appended(entries)
    return Appended(entries, next=await waiting.take_next(db, call.fence.session_id, call.now, call.lease_until))


async def interrupt(
    db: Db, ref: SessionRef, now: int, lease_until: int, below: Sequence[Interruption] = ()
) -> Interruption:
    """`Store.interrupt` of one session within a transaction; `below` is done already."""
    session = await session_row(db, ref, "lock_session")
    if session.running_turn is None:
        return Interruption(session, None)
    db.changed.sessions.add(session.id)
    await db.count("interrupt_turn", turn_id=session.running_turn, now=now)
    parked = await db.change("unpark_turn", turn_id=session.running_turn, lease_until=lease_until)
    row = await db.one("session_to_run", session_id=session.id)
    if not parked or row is None:
        return Interruption(session, session.running_turn, None, below)
    turn, token, usage = parked[0]
    claim = Claim(
        agent=rows.agent(row[rows.SESSION_COLUMNS :]),
        session=session,
        turn_id=session.running_turn,
        fence=Fence(session.id, turn, token),
        opened=[],
        usage=usage,
        interrupted=True,
    )
    return Interruption(session, session.running_turn, claim, below)


async def read(db: Db, place: Row | None, query: EventQuery) -> Page[Entry]:
    """`Store.read_log` where `locate_session` or `session_head` has found the log."""
    if place is None:
        return Page([], None)
    session_id, session_key, head = place
    window = rules.window(query, head)
    found = await db.all(
        f"list_events_{query.order}",
        session_id=session_id,
        after=window.after,
        before=window.before,
        records=query.records,
        most_hidden=rules.most_hidden(query),
        types=None if query.types is None else list(query.types),
        limit=query.limit + 1,
    )
    return window.page([rows.entry(session_key, row) for row in found], query.limit)


async def locked(db: Db, fences: Collection[Fence]) -> set[Fence]:
    """Those fences that are their turns' current ones, until the transaction ends."""
    found = await db.all("lock_turns", turns=[fence.turn for fence in fences])
    return {Fence(session_id, turn, token) for turn, session_id, token in found} & set(fences)


async def renew(db: Db, fences: Collection[Fence], lease_until: int) -> list[Fence]:
    """`Store.renew` within a transaction."""
    held = await locked(db, fences)
    if held:
        await db.count("renew_leases", turns=[fence.turn for fence in held], lease_until=lease_until)
    return [fence for fence in fences if fence not in held]


async def standing(db: Db, fences: Collection[Fence]) -> dict[Fence, Standing]:
    """`Store.standing`."""
    found = await db.all("standing_turns", turns=[fence.turn for fence in fences])
    held = {
        Fence(session_id, turn, token): Standing(interrupted, steered)
        for turn, session_id, token, interrupted, steered in found
    }
    return {fence: held[fence] for fence in fences if fence in held}


async def hand_over(db: Db, fences: Collection[Fence]) -> None:
    """`Store.hand_over` within a transaction."""
    if held := await locked(db, fences):
        await db.count("hand_over", turns=[fence.turn for fence in held])


async def take_turns(db: Db, query: str, by: int, lease_until: int, limit: int | None) -> list[Claim]:
    """Claim the running turns that a query finds whose lease has run out `by` a time, all or some, under a new one."""
    claims = []
    for row in await db.all(query, by=by, limit=limit):
        session = rows.session(row)
        turn, turn_id, token, usage, interrupted_at, takes, waited = row[rows.SESSION_COLUMNS + rows.AGENT_COLUMNS :]
        claims.append(
            Claim(
                agent=rows.agent(row[rows.SESSION_COLUMNS :]),
                session=session,
                turn_id=turn_id,
                fence=Fence(session.id, turn, token + 1),
                opened=[],
                usage=usage,
                interrupted=interrupted_at is not None,
                takes=takes + 1,
                waited=waited,
            )
        )
    if claims:
        await db.count("take_up", turns=[claim.fence.turn for claim in claims], lease_until=lease_until)
    return sorted(claims, key=lambda claim: claim.fence.turn)
