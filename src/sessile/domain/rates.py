"""Token buckets for many keys: how often something may happen. Times are given, in seconds, and never go back."""

from collections import OrderedDict

_REMEMBERED = 4096


class Rates:
    """`rate` times a second for each key, and `burst` times at once after a pause.

    Of a bucket it keeps one time, the one at which it will be full again (the generic cell rate algorithm); a bucket
    that is full needs no memory. Of more than `remembered` keys, those that came first are let off.
    """

    def __init__(self, rate: float, burst: int, remembered: int = _REMEMBERED) -> None:
        self._interval = 1 / rate
        self._span = burst / rate
        self._remembered = remembered
        self._full_at: OrderedDict[str | None, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str | None, now: float) -> float:
        """Take a token of a key, and return 0; without one, return the seconds until there is one."""
        full_at = max(self._full_at.get(key, now), now) + self._interval
        if (excess := full_at - now - self._span) > 1e-9:
            return excess
        self._full_at[key] = full_at
        if len(self._full_at) > self._remembered:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Forget the buckets that are full again; when there are none, the oldest."""
        full = [key for key, full_at in self._full_at.items() if full_at <= now]
        for key in full:
            del self._full_at[key]
        if not full:
            self._full_at.popitem(last=False)
