"""Sessile inside a program: the same service and the same client over one database file, without a server."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from sessile import config as configuration
from sessile import logs
from sessile.client.client import AsyncClient
from sessile.client.in_process import InProcess
from sessile.client.portal import Portal
from sessile.client.sync import Client
from sessile.compose.runtime import running
from sessile.compose.serving import build_app
from sessile.config import Config, ConfigError

Function = Callable[..., Any]


def open(
    database: str | Path,
    *,
    tools: Iterable[Function] | Mapping[str, Function] = (),
    config: str | Path | None = None,
    **settings: Any,
) -> "Library":
    """Open a database file, and run agents on it in this process.

    ```
    async with sessile.open("chat.db", tools=[lookup_order]) as client:
        await client.agents.create(key="helper", name="Helper", model={"name": "default"})
    ```

    `tools` are Python functions under their own names, or a mapping of names to functions; an agent offers one with a
    `lambda` tool configuration of that name. `config` names a `sessile.toml`; `settings` are what may stand in one,
    such as `default_model="ollama:llama3.2"` or `models={…}`, and come last. `SESSILE_…` variables count as they do
    for a server.

    Enter the result with `async with` for an `AsyncClient`, or with `with` for a `Client`. Its caller is the owner of
    the default tenant. Leaving it leaves running turns to the next one, as a server that is stopped does.

    Raises ConfigError here. Entering raises DatabaseInUse (a server or another program holds the file), ConfigError,
    StorageUnavailable.
    """
    settings = {**settings, "database": str(database), "no_auth": True}
    loaded = configuration.load(None if config is None else str(config), settings, default_file=False)
    # The rate is for those who come over the network: here the caller is this very program.
    limits = msgspec.structs.replace(loaded.limits, requests_per_second=0)
    return Library(msgspec.structs.replace(loaded, limits=limits), _by_name(tools))


class Library:
    """A database that can be entered, with `async with` or with `with`; see `open`."""

    def __init__(self, config: Config, functions: Mapping[str, Function]) -> None:
        self._opened = _opened(config, functions)
        self._client: Client | None = None

    async def __aenter__(self) -> AsyncClient:
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)

    def __enter__(self) -> Client:
        portal = Portal(self._close)
        try:
            self._client = Client.over(portal, portal.call(self._opened.__aenter__()))
        finally:
            if self._client is None:
                portal.close()
        return self._client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    async def _close(self) -> None:
        if self._client is not None:
            await self._opened.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def _opened(config: Config, functions: Mapping[str, Function]) -> AsyncIterator[AsyncClient]:
    logs.leave_to_application()
    async with running(config, functions=functions) as runtime:
        transport = InProcess(build_app(config, runtime))
        try:
            async with AsyncClient("http://localhost", transport=transport) as client:
                yield client
        finally:
            await runtime.drain(config)
            await transport.close()


def _by_name(tools: Iterable[Function] | Mapping[str, Function]) -> dict[str, Function]:
    if isinstance(tools, Mapping):
        return dict(tools)
    named = {}
    for function in tools:
        name = getattr(function, "__name__", None)
        if not callable(function) or name is None or name in named:
            raise ConfigError(f"tools: {function!r} is not a function with a name of its own.")
        named[name] = function
    return named
