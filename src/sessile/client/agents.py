"""Agents: what may be done with them, and what an answer shows."""

import builtins
from collections.abc import Mapping
from typing import Any, Unpack

from msgspec import Struct, field

from sessile.client.call import Caller, Reply, once, path
from sessile.client.documents import AgentChanges, AgentDocument
from sessile.client.pages import AsyncPages, Page
from sessile.client.reading import read, read_page
from sessile.wire.secrets import AgentSecrets

_AGENTS = "/v2/agents"
_AGENT = "/v2/agents/{agent_key}"
_SECRETS = "/v2/agents/{agent_key}/secrets"
_HEADER_CUT = 4096


class Agent(Struct, kw_only=True, omit_defaults=True):
    """An agent. Documents inside of it are plain dicts, as they were written; None: there is none."""

    id: str
    key: str
    name: str
    description: str | None = None
    tool_configurations: dict[str, dict[str, Any]]
    skills: dict[str, dict[str, Any]] | None = None
    model: dict[str, Any]
    first_step: dict[str, Any]
    first_step_name: str
    steps: dict[str, dict[str, Any]] | None = None
    metadata: dict[str, Any]
    enabled: bool
    compaction: dict[str, Any] | None = None
    tool_output_offloading: dict[str, Any] | None = None
    created_at: str
    updated_at: str
    inactive_tools: dict[str, str] = field(default_factory=dict)
    """Tool configurations that no model is offered, with their types; always empty in lists."""


class AsyncAgents:
    """Create, change, list and delete agents."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(self, *, idempotency_key: str | None = None, **fields: Unpack[AgentDocument]) -> Agent:
        """Create an agent from its fields; `name` and `model` are required.

        Each call creates once, however often it has to be repeated. With an `idempotency_key` of your own, so do all
        calls with that key and the same fields within a day: each gives the agent as it stands.

        Raises KeyTaken, UnknownModel, UnknownTool, TemplateInvalid, InvalidRequest, IdempotencyKeyReused.
        """
        headers = once(idempotency_key)
        return _agent(await self._caller.whole("POST", _AGENTS, document=_document(fields), headers=headers))

    async def get(self, agent_key: str) -> Agent:
        """Show an agent. Raises NotFound."""
        return _agent(await self._caller.whole("GET", path(_AGENT, agent_key=agent_key)))

    def list(
        self, *, enabled: bool | None = None, filter: str | None = None, limit: int | None = None
    ) -> AsyncPages[Agent]:
        """List agents, newest first; all, or by `enabled`. `limit` is the size of a page: 1 to 100.

        `filter` is a regular expression that the name or description must have. Raises InvalidFilter.
        """

        async def fetch(page_key: str | None) -> Page[Agent]:
            query = {"enabled": enabled, "filter": filter, "limit": limit, "page_key": page_key}
            reply = await self._caller.whole("GET", _AGENTS, query=query)
            return read_page("agents", reply.body, lambda item: read(Agent, item))

        return AsyncPages(fetch)

    async def update(self, agent_key: str, /, **fields: Unpack[AgentChanges]) -> Agent:
        """Change the fields that are given, and no others. Turns that run go on with the agent as it was.

        Raises NotFound, UnknownModel, UnknownTool, TemplateInvalid, InvalidRequest.
        """
        reply = await self._caller.whole("PATCH", path(_AGENT, agent_key=agent_key), document=_document(fields))
        return _agent(reply)

    async def replace(self, agent_key: str, /, **fields: Unpack[AgentDocument]) -> Agent:
        """Replace the whole agent: fields that are not given go back to their defaults. Raises what `update` raises."""
        reply = await self._caller.whole("PUT", path(_AGENT, agent_key=agent_key), document=_document(fields))
        return _agent(reply)

    async def delete(self, agent_key: str) -> None:
        """Delete an agent and all its sessions; turns that run are stopped. Raises NotFound."""
        await self._caller.whole("DELETE", path(_AGENT, agent_key=agent_key))

    async def get_secrets(self, agent_key: str) -> dict[str, str]:
        """The names of an agent's secrets, each with a mask: nobody is ever shown a secret. Raises NotFound."""
        return _secrets(await self._caller.whole("GET", path(_SECRETS, agent_key=agent_key)))

    async def replace_secrets(self, agent_key: str, secrets: Mapping[str, str]) -> dict[str, str]:
        """Let these be all secrets of an agent; returns their names. Raises NotFound, InvalidRequest."""
        document = {"secrets": dict(secrets)}
        return _secrets(await self._caller.whole("PUT", path(_SECRETS, agent_key=agent_key), document=document))

    async def update_secrets(self, agent_key: str, secrets: Mapping[str, str | None]) -> dict[str, str]:
        """Set secrets of an agent, and remove those that are None; others stay. Raises NotFound, InvalidRequest."""
        document = {"secrets": dict(secrets)}
        return _secrets(await self._caller.whole("PATCH", path(_SECRETS, agent_key=agent_key), document=document))


def _secrets(reply: Reply) -> dict[str, str]:
    return read(AgentSecrets, reply.body).secrets


def _document(fields: Mapping[str, Any]) -> dict[str, Any]:
    document = dict(fields)
    if isinstance(model := document.get("model"), str):
        document["model"] = {"name": model}
    return document


def _agent(reply: Reply) -> Agent:
    agent = read(Agent, reply.body)
    agent.inactive_tools = inactive_tools(reply.headers.get("x-sessile-inactive", ""))
    return agent


def inactive_tools(header: str) -> dict[str, str]:
    """The map in an X-Sessile-Inactive header; the server cuts a long one, perhaps in the middle of an entry."""
    entries: builtins.list[str] = header.split(", ") if header else []
    if len(header) >= _HEADER_CUT:
        entries.pop()
    return {name: kind for name, _, kind in (entry.partition("=") for entry in entries)}
