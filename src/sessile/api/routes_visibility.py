"""Operations on who may see an event: hide, unhide, delete."""

from starlette.responses import Response

from sessile.api.call import Call, JsonResponse
from sessile.api.route import Route
from sessile.auth import roles
from sessile.wire.events import AnyEvent

_PATH = "/v2/agents/{agent_key}/sessions/{session_key}/events/{event_id}"


async def hide(call: Call) -> Response:
    """POST …/events/{event_id}/hide"""
    return await _set_hidden(call, hidden=True)


async def unhide(call: Call) -> Response:
    """POST …/events/{event_id}/unhide"""
    return await _set_hidden(call, hidden=False)


async def delete(call: Call) -> Response:
    """DELETE …/events/{event_id}"""
    path = call.path
    await call.services.visibility.delete(call.principal, path["agent_key"], path["session_key"], path["event_id"])
    return Response(status_code=204)


async def _set_hidden(call: Call, *, hidden: bool) -> Response:
    path = call.path
    names = (path["agent_key"], path["session_key"], path["event_id"])
    entry = await call.services.visibility.set_hidden(call.principal, *names, hidden=hidden)
    return JsonResponse(entry.json)


ROUTES = (
    Route(
        method="POST",
        path=_PATH + "/hide",
        operation="hideAgentEvent",
        tag="Events",
        summary="Hide an event",
        description=(
            "Models do not read it any more, and readers only see it with `include_hidden`. With one half of a tool "
            "call, the model loses the other. An event that is hidden already stays as it is."
        ),
        handler=hide,
        roles=roles.DEVELOPERS,
        answer=AnyEvent,
        errors=(400, 403, 404, 409),
    ),
    Route(
        method="POST",
        path=_PATH + "/unhide",
        operation="unhideAgentEvent",
        tag="Events",
        summary="Show a hidden event again",
        description="An event that a summary covers is shown to readers; models go on reading the summary.",
        handler=unhide,
        roles=roles.DEVELOPERS,
        answer=AnyEvent,
        errors=(400, 403, 404, 409),
    ),
    Route(
        method="DELETE",
        path=_PATH,
        operation="deleteAgentEvent",
        tag="Events",
        summary="Delete an event for good",
        description=(
            "What it holds is erased; its place in the sequence stays, and a record says so. It cannot be undone."
        ),
        handler=delete,
        roles=roles.ADMINISTRATORS,
        status=204,
        errors=(400, 403, 404, 409),
    ),
)
