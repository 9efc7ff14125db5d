"""What every Store must keep of idempotency keys and of conditions on inputs. Part of `store_contract`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sessile.ports import Store
from sessile.rows import AgentRow, Claim, NewSession, Once, Rejoined, SessionRef, SessionRow
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    DONE,
    NOTHING,
    SESSION,
    Fixtures,
    Harness,
    accept,
    admit_all,
    answered,
    append,
    new_session,
    purge_all,
    read_all,
    said,
    shown,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import (
    AgentDisabled,
    IdempotencyKeyReused,
    KeyTaken,
    NotFound,
    PreconditionFailed,
    SessionRunning,
    UnknownModel,
)
from sessile.wire.limits import IDEMPOTENCY_SECONDS

ONCE, OTHER = Once("k", b"this"), Once("k", b"another")
MANY = 20
FORGOTTEN = 250
"""More keys than one slice removes."""

Create = Callable[[Store, int, Once | None], Awaitable[Any]]


def _refuse(agent: AgentRow, session: SessionRow) -> None:
    raise AgentDisabled


def _unknown_model() -> None:
    raise UnknownModel


async def _post(store: Store, ref: SessionRef, once: Once | None = ONCE, if_match: str | None = None) -> Any:
    return await store.accept_input(ref, said(), ids.turn_id(), admit_all, once, if_match)


async def _agent(store: Store, tenant: int, once: Once | None = ONCE, key: str = "") -> AgentRow:
    return await store.create_agent(tenant, key or ids.agent_key("x"), DOCUMENT, True, once)


async def _session(store: Store, tenant: int, once: Once | None = ONCE, key: str = "", agent: str = AGENT) -> Any:
    key = key or ids.session_key("x")
    new = NewSession(key=key, name="x", description=None, metadata=b"{}", enabled=True, tti_minutes=0)
    return await store.create_session(tenant, agent, new, once)


CREATES: dict[str, Create] = {"agent": _agent, "session": _session}


class OnceContract(Fixtures):
    """The same idempotency key makes one thing, for as long as it is kept."""

    async def test_the_same_input_joins_its_turn_wherever_it_stands(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        claim = await _post(store, ref)
        again = await _post(store, ref)
        assert isinstance(claim, Claim)
        assert isinstance(again, Rejoined)
        assert (again.turn_id, again.running, again.session.id) == (claim.turn_id, True, claim.session.id)
        assert shown(again.opened) == shown(claim.opened[:1])
        await append(store, claim.fence, [answered()], NOTHING, DONE)
        await whole_turn(store, ref)
        log = shown(await read_all(store, claim.session.id))
        for joined in (await _post(store, ref), await _post(await harness.reopen(), ref)):
            assert (joined.turn_id, joined.running) == (claim.turn_id, False)
            assert shown(joined.opened) == shown(claim.opened[:1])
        assert shown(await read_all(harness.store, claim.session.id)) == log

    @pytest.mark.parametrize("create", CREATES)
    async def test_the_same_create_gives_what_the_first_one_made(
        self, harness: Harness, store: Store, tenant: int, create: str
    ) -> None:
        first = await CREATES[create](store, tenant, ONCE)
        assert await CREATES[create](store, tenant, ONCE) == first
        assert await CREATES[create](await harness.reopen(), tenant, ONCE) == first
        assert await CREATES[create](harness.store, tenant, None) != first

    async def test_what_a_create_made_is_given_as_it_stands(self, store: Store, tenant: int) -> None:
        agent = await _agent(store, tenant, key="mine")
        assert await _agent(store, tenant, key="mine") == agent
        saved = await store.save_agent(tenant, "mine", b"{}", False, 1)
        assert await store.create_agent(tenant, "mine", DOCUMENT, True, ONCE, _unknown_model) == saved
        session = await _session(store, tenant, key="mine")
        claim = await accept(store, SessionRef(tenant, AGENT, "mine"))
        again = await _session(store, tenant, key="mine")
        assert (again.id, again.status, again.last_event_id) == (session.id, "running", claim.opened[0].id)

    async def test_what_a_key_made_and_was_deleted_is_not_made_again(self, store: Store, tenant: int) -> None:
        await _agent(store, tenant, key="gone")
        await _session(store, tenant, key="gone")
        for made in (
            await store.delete_session(SessionRef(tenant, AGENT, "gone"), None),
            await store.delete_agent(tenant, "gone"),
        ):
            assert made
        for create in CREATES.values():
            with pytest.raises(NotFound):
                await create(store, tenant, ONCE)
        with pytest.raises(NotFound):
            await store.get_agent(tenant, "gone")
        await store.delete_agent(tenant, AGENT)
        await store.create_agent(tenant, AGENT, DOCUMENT, True)
        with pytest.raises(NotFound):
            await _session(store, tenant)

    async def test_another_request_under_the_key_is_refused(self, store: Store, ref: SessionRef) -> None:
        claim = await _post(store, ref)
        await _agent(store, ref.tenant_id)
        await _session(store, ref.tenant_id)
        with pytest.raises(IdempotencyKeyReused):
            await _post(store, ref, OTHER)
        for create in CREATES.values():
            with pytest.raises(IdempotencyKeyReused):
                await create(store, ref.tenant_id, OTHER)
        assert len(await read_all(store, claim.session.id)) == 2

    async def test_a_key_is_looked_up_before_anything_is_refused(self, store: Store, ref: SessionRef) -> None:
        claim = await _post(store, ref, if_match="start")
        for joined in (
            await store.accept_input(ref, said(), ids.turn_id(), _refuse, ONCE),
            await _post(store, ref, if_match="start"),
        ):
            assert isinstance(joined, Rejoined)
            assert joined.turn_id == claim.turn_id
        with pytest.raises(SessionRunning):
            await _post(store, ref, Once("other", b"this"))

    async def test_what_is_refused_leaves_no_key(self, store: Store, ref: SessionRef) -> None:
        with pytest.raises(AgentDisabled):
            await store.accept_input(ref, said(), ids.turn_id(), _refuse, ONCE)
        with pytest.raises(PreconditionFailed):
            await _post(store, ref, ONCE, "aev_0")
        with pytest.raises(UnknownModel):
            await store.create_agent(ref.tenant_id, "new", DOCUMENT, True, ONCE, _unknown_model)
        with pytest.raises(KeyTaken):
            await _agent(store, ref.tenant_id, key=AGENT)
        with pytest.raises(KeyTaken):
            await _session(store, ref.tenant_id, key=SESSION)
        with pytest.raises(NotFound):
            await _session(store, ref.tenant_id, agent="nobody")
        assert isinstance(await _post(store, ref, OTHER), Claim)
        await _agent(store, ref.tenant_id, OTHER)
        await _session(store, ref.tenant_id, OTHER)

    async def test_keys_of_sessions_tenants_and_operations_are_apart(self, store: Store, ref: SessionRef) -> None:
        await store.create_tenant("other", "Other")
        other = (await store.list_tenants())[-1].id
        await store.create_agent(other, AGENT, DOCUMENT, True)
        foreign = await new_session(store, other)
        second = await new_session(store, ref.tenant_id, "second")
        turns = {(await _post(store, one)).turn_id for one in (ref, second, foreign)}
        made = [await create(store, tenant, ONCE) for create in CREATES.values() for tenant in (ref.tenant_id, other)]
        assert len(turns) == 3
        assert len({(type(row), row.id) for row in made}) == 4

    async def test_a_new_session_under_a_deleted_ones_key_knows_nothing_of_its_keys(
        self, store: Store, ref: SessionRef
    ) -> None:
        await _post(store, ref)
        await store.delete_session(ref, None)
        with pytest.raises(NotFound):
            await _post(store, ref)
        await new_session(store, ref.tenant_id)
        assert isinstance(await _post(store, ref), Claim)

    async def test_of_many_at_once_one_creates_and_all_get_it(self, store: Store, ref: SessionRef) -> None:
        posted = await asyncio.gather(*(_post(store, ref) for _ in range(MANY)))
        assert [type(one) for one in posted].count(Claim) == 1
        assert len({one.turn_id for one in posted}) == 1
        for create in CREATES.values():
            rows = await asyncio.gather(*(create(store, ref.tenant_id, ONCE) for _ in range(MANY)))
            assert len({row.id for row in rows}) == 1
        assert len(await read_all(store, posted[0].session.id)) == 2

    async def test_the_same_key_with_many_bodies_at_once_takes_one(self, store: Store, ref: SessionRef) -> None:
        posts = (_post(store, ref, Once("k", str(n).encode())) for n in range(MANY))
        posted = await asyncio.gather(*posts, return_exceptions=True)
        assert [type(one) for one in posted].count(Claim) == 1
        assert [type(one) for one in posted].count(IdempotencyKeyReused) == MANY - 1

    async def test_a_key_is_free_again_when_its_time_is_over(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        claim = await _post(store, ref)
        await append(store, claim.fence, [], NOTHING, DONE)
        agent = await _agent(store, ref.tenant_id)
        await harness.clock.advance(IDEMPOTENCY_SECONDS - 1)
        assert isinstance(await _post(store, ref), Rejoined)
        assert await _agent(store, ref.tenant_id) == agent
        await harness.clock.advance(1)
        second = await _post(store, ref, OTHER)
        assert isinstance(second, Claim)
        assert (await _agent(store, ref.tenant_id, OTHER)).id != agent.id
        assert (await _post(store, ref, OTHER)).turn_id == second.turn_id

    async def test_old_keys_are_removed_in_slices_and_no_others(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        await asyncio.gather(*(_agent(store, ref.tenant_id, Once(f"k{n}", b"")) for n in range(FORGOTTEN)))
        assert await store.purge() is False
        await harness.clock.advance(IDEMPOTENCY_SECONDS / 2)
        claim = await _post(store, ref)
        await harness.clock.advance(IDEMPOTENCY_SECONDS / 2)
        assert await purge_all(store) > 2
        assert (await _post(store, ref)).turn_id == claim.turn_id
        await harness.clock.advance(-IDEMPOTENCY_SECONDS / 2)
        fresh = await _agent(store, ref.tenant_id, Once("k0", b"new"))
        assert fresh.version == 1, "it was removed: a clock that goes back does not bring it back"


class ConditionContract(Fixtures):
    """An input on the condition that nothing has happened since."""

    async def test_an_input_is_taken_only_after_the_event_it_names(self, store: Store, ref: SessionRef) -> None:
        for wrong in ("aev_1", ""):
            with pytest.raises(PreconditionFailed):
                await _post(store, ref, None, wrong)
        claim = await _post(store, ref, None, "start")
        (output, _) = await append(store, claim.fence, [answered()], NOTHING, DONE)
        for stale in ("start", claim.opened[0].id):
            with pytest.raises(PreconditionFailed):
                await _post(store, ref, None, stale)
        assert (await store.get_session(ref)).last_event_id == output.id
        assert isinstance(await _post(store, ref, None, output.id), Claim)

    async def test_of_many_inputs_after_the_same_event_one_is_taken(self, store: Store, ref: SessionRef) -> None:
        output = (await whole_turn(store, ref))[2]

        async def post_and_end() -> None:
            claim = await _post(store, ref, None, output.id)
            await append(store, claim.fence, [answered()], NOTHING, DONE)

        done = await asyncio.gather(*(post_and_end() for _ in range(MANY)), return_exceptions=True)
        assert [error for error in done if error is None] == [None]
        assert {type(error) for error in done if error is not None} <= {SessionRunning, PreconditionFailed}
