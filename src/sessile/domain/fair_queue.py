"""A queue that is fair between tenants: they take turns, and within a tenant whoever came first goes first."""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """Items by tenant. While a tenant that may be served has an item here, no other is served twice before it."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[Item, None]] = {}
        """The items of each tenant in their order. Tenants stand in the order in which they are served next."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return (item for line in self._lines.values() for item in line)

    @property
    def tenants(self) -> int:
        """How many tenants have items here."""
        return len(self._lines)

    def of(self, tenant: int) -> int:
        """How many items a tenant has here."""
        return len(self._lines.get(tenant, ()))

    def push(self, tenant: int, item: Item) -> None:
        """Put an item that is not here behind the others of its tenant."""
        self._lines.setdefault(tenant, {})[item] = None
        self._count += 1

    def remove(self, tenant: int, item: Item) -> bool:
        """Take an item out; False when it is not here."""
        line = self._lines.get(tenant, {})
        if item not in line:
            return False
        self._take(tenant, line, item)
        return True

    def pop(self, may_be_served: Callable[[int], bool]) -> tuple[int, Item] | None:
        """Take the next item of a tenant that may be served, which then goes behind the others; None without one."""
        for tenant, line in self._lines.items():
            if may_be_served(tenant):
                item = next(iter(line))
                self._take(tenant, line, item)
                if line:
                    self._lines[tenant] = self._lines.pop(tenant)
                return tenant, item
        return None

    def _take(self, tenant: int, line: dict[Item, None], item: Item) -> None:
        del line[item]
        self._count -= 1
        if not line:
            del self._lines[tenant]
