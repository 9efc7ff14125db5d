"""Operations on sessions."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.responses import Response

from sessile.api import examples
from sessile.api.call import Call, JsonResponse
from sessile.api.pages import Limit, PageKey, Pattern, decode_cursor, encode_cursor, page_body
from sessile.api.route import Route
from sessile.auth import roles
from sessile.rows import Page, SessionQuery, SessionRow
from sessile.service.sessions import shown
from sessile.wire import codec
from sessile.wire.errors import InvalidParameter
from sessile.wire.ids import Key
from sessile.wire.limits import DEFAULT_PAGE_LIMIT, MAX_METADATA_FILTER_CHARS
from sessile.wire.sessions import (
    CreateSessionRequest,
    ListSessionsResponse,
    Session,
    SessionCheck,
    Status,
    UpdateSessionRequest,
)

_PATH = "/v2/agents/{agent_key}/sessions"


MetadataFilter = Annotated[
    str,
    Meta(
        max_length=MAX_METADATA_FILTER_CHARS,
        description="Conditions on the metadata, as in SQL: `user_role = 'premium' AND tier >= 2`",
    ),
]


_TIME = {"format": "date-time"}
After = Annotated[str, Meta(description="Only later ones; a time needs its zone", extra_json_schema=_TIME)]
Before = Annotated[str, Meta(description="Only earlier ones; a time needs its zone", extra_json_schema=_TIME)]


class ListSessionsQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of sessions."""

    limit: Limit = DEFAULT_PAGE_LIMIT
    page_key: PageKey | UnsetType = UNSET
    filter: Pattern | UnsetType = UNSET
    metadata_filter: MetadataFilter | UnsetType = UNSET


class ListAllSessionsQuery(ListSessionsQuery, forbid_unknown_fields=True):
    """Parameters of a list of sessions across agents."""

    agent_key: Annotated[Key, Meta(description="Only sessions of this agent")] | UnsetType = UNSET
    status: Annotated[Status, Meta(description="Only sessions of this status")] | UnsetType = UNSET
    created_after: After | UnsetType = UNSET
    created_before: Before | UnsetType = UNSET
    updated_after: After | UnsetType = UNSET
    updated_before: Before | UnsetType = UNSET


async def create(call: Call) -> Response:
    """POST …/sessions"""
    body = await call.json()
    once = call.once(body)
    request = codec.convert(body, CreateSessionRequest)
    if request.from_session is not UNSET:
        source = request.from_session.agent_key or call.path["agent_key"]
        roles.check(call.principal, roles.USERS_AND_READERS, source)
    row = await call.services.sessions.create(call.principal, call.path["agent_key"], request, once)
    if once is None and request.secrets is UNSET:
        return _answer(shown(row, None), row, 201)  # spares the look-up of secrets
    return await _shown(call, row, 201)


async def list_sessions(call: Call) -> Response:
    """GET …/sessions"""
    query = call.query(ListSessionsQuery)
    cursor, agent_key = decode_cursor("sessions", query.page_key), call.path["agent_key"]
    if query.filter is UNSET and query.metadata_filter is UNSET:
        page = await call.services.sessions.list(call.principal, agent_key, cursor=cursor, limit=query.limit)
    else:
        await call.services.agents.get(call.principal, agent_key)
        page = await _find(call, query, SessionQuery(cursor=cursor, limit=query.limit, agent_keys=[agent_key]))
    return await _page(call, page)


async def list_all(call: Call) -> Response:
    """GET /v2/sessions"""
    query = call.query(ListAllSessionsQuery)
    agent_keys = roles.agents_for(call.principal, roles.READERS)
    if query.agent_key is not UNSET:
        roles.check(call.principal, roles.READERS, query.agent_key)
        await call.services.agents.get(call.principal, query.agent_key)
        agent_keys = [query.agent_key]
    wanted = SessionQuery(
        cursor=decode_cursor("all_sessions", query.page_key),
        limit=query.limit,
        agent_keys=agent_keys,
        status=None if query.status is UNSET else query.status,
    )
    for name in ("created_after", "created_before", "updated_after", "updated_before"):
        if (time := getattr(query, name)) is not UNSET:
            wanted = replace(wanted, **{name: _time(name, time)})
    return await _page(call, await _find(call, query, wanted), "all_sessions")


def _time(name: str, text: str) -> int:
    try:
        return codec.microseconds(text)
    except ValueError:
        reason = "Not a time of RFC 3339 with its zone."
        raise InvalidParameter(f"{name}: {reason}", field_errors={name: reason}) from None


async def _find(call: Call, query: ListSessionsQuery, wanted: SessionQuery) -> Page[SessionRow]:
    if query.filter is not UNSET:
        wanted = replace(wanted, pattern=query.filter)
    text = None if query.metadata_filter is UNSET else query.metadata_filter
    return await call.services.sessions.find(call.principal, wanted, text)


