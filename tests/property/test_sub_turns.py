"""Calls of other agents that are made again in any order, over crashes and interrupts: each starts one turn at most."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessile.rows import Claim, SessionRef
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.store_contract_sub_turns import HELPER, by, end, sessions, start
from sessile.testing.store_world import AGENT, DOCUMENT, SESSION, accept, new_tenant
from sessile.wire.errors import FenceLost, SessionRunning

CALLS, KEYS = 3, 2
steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, CALLS - 1), st.integers(0, KEYS - 1)),
        st.tuples(st.just("end"), st.integers(0, CALLS - 1), st.just(0)),
        st.tuples(st.sampled_from(["crash", "crash", "interrupt"]), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_a_call_starts_one_turn_at_most(script: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_play(Path(folder) / "s.db", script))


async def _play(path: Path, script: list[tuple[str, int, int]]) -> None:
    """Play a script against a store, and against the plainest model of it."""
    clock = FakeClock()
    store = await SqliteStore.open(path, clock)
    tenant = await new_tenant(store)
    await store.create_agent(tenant, HELPER, DOCUMENT, True)
    above = await accept(store, SessionRef(tenant, AGENT, SESSION))
    turns: dict[int, str] = {}
    places: dict[int, int] = {}
    running: dict[int, Claim] = {}
    interrupted = False
    for kind, number, key in script:
        if kind == "call":
            taken = any(places[other] == key for other in running)
            try:
                found = await start(store, by(above, f"aev_{number}"), f"key-{key}")
            except FenceLost:
                assert interrupted
                assert number not in turns
            except SessionRunning:
                assert taken
                assert number not in turns
            else:
                assert isinstance(found, Claim) == (number not in turns)
                assert turns.setdefault(number, found.turn_id) == found.turn_id
                assert not (isinstance(found, Claim) and (interrupted or taken))
                if isinstance(found, Claim):
                    running[number], places[number] = found, key
        elif kind == "end" and number in running:
            await end(store, running.pop(number))
        elif kind == "interrupt":
            await store.interrupt(SessionRef(tenant, AGENT, SESSION))
            interrupted = True
        elif kind == "crash":
            await store.close()
            store = await SqliteStore.open(path, clock)
            taken_up = {claim.turn_id: claim for claim in await store.take_unfinished_turns()}
            assert taken_up.keys() == {above.turn_id, *(claim.turn_id for claim in running.values())}
            running = {number: taken_up[claim.turn_id] for number, claim in running.items()}
    assert {row.key for row in await sessions(store, tenant)} == {f"key-{key}" for key in places.values()}
    await store.close()
