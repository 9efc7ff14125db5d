"""Operations on the server itself: is it alive, is it ready, what does it speak."""

from typing import Literal

from msgspec import Struct
from starlette.responses import Response

from sessile.api.call import Call, JsonResponse
from sessile.api.route import Route


class Health(Struct):
    """The server answers."""

    status: Literal["ok"]


async def healthz(call: Call) -> Response:
    """GET /healthz"""
    return JsonResponse(b'{"status":"ok"}')


async def readyz(call: Call) -> Response:
    """GET /readyz"""
    await call.services.store.ping()
    return JsonResponse(b'{"status":"ok"}')


ROUTES = (
    Route(
        method="GET",
        path="/healthz",
        operation="healthz",
        tag="Server",
        summary="The process answers",
        description="For a liveness probe: 200 as long as the process answers.",
        handler=healthz,
        roles=None,
        answer=Health,
    ),
    Route(
        method="GET",
        path="/readyz",
        operation="readyz",
        tag="Server",
        summary="The store can commit; 503 when it cannot",
        description="For a readiness probe: 200 once the store has committed something for this request.",
        handler=readyz,
        roles=None,
        answer=Health,
        errors=(503,),
    ),
)
