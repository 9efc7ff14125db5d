"""Operations on sessions that travel: export and import."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response, StreamingResponse

from sessile.api.call import Call, JsonResponse
from sessile.api.route import Route
from sessile.auth import roles
from sessile.service.sessions import shown
from sessile.wire import codec
from sessile.wire.ids import Key
from sessile.wire.portable import MEDIA_TYPE
from sessile.wire.sessions import Session

Lines = Annotated[str, Meta(description="An exported session, a JSON object on each line: PROTOCOL.md, section 5.9")]


class ImportQuery(Struct, forbid_unknown_fields=True):
    """Parameters of an import."""

    key: Annotated[Key, Meta(description="The key of the new session; the exported one by default")] | UnsetType = UNSET
    repair: Annotated[bool, Meta(description="End a turn that the export leaves open")] = False


async def export(call: Call) -> Response:
    """GET …/sessions/{session_key}/export"""
    path = call.path
    lines = await call.services.portable.export(call.principal, path["agent_key"], path["session_key"])
    return StreamingResponse(lines, headers={"cache-control": "no-store"}, media_type=MEDIA_TYPE)


async def import_(call: Call) -> Response:
    """POST …/session_imports"""
    call.expect(MEDIA_TYPE)
    query = call.query(ImportQuery)
    once = call.once({"key": query.key or None, "repair": query.repair})
    row = await call.services.portable.import_(
        call.principal, call.path["agent_key"], call.chunks(), query.key, query.repair, once
    )
    (session,) = await call.services.sessions.shown([row]) if once else [shown(row, None)]
    return JsonResponse(codec.encode(session), 201, {"etag": f'"{row.version}"'})


ROUTES = (
    Route(
        method="GET",
        path="/v2/agents/{agent_key}/sessions/{session_key}/export",
        operation="exportAgentSession",
        tag="Sessions",
        summary="Export a session with all its events",
        description=(
            "A JSON object on each line: the session, its agent, every event and record, and an end with a count and a "
            "SHA-256. An answer without its end was cut off. Secrets are never in it."
        ),
        handler=export,
        roles=roles.READERS,
        answer=Lines,
        answer_media=MEDIA_TYPE,
        errors=(403, 404),
    ),
    Route(
        method="POST",
        path="/v2/agents/{agent_key}/session_imports",
        operation="importAgentSession",
        tag="Sessions",
        summary="Make a session from an export",
        description=(
            "The session has the key, the events and their ids of the export. A log that breaks the rules of a "
            "transcript is refused with the place; with `repair=true` a turn that was not over is ended. With an "
            "`Idempotency-Key` the same bytes are imported once."
        ),
        handler=import_,
        roles=roles.DEVELOPERS,
        status=201,
        body=Lines,
        body_media=MEDIA_TYPE,
        headers=("Idempotency-Key",),
        query=ImportQuery,
        answer=Session,
        answer_headers=("ETag",),
        errors=(400, 403, 404, 422),
    ),
)
