"""What is heard from other nodes: gathered, passed to whom it concerns, and looked for at every heartbeat."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

import pytest

from sessile.rows import Heard
from sessile.runner.elsewhere import Elsewhere
from sessile.testing.clock import FakeClock
from sessile.wire.errors import StorageUnavailable


class Onlooker:
    """Somebody with a few sessions, who may find the store away."""

    def __init__(self, *mine: int) -> None:
        self.mine = set(mine)
        self.looks: list[set[int] | None] = []
        self.agents: list[int] = []
        self.broken = False

    def concerned(self, sessions: Collection[int]) -> set[int]:
        return self.mine.intersection(sessions)

    async def look(self, sessions: Collection[int] | None) -> None:
        self.looks.append(None if sessions is None else set(sessions))
        if self.broken:
            raise StorageUnavailable

    def close_agent(self, agent_id: int) -> None:
        self.agents.append(agent_id)


def heard(*sessions: int, agents: Collection[int] = ()) -> Heard:
    return Heard(frozenset(sessions), frozenset(agents))


@pytest.fixture
def onlookers() -> tuple[Onlooker, Onlooker]:
    return Onlooker(1, 2), Onlooker(2, 3)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def elsewhere(onlookers: tuple[Onlooker, Onlooker], clock: FakeClock) -> AsyncIterator[Elsewhere]:
    made = Elsewhere(onlookers, clock, 10)
    task = asyncio.create_task(made.look_for_ever())
    await settle()
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_hints_that_come_together_are_one_look(
    elsewhere: Elsewhere, onlookers: tuple[Onlooker, Onlooker]
) -> None:
    for hint in (heard(1), heard(2, 9), heard(1)):
        elsewhere.heard(hint)
    await settle()
    assert [one.looks for one in onlookers] == [[{1, 2}], [{1, 2}]]


async def test_what_concerns_nobody_here_costs_nothing(
    elsewhere: Elsewhere, onlookers: tuple[Onlooker, Onlooker]
) -> None:
    elsewhere.heard(heard(7, 8))
    await settle()
    assert [one.looks for one in onlookers] == [[], []]


async def test_agents_that_are_gone_are_told_to_all(elsewhere: Elsewhere, onlookers: tuple[Onlooker, Onlooker]) -> None:
    elsewhere.heard(heard(agents=[5]))
    await settle()
    assert [one.agents for one in onlookers] == [[5], [5]]


async def test_every_heartbeat_everything_is_looked_at(
    elsewhere: Elsewhere, onlookers: tuple[Onlooker, Onlooker], clock: FakeClock
) -> None:
    await clock.advance(9)
    await settle()
    assert onlookers[0].looks == []
    await clock.advance(1)
    await settle()
    assert [one.looks for one in onlookers] == [[None], [None]]
    await clock.advance(10)
    await settle()
    assert onlookers[0].looks == [None, None]


async def test_a_store_that_is_away_keeps_nobody_from_looking(
    elsewhere: Elsewhere, onlookers: tuple[Onlooker, Onlooker]
) -> None:
    onlookers[0].broken = True
    elsewhere.heard(None)
    await settle()
    elsewhere.heard(heard(2))
    await settle()
    assert [one.looks for one in onlookers] == [[None, {2}], [None, {2}]]
