"""How many turns run at once, which wait for that, and which are not taken at all. It starts nothing by itself."""

import math
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from sessile.domain.fair_queue import FairQueue
from sessile.wire.errors import Overloaded

Turn = TypeVar("Turn", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)

MAX_RETRY_SECONDS = 30
_SMOOTHING = 0.2
"""How much the newest pause between two ends counts in the pace."""


class TurnLimits(Struct, frozen=True, kw_only=True):
    """How many turns run or wait for a slot, in all and of one tenant; 0: as many as come."""

    running: int = 0
    running_per_tenant: int = 0
    waiting: int = 0
    waiting_per_tenant: int = 0
    waiting_bytes: int = 0
    """Bytes of memory that those that wait may need, about."""


class Slots(Generic[Turn]):
    """The slots of the turns that run in one process, and a fair queue of those that wait for one.

    `now` gives seconds, `size` the bytes that a turn needs while it waits. A turn that is durable is never refused, so
    the queue may be longer than its limit: only new ones reserve their room before. A store may do that on a thread of
    its own (`reserve`); all else is for one thread.
    """

    def __init__(self, limits: TurnLimits, now: Callable[[], float], size: Callable[[Turn], int]) -> None:
        self._limits = limits
        self._now = now
        self._size = size
        self._queue = FairQueue[Turn]()
        self._sizes: dict[Turn, int] = {}
        self._bytes = 0
        """What those need that wait."""
        self._holders: dict[Turn, int] = {}
        self._running: dict[int, int] = {}
        """How many slots each tenant has."""
        self._coming: dict[tuple[int, bool], int] = {}
        """Rooms that are reserved, by tenant, and whether their turn will have to wait."""
        self._coming_at_all = [0, 0]
        self._coming_bytes = 0
        self._lock = threading.Lock()
        self._ended_at: float | None = None
        self._pause = 1.0

    def __iter__(self) -> Iterator[Turn]:
        """All turns that wait."""
        return iter(self._queue)

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """How many turns wait."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether as many turns wait as may."""
        limits = self._limits
        room = _below(len(self._queue), limits.waiting) and _below(self._bytes, limits.waiting_bytes)
        return not room

    def reserve(self, tenant: int, size: int) -> Callable[[], None]:
        """Keep room for a turn of some bytes that is about to be claimed, until what is returned is called.

        Raises Overloaded.
        """
        with self._lock:
            waits = not self._is_free(tenant, self._coming_at_all[False], self._coming.get((tenant, False), 0))
            if waits:
                self._check_queue(tenant, size)
            self._come(tenant, waits, 1, size)

        def give_back() -> None:
            with self._lock:
                self._come(tenant, waits, -1, -size)

        return give_back

    def enter(self, tenant: int, turn: Turn) -> bool:
        """Take a slot for a turn, if one is free and nobody waits who could have it; else the turn waits."""
        if self._is_free(tenant):
            self._hold(tenant, turn)
            return True
        self._queue.push(tenant, turn)
        self._sizes[turn] = self._size(turn)
        self._bytes += self._sizes[turn]
        return False

    def enter_at_once(self, tenant: int, turn: Turn) -> None:
        """Take a slot for a turn, free or not: one that is under way here and goes on."""
        self._hold(tenant, turn)

    def leave(self, turn: Turn) -> None:
        """Give the slot of a turn back, if it has one."""
        tenant = self._holders.pop(turn, None)
        if tenant is None:
            return
        _add(self._running, tenant, -1)
        now = self._now()
        if self._ended_at is not None and self._queue:
            self._pause += _SMOOTHING * (now - self._ended_at - self._pause)
        self._ended_at = now

    def next(self) -> Turn | None:
        """Take a free slot for the turn that is next; None when no slot is free or nobody who waits may have it."""
        if not self._queue or not _below(len(self._holders), self._limits.running):
            return None
        found = self._queue.pop(lambda tenant: _below(self._running.get(tenant, 0), self._limits.running_per_tenant))
        if found is None:
            return None
        tenant, turn = found
        self._bytes -= self._sizes.pop(turn)
        self._hold(tenant, turn)
        return turn

    def withdraw(self, tenant: int, turn: Turn) -> bool:
        """Let a turn wait no longer; False when it does not wait."""
        if not self._queue.remove(tenant, turn):
            return False
        self._bytes -= self._sizes.pop(turn)
        return True

    def _hold(self, tenant: int, turn: Turn) -> None:
        self._holders[turn] = tenant
        _add(self._running, tenant, 1)

    def _is_free(self, tenant: int, coming: int = 0, coming_of_tenant: int = 0) -> bool:
        limits = self._limits
        if not _below(self._running.get(tenant, 0) + coming_of_tenant, limits.running_per_tenant):
            return False
        # Tenants that wait beside a free slot have as many turns running as they may: they are not passed over.
        return _below(len(self._holders) + coming, limits.running) and not self._queue.of(tenant)

    def _check_queue(self, tenant: int, size: int) -> None:
        limits = self._limits
        fits = not limits.waiting_bytes or self._bytes + self._coming_bytes + size <= limits.waiting_bytes
        if not fits or not _below(len(self._queue) + self._coming_at_all[True], limits.waiting):
            raise Overloaded(retry_after=self._retry_after(1))
        if not _below(self._queue.of(tenant) + self._coming.get((tenant, True), 0), limits.waiting_per_tenant):
            raise Overloaded(
                "As many turns of this tenant wait as may; nothing was stored, try again later.",
                retry_after=self._retry_after(self._queue.tenants),
            )

    def _retry_after(self, starts: int) -> int:
        """Seconds until so many turns more have started, at the pace of late; an end that keeps us waiting counts."""
        since = 0.0 if self._ended_at is None else self._now() - self._ended_at
        return min(max(math.ceil(starts * max(self._pause, since)), 1), MAX_RETRY_SECONDS)

    def _come(self, tenant: int, waits: bool, count: int, size: int) -> None:
        if waits:
            self._coming_bytes += size
        self._coming_at_all[waits] += count
        _add(self._coming, (tenant, waits), count)


def _add(counts: dict[Key, int], key: Key, count: int) -> None:
    """Count, and keep no zero: there is no end of tenants."""
    now = counts.get(key, 0) + count
    if now:
        counts[key] = now
    else:
        del counts[key]


def _below(count: int, limit: int) -> bool:
    return not limit or count < limit
