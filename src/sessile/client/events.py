"""Events: sending inputs, and reading the log."""

import asyncio
import builtins
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from sessile.client.call import Caller, Patience, once, path
from sessile.client.documents import Content
from sessile.client.errors import UnexpectedAnswer
from sessile.client.follower import AsyncFollower
from sessile.client.pages import AsyncPages, Page
from sessile.client.reading import UNREADABLE, read, read_page
from sessile.client.transport import Response
from sessile.client.turn_stream import AsyncTurnStream
from sessile.client.unknown import UnknownEvent, unknown
from sessile.client.uploads import File, Upload
from sessile.wire.errors import InvalidParameter, SessileError
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    ClientToolPendingEvent,
    PendingToolCall,
    StructuredOutputEvent,
    TurnError,
)
from sessile.wire.ids import EVENT_ID_PATTERN
from sessile.wire.inputs import Behavior
from sessile.wire.sessions import StopReason

_EVENTS = "/v2/agents/{agent_key}/sessions/{session_key}/events"
_EVENT = "/v2/agents/{agent_key}/sessions/{session_key}/events/{event_id}"

Event = AnyEvent | UnknownEvent
"""What may stand in a log."""
_decoder = msgspec.json.Decoder(AnyEvent)
_LAST_EVENT = re.compile(f"start|{EVENT_ID_PATTERN}")


class Answer(Struct, kw_only=True):
    """The durable events of a turn, the input first, and how the turn stands.

    `status` is `running` when the time limit came first, or the server stopped and did not come back. A turn that ended
    badly has the stop reason `error`, and an `error` with `code` and `message`. `turn_id` is empty when there was
    no turn to interrupt.
    """

    events: list[Event]
    session_key: str
    turn_id: str
    status: Literal["running", "stopped"]
    stop_reason: StopReason | None
    error: TurnError | None
    reason: str | None = None
    """Why no turn took an input that waited: `withdrawn`, `deleted`, or `drain`: the server stopped and did not come
    back in time. Else None.
    """

    @property
    def text(self) -> str:
        """All that the agent said in this turn."""
        return "".join(event.content for event in self.events if isinstance(event, AgentOutputEvent))

    @property
    def pending_calls(self) -> list[PendingToolCall]:
        """The client tool calls that the turn waits for, when its stop reason is `requires_action`."""
        last = self.events[-1] if self.events else None
        return last.pending_calls if isinstance(last, ClientToolPendingEvent) else []

    @property
    def output(self) -> Any:
        """What the agent answered, where its output follows a JSON schema; None without such an answer."""
        return next((event.content for event in self.events if isinstance(event, StructuredOutputEvent)), None)


class _Answer(Struct, kw_only=True):
    events: list[Raw]
    session_key: str
    turn_id: str | None = None
    status: Literal["running", "stopped"]
    stop_reason: StopReason | None = None
    error: TurnError | None = None
    reason: str | None = None


