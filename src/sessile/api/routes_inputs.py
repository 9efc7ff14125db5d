"""Operations on inputs that wait."""

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from sessile.api.call import Call, JsonResponse
from sessile.api.route import Route
from sessile.auth import roles
from sessile.rows import WaitingInput as Row
from sessile.wire import codec
from sessile.wire.events import ArtifactUploadEvent, InputMessageEvent
from sessile.wire.inputs import ListInputsResponse, WaitingInput

_PATH = "/v2/agents/{agent_key}/sessions/{session_key}/inputs"
_event = msgspec.json.Decoder(InputMessageEvent).decode
_upload = msgspec.json.Decoder(ArtifactUploadEvent).decode


async def list_inputs(call: Call) -> Response:
    """GET …/inputs"""
    rows = await call.services.inputs.waiting(call.principal, call.path["agent_key"], call.path["session_key"])
    return JsonResponse(codec.encode(ListInputsResponse(inputs=[_shown(row) for row in rows])))


async def withdraw(call: Call) -> Response:
    """DELETE …/inputs/{event_id}"""
    path = call.path
    await call.services.inputs.withdraw(call.principal, path["agent_key"], path["session_key"], path["event_id"])
    return Response(status_code=204)


def _shown(row: Row) -> WaitingInput:
    event = _event(row.body)
    return WaitingInput(
        id=row.event_id,
        messages=event.messages,
        content=event.content,
        behavior=row.behavior,
        turn_id=row.turn_id if row.behavior == "follow_up" else None,
        artifacts=UNSET if row.upload is None else _upload(row.upload).artifacts,
        created_at=codec.rfc3339(row.created_at),
    )


ROUTES = (
    Route(
        method="GET",
        path=_PATH,
        operation="listAgentInputs",
        tag="Events",
        summary="List the inputs that wait",
        description=(
            "Inputs that were accepted while a turn runs, and that no turn has taken yet, in the order of acceptance. "
            "At most 100 wait, so there are no pages."
        ),
        handler=list_inputs,
        roles=roles.USERS,
        answer=ListInputsResponse,
        errors=(403, 404),
    ),
    Route(
        method="DELETE",
        path=_PATH + "/{event_id}",
        operation="deleteAgentInput",
        tag="Events",
        summary="Withdraw an input that waits",
        description=(
            "By the id that was in `X-Event-Id` of its answer. It gets no turn, and whoever waits for its answer is "
            "told so. One that a turn has taken is a 409: interrupt the turn instead."
        ),
        handler=withdraw,
        roles=roles.USERS,
        status=204,
        errors=(403, 404, 409),
    ),
)
