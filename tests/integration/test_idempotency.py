"""Idempotency keys where store, live and service meet: draining, deletion, a log that cannot be read, the hot path."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sessile.clock import SystemClock
from sessile.domain.agents import normalize
from sessile.live.hub import Hub
from sessile.live.replay import Replay
from sessile.ports import Principal, Store
from sessile.rows import Claim, EventQuery, Once, Page, Rejoined, SessionRef
from sessile.service.agents import Agents
from sessile.service.inputs import Inputs, parse
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.scripted_model import ScriptedModel, ScriptedModels
from sessile.testing.store_world import AGENT, DOCUMENT, DONE, NOTHING, SESSION, answered, new_session, thought
from sessile.tools.registry import ToolRegistry
from sessile.wire import codec
from sessile.wire.errors import Draining, StorageUnavailable, UnknownModel
from sessile.wire.limits import IDEMPOTENCY_SECONDS

OWNER = Principal(tenant_id=1, key_id=None, roles=frozenset({"owner"}), agent_roles={})
ONCE = Once("k", b"fingerprint")


class NoWorker:
    """A queue that only counts."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def reserve(self, tenant_id: int, size: int) -> Callable[[], None]:
        return lambda: None

    def submit(self, claim: Claim) -> None:
        self.claims.append(claim)

    async def cancel_session(self, session_id: int) -> None: ...

    async def cancel_agent(self, agent_id: int) -> None: ...
    def log_changed(self, session_id: int) -> None: ...


class World:
    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.queue = NoWorker()
        self.hub = Hub(store, 0.01)
        self.inputs = Inputs(store, self.queue, self.hub, SystemClock())

    async def post(self, once: Once | None = ONCE) -> Claim | Rejoined:
        claim, _ = await self.inputs.accept(
            OWNER, AGENT, SESSION, parse({"content": "Hi"}), lambda claim: claim, once, None
        )
        return claim


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = FakeClock()
    store = await SqliteStore.open(tmp_path / "s.db", clock)
    tenant = (await store.create_tenant("default", "Default")).id
    await store.create_agent(tenant, AGENT, codec.encode(normalize({"name": "A", "model": {"name": "m"}})), True)
    await new_session(store, tenant)
    yield World(store, clock)
    await store.close()


async def test_a_server_that_drains_lets_turns_be_joined_and_takes_no_new_input(world: World) -> None:
    claim = await world.post()
    world.inputs.drain()
    joined = await world.post()
    assert isinstance(joined, Rejoined)
    assert joined.turn_id == claim.turn_id
    for once in (None, Once("new", b"")):
        with pytest.raises(Draining):
            await world.post(once)
    assert len(world.queue.claims) == 1


async def test_a_turn_is_started_once_however_often_its_input_comes(world: World) -> None:
    claims = await asyncio.gather(*(world.post() for _ in range(20)))
    assert len(world.queue.claims) == 1
    assert {claim.turn_id for claim in claims} == {world.queue.claims[0].turn_id}


async def test_an_agent_that_could_not_be_created_any_more_is_still_given(world: World) -> None:
    model = ScriptedModel()
    agents = Agents(world.store, ScriptedModels(model), ToolRegistry({}), world.queue, world.hub)
    body = {"name": "A", "model": {"name": model.name}}
    made = await agents.create(OWNER, body, ONCE)

    class NoModels(ScriptedModels):
        def get(self, name: str) -> Any:
            raise UnknownModel

    later = Agents(world.store, NoModels(model), ToolRegistry({}), world.queue, world.hub)
    assert (await later.create(OWNER, body, ONCE)).json == made.json
    for once in (None, Once("new", b"")):
        with pytest.raises(UnknownModel):
            await later.create(OWNER, body, once)


async def test_without_a_key_no_statement_is_added(world: World) -> None:
    statements: list[str] = []
    world.store._writer._connection.set_trace_callback(statements.append)
    await world.store.create_agent(1, "x", DOCUMENT, True)
    await new_session(world.store, 1, "x")
    await world.post(None)
    kinds = [statement.split()[0] for statement in statements]
    assert kinds == ["BEGIN", "INSERT", "COMMIT"] * 2 + ["BEGIN", "SELECT", "INSERT", "INSERT", "UPDATE", "COMMIT"]
    statements.clear()
    await world.store.create_agent(1, "y", DOCUMENT, True, ONCE)
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "SELECT", "INSERT", "INSERT", "COMMIT"]


async def test_the_sweep_of_old_keys_uses_the_index(world: World) -> None:
    for number in range(3):
        await world.store.create_agent(1, f"a{number}", DOCUMENT, True, Once(f"k{number}", b""))
        await world.clock.advance(IDEMPOTENCY_SECONDS / 2)
    await world.store.purge()
    database = world.store._lookups._connection
    assert [key for (key,) in database.execute("SELECT key FROM idempotency ORDER BY key")] == ["k2"]
    plan = database.execute(
        "EXPLAIN QUERY PLAN SELECT key FROM idempotency WHERE created_at <= 5 ORDER BY created_at LIMIT 9"
    ).fetchall()
    assert "idempotency_oldest" in plan[0][3]
    assert len(plan) == 1


async def stopped_turn(world: World, thoughts: int) -> Claim:
    claim = await world.post(None)
    assert isinstance(claim, Claim)
    await world.store.append(claim.fence, [thought()] * thoughts + [answered()], NOTHING, DONE)
    return claim


async def test_a_replay_reads_a_page_at_a_time_and_nothing_of_it_is_left_out(world: World) -> None:
    claim = await stopped_turn(world, 150)
    replay = world.hub.replay(claim.session.id, 1)
    pages = [await replay.next() for _ in range(2)]
    assert [len(page) for page in pages] == [100, 53]
    sequences = [node.entry.sequence for page in pages for node in page if node.entry]
    assert sequences == list(range(2, 155))
    assert replay.closed is None


async def test_a_replay_of_a_session_that_is_deleted_ends(world: World) -> None:
    claim = await stopped_turn(world, 150)
    replay = world.hub.replay(claim.session.id, 1)
    await replay.next()
    await world.store.delete_session(SessionRef(1, AGENT, SESSION), None)
    assert await replay.next() == []
    assert replay.closed == "deleted"


async def test_a_replay_waits_for_a_log_that_cannot_be_read(world: World) -> None:
    claim = await stopped_turn(world, 0)

    class Failing:
        def __init__(self, store: Store) -> None:
            self.left = 2
            self._store = store

        async def read_log(self, session_id: int, query: EventQuery) -> Page[Any]:
            if self.left:
                self.left -= 1
                raise StorageUnavailable
            return await self._store.read_log(session_id, query)

    failing: Any = Failing(world.store)
    replay = Replay(failing, claim.session.id, 1, 0.001)
    assert [len(await replay.next()) for _ in range(3)] == [0, 0, 3]
    assert replay.closed is None
