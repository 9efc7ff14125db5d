"""The tool `sub_agent`: another agent does a task in a session of its own and gives its final answer."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from sessile.ports import SubAgents, ToolContext, ToolFault
from sessile.rows import Creator, NewSession, SubCall
from sessile.wire import codec, ids
from sessile.wire.ids import Key
from sessile.wire.limits import MAX_INPUT_CHARS, MAX_TOOL_OUTPUT_BYTES, MAX_TTI_MINUTES

_MESSAGE = {"type": "string", "description": "The task, with all that is needed to do it"}
_IDLE = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_TTI_MINUTES,
    "description": "After how many idle minutes its session may be deleted; never by default",
}
_SESSION = {
    "type": "string",
    "description": "The session_key of an earlier answer, to go on there; a new session by default",
}


class _Arguments(Struct, forbid_unknown_fields=True):
    message: Annotated[str, Meta(max_length=MAX_INPUT_CHARS)]
    session_tti_minutes: Annotated[int, Meta(ge=1, le=MAX_TTI_MINUTES)] = 0


class _ChoosingArguments(_Arguments, forbid_unknown_fields=True):
    session_key: Key | None = None


class SubAgentTool:
    """A Tool that asks an agent. `session_mode` says where: in a new session, or in one of earlier calls."""

    name = "sub_agent"
    idempotent = True
    """A call that is run again finds the turn that it has started."""

    def __init__(self, agents: SubAgents, configuration: Mapping[str, Any]) -> None:
        own = configuration["sub_agent_configuration"]
        self._agents = agents
        self._agent_key: str = own["agent_key"]
        self._mode: str = own.get("session_mode", "ephemeral")
        self._metadata = codec.encode(own.get("session_metadata", {}))
        self.description = f"Give a task to the agent {self._agent_key}, which does it on its own and answers once."
        chosen = {"session_key": _SESSION} if self._mode == "llm_controlled" else {}
        self.parameters: dict[str, Any] = {
            "type": "object",
            "properties": {"message": _MESSAGE, "session_tti_minutes": _IDLE, **chosen},
            "required": ["message"],
            "additionalProperties": False,
        }

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """Ask, and wait for the answer. Raises ToolFault."""
        wanted = self._read(arguments)
        named = wanted.session_key if isinstance(wanted, _ChoosingArguments) else None
        key = named or self._shared_key(context) or ids.session_key(self._agent_key)
        new = NewSession(
            key=key,
            name=key,
            description=None,
            metadata=self._metadata,
            enabled=True,
            tti_minutes=wanted.session_tti_minutes,
        )
        parent = context.session
        call = SubCall(
            tenant_id=parent.tenant_id,
            turn_id=context.turn_id,
            event_id=context.event_id,
            creator=Creator(
                agent_key=parent.agent_key, session_key=parent.key, agent_id=parent.agent_id, session_id=parent.id
            ),
            agent_key=self._agent_key,
            shared_by="agent" if self._mode == "agent_scoped" else "session",
            creates=named is None,
        )
        with context.resting():
            told = await self._agents.ask(call, new, wanted.message, context.relay)
        output = {"agent_key": self._agent_key, "session_key": told.session_key, "sub_agent_response": told.answer}
        if (size := len(codec.encode(output))) > MAX_TOOL_OUTPUT_BYTES:
            raise ToolFault("tool_failed", f"The answer has {size} bytes; the limit is {MAX_TOOL_OUTPUT_BYTES}.")
        return output

    def _shared_key(self, context: ToolContext) -> str | None:
        """The key of the one session of all calls by this tool, of the calling session or of its agent."""
        owners = {
            "persistent": f"session {context.session.id}",
            "session_scoped": f"session {context.session.id}",
            "agent_scoped": f"agent {context.session.agent_id}",
        }
        if self._mode not in owners:
            return None
        whose = f"{owners[self._mode]} {context.configuration_name}"
        return f"ase_sub_{hashlib.sha256(whose.encode()).hexdigest()[:32]}"

    def _read(self, arguments: dict[str, Any]) -> _Arguments:
        try:
            return msgspec.convert(arguments, _ChoosingArguments if self._mode == "llm_controlled" else _Arguments)
        except msgspec.ValidationError as error:
            raise ToolFault("tool_arguments_invalid", codec.invalid_field(str(error)).message[:1000]) from None
