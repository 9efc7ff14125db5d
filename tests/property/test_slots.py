"""Slots and the fair queue under any order of what can happen: nothing lost or doubled, and nobody passed over."""

from collections import Counter
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sessile.runner.slots import Slots, TurnLimits
from sessile.wire.errors import Overloaded

RUNNING, PER_TENANT, WAITING, WAITING_PER_TENANT = 3, 2, 5, 3
tenants = st.integers(1, 4)


class SlotMachine(RuleBasedStateMachine):
    """A model that knows every turn and where it is; turns are numbers, given out in order."""

    def __init__(self) -> None:
        super().__init__()
        limits = TurnLimits(
            running=RUNNING, running_per_tenant=PER_TENANT, waiting=WAITING, waiting_per_tenant=WAITING_PER_TENANT
        )
        self.slots = Slots[int](limits, lambda: 0.0, lambda turn: 1)
        self.tenant: dict[int, int] = {}
        self.running: set[int] = set()
        self.waiting: list[int] = []
        self.resting: set[int] = set()
        self.passed_over: dict[int, Counter[int]] = {}
        """For each tenant that waits and may run: how often each other one was served since it could have been."""
        self.rooms: list[tuple[int, Callable[[], None]]] = []
        self.durable = 0
        """Turns that came without room, as those that were durable already do."""

    def running_of(self, tenant: int) -> int:
        return sum(self.tenant[turn] == tenant for turn in self.running)

    def waiting_of(self, tenant: int) -> list[int]:
        return [turn for turn in self.waiting if self.tenant[turn] == tenant]

    def may_run(self, tenant: int) -> bool:
        return bool(self.waiting_of(tenant)) and self.running_of(tenant) < PER_TENANT

    def rooms_that_wait(self) -> int:
        return sum(count for (_, waits), count in self.slots._coming.items() if waits)

    def come(self, tenant: int) -> None:
        turn = len(self.tenant)
        self.tenant[turn] = tenant
        free = len(self.running) < RUNNING and self.running_of(tenant) < PER_TENANT
        starts = self.slots.enter(tenant, turn)
        assert starts == free  # a free slot has no one waiting for it: see `nobody_waits_beside_a_free_slot`
        if starts:
            self.running.add(turn)
        else:
            self.waiting.append(turn)
        self.note()

    def note(self) -> None:
        for tenant in range(1, 5):
            if self.may_run(tenant):
                self.passed_over.setdefault(tenant, Counter())
            else:
                self.passed_over.pop(tenant, None)

    def serve(self) -> None:
        while (turn := self.slots.next()) is not None:
            tenant = self.tenant[turn]
            assert turn == self.waiting_of(tenant)[0]
            self.waiting.remove(turn)
            self.passed_over.pop(tenant, None)
            for others in self.passed_over.values():
                others[tenant] += 1
                assert others[tenant] <= 1, "a tenant was served twice while another one waited"
            self.running.add(turn)
            self.note()

    @rule(tenant=tenants)
    def a_durable_turn_comes(self, tenant: int) -> None:
        self.durable += 1
        self.come(tenant)

    @rule(tenant=tenants)
    def room_is_asked_for(self, tenant: int) -> None:
        coming, own = len(self.rooms), sum(of == tenant for of, _ in self.rooms)
        refused = None
        try:
            self.rooms.append((tenant, self.slots.reserve(tenant, 1)))
        except Overloaded as error:
            refused = error.retry_after
        if refused is not None:
            full = len(self.waiting) + coming >= WAITING
            assert full or len(self.waiting_of(tenant)) + own >= WAITING_PER_TENANT
            assert 1 <= refused <= 30

    @precondition(lambda self: self.rooms)
    @rule(data=st.data(), comes=st.booleans())
    def room_is_used(self, data: st.DataObject, comes: bool) -> None:
        tenant, give_back = self.rooms.pop(data.draw(st.integers(0, len(self.rooms) - 1)))
        if comes:
            self.come(tenant)
        give_back()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_turn_ends(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(turn)
        self.slots.leave(turn)
        self.slots.leave(turn)
        self.note()
        self.serve()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_turn_rests(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(turn)
        self.resting.add(turn)
        self.slots.leave(turn)
        self.note()
        self.serve()

    @precondition(lambda self: self.resting)
    @rule(data=st.data())
    def a_turn_goes_on(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(sorted(self.resting)))
        self.resting.remove(turn)
        self.running.add(turn)
        self.slots.enter_at_once(self.tenant[turn], turn)
        self.note()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_turn_waits_no_longer(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(turn)
        assert self.slots.withdraw(self.tenant[turn], turn)
        assert not self.slots.withdraw(self.tenant[turn], turn)
        self.note()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert sorted(self.slots) == sorted(self.waiting)
        assert self.slots._bytes + self.slots._coming_bytes == len(self.waiting) + self.rooms_that_wait()
        assert (self.slots.running, self.slots.waiting) == (len(self.running), len(self.waiting))

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        assert len(self.running) >= RUNNING or not any(self.may_run(tenant) for tenant in range(1, 5))

    @invariant()
    def what_waits_is_bounded(self) -> None:
        assert len(self.waiting) <= WAITING + RUNNING + self.durable + len(self.tenant) * bool(self.resting)


SlotMachine.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=60)
TestSlots = SlotMachine.TestCase
