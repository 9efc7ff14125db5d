"""How a client reaches a server: the port that HTTP fills, and that a server in the same process can fill too."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from msgspec import Struct, field


class Request(Struct, frozen=True, kw_only=True):
    """One request. Its headers hold the API key; its repr does not."""

    method: str
    path: str
    """Path and query, encoded, from the first slash on."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], AsyncIterator[bytes]] | None = None
    """Whole, or as what gives it piece by piece, from its beginning each time."""
    timeout: float | None = None
    """Seconds. What is read whole must be complete by then; what is read in chunks may be silent for as long."""

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path})"


class Response(Protocol):
    """The answer to a request: its head is here, its body is still to be read. It must be closed."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by names in lower case."""

    async def read(self) -> bytes:
        """The whole body. Raises ConnectionLost, RequestTimedOut, UnexpectedAnswer (it is larger than any can be)."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ConnectionLost, RequestTimedOut (the silence was too long)."""

    async def close(self) -> None:
        """Read no further, and end the connection if something is left unread. Closing twice is fine."""


class Transport(Protocol):
    """A way to a server."""

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the head of the answer. It is never sent twice.

        Raises ServerUnreachable (nothing was sent), ConnectionLost and RequestTimedOut (the outcome is unknown).
        """

    async def close(self) -> None:
        """Close all connections. Closing twice is fine."""
