"""Use-cases of input: check it, append it, hand its turn on."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from sessile.domain.client_tools import CallOutput, failed
from sessile.domain.instructions import Instructions
from sessile.domain.log import draft
from sessile.domain.recent import Recent
from sessile.observation import UNOBSERVED, TurnObserver
from sessile.ports import Admit, Clock, LiveSink, Principal, Store, TurnQueue
from sessile.rows import (
    AgentRow,
    Answered,
    Claim,
    Interruption,
    NewArtifact,
    Once,
    Queued,
    Rejoined,
    SessionRef,
    SessionRow,
    WaitingInput,
    weight,
)
from sessile.service.artifacts import uploaded
from sessile.service.room import Room
from sessile.wire import codec, ids
from sessile.wire.errors import AgentDisabled, Draining, InvalidRequest, SessionDisabled
from sessile.wire.events import InputMessageEvent, TextPart
from sessile.wire.inputs import (
    Behavior,
    CompactRequest,
    InputMessageRequest,
    InputRequest,
    ToolOutputRequest,
    ToolSuccess,
)
from sessile.wire.limits import MAX_INPUT_CHARS, MAX_TOOL_OUTPUT_BYTES

Follower = TypeVar("Follower")
Accepted = Claim | Rejoined | Queued
"""What became of an input: its turn starts, it has come before, or it waits."""

_REMEMBERED = 512
_REQUEST: Any = InputRequest  # a union is no `type` to the type checker


class Inputs:
    """Everything that can be posted to a session."""

    def __init__(
        self, store: Store, queue: TurnQueue, live: LiveSink, clock: Clock, observer: TurnObserver = UNOBSERVED
    ) -> None:
        self._store = store
        self._queue = queue
        self._live = live
        self._clock = clock
        self._observer = observer
        self._draining = False
        self._instructions = Recent[tuple[int, int], Instructions](_REMEMBERED)

    def drain(self) -> None:
        """Take no more input."""
        self._draining = True

    async def accept(
        self,
        principal: Principal,
        agent_key: str,
        session_key: str,
        request: InputMessageRequest,
        attach: Callable[[Accepted], Follower],
        once: Once | None = None,
        if_match: str | None = None,
        behavior: Behavior | None = None,
        files: Sequence[NewArtifact] = (),
    ) -> tuple[Accepted, Follower]:
        """Make an input durable and start its turn, which belongs to the session, not to the caller.

        `attach` makes whatever follows the turn, after the commit and before the turn starts. An input that came before
        with the idempotency key `once` is not taken again: its turn is followed from wherever it stands. `files`, whose
        bytes are durable, become artifacts of the session in the same commit.

        While a turn runs, an input with a `behavior` waits: to join that turn (`steer`), or for a turn of its own.

        Raises InvalidRequest, NotFound, SessionRunning, SessionDisabled, AgentDisabled, TemplateInvalid,
        IdempotencyKeyReused, PreconditionFailed, SessionFull, TooManyInputs, InputWithdrawn, Draining,
        Overloaded, StorageUnavailable; after any of these nothing was stored.
        A caller that may be cancelled while its process goes on shields this: an input that is durable must get its
        turn.
        """
        if self._draining and once is None:
            raise Draining
        input = draft(_event(request, empty=bool(files)))
        ref = SessionRef(principal.tenant_id, agent_key, session_key)
        with Room(self._queue, principal.tenant_id) as room:
            admit = self.admitting(room, len(input.body))
            claim = await self._store.accept_input(
                ref, input, ids.turn_id(), admit, once, if_match, behavior, uploaded(files)
            )
            if isinstance(claim, Rejoined):
                return claim, attach(claim)
            self._observer.accepted(claim.input.turn_id if isinstance(claim, Queued) else claim.turn_id)
            if isinstance(claim, Queued):
                follower = attach(claim)
                if claim.input.behavior == "steer":
                    self._queue.steer(claim.session.id)
                return claim, follower
            self._live.announce(claim.session.id, claim.opened)
            follower = attach(claim)
            self._queue.submit(claim)
            return claim, follower

    async def compact(
        self,
        principal: Principal,
        agent_key: str,
        session_key: str,
        request: CompactRequest,
        attach: Callable[[Claim | Rejoined], Follower],
        once: Once | None = None,
        if_match: str | None = None,
    ) -> tuple[Claim | Rejoined, Follower]:
        """Make an order to compact a session durable and start its turn.

        `attach`, `once` and what it raises as in `accept`, and NothingToCompact; a compaction never waits for a turn.
        """
        if self._draining and once is None:
            raise Draining
        ref = SessionRef(principal.tenant_id, agent_key, session_key)
        up_to, message = request.compact_up_to_event_id or None, request.compaction_message or None
        with Room(self._queue, principal.tenant_id) as room:
            admit = self.admitting(room)
            claim = await self._store.accept_compaction(ref, up_to, message, ids.turn_id(), admit, once, if_match)
            if isinstance(claim, Rejoined):
                return claim, attach(claim)
            self._live.announce(claim.session.id, claim.opened)
            self._observer.accepted(claim.turn_id)
            follower = attach(claim)
            self._queue.submit(claim)
            return claim, follower

    async def answer_calls(
        self,
        principal: Principal,
        agent_key: str,
        session_key: str,
        request: ToolOutputRequest,
        attach: Callable[[Answered | Rejoined], Follower],
        once: Once | None = None,
    ) -> tuple[Answered | Rejoined, Follower]:
        """Make outputs of client tools durable; the turn goes on when they were the last that it waited for.

        `attach` and `once` as in `accept`, and what it raises, but for PreconditionFailed; and ToolCallNotOutstanding.
        """
        if self._draining and once is None:
            raise Draining
        outputs = _outputs(request)
        ref = SessionRef(principal.tenant_id, agent_key, session_key)
        with Room(self._queue, principal.tenant_id) as room:
            found = await self._store.answer_calls(ref, outputs, self.admitting(room, goes_on=True), once)
            if isinstance(found, Rejoined):
                return found, attach(found)
            self._live.announce(found.session.id, found.opened)
            if found.claim is None:
                self._live.left(found.session.id)
            follower = attach(found)
            self._observer.accepted(found.turn_id)
            if found.claim is not None:
                self._queue.submit(found.claim)
            return found, follower

    async def interrupt(
        self,
        principal: Principal,
        agent_key: str,
        session_key: str,
        attach: Callable[[Interruption], Follower],
    ) -> tuple[Interruption, Follower | None]:
        """Make it durable that the running turn shall stop, then stop it; `attach` makes whatever waits for its end.

        Without a running turn nothing happens and nobody waits. It works while the server drains, and whether or not
        agent and session are enabled. Raises NotFound, StorageUnavailable; after any of these nothing was recorded.
        As in `accept`, a caller that may be cancelled shields this.
        """
        found = await self._store.interrupt(SessionRef(principal.tenant_id, agent_key, session_key))
        if found.turn_id is None:
            return found, None
        follower = attach(found)
        for stopped in (found, *found.below):
            if stopped.claim is not None:
                self._queue.submit(stopped.claim)
            elif stopped.turn_id is not None:
                self._queue.interrupt(stopped.session.id, stopped.turn_id)
        return found, follower

    async def waiting(self, principal: Principal, agent_key: str, session_key: str) -> list[WaitingInput]:
        """All inputs that wait, in the order of acceptance. Raises NotFound."""
        return await self._store.list_waiting(SessionRef(principal.tenant_id, agent_key, session_key))

    async def withdraw(self, principal: Principal, agent_key: str, session_key: str, event_id: str) -> None:
        """Let an input wait no more, and end the answers that wait for its turn. Raises NotFound, InputTaken."""
        session_id = await self._store.withdraw_input(SessionRef(principal.tenant_id, agent_key, session_key), event_id)
        self._live.withdrawn(session_id, event_id)

    def admitting(self, room: Room, size: int = 0, *, goes_on: bool = False, drains: bool = True) -> Admit:
        """What the store asks before it stores: whether the input is taken, and room for the turn that it starts.

        An input that comes while the session has a turn starts none: it waits in the store, or is refused there. One
        that `goes_on` is for a turn that waits for client tools. `size`: the bytes of what comes. `drains`: a server
        that stops starts none.
        """

        def admit(agent: AgentRow, session: SessionRow) -> None:
            (self.admit_new if drains else self.admit)(agent, session)
            parked = session.running_turn is not None and session.status != "running"
            if parked if goes_on else session.running_turn is None:
                room.take(weight(agent, session) + size)

        return admit

    def admit_new(self, agent: AgentRow, session: SessionRow) -> None:
        """As `admit`, for a turn that nobody waits for yet: a server that drains starts none."""
        if self._draining:
            raise Draining
        self.admit(agent, session)

    def admit(self, agent: AgentRow, session: SessionRow) -> None:
        """Raise what keeps agent and session from taking an input. Runs inside the store's commit: it must be quick."""
        if not agent.enabled:
            raise AgentDisabled(f"The agent {agent.key!r} is not enabled and takes no input.")
        if not session.enabled:
            raise SessionDisabled(f"The session {session.key!r} is not enabled and takes no input.")
        instructions = self._compiled(agent)
        if instructions.constant is None:
            instructions.render(session.scope(), codec.rfc3339(self._clock.now())[:10])

    def _compiled(self, agent: AgentRow) -> Instructions:
        return self._instructions.get(
            (agent.id, agent.version), lambda: Instructions.of(agent.key, msgspec.json.decode(agent.document))
        )


