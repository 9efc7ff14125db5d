"""Use-cases over the secrets of agents: show their names, set, replace, remove. Their values are never shown."""

from collections.abc import Mapping
from typing import TypeVar

from sessile.ports import Principal, Seal, Store, Vault
from sessile.wire.errors import InvalidRequest
from sessile.wire.limits import MAX_SECRETS
from sessile.wire.secrets import (
    MASK,
    AgentSecrets,
    ReplaceAgentSecretsRequest,
    UpdateAgentSecretsRequest,
    masked,
)

Value = TypeVar("Value", str, str | None)


class Secrets:
    """Everything that can be done with the secrets of agents."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault

    async def get(self, principal: Principal, agent_key: str) -> AgentSecrets:
        """Raises NotFound."""
        return AgentSecrets(masked(await self._store.agent_secret_names(principal.tenant_id, agent_key)))

    async def replace(self, principal: Principal, agent_key: str, request: ReplaceAgentSecretsRequest) -> AgentSecrets:
        """Let these be all. Raises NotFound, InvalidRequest, SecretsUnavailable."""
        return await self._write(principal, agent_key, dict(checked(request.secrets)), replace=True)

    async def update(self, principal: Principal, agent_key: str, request: UpdateAgentSecretsRequest) -> AgentSecrets:
        """Set some, and remove those that are None. Raises NotFound, InvalidRequest, SecretsUnavailable."""
        return await self._write(principal, agent_key, checked(request.secrets), replace=False)

    async def _write(
        self, principal: Principal, agent_key: str, values: Mapping[str, str | None], *, replace: bool
    ) -> AgentSecrets:
        async def verb(seal: Seal) -> list[str]:
            return await self._store.write_agent_secrets(principal.tenant_id, agent_key, seal, replace)

        return AgentSecrets(masked(await self._vault.write(values, verb)))


def checked(values: Mapping[str, Value]) -> Mapping[str, Value]:
    """Secrets that a caller gave. Raises InvalidRequest for too many, and for a mask that was read and sent back."""
    if len(values) > MAX_SECRETS:
        raise _invalid("secrets", f"More than {MAX_SECRETS}.")
    for name, value in values.items():
        if value == MASK:
            raise _invalid(f"secrets.{name}", "This is how a secret is shown, not a secret. Leave out what stays.")
    return values


def _invalid(field: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {reason}", field_errors={field: reason})
