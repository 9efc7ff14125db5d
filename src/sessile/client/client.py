"""The asynchronous client: one server, one API key."""

import importlib
import os
from types import TracebackType
from typing import Any, Self

from sessile.client.agents import AsyncAgents
from sessile.client.artifacts import AsyncArtifacts
from sessile.client.call import Caller
from sessile.client.events import AsyncEvents
from sessile.client.inputs import AsyncInputs
from sessile.client.reading import decoded
from sessile.client.sessions import AsyncSessions
from sessile.client.tool_servers import AsyncTools, AsyncToolServers
from sessile.client.transport import Transport
from sessile.client.turns import AsyncTurns
from sessile.wire.errors import StorageUnavailable

DEFAULT_URL = "http://127.0.0.1:8700"


class AsyncClient:
    """A client of a Sessile server.

    ```python
    async with sessile.AsyncClient() as client:
        await client.agents.create(key="helper", name="Helper", model="demo")
        session = await client.sessions.create("helper")
        answer = await client.events.send("helper", session.key, "Hello!")
        print(answer.text)
        async with client.events.stream("helper", session.key, "And now?") as turn:
            async for text in turn.text():
                print(text, end="", flush=True)
    ```

    `url` is the server's; without it the variable `SESSILE_URL` counts, then http://127.0.0.1:8700. `api_key` is sent
    to it; without it the variable `SESSILE_API_KEY` counts, then none is sent. `timeout` bounds a call in seconds, with
    its repetitions (`events.send` has a limit of its own, a stream one on silence: 60 seconds); None: nothing does.
    A call that failed is repeated up to `retries` times, but only when it cannot have happened, changes nothing, or
    has an idempotency key: what creates something has one.
    Redirects are not followed, and proxies of the environment are used for hosts other than this one. With a
    `transport` of your own, `url` and the variables are not looked at.

    Any number of calls may run at once. Use a client on one event loop, and close it at the end.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | None = 60.0,
        retries: int = 2,
        transport: Transport | None = None,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError("timeout must be a number of seconds above 0, or None")
        if retries < 0:
            raise ValueError("retries must not be negative")
        if transport is None:
            transport = _over_http(url or os.environ.get("SESSILE_URL") or DEFAULT_URL)
            api_key = api_key or os.environ.get("SESSILE_API_KEY")
        self._transport = transport
        self._caller = Caller(transport, _checked(api_key), timeout=timeout, retries=retries)
        self.agents = AsyncAgents(self._caller)
        self.sessions = AsyncSessions(self._caller)
        self.events = AsyncEvents(self._caller)
        self.inputs = AsyncInputs(self._caller)
        self.turns = AsyncTurns(self._caller)
        self.artifacts = AsyncArtifacts(self._caller)
        self.tool_servers = AsyncToolServers(self._caller)
        self.tools = AsyncTools(self._caller)

    def __repr__(self) -> str:
        return f"AsyncClient({self._transport!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Closing twice is fine; a closed client cannot be used again."""
        await self._caller.close()

    async def health(self) -> bool:
        """True when the server answers. Raises ServerUnreachable when it does not."""
        await self._caller.whole("GET", "/healthz")
        return True

    async def ready(self) -> bool:
        """Whether the server can make things durable now. Raises ServerUnreachable when it does not answer."""
        try:
            await self._caller.whole("GET", "/readyz", retries=0)
        except StorageUnavailable:
            return False
        return True

    async def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the server."""
        return decoded((await self._caller.whole("GET", "/openapi.json")).body)


def _over_http(url: str) -> Transport:
    """The HTTP transport, whose library takes long to import and which not every client needs."""
    transport: Transport = importlib.import_module("sessile.client.http").HttpTransport(url)
    return transport


def _checked(api_key: str | None) -> str | None:
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("The API key holds characters that no API key can have.")
    return key or None