def parse(body: Any) -> InputRequest:
    """The request in a JSON body. A missing `type` means `input_message`. Raises InvalidRequest."""
    if isinstance(body, dict):
        body = {"type": "input_message", **body}
    request: InputRequest = codec.convert(body, _REQUEST)
    return request


def _event(request: InputMessageRequest, *, empty: bool = False) -> InputMessageEvent:
    """The event of an input; with `empty` it may say nothing."""
    if empty and request.messages is UNSET and request.content is UNSET:
        return InputMessageEvent(messages=[], content="")
    if (request.messages is UNSET) == (request.content is UNSET):
        reason = "Give either messages or content."
        raise InvalidRequest(f"messages: {reason}", field_errors={"messages": reason})
    parts = request.messages or [TextPart(content=request.content or "")]
    text = "\n".join(part.content for part in parts if isinstance(part, TextPart))
    if len(text) > MAX_INPUT_CHARS:
        reason = f"Longer than {MAX_INPUT_CHARS} characters in all."
        raise InvalidRequest(f"messages: {reason}", field_errors={"messages": reason})
    return InputMessageEvent(messages=parts, content=text)


def _outputs(request: ToolOutputRequest) -> list[CallOutput]:
    outputs = []
    for index, given in enumerate(request.tool_outputs):
        if isinstance(given, ToolSuccess):
            output = CallOutput(given.event_id, given.output)
        else:
            output = failed(given.event_id, given.error)
        if len(codec.encode(output.output)) > MAX_TOOL_OUTPUT_BYTES:
            field, reason = f"tool_outputs[{index}]", f"Larger than {MAX_TOOL_OUTPUT_BYTES} bytes."
            raise InvalidRequest(f"{field}: {reason}", field_errors={field: reason})
        outputs.append(output)
    return outputs
