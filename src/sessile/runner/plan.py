"""What an agent document means for its turns: model, instructions, tools on offer. Made once a version of the agent."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sessile.domain import agents, compaction, large_outputs, structured
from sessile.domain.instructions import Instructions
from sessile.domain.recent import Recent
from sessile.domain.structured import Output
from sessile.ports import Model, Models, Tools
from sessile.rows import AgentRow
from sessile.runner.dispatch import OfferedTool, offer, offer_client
from sessile.runner.remote import RemoteOffers
from sessile.wire import codec
from sessile.wire.agents import AgentModel, CompactionConfig, ToolOutputOffloading

_REMEMBERED = 512


class Plan(Struct, frozen=True):
    """An agent, ready to run."""

    model: Model
    settings: AgentModel
    instructions: Instructions
    offered: Mapping[str, OfferedTool]
    output: Output | None
    """What the answer is to be, if it is not to be plain text."""
    compaction: CompactionConfig
    output_limit: int | None = None
    """How many bytes a tool's output may have, if the agent sets a bound."""
    output_share: float = large_outputs.DEFAULT_HEADROOM
    """What share of that is kept of a larger one."""
    offloads: bool = False
    """Whether all of a larger one becomes a file."""
    remote: Mapping[str, tuple[str, Mapping[str, Any]]] = {}
    """Tool ids and configurations of tools of tool servers, by name: these are looked up for each turn."""


class Planner:
    """Makes plans and remembers the latest ones."""

    def __init__(self, models: Models, tools: Tools, remote: RemoteOffers | None = None) -> None:
        self._models = models
        self._tools = tools
        self._remote = remote
        self._plans = Recent[tuple[int, int], Plan](_REMEMBERED)

    async def plan(self, agent: AgentRow) -> Plan:
        """The plan of this version of the agent. Raises UnknownModel, TemplateInvalid, StorageUnavailable."""
        plan = self._plans.get((agent.id, agent.version), lambda: self._make(agent))
        if not plan.remote or self._remote is None:
            return plan
        tools = await self._remote.tools(agent.tenant_id, [id for id, _ in plan.remote.values()])
        offered = {name: offer(name, own, tools[id]) for name, (id, own) in plan.remote.items() if id in tools}
        return replace(plan, offered={**plan.offered, **offered})

    def _make(self, agent: AgentRow) -> Plan:
        document: dict[str, Any] = msgspec.json.decode(agent.document)
        settings = codec.convert(document["model"], AgentModel)
        model = self._models.get(settings.name)
        given = document.get("tool_output_offloading")
        offloading = None if given is None else codec.convert(given, ToolOutputOffloading)
        return Plan(
            model=model,
            settings=settings,
            instructions=Instructions.of(agent.key, document),
            offered=self._offered(document),
            output=structured.output(document["first_step"]["output_parser"]),
            compaction=compaction.settings(agent.document),
            output_limit=large_outputs.threshold(offloading, model.context_window),
            output_share=large_outputs.headroom(offloading),
            offloads=offloading is not None and offloading.mode == "artifact",
            remote=_remote(document),
        )

    def _offered(self, document: dict[str, Any]) -> dict[str, OfferedTool]:
        configurations, allowed = document["tool_configurations"], document["first_step"].get("allowed_tools")
        offered = {}
        for name, configuration in configurations.items():
            tool = self._tools.of(name, configuration) if configuration.get("enabled", True) else None
            if tool is not None:
                offered[name] = offer(name, configuration, tool)
        for name, tool_name in agents.client_tools(document):
            offered[name] = offer_client(name, tool_name, configurations[name])
        return {name: tool for name, tool in offered.items() if allowed is None or name in allowed}


def _remote(document: dict[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    allowed = document["first_step"].get("allowed_tools")
    return {
        name: (id, document["tool_configurations"][name])
        for name, id in agents.remote_tools(document).items()
        if allowed is None or name in allowed
    }
