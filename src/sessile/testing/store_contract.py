"""What every Store must do, as tests to subclass: `StoreContract` has one test a sentence of the port."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from sessile.ports import Store
from sessile.rows import (
    AgentRow,
    ApiKeyRow,
    Claim,
    EventQuery,
    NewSession,
    Page,
    SessionChanges,
    SessionRef,
    SessionRow,
)
from sessile.testing.store_contract_artifacts import ArtifactContract
from sessile.testing.store_contract_client_tools import ClientToolContract
from sessile.testing.store_contract_combined import CombinedCopyContract, CombinedIdleContract
from sessile.testing.store_contract_compaction import CompactionContract, order
from sessile.testing.store_contract_concurrent import ConcurrencyContract
from sessile.testing.store_contract_copies import ForkContract, IdleContract, ImportContract, in_slices, new_row
from sessile.testing.store_contract_import_once import ImportOnceContract
from sessile.testing.store_contract_leases import LeaseContract
from sessile.testing.store_contract_lists import ListContract
from sessile.testing.store_contract_log import LogContract, ReadingContract
from sessile.testing.store_contract_once import ConditionContract, OnceContract
from sessile.testing.store_contract_secrets import SecretContract
from sessile.testing.store_contract_sub_turns import SubTurnContract, by, start
from sessile.testing.store_contract_tools import ToolServerContract
from sessile.testing.store_contract_upkeep import UpkeepContract
from sessile.testing.store_contract_visibility import VisibilityContract
from sessile.testing.store_contract_waiting import WaitingContract
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    EVERYTHING,
    NOTHING,
    SESSION,
    Fixtures,
    accept,
    admit_all,
    answered,
    append,
    new_session,
    new_tenant,
    purge_all,
    read_all,
    sequences,
    shown,
    thought,
    walk,
    whole_turn,
)
from sessile.wire.errors import FenceLost, KeyTaken, NotFound, PreconditionFailed
from sessile.wire.sessions import Usage

FOREIGN_VERBS: dict[str, Callable[[Store, int, SessionRef, Claim], Awaitable[Any]]] = {
    "get_agent": lambda store, other, ref, claim: store.get_agent(other, AGENT),
    "save_agent": lambda store, other, ref, claim: store.save_agent(other, AGENT, DOCUMENT, True, 1),
    "delete_agent": lambda store, other, ref, claim: store.delete_agent(other, AGENT),
    "create_session": lambda store, other, ref, claim: new_session(store, other, "mine"),
    "fork_session": lambda store, other, ref, claim: store.fork_session(other, AGENT, new_row("mine"), ref, None),
    "fork_compacted": lambda store, other, ref, claim: store.fork_compacted(
        other, AGENT, new_row("mine"), ref, claim.opened[0].id, "trn_" + "0" * 20, admit_all
    ),
    "import_session": lambda store, other, ref, claim: store.import_session(other, AGENT, new_row("mine"), in_slices()),
    "get_session": lambda store, other, ref, claim: store.get_session(ref),
    "list_sessions": lambda store, other, ref, claim: store.list_sessions(other, AGENT, cursor=None, limit=10),
    "update_session": lambda store, other, ref, claim: store.update_session(ref, SessionChanges(name="x"), None),
    "delete_session": lambda store, other, ref, claim: store.delete_session(ref, None),
    "accept_input": lambda store, other, ref, claim: accept(store, ref),
    "list_events": lambda store, other, ref, claim: store.list_events(ref, EVERYTHING),
    "get_event": lambda store, other, ref, claim: store.get_event(ref, claim.opened[0].id),
    "get_turn": lambda store, other, ref, claim: store.get_turn(ref, claim.turn_id),
    "set_hidden": lambda store, other, ref, claim: store.set_hidden(ref, claim.opened[0].id, True),
    "accept_compaction": lambda store, other, ref, claim: order(store, ref),
    "delete_event": lambda store, other, ref, claim: store.delete_event(ref, claim.opened[0].id),
    "start_sub_turn": lambda store, other, ref, claim: start(store, by(claim, tenant_id=other, agent_key=AGENT)),
    "list_waiting": lambda store, other, ref, claim: store.list_waiting(ref),
    "withdraw_input": lambda store, other, ref, claim: store.withdraw_input(ref, "aev_1"),
    "revoke_key": lambda store, other, ref, claim: store.revoke_key(other, "key_1"),
}


def _key(tenant: int, key_id: str = "key_1") -> ApiKeyRow:
    return ApiKeyRow(
        key_id=key_id, tenant_id=tenant, name="k", roles=["owner"], agent_roles={"a": ["agent_user"]}, created_at=5
    )


class TenantContract(Fixtures):
    """Tenants, keys, and the wall between tenants."""

    @pytest.mark.parametrize("verb", FOREIGN_VERBS)
    async def test_what_is_another_tenants_does_not_exist(self, store: Store, tenant: int, verb: str) -> None:
        await store.create_key(_key(tenant), b"digest")
        claim = await accept(store, SessionRef(tenant, AGENT, SESSION))
        before = shown(await read_all(store, claim.session.id))
        other = (await store.create_tenant("other", "Other")).id
        with pytest.raises(NotFound):
            await FOREIGN_VERBS[verb](store, other, SessionRef(other, AGENT, SESSION), claim)
        assert shown(await read_all(store, claim.session.id)) == before
        assert (await store.get_agent(tenant, AGENT)).version == 1

    async def test_listings_show_the_tenants_own_only(self, store: Store, tenant: int) -> None:
        await store.create_key(_key(tenant), b"digest")
        other = (await store.create_tenant("other", "Other")).id
        assert (await store.list_agents(other, cursor=None, limit=10, enabled=None)).rows == []
        assert await store.list_keys(other) == []

    async def test_two_tenants_may_hold_the_same_keys(self, store: Store, tenant: int) -> None:
        other = await new_tenant(store, "other")
        mine, theirs = SessionRef(tenant, AGENT, SESSION), SessionRef(other, AGENT, SESSION)
        (own, *_) = (await accept(store, mine, "mine")).opened
        (foreign, *_) = (await accept(store, theirs, "theirs")).opened
        assert shown((await store.list_events(mine, EventQuery(limit=10))).rows) == shown([own])
        assert shown((await store.list_events(theirs, EventQuery(limit=10))).rows) == shown([foreign])
        with pytest.raises(NotFound):
            await store.get_event(mine, foreign.id)
        await store.delete_agent(other, AGENT)
        assert (await store.get_session(mine)).status == "running"

    async def test_a_tenant_key_is_taken_once(self, store: Store, tenant: int) -> None:
        with pytest.raises(KeyTaken):
            await store.create_tenant("acme", "Again")
        assert [row.id for row in await store.list_tenants()] == [tenant]

    async def test_a_key_is_found_by_its_digest_revoked_or_not(self, store: Store, tenant: int) -> None:
        await store.create_key(_key(tenant), b"digest")
        assert await store.find_key(b"digest") == _key(tenant)
        assert await store.find_key(b"other") is None
        revoked = await store.revoke_key(tenant, "key_1")
        assert revoked.revoked_at is not None
        assert await store.revoke_key(tenant, "key_1") == revoked
        assert await store.find_key(b"digest") == revoked

    async def test_an_existing_digest_is_left_as_it_is(self, store: Store, tenant: int) -> None:
        await store.create_key(_key(tenant), b"digest")
        await store.create_key(_key(tenant, "key_2"), b"digest")
        assert await store.list_keys(tenant) == [_key(tenant)]

    async def test_keys_are_listed_oldest_first(self, store: Store, tenant: int) -> None:
        for number in range(4):
            await store.create_key(_key(tenant, f"key_{number}"), f"digest {number}".encode())
        await store.revoke_key(tenant, "key_2")
        assert [row.key_id for row in await store.list_keys(tenant)] == ["key_0", "key_1", "key_2", "key_3"]


class AgentContract(Fixtures):
    """Agents."""

    async def test_an_agent_key_is_taken_once_in_a_tenant(self, store: Store, tenant: int) -> None:
        with pytest.raises(KeyTaken):
            await store.create_agent(tenant, AGENT, b'{"name":"Other"}', False)
        agent = await store.get_agent(tenant, AGENT)
        assert (agent.document, agent.enabled, agent.version) == (DOCUMENT, True, 1)

    async def test_saving_replaces_the_expected_version_only(self, store: Store, tenant: int) -> None:
        saved = await store.save_agent(tenant, AGENT, b"{}", False, 1)
        assert saved is not None
        assert (saved.version, saved.document, saved.enabled) == (2, b"{}", False)
        assert await store.save_agent(tenant, AGENT, DOCUMENT, True, 1) is None
        assert await store.get_agent(tenant, AGENT) == saved

    async def test_of_many_saves_of_one_version_one_wins(self, store: Store, tenant: int) -> None:
        saves = (store.save_agent(tenant, AGENT, f'{{"n":{n}}}'.encode(), True, 1) for n in range(20))
        (winner,) = [row for row in await asyncio.gather(*saves) if row is not None]
        assert await store.get_agent(tenant, AGENT) == winner

    async def test_what_was_never_there_is_not_found(self, store: Store, tenant: int) -> None:
        for verb in (
            store.get_agent(tenant, "no"),
            store.save_agent(tenant, "no", b"{}", True, 1),
            store.delete_agent(tenant, "no"),
            store.list_sessions(tenant, "no", cursor=None, limit=1),
        ):
            with pytest.raises(NotFound):
                await verb

    @pytest.mark.parametrize("enabled", [None, True, False])
    async def test_pages_are_exact_while_agents_are_added(
        self, store: Store, tenant: int, enabled: bool | None
    ) -> None:
        await store.delete_agent(tenant, AGENT)
        for number in range(11):
            await store.create_agent(tenant, f"a{number}", DOCUMENT, number % 3 != 0)
        expected = [f"a{n}" for n in reversed(range(11)) if enabled is None or (n % 3 != 0) is enabled]
        late = itertools.count()

        async def page_at(cursor: int | None) -> Page[AgentRow]:
            page = await store.list_agents(tenant, cursor=cursor, limit=3, enabled=enabled)
            assert len(page.rows) <= 3
            await store.create_agent(tenant, f"late{next(late)}", DOCUMENT, bool(enabled))
            return page

        assert [row.key for row in await walk(page_at)] == expected

    async def test_the_last_page_has_no_next(self, store: Store, tenant: int) -> None:
        await store.create_agent(tenant, "second", DOCUMENT, True)
        page = await store.list_agents(tenant, cursor=None, limit=2, enabled=None)
        assert ([row.key for row in page.rows], page.next) == (["second", AGENT], None)

    async def test_nothing_of_a_deleted_agent_can_be_reached(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        assert await store.delete_agent(ref.tenant_id, AGENT) == claim.agent.id
        for verb in (
            store.get_agent(ref.tenant_id, AGENT),
            store.get_session(ref),
            store.list_events(ref, EVERYTHING),
            store.get_event(ref, claim.opened[0].id),
            store.get_turn(ref, claim.turn_id),
            accept(store, ref),
        ):
            with pytest.raises(NotFound):
                await verb
        assert (await store.read_log(claim.session.id, EVERYTHING)) == Page([], None)
        with pytest.raises(FenceLost):
            await append(store, claim.fence, [answered()], NOTHING)
        assert await store.take_unfinished_turns() == []

    async def test_a_new_agent_under_a_deleted_ones_key_has_no_session(self, store: Store, ref: SessionRef) -> None:
        old = await store.delete_agent(ref.tenant_id, AGENT)
        agent = await store.create_agent(ref.tenant_id, AGENT, DOCUMENT, True)
        assert agent.id != old
        await new_session(store, ref.tenant_id, "new")
        await purge_all(store)
        page = await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)
        assert [row.key for row in page.rows] == ["new"]


class SessionContract(Fixtures):
    """Sessions."""

    async def test_a_new_session_is_as_it_was_asked_for(self, store: Store, tenant: int) -> None:
        fields = {"name": "N", "description": "D", "metadata": b'{"a":1}', "enabled": False, "tti_minutes": 7}
        ref = await new_session(store, tenant, "full", **fields)
        row = await store.get_session(ref)
        assert {name: getattr(row, name) for name in fields} == fields
        assert (row.key, row.agent_key, row.tenant_id) == ("full", AGENT, tenant)
        assert (row.version, row.status, row.stop_reason) == (1, "unstarted", None)
        assert (row.last_sequence, row.last_event_id, row.context_usage) == (0, None, None)
        assert msgspec.json.decode(row.usage, type=Usage) == Usage()

    async def test_creating_returns_what_reading_returns(self, store: Store, tenant: int) -> None:
        new = NewSession(key="k", name="n", description=None, metadata=b"{}", enabled=True, tti_minutes=0)
        created = await store.create_session(tenant, AGENT, new)
        assert created == await store.get_session(SessionRef(tenant, AGENT, "k"))

    async def test_a_session_key_is_taken_once_in_an_agent(self, store: Store, ref: SessionRef) -> None:
        with pytest.raises(KeyTaken):
            await new_session(store, ref.tenant_id, SESSION, name="Again")
        assert (await store.get_session(ref)).name == SESSION
        await store.create_agent(ref.tenant_id, "other", DOCUMENT, True)
        new = NewSession(key=SESSION, name="n", description=None, metadata=b"{}", enabled=True, tti_minutes=0)
        assert (await store.create_session(ref.tenant_id, "other", new)).key == SESSION

    async def test_of_many_sessions_under_one_key_one_is_made(self, store: Store, tenant: int) -> None:
        made = await asyncio.gather(*(new_session(store, tenant, "one") for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(outcome, KeyTaken) for outcome in made) == 19

    async def test_pages_are_exact_while_sessions_are_added(self, store: Store, tenant: int) -> None:
        for number in range(10):
            await new_session(store, tenant, f"s{number}")
        late = itertools.count()

        async def page_at(cursor: int | None) -> Page[SessionRow]:
            page = await store.list_sessions(tenant, AGENT, cursor=cursor, limit=4)
            await new_session(store, tenant, f"late{next(late)}")
            return page

        found = await walk(page_at)
        assert [row.key for row in found] == [*(f"s{n}" for n in reversed(range(10))), SESSION]
        assert found[0] == await store.get_session(SessionRef(tenant, AGENT, "s9"))

    async def test_an_update_changes_what_was_given_and_the_version(self, store: Store, ref: SessionRef) -> None:
        before = await store.get_session(ref)
        after = await store.update_session(ref, SessionChanges(description="D", enabled=False), None)
        expected = msgspec.structs.replace(
            before, description="D", enabled=False, version=2, updated_at=after.updated_at
        )
        assert after == expected == await store.get_session(ref)
        cleared = await store.update_session(ref, SessionChanges(description=None, tti_minutes=3), 2)
        assert (cleared.description, cleared.tti_minutes, cleared.version) == (None, 3, 3)

    async def test_another_version_is_refused(self, store: Store, ref: SessionRef) -> None:
        with pytest.raises(PreconditionFailed):
            await store.update_session(ref, SessionChanges(name="x"), 2)
        with pytest.raises(PreconditionFailed):
            await store.delete_session(ref, 2)
        assert (await store.get_session(ref)).version == 1
        await store.delete_session(ref, 1)

    async def test_a_turn_leaves_the_version_alone(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        assert (await store.get_session(ref)).version == 1

    async def test_nothing_of_a_deleted_session_can_be_reached(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        assert await store.delete_session(ref, None) == claim.session.id
        for verb in (
            store.get_session(ref),
            store.update_session(ref, SessionChanges(name="x"), None),
            store.delete_session(ref, None),
            store.list_events(ref, EVERYTHING),
            store.get_event(ref, claim.opened[0].id),
            store.get_turn(ref, claim.turn_id),
            accept(store, ref),
        ):
            with pytest.raises(NotFound):
                await verb
        assert await store.read_log(claim.session.id, EVERYTHING) == Page([], None)
        page = await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)
        assert page == Page([], None)

    @pytest.mark.parametrize("purged", [False, True])
    async def test_a_new_session_under_a_deleted_ones_key_is_empty(
        self, store: Store, ref: SessionRef, purged: bool
    ) -> None:
        old = (await whole_turn(store, ref))[0]
        old_id = await store.delete_session(ref, None)
        if purged:
            await purge_all(store)
        await new_session(store, ref.tenant_id)
        row = await store.get_session(ref)
        assert (row.id != old_id, row.last_sequence, row.status) == (True, 0, "unstarted")
        assert await store.list_events(ref, EVERYTHING) == Page([], None)
        with pytest.raises(NotFound):
            await store.get_event(ref, old.id)
        await purge_all(store)
        assert sequences(await whole_turn(store, ref)) == [1, 2, 3, 4]

    async def test_purging_goes_in_slices_and_takes_only_what_was_deleted(self, store: Store, tenant: int) -> None:
        kept = await new_session(store, tenant, "kept")
        expected = shown(await whole_turn(store, kept))
        big = SessionRef(tenant, AGENT, SESSION)
        claim = await accept(store, big)
        for _ in range(15):
            await append(store, claim.fence, [thought()] * 100, NOTHING)
        assert await store.purge() is False
        await store.delete_session(big, None)
        assert await purge_all(store) > 2
        assert await store.purge() is False
        assert shown((await store.list_events(kept, EVERYTHING)).rows) == expected


class StoreContract(
    TenantContract,
    AgentContract,
    SessionContract,
    ListContract,
    ForkContract,
    ImportContract,
    ImportOnceContract,
    IdleContract,
    CombinedCopyContract,
    CombinedIdleContract,
    LogContract,
    ClientToolContract,
    SubTurnContract,
    ReadingContract,
    ConcurrencyContract,
    OnceContract,
    ConditionContract,
    VisibilityContract,
    WaitingContract,
    LeaseContract,
    SecretContract,
    CompactionContract,
    ArtifactContract,
    ToolServerContract,
    UpkeepContract,
):
    """The whole contract. Subclass with one fixture, `harness`."""
