"""The synchronous client: the asynchronous one behind plain calls. Its methods are wrapped, never written again."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, get_args

from sessile.client.agents import AsyncAgents
from sessile.client.artifacts import AsyncArtifacts
from sessile.client.client import AsyncClient
from sessile.client.events import AsyncEvents
from sessile.client.follower import AsyncFollower, Followed, FollowerState
from sessile.client.inputs import AsyncInputs
from sessile.client.pages import AsyncPages, Page
from sessile.client.portal import Portal
from sessile.client.sessions import AsyncSessions
from sessile.client.tool_servers import AsyncTools, AsyncToolServers
from sessile.client.transport import Transport
from sessile.client.turn_stream import AsyncTurnStream, Frame, TurnState
from sessile.client.turns import AsyncTurns

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Face(Generic[A]):
    """The synchronous side of an asynchronous object."""

    def __init__(self, portal: Portal, behind: A) -> None:
        self._portal = portal
        self._behind = behind


def called(method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Face[A], P], R]:
    """A method that waits for the result of an asynchronous one."""

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._portal.call(method(self._behind, *args, **kwargs))

    return call


def paged(method: Callable[Concatenate[A, P], AsyncPages[T]]) -> "Callable[Concatenate[Face[A], P], Pages[T]]":
    """A method that gives a list."""

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> Pages[T]:
        return Pages(self._portal, method(self._behind, *args, **kwargs))

    signature = inspect.signature(method)
    (item,) = get_args(signature.return_annotation)
    pages: Any = Pages
    vars(call)["__signature__"] = signature.replace(return_annotation=pages[item])
    return call


def streamed(method: Callable[Concatenate[A, P], AsyncTurnStream]) -> "Callable[Concatenate[Face[A], P], TurnStream]":
    """A method that gives a stream."""

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> TurnStream:
        return TurnStream(self._portal, method(self._behind, *args, **kwargs))

    vars(call)["__signature__"] = inspect.signature(method).replace(return_annotation=TurnStream)
    return call


def followed(method: Callable[Concatenate[A, P], AsyncFollower]) -> "Callable[Concatenate[Face[A], P], Follower]":
    """A method that follows a session."""

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> Follower:
        return Follower(self._portal, method(self._behind, *args, **kwargs))

    vars(call)["__signature__"] = inspect.signature(method).replace(return_annotation=Follower)
    return call


class Pages(Face[AsyncPages[T]]):
    __doc__ = AsyncPages.__doc__

    def page(self, page_key: str | None = None) -> Page[T]:
        return self._portal.call(self._behind.page(page_key))

    def pages(self) -> Iterator[Page[T]]:
        return self._portal.iterate(self._behind.pages())

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.items

    page.__doc__ = AsyncPages.page.__doc__
    pages.__doc__ = AsyncPages.pages.__doc__


class TurnStream(Face[AsyncTurnStream], TurnState):
    __doc__ = AsyncTurnStream.__doc__

    def __init__(self, portal: Portal, behind: AsyncTurnStream) -> None:
        super().__init__(portal, behind)
        self._told = behind._told

    def __repr__(self) -> str:
        return repr(self._behind).removeprefix("Async")

    def __enter__(self) -> Self:
        self._portal.call(self._behind.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self._portal.iterate(self._behind)

    def text(self) -> Iterator[str]:
        return self._portal.iterate(self._behind.text())

    text.__doc__ = AsyncTurnStream.text.__doc__
    close = called(AsyncTurnStream.close)


class Follower(Face[AsyncFollower], FollowerState):
    __doc__ = AsyncFollower.__doc__

    def __init__(self, portal: Portal, behind: AsyncFollower) -> None:
        super().__init__(portal, behind)
        self._at = behind._at

    def __repr__(self) -> str:
        return repr(self._behind).removeprefix("Async")

    def __enter__(self) -> Self:
        self._portal.call(self._behind.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Followed]:
        return self._portal.iterate(self._behind)

    close = called(AsyncFollower.close)


class Agents(Face[AsyncAgents]):
    __doc__ = AsyncAgents.__doc__

    create = called(AsyncAgents.create)
    get = called(AsyncAgents.get)
    list = paged(AsyncAgents.list)
    update = called(AsyncAgents.update)
    replace = called(AsyncAgents.replace)
    delete = called(AsyncAgents.delete)
    get_secrets = called(AsyncAgents.get_secrets)
    replace_secrets = called(AsyncAgents.replace_secrets)
    update_secrets = called(AsyncAgents.update_secrets)


class Sessions(Face[AsyncSessions]):
    __doc__ = AsyncSessions.__doc__

    create = called(AsyncSessions.create)
    get = called(AsyncSessions.get)
    check = called(AsyncSessions.check)
    outstanding_client_tool_calls = called(AsyncSessions.outstanding_client_tool_calls)
    list = paged(AsyncSessions.list)
    export = called(AsyncSessions.export)
    import_ = called(AsyncSessions.import_)
    update = called(AsyncSessions.update)
    delete = called(AsyncSessions.delete)


class Events(Face[AsyncEvents]):
    __doc__ = AsyncEvents.__doc__

    send = called(AsyncEvents.send)
    send_tool_outputs = called(AsyncEvents.send_tool_outputs)
    interrupt = called(AsyncEvents.interrupt)
    compact = called(AsyncEvents.compact)
    stream = streamed(AsyncEvents.stream)
    stream_tool_outputs = streamed(AsyncEvents.stream_tool_outputs)
    follow = followed(AsyncEvents.follow)
    list = paged(AsyncEvents.list)
    get = called(AsyncEvents.get)
    hide = called(AsyncEvents.hide)
    unhide = called(AsyncEvents.unhide)
    delete = called(AsyncEvents.delete)


class Inputs(Face[AsyncInputs]):
    __doc__ = AsyncInputs.__doc__

    list = called(AsyncInputs.list)
    withdraw = called(AsyncInputs.withdraw)


class Turns(Face[AsyncTurns]):
    __doc__ = AsyncTurns.__doc__

    get = called(AsyncTurns.get)
    wait = called(AsyncTurns.wait)


class Artifacts(Face[AsyncArtifacts]):
    __doc__ = AsyncArtifacts.__doc__

    list = paged(AsyncArtifacts.list)
    get = called(AsyncArtifacts.get)
    download = called(AsyncArtifacts.download)


class ToolServers(Face[AsyncToolServers]):
    __doc__ = AsyncToolServers.__doc__

    create = called(AsyncToolServers.create)
    get = called(AsyncToolServers.get)
    list = paged(AsyncToolServers.list)
    update = called(AsyncToolServers.update)
    delete = called(AsyncToolServers.delete)
    sync = called(AsyncToolServers.sync)


class Tools(Face[AsyncTools]):
    __doc__ = AsyncTools.__doc__

    get = called(AsyncTools.get)
    list = paged(AsyncTools.list)
    update = called(AsyncTools.update)
    delete = called(AsyncTools.delete)


class Client(Face[AsyncClient]):
    """A client of a Sessile server, with plain calls.

    ```python
    with sessile.Client() as client:
        client.agents.create(key="helper", name="Helper", model="demo")
        session = client.sessions.create("helper")
        answer = client.events.send("helper", session.key, "Hello!")
        print(answer.text)
        with client.events.stream("helper", session.key, "And now?") as turn:
            for text in turn.text():
                print(text, end="", flush=True)
    ```

    It is `AsyncClient` on an event loop in a thread of its own, with the same arguments and the same methods. So it
    works in a notebook too, and any number of threads may share one. Ctrl-C ends the call that waits; the client stays
    usable.
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
        client = AsyncClient(url, api_key, timeout=timeout, retries=retries, transport=transport)
        self._adopt(Portal(client.close), client)

    @classmethod
    def over(cls, portal: Portal, client: AsyncClient) -> Self:
        """A client over an asynchronous one that lives on the loop of `portal`; closing it closes the portal."""
        made = cls.__new__(cls)
        made._adopt(portal, client)
        return made

    def _adopt(self, portal: Portal, client: AsyncClient) -> None:
        Face.__init__(self, portal, client)
        self.agents = Agents(portal, client.agents)
        self.sessions = Sessions(portal, client.sessions)
        self.events = Events(portal, client.events)
        self.inputs = Inputs(portal, client.inputs)
        self.turns = Turns(portal, client.turns)
        self.artifacts = Artifacts(portal, client.artifacts)
        self.tool_servers = ToolServers(portal, client.tool_servers)
        self.tools = Tools(portal, client.tools)

    def __repr__(self) -> str:
        return repr(self._behind).removeprefix("Async")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._portal.close()

    close.__doc__ = AsyncClient.close.__doc__
    health = called(AsyncClient.health)
    ready = called(AsyncClient.ready)
    openapi = called(AsyncClient.openapi)
