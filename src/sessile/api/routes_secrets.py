"""Operations on the secrets of agents. No answer holds the value of one."""

from starlette.responses import Response

from sessile.api import examples
from sessile.api.call import Call, JsonResponse
from sessile.api.route import Route
from sessile.auth import roles
from sessile.wire import codec
from sessile.wire.secrets import AgentSecrets, ReplaceAgentSecretsRequest, UpdateAgentSecretsRequest

_PATH = "/v2/agents/{agent_key}/secrets"


async def get(call: Call) -> Response:
    """GET …/secrets"""
    return _shown(await call.services.secrets.get(call.principal, call.path["agent_key"]))


async def replace(call: Call) -> Response:
    """PUT …/secrets"""
    request = codec.convert(await call.json(), ReplaceAgentSecretsRequest)
    return _shown(await call.services.secrets.replace(call.principal, call.path["agent_key"], request))


async def update(call: Call) -> Response:
    """PATCH …/secrets"""
    request = codec.convert(await call.json(), UpdateAgentSecretsRequest)
    return _shown(await call.services.secrets.update(call.principal, call.path["agent_key"], request))


def _shown(secrets: AgentSecrets) -> Response:
    return JsonResponse(codec.encode(secrets))


ROUTES = (
    Route(
        method="GET",
        path=_PATH,
        operation="getAgentSecrets",
        tag="Agents",
        summary="Show which secrets an agent has",
        description="Names, with a mask in the place of every value: no answer ever holds a secret.",
        handler=get,
        roles=roles.ADMINISTRATORS,
        answer=AgentSecrets,
        errors=(403, 404),
    ),
    Route(
        method="PUT",
        path=_PATH,
        operation="replaceAgentSecrets",
        tag="Agents",
        summary="Replace all secrets of an agent",
        description="Secrets that are not sent are removed.",
        handler=replace,
        roles=roles.ADMINISTRATORS,
        body=ReplaceAgentSecretsRequest,
        examples=examples.SECRETS,
        answer=AgentSecrets,
        errors=(400, 403, 404),
    ),
    Route(
        method="PATCH",
        path=_PATH,
        operation="updateAgentSecrets",
        tag="Agents",
        summary="Set and remove secrets of an agent",
        description="Null removes a secret; one that is not sent stays.",
        handler=update,
        roles=roles.ADMINISTRATORS,
        body=UpdateAgentSecretsRequest,
        examples=examples.SECRETS_CHANGE,
        answer=AgentSecrets,
        errors=(400, 403, 404),
    ),
)
