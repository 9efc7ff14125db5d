"""Operations on agents."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from sessile.api import examples
from sessile.api.call import Call, JsonResponse
from sessile.api.pages import Limit, PageKey, Pattern, decode_cursor, encode_cursor, page_body
from sessile.api.route import Route
from sessile.auth import roles
from sessile.service.agents import AgentView
from sessile.wire.agents import Agent, CreateAgentRequest, ListAgentsResponse, UpdateAgentRequest
from sessile.wire.limits import DEFAULT_PAGE_LIMIT


class ListAgentsQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of agents."""

    limit: Limit = DEFAULT_PAGE_LIMIT
    page_key: PageKey | UnsetType = UNSET
    enabled: Annotated[bool, Meta(description="Only agents that are enabled, or that are not")] | UnsetType = UNSET
    filter: Pattern | UnsetType = UNSET


async def create(call: Call) -> Response:
    """POST /v2/agents"""
    body = await call.json()
    return _shown(await call.services.agents.create(call.principal, body, call.once(body)), 201)


async def list_agents(call: Call) -> Response:
    """GET /v2/agents"""
    query = call.query(ListAgentsQuery)
    page = await call.services.agents.list(
        call.principal,
        roles.AGENT_LISTERS.api,
        cursor=decode_cursor("agents", query.page_key),
        limit=query.limit,
        enabled=None if query.enabled is UNSET else query.enabled,
        pattern=None if query.filter is UNSET else query.filter,
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
        tag="Agents",
        summary="Create an agent",
        description=(
            "Keeps a whole agent document: a model, instructions, tools. Without a `key` the server makes one. "
            "The model `demo` is always there, offline and without intelligence."
        ),
        handler=create,
        roles=roles.CREATORS,
        status=201,
        body=CreateAgentRequest,
        examples=examples.AGENT,
        answer=Agent,
        answer_headers=("X-Sessile-Inactive",),
        headers=("Idempotency-Key",),
        errors=(400, 403, 404, 422),
    ),
    Route(
        method="GET",
        path="/v2/agents",
        operation="listAgents",
        tag="Agents",
        summary="List agents, newest first",
        description="A page of agents. `metadata.page_key` asks for the next page; it is absent on the last one.",
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
        tag="Agents",
        summary="Show an agent",
        description="The document as its caller wrote it, with defaults filled in.",
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
        tag="Agents",
        summary="Change the fields of an agent that are sent",
        description=(
            "A field that is absent stays, null puts a field back to its default, maps of tools, skills and steps are "
            "merged entry by entry. "
            "Running turns go on with the document that they started with."
        ),
        handler=update,
        roles=roles.DEVELOPERS,
        body=UpdateAgentRequest,
        examples=examples.AGENT_CHANGE,
        answer=Agent,
        answer_headers=("X-Sessile-Inactive",),
        errors=(400, 403, 404, 422),
    ),
    Route(
        method="PUT",
        path="/v2/agents/{agent_key}",
        operation="replaceAgent",
        tag="Agents",
        summary="Replace the whole document of an agent",
        description="Like createAgent, on an agent that exists; a `key` in the body must be the one in the path.",
        handler=replace,
        roles=roles.ADMINISTRATORS,
        body=CreateAgentRequest,
        examples=examples.AGENT,
        answer=Agent,
        answer_headers=("X-Sessile-Inactive",),
        errors=(400, 403, 404, 422),
    ),
    Route(
        method="DELETE",
        path="/v2/agents/{agent_key}",
        operation="deleteAgent",
        tag="Agents",
        summary="Delete an agent and its sessions",
        description="Nothing of the agent or its sessions can be reached from then on, and turns that run are stopped.",
        handler=delete,
        roles=roles.ADMINISTRATORS,
        status=204,
        errors=(403, 404),
    ),
)
