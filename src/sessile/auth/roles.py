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


_READ = frozenset({"agent_viewer", "agent_developer", "agent_administrator", "viewer", "administrator", "owner"})
_DEVELOP = frozenset({"agent_developer", "agent_administrator", "administrator", "owner"})
_ADMINISTER = frozenset({"agent_administrator", "administrator", "owner"})
_USE = frozenset({"agent_user"})

READERS = RequiredRoles(_READ, _READ & AGENT_ROLES)
"""Who may look at an agent, its sessions and their events."""
DEVELOPERS = RequiredRoles(_DEVELOP, _DEVELOP & AGENT_ROLES)
"""Who may change an agent or a session."""
ADMINISTRATORS = RequiredRoles(_ADMINISTER, _ADMINISTER & AGENT_ROLES)
"""Who may replace or delete an agent."""
CREATORS = RequiredRoles(_ADMINISTER)
"""Who may create agents: nobody holds a role for an agent that is not there yet."""
USERS = RequiredRoles(_DEVELOP | _USE, (_DEVELOP | _USE) & AGENT_ROLES)
"""Who may open a session and talk in it."""
USERS_AND_READERS = RequiredRoles(_READ | _USE, AGENT_ROLES)
"""Who may look at one session: its readers, and an end user who comes back to it."""
AGENT_LISTERS = RequiredRoles(_READ, AGENT_ROLES)
"""Who may list agents; holders of roles for single agents see those."""


def agents_for(principal: Principal, required: RequiredRoles) -> list[str] | None:
    """Keys of the agents that the principal may do it with, when its roles are for single agents; None: with all."""
    if principal.roles & required.api:
        return None
    return [key for key, held in principal.agent_roles.items() if held & required.agent]


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
