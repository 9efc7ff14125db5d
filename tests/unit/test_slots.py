"""Who runs, who waits and who is refused, one rule at a time; the orders of events are `property/test_slots.py`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from sessile.domain.fair_queue import FairQueue
from sessile.runner.slots import MAX_RETRY_SECONDS, Slots, TurnLimits
from sessile.wire.errors import Overloaded


class Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def slots(time: Time | None = None, **limits: int) -> Slots[str]:
    return Slots[str](TurnLimits(**limits), time or Time(), len)


def served(slots: Slots[str], ending: list[str]) -> list[str]:
    """What is served as one turn after the other ends."""
    order = []
    for turn in ending:
        slots.leave(turn)
        while (found := slots.next()) is not None:
            order.append(found)
    return order


def test_tenants_take_turns_and_within_one_the_first_is_first() -> None:
    queue = FairQueue[str]()
    for tenant, item in ((1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")):
        queue.push(tenant, item)
    order = [queue.pop(lambda tenant: True) for _ in range(7)]
    assert order == [(1, "a1"), (2, "b1"), (3, "c1"), (1, "a2"), (2, "b2"), (1, "a3"), None]
    assert len(queue) == queue.tenants == 0


def test_a_tenant_that_may_not_be_served_keeps_its_place() -> None:
    queue = FairQueue[str]()
    for tenant, item in ((1, "a1"), (2, "b1"), (2, "b2")):
        queue.push(tenant, item)
    assert queue.pop(lambda tenant: tenant != 1) == (2, "b1")
    assert queue.pop(lambda tenant: True) == (1, "a1")
    assert queue.pop(lambda tenant: tenant == 1) is None


def test_a_thousand_turns_of_one_tenant_do_not_hold_up_the_one_of_another() -> None:
    made = slots(running=2)
    for number in range(1000):
        made.enter(1, f"a{number}")
    assert not made.enter(2, "b")
    assert served(made, ["a0", "a1"]) == ["a2", "b"]


def test_one_tenant_has_no_more_than_its_slots() -> None:
    made = slots(running=3, running_per_tenant=1)
    assert [made.enter(1, "a0"), made.enter(1, "a1"), made.enter(2, "b0")] == [True, False, True]
    assert served(made, ["b0", "a0"]) == ["a1"]


def test_without_limits_everything_starts() -> None:
    made = slots()
    assert all(made.enter(1, str(number)) for number in range(10_000))
    made.reserve(1, 1)


def test_room_is_kept_for_those_that_come() -> None:
    made = slots(running=1, waiting=1)
    starts, waits = made.reserve(1, 1), made.reserve(1, 1)
    with pytest.raises(Overloaded):
        made.reserve(2, 1)
    waits()
    made.reserve(2, 1)
    starts()
    made.reserve(2, 1)
    with pytest.raises(Overloaded):
        made.reserve(2, 1)


def test_rooms_that_two_threads_keep_are_all_given_back() -> None:
    both, kept = slots(running=1), 200_000

    def keep() -> None:
        for _ in range(kept):
            both.reserve(1, 1)()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as other:
            there = other.submit(keep)
            keep()
            there.result()
    finally:
        sys.setswitchinterval(interval)
    assert (both._coming, both._coming_at_all, both._coming_bytes) == ({}, [0, 0], 0)


def test_the_queue_of_a_tenant_is_full_before_that_of_all() -> None:
    made = slots(running=1, waiting=10, waiting_per_tenant=2)
    for turn in ("a0", "a1", "a2"):
        made.enter(1, turn)
    with pytest.raises(Overloaded, match="this tenant"):
        made.reserve(1, 1)
    made.reserve(2, 1)


def test_a_turn_that_is_durable_is_taken_by_a_full_queue() -> None:
    made = slots(running=1, waiting=1)
    for turn in ("a0", "a1", "a2", "a3"):
        made.enter(1, turn)
    assert made.waiting == 3


def test_the_estimate_follows_the_pace_and_has_bounds() -> None:
    time = Time()
    made = slots(time, running=1, waiting=40)
    for number in range(40):
        made.enter(1, str(number))
    made.enter(1, "last")
    for number in range(30):
        time.seconds += 4
        made.leave(str(number))
        made.next()
        made.enter(1, f"more {number}")

    def estimate() -> int:
        with pytest.raises(Overloaded) as refused:
            made.reserve(1, 1)
        return refused.value.retry_after or 0

    assert estimate() == 4
    time.seconds += 9
    assert estimate() == 9
    time.seconds += 1000
    assert estimate() == MAX_RETRY_SECONDS


def test_the_estimate_of_a_tenant_counts_the_others_that_wait() -> None:
    made = slots(running=1, waiting_per_tenant=1)
    made.enter(9, "x")
    for tenant in range(1, 6):
        made.enter(tenant, str(tenant))
    with pytest.raises(Overloaded) as refused:
        made.reserve(1, 1)
    assert refused.value.retry_after == 5


def test_the_memory_of_those_that_wait_is_bounded() -> None:
    made = slots(running=1, waiting_bytes=100)
    made.enter(1, "r" * 1000)
    made.enter(1, "w" * 60)
    give_back = made.reserve(1, 40)
    with pytest.raises(Overloaded):
        made.reserve(1, 1)
    give_back()
    assert made.withdraw(1, "w" * 60)
    made.reserve(1, 100)()
    made.enter(1, "w" * 100)
    made.leave("r" * 1000)
    assert made.next() == "w" * 100
    made.reserve(1, 100)
