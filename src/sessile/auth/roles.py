"""What the roles of a key allow. The names, and the sets an operation asks for, are those of the Agents v2 contract."""

from msgspec import Struct

from sessile.ports import Principal
from sessile.wire.errors import Forbidden

AGENT_ROLES = frozenset({"agent_user", "agent_viewer", "agent_developer", "agent_administrator"})
"""Roles that can be held for one agent only."""
API_ROLES = AGENT_ROLES | {"viewer", "administrator", "owner"}
"""Roles that can be held for everything."""


class RequiredRoles(Struct, frozen=True):
    """Who may do something: holders of one of `api`, or of one of `agent` for the agent it concerns."""

    api: frozenset[str]
    agent: frozenset[str] = frozenset()


def check(principal: Principal, required: RequiredRoles, agent_key: str | None) -> None:
    """Raise Forbidden unless the principal may do it. Without `agent_key`, a role for any agent is enough."""
    if principal.roles & required.api:
        return
    if agent_key is None:
        held = frozenset[str]().union(*principal.agent_roles.values())
    else:
        held = principal.agent_roles.get(agent_key, frozenset())
    if not held & required.agent:
        raise Forbidden(f"This needs one of the roles {', '.join(sorted(required.api | required.agent))}.")
