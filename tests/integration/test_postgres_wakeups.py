"""Wake-ups between two stores on one database: what is heard, of what, and by whom."""

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from sessile.domain.log import draft
from sessile.rows import Heard, SessionRef
from sessile.stores.postgres import wakeups
from sessile.stores.postgres.store import PostgresStore
from sessile.testing.clock import FakeClock
from sessile.testing.postgres import PostgresServer, postgres_server
from sessile.testing.postgres_proxy import PostgresProxy
from sessile.testing.store_contract_waiting import queue
from sessile.testing.store_world import (
    AGENT,
    DONE,
    NOTHING,
    SESSION,
    accept,
    answered,
    append,
    new_session,
    new_tenant,
    whole_turn,
)
from sessile.wire.errors import NotFound
from sessile.wire.events import ThinkingEvent


class Ear:
    """A store that listens, and all that it has heard."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.sessions: set[int] = set()
        self.agents: set[int] = set()
        self.anything = 0
        self._news = asyncio.Event()

    def heard(self, heard: Heard | None) -> None:
        self.anything += heard is None
        if heard is not None:
            self.sessions |= heard.sessions
            self.agents |= heard.agents
        self._news.set()

    async def until(self, probe: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not probe():
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def ears(emptied_database: str) -> AsyncIterator[tuple[Ear, Ear]]:
    clock = FakeClock()
    both = [Ear(await PostgresStore.open(emptied_database, clock, lease_clock=clock)) for _ in range(2)]
    for ear in both:
        await ear.store.listen(ear.heard)
        await ear.until(lambda ear=ear: ear.anything == 1)  # type: ignore[misc]
    yield both[0], both[1]
    for ear in both:
        await ear.store.close()


@pytest.fixture
def here(ears: tuple[Ear, Ear]) -> Ear:
    return ears[0]


@pytest.fixture
def there(ears: tuple[Ear, Ear]) -> Ear:
    return ears[1]


async def test_every_change_of_a_session_is_heard_elsewhere_and_not_here(here: Ear, there: Ear) -> None:
    store = here.store
    tenant = await new_tenant(store)
    ref = SessionRef(tenant, AGENT, SESSION)
    claim = await accept(store, ref)
    id = claim.session.id

    async def heard() -> None:
        await there.until(lambda: id in there.sessions)
        there.sessions.clear()

    await heard()
    thinking = draft(ThinkingEvent(content="Hm.", output_id="out_1"))
    await store.append(claim.fence, [thinking], NOTHING)
    await heard()
    queued = await queue(store, ref)
    await heard()
    await store.withdraw_input(ref, queued.input.event_id)
    await heard()
    await queue(store, ref, behavior="steer")
    await heard()
    await store.take_steering(claim.fence)
    await heard()
    await store.interrupt(ref)
    await heard()
    entries = (await store.append(claim.fence, [answered()], NOTHING, DONE)).entries
    await heard()
    await store.set_hidden(ref, entries[0].id, True)
    await heard()
    await store.accept_compaction(ref, entries[-1].id, None, "trn_1", lambda agent, session: None)
    await heard()
    await store.delete_session(ref, None)
    await heard()
    assert (here.sessions, here.anything) == (set(), 1)


async def test_what_did_not_happen_is_not_told(here: Ear, there: Ear) -> None:
    tenant = await new_tenant(here.store)
    ref = SessionRef(tenant, AGENT, SESSION)
    with pytest.raises(NotFound):
        await here.store.withdraw_input(ref, "aev_no_such_input")
    await here.store.get_session(ref)
    other = await new_session(here.store, tenant, "other")
    await whole_turn(here.store, other)
    id = (await here.store.get_session(other)).id
    await there.until(lambda: id in there.sessions)
    assert there.sessions == {id}


async def test_an_agent_that_was_deleted_is_heard_of(here: Ear, there: Ear) -> None:
    tenant = await new_tenant(here.store)
    agent_id = await here.store.delete_agent(tenant, AGENT)
    await there.until(lambda: there.agents == {agent_id})


async def test_many_sessions_at_once_are_all_heard_of(here: Ear, there: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "_IDS", 3)
    tenant = await new_tenant(here.store)
    refs = [await new_session(here.store, tenant, f"s{number}") for number in range(20)]
    claims = await asyncio.gather(*(accept(here.store, ref) for ref in refs))
    wanted = {claim.session.id for claim in claims}
    await there.until(lambda: wanted <= there.sessions)


async def test_the_longest_message_is_one_that_postgres_takes(here: Ear, emptied_database: str) -> None:
    assert here.store._wakeups is not None
    (payload,) = here.store._wakeups._payloads(range(2**63 - wakeups._IDS, 2**63), ())
    connection = await asyncpg.connect(emptied_database)
    await connection.execute("SELECT pg_notify('sessile', $1)", payload)
    await connection.close()


async def test_what_others_say_on_the_channel_harms_nobody(here: Ear, there: Ear, emptied_database: str) -> None:
    connection = await asyncpg.connect(emptied_database)
    for payload in ("", "x", "x y a ax ² 7 a8 -1", "é 9"):
        await connection.execute("SELECT pg_notify('sessile', $1)", payload)
    await connection.close()
    await there.until(lambda: there.sessions == {7, 9})
    assert there.agents == {8}


async def test_stores_in_two_schemas_of_a_database_do_not_hear_one_another(new_database: str) -> None:
    """Their internal ids are the same: what one shows would be another's text."""
    connection = await asyncpg.connect(new_database)
    await connection.execute("CREATE SCHEMA one; CREATE SCHEMA two")
    await connection.close()
    ears = []
    letters: list[tuple[str, bytes]] = []
    for schema in ("one", "one", "two", "two"):
        ear = Ear(await PostgresStore.open(f"{new_database}?search_path={schema}", FakeClock()))
        relay = await ear.store.listen(ear.heard)
        relay.receive(_keep(letters, schema))
        await ear.until(lambda ear=ear: ear.anything == 1)  # type: ignore[misc]
        ears.append((ear, relay))
    (one, relay_of_one), (other, _), (two, relay_of_two), (last, _) = ears
    relay_of_one.send(b"one")
    relay_of_two.send(b"two")
    for ear in (one, two):
        await accept(ear.store, SessionRef(await new_tenant(ear.store), AGENT, SESSION))
    await other.until(lambda: bool(other.sessions))
    await last.until(lambda: bool(last.sessions))
    assert one.sessions == two.sessions == set()
    assert sorted(letters) == [("one", b"one"), ("two", b"two")]
    for ear, _ in ears:
        await ear.store.close()


