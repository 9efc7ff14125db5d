"""What every Store must tell whoever runs it. Part of `store_contract`."""

from sessile.ports import Store
from sessile.rows import Backlog, SessionRef, SessionSize
from sessile.testing.store_contract_client_tools import parked
from sessile.testing.store_contract_waiting import end, queue
from sessile.testing.store_world import AGENT, Fixtures, Harness, accept, new_session, new_tenant, read_all, walk


class Commits:
    """A `CommitObserver` that remembers."""

    def __init__(self) -> None:
        self.verbs = 0
        self.seconds: list[float] = []
        self.failures = 0

    def committed(self, verbs: int, seconds: float) -> None:
        """Remember a commit."""
        self.verbs += verbs
        self.seconds.append(seconds)

    def commit_failed(self) -> None:
        """Remember that one failed."""
        self.failures += 1


class UpkeepContract(Fixtures):
    """Backlog, sizes, damage, commits."""

    async def test_an_observer_is_told_of_every_commit(self, store: Store, ref: SessionRef) -> None:
        commits = Commits()
        store.watch_commits(commits)
        claim = await accept(store, ref)
        assert commits.verbs == len(commits.seconds) == 1
        assert await end(store, claim) is None
        assert (commits.verbs, commits.failures) == (2, 0)
        assert all(seconds >= 0 for seconds in commits.seconds)
        await store.get_session(ref)
        assert commits.verbs == 2

    async def test_the_backlog_is_of_all_tenants(self, store: Store, ref: SessionRef) -> None:
        nothing = Backlog(waiting_inputs=0, running_turns=0, parked_turns=0, purges=0)
        assert await store.backlog() == nothing
        claim = await accept(store, ref)
        await queue(store, ref)
        await queue(store, ref)
        other = SessionRef(await new_tenant(store, "other"), AGENT, "chat")
        await accept(store, other)
        waits = await new_session(store, other.tenant_id, "waits")
        await parked(store, waits, "a")
        found = await store.backlog()
        assert (found.waiting_inputs, found.running_turns, found.parked_turns) == (2, 2, 1)
        assert await end(store, claim) is not None
        assert (await store.backlog()).waiting_inputs == 1
        await store.delete_session(other, None)
        found = await store.backlog()
        assert (found.running_turns, found.purges) == (1, 1)

    async def test_all_sessions_are_walked_whatever_their_tenant(self, store: Store, ref: SessionRef) -> None:
        other = await new_tenant(store, "other")
        for number in range(5):
            await new_session(store, other if number % 2 else ref.tenant_id, f"s{number}")
        found = await walk(lambda cursor: store.all_sessions(cursor, 2))
        assert len(found) == 7
        assert [row.id for row in found] == sorted({row.id for row in found})
        for row in found:
            assert row == await store.get_session(SessionRef(row.tenant_id, row.agent_key, row.key))

    async def test_sizes(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await end(store, claim)
        small = await new_session(store, ref.tenant_id, "small")
        await accept(store, small)
        events = await read_all(store, claim.session.id)
        first, second = await store.largest_sessions(5)
        size = sum(len(entry.body) for entry in events)
        assert first == SessionSize(
            tenant_key="acme", agent_key=AGENT, session_key=ref.session_key, events=len(events), bytes=size
        )
        assert second.session_key == "small"
        assert await store.largest_sessions(1) == [first]
        tables = {table.name: table for table in await store.table_sizes()}
        assert tables["events"].rows == first.events + second.events
        assert tables["sessions"].rows == 2
        assert all(table.bytes > 0 for table in tables.values() if table.rows)

    async def test_a_store_that_is_whole_finds_no_damage(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        await accept(store, ref)
        store = await harness.reopen()
        assert await store.damage() == []
