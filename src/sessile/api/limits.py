"""What a server, and one API key, may ask of it at a time. Whatever is refused here was not looked at any further."""

import math
import time
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from sessile.domain.rates import Rates
from sessile.wire.errors import Overloaded, TooManyRequests

Key = str | None
"""The id of an API key; None without authentication."""
_RETRY_SECONDS = 1
_FOLLOW_AGAIN_SECONDS = 10
"""Streams last: a place among them is not free within a second."""


class RequestLimits(Struct, frozen=True, kw_only=True):
    """What may be in flight, what a key may send a second and at once, and the streams that follow; 0: any."""

    in_flight: int = 0
    body_bytes: int = 0
    per_second: float = 0
    burst: int = 1
    followers: int = 0
    followers_per_key: int = 0


class Limits:
    """Counts what is in flight."""

    def __init__(self, limits: RequestLimits, now: Callable[[], float] = time.monotonic) -> None:
        self.in_flight = 0
        """Requests that are not answered to the end, streams too."""
        self._held = 0
        self._limits = limits
        self._rates = Rates(limits.per_second, limits.burst) if limits.per_second else None
        self._now = now
        self._followers: Counter[Key] = Counter()
        self._following = 0

    def check_server(self) -> None:
        """Raises Overloaded when more requests are in flight than may be."""
        if 0 < self._limits.in_flight < self.in_flight:
            raise Overloaded("As many requests are in flight as may be; try again later.", retry_after=_RETRY_SECONDS)

    def hold(self, size: int) -> None:
        """Count bytes of a body that came, until they are released. Raises Overloaded when there are too many."""
        if 0 < self._limits.body_bytes < self._held + size:
            raise Overloaded("The requests in flight are too large; try again later.", retry_after=_RETRY_SECONDS)
        self._held += size

    def release(self, size: int) -> None:
        """The request of so many bytes is over."""
        self._held -= size

    def check_rate(self, key: Key) -> None:
        """Count a request of a key. Raises TooManyRequests when it sends too many, which do not count."""
        if self._rates is not None and (wait := self._rates.take(key, self._now())):
            raise TooManyRequests(
                f"This API key may send {self._limits.per_second:g} requests a second; nothing was done.",
                retry_after=math.ceil(wait),
            )

    def follow(self, key: Key) -> Callable[[], None]:
        """Take a place for a stream of a key; what is returned gives it back, once. Raises what there is none for."""
        limits = self._limits
        if 0 < limits.followers_per_key <= self._followers[key]:
            reason = f"This API key has {self._followers[key]} open streams, as many as it may."
            raise TooManyRequests(reason, retry_after=_FOLLOW_AGAIN_SECONDS)
        if 0 < limits.followers <= self._following:
            reason = "As many streams are open as this server may have; try again later."
            raise Overloaded(reason, retry_after=_FOLLOW_AGAIN_SECONDS)
        self._following += 1
        self._followers[key] += 1
        return _Once(lambda: self._leave(key))

    def _leave(self, key: Key) -> None:
        self._following -= 1
        self._followers[key] -= 1
        if not self._followers[key]:
            del self._followers[key]


class _Once:
    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()