class AsyncEvents:
    """Send inputs to a session, and read its log."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def send(
        self,
        agent_key: str,
        session_key: str,
        content: Content,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the server keeps it; nothing is cancelled here
        if_match: str | None = None,
        idempotency_key: str | None = None,
        behavior: Behavior | None = None,
        since: str | None = None,
        files: Sequence[File] = (),
        ttl_days: int | None = None,
    ) -> Answer:
        """Send an input and wait for the whole turn that answers it; at most `timeout` seconds, if given.

        A turn that ends badly does not raise: look at `stop_reason` and `error` of the answer. Each call is one input,
        however often it has to be repeated. With an `idempotency_key` of your own, so are all calls with that key and
        the same content within a day: each gives the answer of the same turn.

        With `if_match` (the `last_event_id` of the session, or `start` where it has none) the input is taken only if
        nothing has happened since; else PreconditionFailed.

        While a turn runs, an input waits when it has a `behavior`: with `follow_up` for a turn of its own, with `steer`
        to join the turn that runs. With `since` (an event id, or `start`) it waits for a turn of its own too, and the
        answer holds all events after that place. `inputs` has what waits.

        `files` are paths, or names with bytes; they become artifacts of the session, for `ttl_days` if given, and
        `content` may be empty.

        Raises SessionRunning (its `id` is the turn that runs), SessionDisabled, AgentDisabled, TemplateInvalid,
        NotFound, InvalidRequest, UnknownCursor, TooManyInputs, IdempotencyKeyReused, InputWithdrawn, TooLarge,
        SessionFull; OSError for a file that cannot be read.
        """
        headers = {**once(idempotency_key), **_condition(if_match)}
        document = _input(content, files, ttl_days, _queueing(behavior, since))
        return await self._turn(agent_key, session_key, document, timeout, headers)

    async def send_tool_outputs(
        self,
        agent_key: str,
        session_key: str,
        outputs: Mapping[str, Mapping[str, Any]],
        *,
        errors: Mapping[str, Any] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the server keeps it; nothing is cancelled here
        idempotency_key: str | None = None,
    ) -> Answer:
        """Answer client tool calls that wait: `outputs`, and `errors` of those that failed, by `event_id` of the call.

        When no call is left without an answer, the turn goes on, and this waits for it as `send` does. Else the answer
        comes at once, with the `pending_calls` that are left. It is repeated safely, as `send` is.

        Raises ToolCallNotOutstanding, and then nothing is stored; what `send` raises but for PreconditionFailed.
        """
        document = _tool_outputs(outputs, errors)
        return await self._turn(agent_key, session_key, document, timeout, once(idempotency_key))

    async def interrupt(
        self,
        agent_key: str,
        session_key: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the server keeps it; nothing is cancelled here
    ) -> Answer:
        """Stop the turn that runs, and wait until it has stopped; at most `timeout` seconds, if given.

        The answer holds the events that were kept since then, partial text among them, and how the turn has ended:
        `interrupted`, unless its end was faster. Without a running turn it holds no events. Raises NotFound.
        """
        return await self._turn(agent_key, session_key, {"type": "interrupt"}, timeout, {})

    async def compact(
        self,
        agent_key: str,
        session_key: str,
        *,
        up_to: str | None = None,
        message: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the server keeps it; nothing is cancelled here
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Have the model summarise the session before the recent inputs that its agent keeps, or `up_to` an event.

        From then on the model reads the summary in the place of what it covers, which is hidden and not lost. `message`
        is what the model is asked for, if not what its agent says. The answer holds the `compaction` event, or says in
        `error` why there is none; else all is as in `send`.

        Raises NothingToCompact, SessionRunning, SessionDisabled, AgentDisabled, NotFound, InvalidRequest,
        PreconditionFailed, IdempotencyKeyReused.
        """
        fields = {"type": "compact", "compact_up_to_event_id": up_to, "compaction_message": message}
        document = {name: value for name, value in fields.items() if value is not None}
        headers = {**once(idempotency_key), **_condition(if_match)}
        return await self._turn(agent_key, session_key, document, timeout, headers)

    def stream(
        self,
        agent_key: str,
        session_key: str,
        content: Content,
        *,
        timeout: float | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
        behavior: Behavior | None = None,
        since: str | None = None,
        files: Sequence[File] = (),
        ttl_days: int | None = None,
    ) -> AsyncTurnStream:
        """Send an input and follow its turn as it happens; at most `timeout` seconds, if given.

        A stream that breaks off joins its turn again by itself, and shows nothing twice. Entering it raises what `send`
        raises; `if_match`, `idempotency_key`, `behavior`, `since`, `files` and `ttl_days` mean the same. The stream of
        an input that waits begins when its turn takes it; with `since` it shows the turns before too.
        """
        events = _path(agent_key, session_key)
        document = _input(content, files, ttl_days, {**_queueing(behavior, since), "stream_response": True})
        patience, headers = Patience(timeout), {**once(idempotency_key), **_condition(if_match)}
        caller = self._caller
        return AsyncTurnStream(lambda: caller.stream(events, document, patience, headers), caller.retries, caller.pause)

    def stream_tool_outputs(
        self,
        agent_key: str,
        session_key: str,
        outputs: Mapping[str, Mapping[str, Any]],
        *,
        errors: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncTurnStream:
        """Answer client tool calls that wait, as `send_tool_outputs`, and follow the turn as it goes on.

        Entering the stream raises what `send_tool_outputs` raises; when it breaks off it goes on as that of `stream`.
        """
        events = _path(agent_key, session_key)
        document = {**_tool_outputs(outputs, errors), "stream_response": True}
        patience, headers, caller = Patience(timeout), once(idempotency_key), self._caller
        return AsyncTurnStream(lambda: caller.stream(events, document, patience, headers), caller.retries, caller.pause)

    def follow(
        self,
        agent_key: str,
        session_key: str,
        *,
        since: str = "start",
        deltas: bool = True,
        include_hidden: bool = False,
        on_lost: Callable[[SessileError], object] | None = None,
        on_found: Callable[[], object] | None = None,
    ) -> AsyncFollower:
        """Follow a session as it goes on, until it is deleted: its log after `since`, then whatever happens.

        `since` is what you know already: nothing (`start`), all up to an event (its id), or all there is (`now`).
        Without `deltas` no frames come but the state of the session; with `include_hidden` hidden events come too.
        A lost connection is made again by itself; `on_lost` is called with what happened then, and `on_found` when the
        server is there again.

        Entering it raises NotFound, UnknownCursor, ServerUnreachable.
        """
        events = _path(agent_key, session_key)
        chosen = {"deltas": None if deltas else False, "include_hidden": include_hidden or None}

        async def open_at(place: str, first: bool) -> Response:
            return await self._caller.follow(events, chosen, place, first=first)

        return AsyncFollower(open_at, self._caller.back_off, since, on_lost, on_found)

    def list(
        self,
        agent_key: str,
        session_key: str,
        *,
        order: Literal["asc", "desc"] = "asc",
        types: Sequence[str] | None = None,
        records: bool = False,
        include_hidden: bool = False,
        limit: int | None = None,
    ) -> AsyncPages[Event]:
        """Read the log, oldest first (`asc`) or newest first (`desc`); only events of some `types`, if given.

        With `records` also what Sessile notes for itself, as `turn_ended`. `limit` is the size of a page: 1 to 100.
        """
        events = _path(agent_key, session_key)
        chosen = {
            "order": order,
            "type": None if types is None else ",".join(types),
            "records": records or None,
            "include_hidden": include_hidden or None,
            "limit": limit,
        }

        async def fetch(page_key: str | None) -> Page[Event]:
            reply = await self._caller.whole("GET", events, query={**chosen, "page_key": page_key})
            return read_page("events", reply.body, _event)

        return AsyncPages(fetch)

    async def get(self, agent_key: str, session_key: str, event_id: str) -> Event:
        """Show one event by its id, records and hidden ones too. Raises NotFound."""
        event = path(_EVENT, agent_key=agent_key, session_key=session_key, event_id=event_id)
        return _event((await self._caller.whole("GET", event)).body)

    async def hide(self, agent_key: str, session_key: str, event_id: str) -> Event:
        """Hide an event from the model, and from readers that do not ask for hidden ones; the other half of a tool
        call is hidden from the model too.

        Raises NotFound, RecordFixed for records, SessionRunning for an event of a turn that has not ended.
        """
        hidden = path(_EVENT + "/hide", agent_key=agent_key, session_key=session_key, event_id=event_id)
        return _event((await self._caller.whole("POST", hidden)).body)

    async def unhide(self, agent_key: str, session_key: str, event_id: str) -> Event:
        """Show a hidden event again. Raises what `hide` raises."""
        shown = path(_EVENT + "/unhide", agent_key=agent_key, session_key=session_key, event_id=event_id)
        return _event((await self._caller.whole("POST", shown)).body)

    async def delete(self, agent_key: str, session_key: str, event_id: str) -> None:
        """Erase an event for good; its place in the log stays. Raises what `hide` raises."""
        event = path(_EVENT, agent_key=agent_key, session_key=session_key, event_id=event_id)
        await self._caller.whole("DELETE", event)

    async def _turn(
        self,
        agent_key: str,
        session_key: str,
        document: dict[str, Any] | Upload,
        patience: float | None,
        headers: dict[str, str],
    ) -> Answer:
        events, caller, now = _path(agent_key, session_key), self._caller, asyncio.get_running_loop().time
        ends, left = now() + (patience or 0), patience
        answer = read(_Answer, (await caller.turn(events, document, left, headers)).body)
        for times in range(1, caller.retries + 1):
            if answer.status == "stopped" or not headers or (patience is not None and answer.reason != "drain"):
                break
            await caller.pause(times)  # the server has stopped, and the next one goes on
            left = None if patience is None else ends - now()
            if left is not None and left <= 0:
                break
            with contextlib.suppress(SessileError):
                answer = read(_Answer, (await caller.turn(events, document, left, headers)).body)
        return Answer(
            events=[_event(event) for event in answer.events],
            session_key=answer.session_key,
            turn_id=answer.turn_id or "",
            status=answer.status,
            stop_reason=answer.stop_reason,
            error=answer.error,
            reason=answer.reason,
        )


def event_type(event: Struct) -> str:
    """The type of an event or a frame, as it stands on the wire: `agent_output`, `tool_input`, `end` …"""
    return event.type if isinstance(event, UnknownEvent) else str(event.__struct_config__.tag)


def _path(agent_key: str, session_key: str) -> str:
    return path(_EVENTS, agent_key=agent_key, session_key=session_key)


def _input(
    content: Content, files: Sequence[File], ttl_days: int | None, asked: Mapping[str, Any]
) -> dict[str, Any] | Upload:
    if files:
        return Upload(content, files, {**asked, "ttl_days": ttl_days})
    if ttl_days is not None:
        raise InvalidParameter("ttl_days: There are no files.", field_errors={"ttl_days": "There are no files."})
    if isinstance(content, str):
        return {"content": content, **asked}
    parts: builtins.list[Any] = [*content]
    return {"messages": parts, **asked}


def _tool_outputs(outputs: Mapping[str, Mapping[str, Any]], errors: Mapping[str, Any] | None) -> dict[str, Any]:
    answers: builtins.list[Any] = [
        {"type": "success", "event_id": event_id, "output": output} for event_id, output in outputs.items()
    ]
    answers += [{"type": "error", "event_id": event_id, "error": error} for event_id, error in (errors or {}).items()]
    return {"type": "tool_output", "tool_outputs": answers}


def _queueing(behavior: Behavior | None, since: str | None) -> dict[str, str]:
    given = {"behavior": behavior, "since": since}
    return {name: value for name, value in given.items() if value is not None}


def _condition(if_match: str | None) -> dict[str, str]:
    if if_match is None:
        return {}
    if not _LAST_EVENT.fullmatch(if_match):
        reason = "Must be the id of an event, or start."
        raise InvalidParameter(f"if_match: {reason}", field_errors={"if_match": reason})
    return {"if-match": f'"{if_match}"'}


def _event(body: bytes | Raw) -> Event:
    try:
        event: Event = _decoder.decode(body)
        return event
    except msgspec.ValidationError:
        return unknown(body)
    except UNREADABLE:
        raise UnexpectedAnswer("The answer is not JSON.") from None