async def _page(call: Call, page: Page[SessionRow], listing: str = "sessions") -> Response:
    items = [codec.encode(session) for session in await call.services.sessions.shown(page.rows)]
    return JsonResponse(page_body("sessions", items, encode_cursor(listing, page.next)))


async def get(call: Call) -> Response:
    """GET …/sessions/{session_key}"""
    row = await call.services.sessions.get(call.principal, call.path["agent_key"], call.path["session_key"])
    return await _shown(call, row)


async def check(call: Call) -> Response:
    """GET …/sessions/{session_key}/check"""
    found = await call.services.events.check(call.principal, call.path["agent_key"], call.path["session_key"])
    return JsonResponse(codec.encode(found))


async def update(call: Call) -> Response:
    """PATCH …/sessions/{session_key}"""
    request = codec.convert(await call.json(), UpdateSessionRequest)
    row = await call.services.sessions.update(
        call.principal, call.path["agent_key"], call.path["session_key"], request, call.if_match()
    )
    return await _shown(call, row)


async def delete(call: Call) -> Response:
    """DELETE …/sessions/{session_key}"""
    await call.services.sessions.delete(
        call.principal, call.path["agent_key"], call.path["session_key"], call.if_match()
    )
    return Response(status_code=204)


async def _shown(call: Call, row: SessionRow, status: int = 200) -> Response:
    (session,) = await call.services.sessions.shown([row])
    return _answer(session, row, status)


def _answer(session: Session, row: SessionRow, status: int) -> Response:
    return JsonResponse(codec.encode(session), status, {"etag": f'"{row.version}"'})


ROUTES = (
    Route(
        method="POST",
        path=_PATH,
        operation="createAgentSession",
        tag="Sessions",
        summary="Create a session",
        description=(
            "A session is one conversation with one agent. Without a `key` the server makes one; an empty object is "
            "enough. With `from_session` it starts with a copy of another session's log."
        ),
        handler=create,
        roles=roles.USERS,
        status=201,
        body=CreateSessionRequest,
        examples=examples.SESSION,
        answer=Session,
        headers=("Idempotency-Key",),
        answer_headers=("ETag",),
        errors=(400, 403, 404, 422),
    ),
    Route(
        method="GET",
        path=_PATH,
        operation="listAgentSessions",
        tag="Sessions",
        summary="List sessions of an agent, newest first",
        description="A page of sessions. `metadata.page_key` asks for the next page; it is absent on the last one.",
        handler=list_sessions,
        roles=roles.READERS,
        query=ListSessionsQuery,
        answer=ListSessionsResponse,
        errors=(400, 403, 404),
    ),
    Route(
        method="GET",
        path="/v2/sessions",
        operation="listSessions",
        tag="Sessions",
        summary="List sessions of all agents, newest first",
        description=(
            "A page of sessions, by agent, status, time, name and metadata. A page may hold few sessions, or none, and "
            "still have a `metadata.page_key`: only its absence is the end."
        ),
        handler=list_all,
        roles=roles.READERS,
        query=ListAllSessionsQuery,
        answer=ListSessionsResponse,
        errors=(400, 403, 404),
    ),
    Route(
        method="GET",
        path=_PATH + "/{session_key}",
        operation="getAgentSession",
        tag="Sessions",
        summary="Show a session",
        description="Its status, how the last turn ended, its tokens. The `ETag` is what `If-Match` takes.",
        handler=get,
        roles=roles.USERS_AND_READERS,
        answer=Session,
        answer_headers=("ETag",),
        errors=(403, 404),
    ),
    Route(
        method="GET",
        path=_PATH + "/{session_key}/check",
        operation="checkAgentSession",
        tag="Sessions",
        summary="Check the log of a session",
        description="Reads the whole log, and tells where it breaks the rules of a transcript, if anywhere.",
        handler=check,
        roles=roles.READERS,
        answer=SessionCheck,
        errors=(403, 404),
    ),
    Route(
        method="PATCH",
        path=_PATH + "/{session_key}",
        operation="updateAgentSession",
        tag="Sessions",
        summary="Change the fields of a session that are sent",
        description="A field that is absent stays; `metadata` is replaced whole. A running turn keeps what it has.",
        handler=update,
        roles=roles.DEVELOPERS,
        body=UpdateSessionRequest,
        examples=examples.SESSION_CHANGE,
        answer=Session,
        answer_headers=("ETag",),
        headers=("If-Match",),
        errors=(400, 403, 404, 412),
    ),
    Route(
        method="DELETE",
        path=_PATH + "/{session_key}",
        operation="deleteAgentSession",
        tag="Sessions",
        summary="Delete a session and its events",
        description="Nothing of the session can be reached from then on, and its turn is stopped.",
        handler=delete,
        roles=roles.DEVELOPERS,
        status=204,
        headers=("If-Match",),
        errors=(400, 403, 404, 412),
    ),
)
