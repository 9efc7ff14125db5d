"""What every Store must do with tool servers and their tools."""

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from sessile.ports import StaleKey, Store
from sessile.rows import Once, Page, ToolRow, ToolServerRow
from sessile.testing.store_contract_secrets import sealing, secret
from sessile.testing.store_world import AGENT, Fixtures, walk
from sessile.wire.errors import IdempotencyKeyReused, KeyTaken, NotFound

DOCUMENT = b'{"name":"T"}'


async def add(store: Store, tenant: int, key: str = "tsr_1", enabled: bool = True) -> ToolServerRow:
    """A tool server."""
    return await store.create_tool_server(tenant, key, enabled, DOCUMENT, seal=sealing(auth="1"))


async def ids(store: Store, tenant: int, server: str | None = None) -> dict[str, str]:
    """The keys of all tools by name."""
    page = await store.list_tools(tenant, cursor=None, limit=100, enabled=None, server_key=server)
    return {tool.name: tool.key for tool in page.rows}


class ToolServerContract(Fixtures):
    """Tool servers and tools."""

    async def test_a_tool_server_is_kept(self, store: Store, tenant: int) -> None:
        made = await add(store, tenant)
        assert (made.document, set(made.secrets), made.enabled) == (DOCUMENT, {"auth"}, True)
        assert await store.get_tool_server(tenant, "tsr_1") == made
        with pytest.raises(KeyTaken):
            await add(store, tenant)

    async def test_a_key_makes_a_tool_server_once(self, store: Store, tenant: int) -> None:
        once = Once("k", b"this")
        made = await store.create_tool_server(tenant, "tsr_1", True, DOCUMENT, once, sealing(auth="1"))
        again = await store.create_tool_server(tenant, "tsr_2", False, b"{}", once, sealing(other="2"))
        assert (again, set(again.secrets)) == (made, {"auth"})
        with pytest.raises(IdempotencyKeyReused):
            await store.create_tool_server(tenant, "tsr_3", True, DOCUMENT, Once("k", b"other"))
        await store.delete_tool_server(tenant, "tsr_1")
        with pytest.raises(NotFound):
            await store.create_tool_server(tenant, "tsr_4", True, DOCUMENT, once)
        with pytest.raises(NotFound):
            await store.get_tool_server(tenant, "tsr_4")

    async def test_tool_servers_are_listed_newest_first(self, store: Store, tenant: int) -> None:
        for number in range(5):
            await add(store, tenant, f"tsr_{number}", enabled=number != 3)
        first = await store.list_tool_servers(tenant, cursor=None, limit=2, enabled=True)
        assert [row.key for row in first.rows] == ["tsr_4", "tsr_2"]
        second = await store.list_tool_servers(tenant, cursor=first.next, limit=2, enabled=True)
        assert ([row.key for row in second.rows], second.next) == (["tsr_1", "tsr_0"], None)
        off = await store.list_tool_servers(tenant, cursor=None, limit=2, enabled=False)
        assert [row.key for row in off.rows] == ["tsr_3"]

    async def test_a_change_happens_in_the_commit(self, store: Store, tenant: int) -> None:
        await add(store, tenant)
        changed = await store.update_tool_server(
            tenant, "tsr_1", lambda row: replace(row, enabled=False, document=b"{}")
        )
        assert (changed.enabled, changed.document, set(changed.secrets)) == (False, b"{}", {"auth"})
        assert await store.get_tool_server(tenant, "tsr_1") == changed

        def refuse(row: ToolServerRow) -> ToolServerRow:
            raise KeyTaken

        with pytest.raises(KeyTaken):
            await store.update_tool_server(tenant, "tsr_1", refuse)
        assert await store.get_tool_server(tenant, "tsr_1") == changed

    async def test_a_sync_keeps_what_is_still_there(self, store: Store, tenant: int) -> None:
        await add(store, tenant)
        await store.sync_tools(tenant, "tsr_1", {"a": b'{"v":1}', "b": b'{"v":1}'})
        before = await ids(store, tenant)
        await store.enable_tool(tenant, before["a"], False)
        await store.sync_tools(tenant, "tsr_1", {"a": b'{"v":2}', "c": b'{"v":2}'})
        after = await ids(store, tenant)
        assert after.keys() == {"a", "c"}
        tool = await store.get_tool(tenant, before["a"])
        assert (tool.enabled, tool.document, tool.server_key) == (False, b'{"v":2}', "tsr_1")
        with pytest.raises(NotFound):
            await store.get_tool(tenant, before["b"])
        await store.sync_tools(tenant, "tsr_1", {})
        assert await ids(store, tenant) == {}
        with pytest.raises(NotFound):
            await store.sync_tools(tenant, "tsr_2", {"a": b"{}"})

    async def test_tools_are_listed_newest_first(self, store: Store, tenant: int) -> None:
        for server in ("tsr_1", "tsr_2"):
            await add(store, tenant, server)
            await store.sync_tools(tenant, server, {"a": b"{}", "b": b"{}"})
        keys = await ids(store, tenant, "tsr_1")
        await store.enable_tool(tenant, keys["a"], False)
        names, cursor = [], None
        while True:
            page = await store.list_tools(tenant, cursor=cursor, limit=1, enabled=True, server_key=None)
            names += [(tool.server_key, tool.name) for tool in page.rows]
            if page.next is None:
                break
            cursor = page.next
        assert names == [("tsr_2", "b"), ("tsr_2", "a"), ("tsr_1", "b")]
        off = await store.list_tools(tenant, cursor=None, limit=9, enabled=False, server_key="tsr_1")
        assert [tool.name for tool in off.rows] == ["a"]

    async def test_what_can_be_used(self, store: Store, tenant: int) -> None:
        await add(store, tenant, "tsr_1")
        await add(store, tenant, "tsr_2")
        for server in ("tsr_1", "tsr_2"):
            await store.sync_tools(tenant, server, {"a": b"{}", "b": b"{}"})
        first, second = await ids(store, tenant, "tsr_1"), await ids(store, tenant, "tsr_2")
        asked = [*first.values(), *second.values(), "tol_none"]
        await store.enable_tool(tenant, first["a"], False)
        await store.update_tool_server(tenant, "tsr_2", lambda row: replace(row, enabled=False))
        usable = await store.usable_tools(tenant, asked)
        assert list(usable) == [first["b"]]
        tool, server_row = usable[first["b"]]
        assert (tool.name, server_row.key, set(server_row.secrets)) == ("b", "tsr_1", {"auth"})

    async def test_the_secrets_of_a_tool_server_are_sealed_like_others(self, store: Store, tenant: int) -> None:
        bare = await store.create_tool_server(tenant, "tsr_0", True, DOCUMENT)
        assert (set(bare.secrets), await store.secrets_key()) == (set(), None)
        made = await add(store, tenant)
        assert await store.sealed_secrets(made.owner, 0) == [secret(made.owner, 0, "auth", "1")]
        assert {one.owner for one in (bare, made)}.isdisjoint({0, (await store.get_agent(tenant, AGENT)).id})
        both = sealing(auth="2", header="x")
        changed = await store.update_tool_server(
            tenant, "tsr_1", lambda row: replace(row, secrets=["auth", "header"]), both
        )
        assert set(changed.secrets) == {"auth", "header"}
        less = await store.update_tool_server(tenant, "tsr_1", lambda row: replace(row, secrets=["header"]))
        assert set(less.secrets) == {"header"}
        (left,) = await store.secrets_under_other_keys("k2", 10)
        assert left == secret(made.owner, 0, "header", "x")
        await store.use_secrets_key("k2")
        for stale in (
            store.create_tool_server(tenant, "tsr_2", True, DOCUMENT, seal=sealing(auth="1")),
            store.update_tool_server(tenant, "tsr_1", lambda row: replace(row, enabled=False), sealing(header="y")),
        ):
            with pytest.raises(StaleKey):
                await stale
        assert (await store.get_tool_server(tenant, "tsr_1")).enabled
        with pytest.raises(NotFound):
            await store.get_tool_server(tenant, "tsr_2")
        await store.replace_sealed([left], [secret(made.owner, 0, "header", "x", "k2")])
        assert await store.secrets_under_other_keys("k2", 10) == []
        await store.delete_tool_server(tenant, "tsr_1")
        assert await store.sealed_secrets(made.owner, 0) == []

    async def test_lists_can_be_filtered_by_a_pattern(self, store: Store, tenant: int) -> None:
        for number in range(5):
            document = b'{"name":"Clock %d","description":"Tells the time"}' % number
            await store.create_tool_server(tenant, f"tsr_{number}", True, document)
        await add(store, tenant, "tsr_t")
        tools = {f"t{n}": b'{"description":"%s"}' % (b"odd" if n % 2 else b"even") for n in range(450)}
        await store.sync_tools(tenant, "tsr_t", tools)

        def servers(pattern: str) -> Callable[[int | None], Awaitable[Page[ToolServerRow]]]:
            return lambda at: store.list_tool_servers(tenant, cursor=at, limit=2, enabled=None, pattern=pattern)

        def named(pattern: str, limit: int = 10) -> Callable[[int | None], Awaitable[Page[ToolRow]]]:
            return lambda at: store.list_tools(
                tenant, cursor=at, limit=limit, enabled=None, server_key=None, pattern=pattern
            )

        assert [row.key for row in await walk(servers("(?i)clock [0-2]"))] == ["tsr_2", "tsr_1", "tsr_0"]
        assert len(await walk(servers("the time$"))) == 5
        assert [row.name for row in await walk(named("^t(7|400)$"))] == ["t400", "t7"]
        assert len(await walk(named("^odd$", 100))) == 225
        assert await walk(named("^even odd$")) == []
        assert (await named("t7$")(None)).next is not None, "a page looks at a bounded number of rows"

    async def test_deleting(self, store: Store, tenant: int) -> None:
        await add(store, tenant)
        await store.sync_tools(tenant, "tsr_1", {"a": b"{}", "b": b"{}"})
        keys = await ids(store, tenant)
        await store.delete_tool(tenant, keys["a"])
        assert (await ids(store, tenant)).keys() == {"b"}
        await store.delete_tool_server(tenant, "tsr_1")
        assert await ids(store, tenant) == {}
        for verb in (store.get_tool_server, store.delete_tool_server):
            with pytest.raises(NotFound):
                await verb(tenant, "tsr_1")
        for of_a_tool in (store.get_tool, store.delete_tool):
            with pytest.raises(NotFound):
                await of_a_tool(tenant, keys["b"])
        with pytest.raises(NotFound):
            await store.enable_tool(tenant, keys["b"], True)
        await add(store, tenant)
        assert await ids(store, tenant) == {}, "a new server under an old key has nothing of the old one"

    async def test_what_is_another_tenants_cannot_be_reached(self, store: Store, tenant: int) -> None:
        other = (await store.create_tenant("other", "Other")).id
        await add(store, tenant)
        await store.sync_tools(tenant, "tsr_1", {"a": b"{}"})
        keys = await ids(store, tenant)
        assert await ids(store, other) == {}
        assert (await store.list_tool_servers(other, cursor=None, limit=9, enabled=None)).rows == []
        assert await store.usable_tools(other, keys.values()) == {}
        for verb in (store.get_tool_server, store.delete_tool_server):
            with pytest.raises(NotFound):
                await verb(other, "tsr_1")
        with pytest.raises(NotFound):
            await store.sync_tools(other, "tsr_1", {})
        with pytest.raises(NotFound):
            await store.enable_tool(other, keys["a"], False)
        assert (await store.get_tool(tenant, keys["a"])).enabled