def _keep(letters: list[tuple[str, bytes]], schema: str) -> Callable[[str, bytes | None], None]:
    """Keeps messages that a store in this schema has heard."""

    def hear(node: str, message: bytes | None) -> None:
        if message is not None:
            letters.append((schema, message))

    return hear


async def test_who_lost_the_connection_looks_at_everything_when_it_is_back(
    here: Ear, there: Ear, emptied_database: str
) -> None:
    tenant = await new_tenant(here.store)
    connection = await asyncpg.connect(emptied_database)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()
    await there.until(lambda: there.anything == 2)
    await here.until(lambda: here.anything == 2)
    claim = await accept(here.store, SessionRef(tenant, AGENT, SESSION))
    await there.until(lambda: claim.session.id in there.sessions)


async def test_a_store_that_has_just_begun_to_listen_can_be_closed(emptied_database: str) -> None:
    store = await PostgresStore.open(emptied_database, FakeClock())
    await store.listen(lambda heard: None)
    await store.close()


async def test_who_has_gone_deaf_listens_again(
    postgres: PostgresServer, emptied_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that a firewall has forgotten does not end: whoever has nothing to say must find out too."""
    monkeypatch.setattr(wakeups, "_SECONDS", 0.3)
    monkeypatch.setattr(wakeups, "_AGAIN_SECONDS", 0.1)
    clock = FakeClock()
    async with PostgresProxy(postgres.port).running() as proxy:
        ear = Ear(await PostgresStore.open(proxy.url(emptied_database), clock, lease_clock=clock))
        await ear.store.listen(ear.heard)
        await ear.until(lambda: ear.anything == 1)
        proxy.cut("silence")
        proxy.mend()
        await ear.until(lambda: ear.anything == 2)
        other = Ear(await PostgresStore.open(emptied_database, clock, lease_clock=clock))
        await other.store.listen(other.heard)
        await other.until(lambda: other.anything == 1)
        claim = await accept(other.store, SessionRef(await new_tenant(other.store), AGENT, SESSION))
        await ear.until(lambda: claim.session.id in ear.sessions)
        await other.store.close()
        await ear.store.close()


async def test_a_queue_that_was_full_is_used_again_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that is stuck, of whomever, fills it for all. Commits go on meanwhile."""
    monkeypatch.setattr(wakeups, "_SECONDS", 0.5)
    monkeypatch.setattr(wakeups, "_AGAIN_SECONDS", 0.1)
    clock = FakeClock()
    with postgres_server() as server:
        await _few_pages(server)
        stuck = await asyncpg.connect(server.url())
        await stuck.execute("LISTEN anything")
        await stuck.execute("BEGIN; SELECT 1")
        ears = [Ear(await PostgresStore.open(server.url(), clock, lease_clock=clock)) for _ in range(2)]
        here, there = ears
        relay = await here.store.listen(here.heard)
        await there.store.listen(there.heard)
        await there.until(lambda: there.anything == 1)
        refused = "too many notifications"
        while refused not in server.log():
            relay.send(b"x" * 300_000)
            await asyncio.sleep(0.1)
        claim = await accept(here.store, SessionRef(await new_tenant(here.store), AGENT, SESSION))
        await stuck.execute("ROLLBACK")
        there.sessions.clear()
        async with asyncio.timeout(30):
            while claim.session.id not in there.sessions:
                await append(here.store, claim.fence, [draft(ThinkingEvent(content="Hm.", output_id="o"))], NOTHING)
                await asyncio.sleep(0.1)
        for ear in ears:
            await ear.store.close()
        await stuck.close()


async def _few_pages(server: PostgresServer) -> None:
    """Let a server have the shortest queue for notifications that it can have."""
    connection = await asyncpg.connect(server.url())
    await connection.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
    await connection.close()
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
