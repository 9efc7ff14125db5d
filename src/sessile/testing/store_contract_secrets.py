"""What every Store must do, part of `StoreContract`: secrets, which others encrypt."""

import asyncio

import pytest

from sessile.ports import Seal, StaleKey, Store
from sessile.rows import NewSession, SealedSecret, SealedSecrets, SessionChanges, SessionRef
from sessile.testing.store_world import AGENT, DOCUMENT, Fixtures, Harness, new_session, new_tenant, purge_all
from sessile.wire.errors import InvalidRequest, NotFound, PreconditionFailed
from sessile.wire.limits import MAX_SECRETS


def sealing(key: str = "k1", **values: str | None) -> Seal:
    """Something like encryption that shows what it was bound to."""

    def seal(agent: int, session: int) -> SealedSecrets:
        sealed = {n: None if v is None else f"{key}/{agent}/{session}/{v}".encode() for n, v in values.items()}
        return SealedSecrets(key, sealed)

    return seal


def secret(agent: int, session: int, name: str, value: str, key: str = "k1") -> SealedSecret:
    """What such a one is stored as."""
    text = f"{key}/{agent}/{session}/{value}".encode()
    return SealedSecret(agent_id=agent, session_id=session, name=name, key_id=key, value=text)


class SecretContract(Fixtures):
    """Secrets of agents and sessions."""

    async def test_secrets_of_an_agent_are_set_removed_and_replaced(self, store: Store, tenant: int) -> None:
        agent = (await store.get_agent(tenant, AGENT)).id
        assert await store.agent_secret_names(tenant, AGENT) == []
        assert await store.write_agent_secrets(tenant, AGENT, sealing(b="2", a="1"), False) == ["a", "b"]
        assert await store.write_agent_secrets(tenant, AGENT, sealing(b="3", a=None, no=None), False) == ["b"]
        assert await store.sealed_secrets(agent, 7) == [secret(agent, 0, "b", "3")]
        assert await store.write_agent_secrets(tenant, AGENT, sealing(c="4"), True) == ["c"]
        assert await store.write_agent_secrets(tenant, AGENT, sealing(), True) == []
        assert await store.sealed_secrets(agent, 7) == []

    async def test_secrets_of_a_session_come_with_those_of_its_agent(self, store: Store, ref: SessionRef) -> None:
        session = await store.get_session(ref)
        agent = session.agent_id
        await store.write_agent_secrets(ref.tenant_id, AGENT, sealing(a="agent's"), False)
        changed = await store.update_session(ref, SessionChanges(), 1, sealing(a="own", z="1"))
        assert changed.version == 2
        assert await store.sealed_secrets(agent, session.id) == [
            secret(agent, 0, "a", "agent's"),
            secret(agent, session.id, "a", "own"),
            secret(agent, session.id, "z", "1"),
        ]
        assert await store.session_secret_names([session.id, session.id + 1]) == {session.id: ["a", "z"]}
        assert await store.session_secret_names([]) == {}
        await store.update_session(ref, SessionChanges(name="x"), None, sealing(a=None))
        assert await store.session_secret_names([session.id]) == {session.id: ["z"]}

    async def test_a_session_is_created_with_its_secrets_or_not_at_all(self, store: Store, tenant: int) -> None:
        new = NewSession(key="k", name="n", description=None, metadata=b"{}", enabled=True, tti_minutes=0)
        row = await store.create_session(tenant, AGENT, new, None, sealing(a="1"))
        assert await store.sealed_secrets(row.agent_id, row.id) == [secret(row.agent_id, row.id, "a", "1")]
        other = NewSession(key="o", name="n", description=None, metadata=b"{}", enabled=True, tti_minutes=0)
        with pytest.raises(StaleKey):
            await store.create_session(tenant, AGENT, other, None, sealing("k2", a="1"))
        with pytest.raises(NotFound):
            await store.get_session(SessionRef(tenant, AGENT, "o"))

    async def test_a_change_that_is_refused_changes_no_secret(self, store: Store, ref: SessionRef) -> None:
        session = await store.get_session(ref)
        many = {f"n{number}": "x" for number in range(MAX_SECRETS)}
        await store.update_session(ref, SessionChanges(), None, sealing(**many))
        with pytest.raises(InvalidRequest):
            await store.update_session(ref, SessionChanges(name="too many"), None, sealing(one_more="x"))
        with pytest.raises(PreconditionFailed):
            await store.update_session(ref, SessionChanges(), 1, sealing(n1=None))
        with pytest.raises(StaleKey):
            await store.update_session(ref, SessionChanges(name="stale"), None, sealing("k2", n1="y"))
        assert (await store.get_session(ref)).name == session.name
        assert len((await store.session_secret_names([session.id]))[session.id]) == MAX_SECRETS
        with pytest.raises(InvalidRequest):
            await store.write_agent_secrets(ref.tenant_id, AGENT, sealing(**many, one_more="x"), True)
        assert await store.agent_secret_names(ref.tenant_id, AGENT) == []

    async def test_the_first_key_that_comes_is_in_use(self, store: Store, tenant: int) -> None:
        assert await store.secrets_key() is None
        writes = (store.write_agent_secrets(tenant, AGENT, sealing(f"k{n}", **{f"a{n}": "1"}), False) for n in range(9))
        made = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(outcome, StaleKey) for outcome in made) == 8
        (stored,) = await store.sealed_secrets((await store.get_agent(tenant, AGENT)).id, 1)
        assert await store.secrets_key() == stored.key_id

    async def test_secrets_move_to_another_key(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        session = await store.get_session(ref)
        agent = session.agent_id
        await store.write_agent_secrets(ref.tenant_id, AGENT, sealing(a="1", b="2"), False)
        await store.update_session(ref, SessionChanges(), None, sealing(c="3"))
        await store.use_secrets_key("k2")
        with pytest.raises(StaleKey):
            await store.write_agent_secrets(ref.tenant_id, AGENT, sealing(a="late"), False)
        old = await store.secrets_under_other_keys("k2", 10)
        assert sorted(one.name for one in old) == ["a", "b", "c"]
        assert len(await store.secrets_under_other_keys("k2", 2)) == 2
        await store.write_agent_secrets(ref.tenant_id, AGENT, sealing("k2", a="changed", b=None), False)
        await store.replace_sealed(old, [secret(one.agent_id, one.session_id, one.name, "moved", "k2") for one in old])
        store = await harness.reopen()
        assert await store.secrets_key() == "k2"
        assert await store.secrets_under_other_keys("k2", 10) == []
        assert await store.sealed_secrets(agent, session.id) == [
            secret(agent, 0, "a", "changed", "k2"),
            secret(agent, session.id, "c", "moved", "k2"),
        ]

    async def test_secrets_go_with_their_owner(self, store: Store, ref: SessionRef) -> None:
        tenant = ref.tenant_id
        row = await store.get_session(ref)
        kept = await store.get_session(await new_session(store, tenant, "kept"))
        for one in (ref, SessionRef(tenant, AGENT, "kept")):
            await store.update_session(one, SessionChanges(), None, sealing(a="1"))
        await store.write_agent_secrets(tenant, AGENT, sealing(a="1"), False)
        await store.delete_session(ref, None)
        assert await store.session_secret_names([row.id, kept.id]) == {kept.id: ["a"]}
        assert len(await store.secrets_under_other_keys("none", 10)) == 2
        await store.delete_agent(tenant, AGENT)
        await purge_all(store)
        assert await store.secrets_under_other_keys("none", 10) == []
        await store.create_agent(tenant, AGENT, DOCUMENT, True)
        assert await store.agent_secret_names(tenant, AGENT) == []

    async def test_secrets_of_another_tenants_agent_do_not_exist(self, store: Store, tenant: int) -> None:
        await store.write_agent_secrets(tenant, AGENT, sealing(a="1"), False)
        other = await new_tenant(store, "other")
        assert await store.agent_secret_names(other, AGENT) == []
        await store.delete_agent(other, AGENT)
        for verb in (
            store.agent_secret_names(other, AGENT),
            store.write_agent_secrets(other, AGENT, sealing(a="2"), True),
        ):
            with pytest.raises(NotFound):
                await verb
        assert await store.agent_secret_names(tenant, AGENT) == ["a"]
