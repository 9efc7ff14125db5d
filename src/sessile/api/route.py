"""A row of the route table: one operation, all that the router and the OpenAPI document need to know of it."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from msgspec import Struct
from starlette.responses import Response

from sessile.api.call import Call
from sessile.api.examples import Example
from sessile.auth.roles import RequiredRoles

Handler = Callable[[Call], Awaitable[Response]]
Tag = Literal["Agents", "Sessions", "Events", "Artifacts", "Tools", "Server"]


class Streaming(Struct, frozen=True, kw_only=True):
    """What is different when `Accept` asks first for an event stream."""

    handler: Handler
    roles: RequiredRoles
    query: type[Struct]


class Route(Struct, frozen=True, kw_only=True):
    """One operation."""

    method: str
    path: str
    operation: str
    tag: Tag
    """The group that readers of the OpenAPI document find it in."""
    summary: str
    description: str
    """What a caller must know before the first call, in Markdown; PROTOCOL.md has the rest."""
    handler: Handler
    roles: RequiredRoles | None
    """Who may do it; None: anybody."""
    status: int = 200
    body: Any = None
    """The type of the request body."""
    body_media: str = "application/json"
    multipart: Any = None
    """The type of the same body as multipart/form-data, if it may come so."""
    examples: tuple[Example, ...] = ()
    """Request bodies that work as they are; the first one is offered."""
    query: type[Struct] | None = None
    answer: Any = None
    """The type of a JSON answer."""
    answer_media: str = "application/json"
    raw: bool = False
    """Whether `Accept` may ask for bytes as they are, whole or in part."""
    stream: Any = None
    """The type of the frames of an event stream."""
    streaming: Streaming | None = None
    """Who answers when `Accept` asks first for an event stream; None: the form of the answer is not chosen so."""
    headers: tuple[str, ...] = ()
    """Request headers it reads, by name, besides those of every operation; `name of …` where one has two meanings."""
    answer_headers: tuple[str, ...] = ()
    """Headers of its answer, by name, besides those of every answer."""
    errors: tuple[int, ...] = ()
    """Statuses of the errors it may answer with, besides those of every operation."""
