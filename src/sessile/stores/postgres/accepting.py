"""Taking inputs in PostgreSQL, many sessions in one transaction: whole turns are opened by one statement."""

from collections.abc import Sequence

from msgspec import Struct

from sessile.domain.log import Draft
from sessile.ports import Admit
from sessile.rows import Claim, NewArtifact, Once, Queued, Rejoined, SessionRef, SessionRow, Uploaded
from sessile.stores import rows, rules
from sessile.stores.postgres import artifacts as files
from sessile.stores.postgres import once as keys
from sessile.stores.postgres import waiting
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.opening import Opening, open_turns
from sessile.stores.postgres.verbs import not_found
from sessile.wire import ids
from sessile.wire.errors import SessileError
from sessile.wire.inputs import Behavior

Accepted = Claim | Rejoined | Queued


class Acceptance(Struct, frozen=True, kw_only=True):
    """One call of `Store.accept_input`."""

    ref: SessionRef
    input: Draft
    turn_id: str
    admit: Admit
    once: Once | None
    if_match: str | None
    behavior: Behavior | None
    uploaded: Uploaded | None
    now: int
    lease_until: int


async def accept_inputs(db: Db, calls: Sequence[Acceptance]) -> list[Accepted | Exception]:
    """`Store.accept_input` for different sessions within a transaction; what one call raises stands in its place."""
    db.calls = len(calls)
    found: dict[int, Row] = {
        row[0] - 1: row[1:]
        for row in await db.all(
            "sessions_for_input",
            tenants=[call.ref.tenant_id for call in calls],
            agents=[call.ref.agent_key for call in calls],
            sessions=[call.ref.session_key for call in calls],
        )
    }
    outcomes: list[Accepted | Opening | Exception] = [
        await _outcome(db, call, found.get(number)) for number, call in enumerate(calls)
    ]
    openings = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Opening)]
    claims = await open_turns(db, [outcomes[number] for number in openings])  # type: ignore[misc]
    done: list[Accepted | Exception] = list(outcomes)  # type: ignore[arg-type]
    for number, claim in zip(openings, claims, strict=True):
        done[number] = claim
    await _keep(db, calls, done)
    claims_of = zip(calls, done, strict=True)
    await files.insert(db, [new for call, made in claims_of if isinstance(made, Claim) for new in _brought(call, made)])
    return done


async def _outcome(db: Db, call: Acceptance, row: Row | None) -> Accepted | Opening | Exception:
    try:
        return await _decide(db, call, row)
    except SessileError as refusal:
        return refusal


async def _decide(db: Db, call: Acceptance, row: Row | None) -> Accepted | Opening:
    if row is None:
        raise not_found("session", call.ref.session_key)
    session, agent = rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])
    if call.once is not None:
        scope = rules.inputs_of(session.id)
        made = (await keys.made_in(db, session.tenant_id, {scope: call.once}, call.now)).get(scope)
        if made is not None:
            return await _rejoin(db, session, made)
    call.admit(agent, session)
    told = None if call.uploaded is None else call.uploaded.event
    if call.uploaded is not None and (session.running_turn is None or call.behavior is not None):
        await files.check_room(db, session.id, call.uploaded.artifacts, call.now)
    if session.running_turn is not None:
        if call.behavior is None:
            raise rules.running(session)
        queued, row_id = await waiting.put(db, session, call.input, call.turn_id, call.behavior, call.now, told)
        await files.insert(db, _brought(call, queued))
        if call.once is not None:
            scope = rules.inputs_of(session.id)
            await keys.keep(db, session.tenant_id, scope, call.once, rules.of_waiting(row_id), call.now)
        return queued
    rules.check_last_event(session, call.if_match)
    return Opening(
        agent=agent,
        session=session,
        turn_id=call.turn_id,
        event_id=ids.event_id(session.last_sequence + 1),
        input=call.input,
        now=call.now,
        lease_until=call.lease_until,
        told=told,
    )


async def _rejoin(db: Db, session: SessionRow, made: int) -> Rejoined | Queued:
    if (queued := rules.waiting_of(made)) is not None:
        return await waiting.again(db, session, queued)
    return await waiting.rejoined(db, session, "made_turn", made=made)


def _brought(call: Acceptance, made: Claim | Queued) -> list[tuple[int, int, NewArtifact, int]]:
    """The artifacts that came with an input."""
    session, artifacts = made.session, () if call.uploaded is None else call.uploaded.artifacts
    return [(session.tenant_id, session.id, artifact, call.now) for artifact in artifacts]


async def _keep(db: Db, calls: Sequence[Acceptance], outcomes: Sequence[Accepted | Exception]) -> None:
    """Remember which turns the keys of a batch have made."""
    made = [
        (outcome, call, call.once)
        for call, outcome in zip(calls, outcomes, strict=True)
        if isinstance(outcome, Claim) and call.once is not None
    ]
    if made:
        await db.count(
            "keep_idempotents",
            tenants=[claim.session.tenant_id for claim, _, _ in made],
            scopes=[rules.inputs_of(claim.session.id) for claim, _, _ in made],
            keys=[once.key for _, _, once in made],
            fingerprints=[once.fingerprint for _, _, once in made],
            made=[claim.fence.turn for claim, _, _ in made],
            times=[call.now for _, call, _ in made],
        )
