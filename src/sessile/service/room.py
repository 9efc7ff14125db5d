"""Room among the turns that run or wait, for the one that a request may start. Kept before anything is stored."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from sessile.ports import TurnQueue


class Room:
    """A context in which room may be taken. It is given back at the end: a turn that was submitted has its own."""

    def __init__(self, queue: TurnQueue, tenant_id: int) -> None:
        self._queue = queue
        self._tenant_id = tenant_id
        self._give_back: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._give_back is not None:
            self._give_back()

    def take(self, size: int) -> None:
        """Take room for a claim of some bytes, once: the store may ask again. Raises Overloaded."""
        if self._give_back is None:
            self._give_back = self._queue.reserve(self._tenant_id, size)
