"""Operations on sessions."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from sessile.api import examples
from sessile.api.call import Call, JsonResponse
from sessile.api.pages import NOT_BUILT, Limit, PageKey, decode_cursor, encode_cursor, page_body
from sessile.api.route import Route
from sessile.auth import roles
from sessile.rows import SessionRow
from sessile.service.sessions import shown
from sessile.wire import codec
from sessile.wire.errors import NotSupported
from sessile.wire.limits import DEFAULT_PAGE_LIMIT
from sessile.wire.sessions import (
    CreateSessionRequest,
    ListSessionsResponse,
    Session,
    SessionCheck,
    UpdateSessionRequest,
)

_PATH = "/v2/agents/{agent_key}/sessions"


class ListSessionsQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of sessions."""

    limit: Limit = DEFAULT_PAGE_LIMIT
    page_key: PageKey | UnsetType = UNSET
    filter: Annotated[str, Meta(description=NOT_BUILT)] | UnsetType = UNSET
    metadata_filter: Annotated[str, Meta(max_length=8000, description=NOT_BUILT)] | UnsetType = UNSET


async def create(call: Call) -> Response:
    """POST …/sessions"""
    body = await call.json()
    once = call.once(body)
    request = codec.convert(body, CreateSessionRequest)
    if request.from_session is not UNSET:
        source = request.from_session.agent_key or call.path["agent_key"]
        roles.check(call.principal, roles.USERS_AND_READERS, source)
    return _shown(await call.services.sessions.create(call.principal, call.path["agent_key"], request, once), 201)


async def list_sessions(call: Call) -> Response:
    """GET …/sessions"""
    query = call.query(ListSessionsQuery)
    for name in ("filter", "metadata_filter"):
        if getattr(query, name) is not UNSET:
            raise NotSupported(f"{name}: Not supported yet.", field_errors={name: "Not supported yet."})
    page = await call.services.sessions.list(
        call.principal, call.path["agent_key"], cursor=decode_cursor("sessions", query.page_key), limit=query.limit
    )
    metadata = encode_cursor("sessions", page.next)
    return JsonResponse(page_body("sessions", [codec.encode(shown(row)) for row in page.rows], metadata))


async def get(call: Call) -> Response:
    """GET …/sessions/{session_key}"""
    return _shown(await call.services.sessions.get(call.principal, call.path["agent_key"], call.path["session_key"]))


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
    return _shown(row)


async def delete(call: Call) -> Response:
    """DELETE …/sessions/{session_key}"""
    await call.services.sessions.delete(
        call.principal, call.path["agent_key"], call.path["session_key"], call.if_match()
    )
    return Response(status_code=204)


def _shown(row: SessionRow, status: int = 200) -> Response:
    return JsonResponse(codec.encode(shown(row)), status, {"etag": f'"{row.version}"'})


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
