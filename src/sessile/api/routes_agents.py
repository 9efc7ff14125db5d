"""Operations on agents."""

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from sessile.api.call import Call, JsonResponse
from sessile.api.pages import Limit, PageKey, decode_cursor, encode_cursor, page_body
from sessile.api.route import Route
from sessile.auth import roles
from sessile.service.agents import AgentView
from sessile.wire.agents import Agent, CreateAgentRequest, ListAgentsResponse, UpdateAgentRequest
from sessile.wire.errors import NotSupported
from sessile.wire.limits import DEFAULT_PAGE_LIMIT


class ListAgentsQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of agents."""

    limit: Limit = DEFAULT_PAGE_LIMIT
    page_key: PageKey | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    filter: str | UnsetType = UNSET


async def create(call: Call) -> Response:
    """POST /v2/agents"""
    call.refuse_unbuilt(b"idempotency-key")
    return _shown(await call.services.agents.create(call.principal, await call.json()), 201)


async def list_agents(call: Call) -> Response:
    """GET /v2/agents"""
    query = call.query(ListAgentsQuery)
    if query.filter is not UNSET:
        raise NotSupported("filter: Not supported yet.", field_errors={"filter": "Not supported yet."})
    page = await call.services.agents.list(
        call.principal,
        roles.AGENT_LISTERS.api,
        cursor=decode_cursor("agents", query.page_key),
        limit=query.limit,
        enabled=None if query.enabled is UNSET else query.enabled,
    )
    metadata = encode_cursor("agents", page.next)
    return JsonResponse(page_body("agents", [view.json for view in page.rows], metadata))


async def get(call: Call) -> Response:
    """GET /v2/agents/{agent_key}"""
    return _shown(await call.services.agents.get(call.principal, call.path["agent_key"]))


async def update(call: Call) -> Response:
    """PATCH /v2/agents/{agent_key}"""
    return _shown(await call.services.agents.update(call.principal, call.path["agent_key"], await call.json()))


async def replace(call: Call) -> Response:
    """PUT /v2/agents/{agent_key}"""
    return _shown(await call.services.agents.replace(call.principal, call.path["agent_key"], await call.json()))


async def delete(call: Call) -> Response:
    """DELETE /v2/agents/{agent_key}"""
    await call.services.agents.delete(call.principal, call.path["agent_key"])
    return Response(status_code=204)


def _shown(view: AgentView, status: int = 200) -> Response:
    headers = None
    if view.inactive:
        names = sorted(view.inactive)
        headers = {"x-sessile-inactive": ", ".join(f"{name}={view.inactive[name]}" for name in names)[:4096]}
    return JsonResponse(view.json, status, headers)


ROUTES = (
    Route(
        method="POST",
        path="/v2/agents",
        operation="createAgent",
        summary="Create an agent",
        handler=create,
        roles=roles.CREATORS,
        status=201,
        body=CreateAgentRequest,
        answer=Agent,
        answer_headers=("X-Sessile-Inactive",),
        errors=(400, 403, 422),
    ),
    Route(
        method="GET",
        path="/v2/agents",
        operation="listAgents",
        summary="List agents, newest first",
        handler=list_agents,
        roles=roles.AGENT_LISTERS,
        query=ListAgentsQuery,
        answer=ListAgentsResponse,
        errors=(400, 403),
    ),
    Route(
        method="GET",
        path="/v2/agents/{agent_key}",
        operation="getAgent",
        summary="Show an agent",
        handler=get,
        roles=roles.READERS,
        answer=Agent,
        answer_headers=("X-Sessile-Inactive",),
        errors=(403, 404),
    ),
    Route(
        method="PATCH",
        path="/v2/agents/{agent_key}",
        operation="updateAgent",
        summary="Change the fields of an agent that are sent",
        handler=update,
        roles=roles.DEVELOPERS,
        body=UpdateAgentRequest,
        answer=Agent,
        answer_headers=("X-Sessile-Inactive",),
        errors=(400, 403, 404, 422),
    ),
    Route(
        method="PUT",
        path="/v2/agents/{agent_key}",
        operation="replaceAgent",
        summary="Replace the whole document of an agent",
        handler=replace,
        roles=roles.ADMINISTRATORS,
        body=CreateAgentRequest,
        answer=Agent,
        answer_headers=("X-Sessile-Inactive",),
        errors=(400, 403, 404, 422),
    ),
    Route(
        method="DELETE",
        path="/v2/agents/{agent_key}",
        operation="deleteAgent",
        summary="Delete an agent and its sessions",
        handler=delete,
        roles=roles.ADMINISTRATORS,
        status=204,
        errors=(403, 404),
    ),
)
