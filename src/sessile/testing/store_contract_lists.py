"""What every Store must do, part of `StoreContract`: lists of sessions with filters, and across agents."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from sessile.domain.filter_parser import parse
from sessile.ports import Store
from sessile.rows import NewSession, Page, SessionChanges, SessionQuery, SessionRef, SessionRow
from sessile.testing.store_contract_client_tools import parked
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    SESSION,
    Fixtures,
    Harness,
    accept,
    new_session,
    new_tenant,
    purge_all,
    walk,
    whole_turn,
)
from sessile.wire.limits import MAX_FILTER_CONDITIONS

_MANY = 1_100
"""More sessions than a page may examine."""


def _metadata(**values: Any) -> bytes:
    return msgspec.json.encode(values)


async def _keys(store: Store, tenant: int, *, limit: int = 10, where: str | None = None, **fields: Any) -> list[str]:
    """The keys of all pages."""
    metadata = None if where is None else parse(where)

    async def page_at(cursor: int | None) -> Page[SessionRow]:
        page = await store.find_sessions(tenant, SessionQuery(cursor=cursor, limit=limit, metadata=metadata, **fields))
        assert len(page.rows) <= limit
        return page

    return [row.key for row in await walk(page_at)]


async def _of(store: Store, tenant: int, agent: str, *keys: str, metadata: bytes = b"{}") -> None:
    for key in keys:
        new = NewSession(key=key, name=key, description=None, metadata=metadata, enabled=True, tti_minutes=0)
        await store.create_session(tenant, agent, new)


class ListContract(Fixtures):
    """Sessions that a query takes."""

    async def test_sessions_of_all_agents_of_a_tenant_come_newest_first(self, store: Store, tenant: int) -> None:
        await store.create_agent(tenant, "second", DOCUMENT, True)
        await new_tenant(store, "other")
        await _of(store, tenant, "second", "b")
        await _of(store, tenant, AGENT, "c")
        assert await _keys(store, tenant) == ["c", "b", SESSION]
        found = (await store.find_sessions(tenant, SessionQuery(limit=3))).rows
        assert found == [
            await store.get_session(SessionRef(tenant, agent, key))
            for agent, key in ((AGENT, "c"), ("second", "b"), (AGENT, SESSION))
        ]

    async def test_agents_bound_a_list_and_unknown_ones_have_nothing(self, store: Store, tenant: int) -> None:
        for agent in ("second", "third"):
            await store.create_agent(tenant, agent, DOCUMENT, True)
        for number in range(3):
            await _of(store, tenant, "second", f"b{number}")
            await _of(store, tenant, "third", f"c{number}")
        assert await _keys(store, tenant, agent_keys=["third"]) == ["c2", "c1", "c0"]
        assert await _keys(store, tenant, agent_keys=["second", AGENT], limit=2) == ["b2", "b1", "b0", SESSION]
        assert await _keys(store, tenant, agent_keys=["nobody"]) == []
        assert await _keys(store, tenant, agent_keys=[]) == []
        assert await _keys(store, tenant, agent_keys=["third", "second"], where="x IS NULL", limit=4) == [
            "c2", "b2", "c1", "b1", "c0", "b0",
        ]  # fmt: skip

    async def test_a_status_is_that_of_the_session(self, store: Store, tenant: int) -> None:
        await whole_turn(store, await new_session(store, tenant, "ended"))
        await parked(store, await new_session(store, tenant, "waits"), "c1")
        await accept(store, await new_session(store, tenant, "runs"))
        assert await _keys(store, tenant, status="unstarted") == [SESSION]
        assert await _keys(store, tenant, status="running") == ["runs"]
        assert await _keys(store, tenant, status="running", agent_keys=[AGENT]) == ["runs"]
        assert await _keys(store, tenant, status="running", agent_keys=["nobody"]) == []
        assert await _keys(store, tenant, status="stopped") == ["waits", "ended"]

    async def test_times_are_exclusive(self, harness: Harness, store: Store, tenant: int) -> None:
        start = (await store.get_session(SessionRef(tenant, AGENT, SESSION))).created_at
        await harness.clock.advance(1)
        await new_session(store, tenant, "later")
        later = (await store.get_session(SessionRef(tenant, AGENT, "later"))).created_at
        assert later > start
        assert await _keys(store, tenant, created_after=start) == ["later"]
        assert await _keys(store, tenant, created_before=later) == [SESSION]
        assert await _keys(store, tenant, created_after=start, created_before=later) == []
        await harness.clock.advance(1)
        await store.update_session(SessionRef(tenant, AGENT, SESSION), SessionChanges(name="x"), None)
        assert await _keys(store, tenant, updated_after=later) == [SESSION]
        assert await _keys(store, tenant, updated_before=later + 1) == ["later"]

    async def test_a_pattern_is_looked_for_in_names_and_descriptions(self, store: Store, tenant: int) -> None:
        await new_session(store, tenant, "a", name="Order 17")
        await new_session(store, tenant, "b", description="about an ORDER")
        assert await _keys(store, tenant, pattern="[Oo]rder") == ["a"]
        assert await _keys(store, tenant, pattern="(?i)order") == ["b", "a"]
        assert await _keys(store, tenant, pattern="^$") == []

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ("tier = 2", ["two"]),
            ("tier = 2.0", ["two"]),
            ("tier = '2'", ["text"]),
            ("tier != 2", ["nested", "text"]),
            ("NOT tier = 2", ["nested", "text"]),
            ("tier IS NULL", ["null", SESSION]),
            ("tier < 9 OR tier > ''", ["text", "two"]),
            ("tier LIKE '2'", ["text"]),
            ("tier IN (1, 2, '3')", ["two"]),
            ("'a' IN tags AND vip = true", ["two"]),
            ('tier."a.b" = false', ["nested"]),
            ("tier = 2 AND vip = true AND name = 'é'", ["two"]),
            ("tier = 2 AND vip = false", []),
        ],
    )
    async def test_a_filter_on_metadata(self, store: Store, tenant: int, where: str, expected: Sequence[str]) -> None:
        await new_session(store, tenant, "two", metadata=_metadata(tier=2, vip=True, tags=["a", 1], name="é"))
        await new_session(store, tenant, "text", metadata=_metadata(tier="2"))
        await new_session(store, tenant, "null", metadata=_metadata(tier=None))
        await new_session(store, tenant, "nested", metadata=_metadata(tier={"a.b": False}))
        assert await _keys(store, tenant, where=where) == expected
        assert await _keys(store, tenant, where=where, agent_keys=[AGENT], limit=1) == expected

    async def test_metadata_with_many_values_are_found_too(self, store: Store, tenant: int) -> None:
        many = msgspec.json.encode({f"n{number}": number for number in range(1000)})
        await new_session(store, tenant, "few", metadata=_metadata(n500=500))
        await new_session(store, tenant, "many", metadata=many)
        await new_session(store, tenant, "none", metadata=_metadata(n500=501))
        assert await _keys(store, tenant, where="n500 = 500") == ["many", "few"]
        assert await _keys(store, tenant, where="n500 = 500", limit=1) == ["many", "few"]

    async def test_filters_see_metadata_as_they_were_changed_last(self, store: Store, ref: SessionRef) -> None:
        for user in ("anna", "ben"):
            await store.update_session(ref, SessionChanges(metadata=_metadata(user=user)), None)
        await store.update_session(ref, SessionChanges(name="x"), None)
        assert await _keys(store, ref.tenant_id, where="user = 'anna'") == []
        assert await _keys(store, ref.tenant_id, where="user = 'ben'") == [SESSION]
        await store.update_session(ref, SessionChanges(metadata=b"{}"), None)
        assert await _keys(store, ref.tenant_id, where="user = 'ben'") == []

    @pytest.mark.parametrize("purged", [False, True])
    async def test_what_was_deleted_is_in_no_list(self, store: Store, tenant: int, purged: bool) -> None:
        await store.create_agent(tenant, "second", DOCUMENT, True)
        await _of(store, tenant, "second", "gone with it", metadata=_metadata(a=1))
        await _of(store, tenant, AGENT, "gone", "stays", metadata=_metadata(a=1))
        await store.delete_agent(tenant, "second")
        await store.delete_session(SessionRef(tenant, AGENT, "gone"), None)
        if purged:
            await purge_all(store)
        assert await _keys(store, tenant) == ["stays", SESSION]
        assert await _keys(store, tenant, where="a = 1") == ["stays"]

    async def test_a_page_examines_a_bounded_number_and_goes_on(self, store: Store, tenant: int) -> None:
        await new_session(store, tenant, "needle", name="needle", metadata=_metadata(a=1, rare=True, b=[1]))
        await asyncio.gather(
            *(new_session(store, tenant, f"s{number}", metadata=_metadata(a=1)) for number in range(_MANY))
        )
        for query in (
            SessionQuery(limit=1, pattern="needle"),
            SessionQuery(limit=1, pattern="needle", agent_keys=[AGENT]),
            SessionQuery(limit=1, metadata=parse("1 IN b")),
            SessionQuery(limit=1, metadata=parse("a = 1 AND 1 IN b")),
        ):
            first = await store.find_sessions(tenant, query)
            assert first.rows == []
            assert first.next is not None
            second = await store.find_sessions(tenant, msgspec.structs.replace(query, cursor=first.next))
            assert [row.key for row in second.rows] == ["needle"]
        rarest = await store.find_sessions(tenant, SessionQuery(limit=1, metadata=parse("a = 1 AND rare = true")))
        assert ([row.key for row in rarest.rows], rarest.next) == (["needle"], None)
        assert len(await _keys(store, tenant, limit=100, where="a = 1")) == _MANY + 1

    async def test_many_conditions_on_large_metadata_make_short_pages_that_miss_nothing(
        self, store: Store, tenant: int
    ) -> None:
        for number in range(12):
            tags = _metadata(tags=[*range(100, 12_000), str(number)])
            await _of(store, tenant, AGENT, f"s{number}", metadata=tags)
        never = " OR ".join(f"'no{number}' IN tags" for number in range(MAX_FILTER_CONDITIONS - 1))
        many = SessionQuery(limit=100, metadata=parse(f"{never} OR '1' IN tags"))
        assert (await store.find_sessions(tenant, many)).next is not None
        assert await _keys(store, tenant, limit=100, where=f"{never} OR '1' IN tags") == ["s1"]
        few = await store.find_sessions(tenant, SessionQuery(limit=100, metadata=parse("'1' IN tags")))
        assert ([row.key for row in few.rows], few.next) == (["s1"], None)

    async def test_agents_are_found_by_name_and_description(self, store: Store, tenant: int) -> None:
        for number in range(230):
            document = {"name": f"Agent {number}"} | ({"description": "the needle"} if number % 200 == 7 else {})
            await store.create_agent(tenant, f"a{number}", msgspec.json.encode(document), number % 2 == 0)

        async def found(pattern: str, enabled: bool | None = None, limit: int = 10) -> list[str]:
            pages = walk(
                lambda cursor: store.list_agents(tenant, cursor=cursor, limit=limit, enabled=enabled, pattern=pattern)
            )
            return [row.key for row in await pages]

        assert await found("needle$") == ["a207", "a7"]
        assert await found("needle$", limit=1) == ["a207", "a7"]
        assert await found("needle$", enabled=True) == []
        assert await found("^Agent 22[01]$", enabled=False) == ["a221"]
        assert await found("Support") == [AGENT]
