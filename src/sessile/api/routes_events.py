"""Operations on the events and turns of a session."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from sessile.api import examples, interrupt_answer, queued_answer, turn_answer, uploads
from sessile.api.call import Call, JsonResponse
from sessile.api.follow import Following
from sessile.api.live_stream import LiveStream
from sessile.api.pages import Limit, PageKey, decode_cursor, encode_cursor, page_body
from sessile.api.route import Route, Streaming
from sessile.auth import roles
from sessile.live.hub import Hub
from sessile.live.replay import Source
from sessile.live.tail import Tail
from sessile.rows import Answered, EventQuery, Interruption, NewArtifact, Once, Queued, Rejoined
from sessile.service.inputs import Accepted, parse
from sessile.wire import codec
from sessile.wire.errors import InvalidParameter
from sessile.wire.events import RECORD_TYPES, AnyEvent, FollowFrame, ListEventsResponse, StreamFrame, Turn
from sessile.wire.inputs import (
    Behavior,
    CompactRequest,
    InputMessageRequest,
    InputRequest,
    InputResponse,
    InterruptRequest,
    MultipartInput,
    OutstandingToolCalls,
    ToolOutputRequest,
)
from sessile.wire.limits import DEFAULT_PAGE_LIMIT
from sessile.wire.multipart import is_multipart

_PATH = "/v2/agents/{agent_key}/sessions/{session_key}"
_TYPES = r"^[a-z_]+(,[a-z_]+){0,29}$"
_TYPE_DESCRIPTION = "Only events of these types, separated by commas: `input_message,agent_output`"


class ListEventsQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of events. `type` holds one type or several (at most 30), separated by commas."""

    limit: Limit = DEFAULT_PAGE_LIMIT
    page_key: PageKey | UnsetType = UNSET
    include_hidden: Annotated[bool, Meta(description="Hidden events too")] = False
    order: Annotated[Literal["asc", "desc"], Meta(description="Oldest or newest first")] = "asc"
    type: Annotated[str, Meta(pattern=_TYPES, description=_TYPE_DESCRIPTION)] | UnsetType = UNSET
    records: Annotated[bool, Meta(description="Records of the server too, such as `turn_started`")] = False


_SINCE = "Where a stream starts: after this event, at the `start`, or `now`; `Last-Event-ID` beats it"


class FollowQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a stream that follows a session."""

    since: Annotated[str, Meta(description=_SINCE)] = "start"
    deltas: Annotated[bool, Meta(description="In a stream: what is live only too, such as pieces of output")] = True
    include_hidden: bool = False


async def create(call: Call) -> Response:
    """POST …/events"""
    patience = call.patience()
    if_match = call.if_last_event()
    if is_multipart(call.content_type):
        async with uploads.received(call) as (given, once, files):
            return await _message(call, given, patience, once, if_match, files)
    body = await call.json()
    once = call.once(body, apart_from=("stream_response", "since"))
    request = parse(body)
    if isinstance(request, InterruptRequest):
        return await _interrupt(call, request, patience)
    if isinstance(request, ToolOutputRequest):
        return await _tool_output(call, request, patience, once)
    if isinstance(request, CompactRequest):
        return await _compact(call, request, patience, once, if_match)
    return await _message(call, request, patience, once, if_match)


async def _message(
    call: Call,
    request: InputMessageRequest,
    patience: float | None,
    once: Once | None,
    if_match: str | None,
    files: Sequence[NewArtifact] = (),
) -> Response:
    names = (call.principal, call.path["agent_key"], call.path["session_key"])
    behavior = _behavior(request, if_match)
    since = None if request.since is UNSET else (await call.services.events.locate(*names, request.since)).cursor
    hub, deltas = call.services.hub, request.stream_response

    def attach(accepted: Accepted) -> Source:
        if since is not None or isinstance(accepted, Queued):
            return queued_answer.source(hub, accepted, since, deltas=deltas)
        return _source(hub, accepted, deltas)

    accepted, tail = await call.services.inputs.accept(*names, request, attach, once, if_match, behavior, files)
    if since is None and not isinstance(accepted, Queued):
        return await _turn(accepted, tail, patience, request.stream_response)
    if isinstance(accepted, Rejoined) and not accepted.running:
        patience = None
    return await queued_answer.answer(accepted, tail, patience, since, stream=request.stream_response)


async def _compact(
    call: Call, request: CompactRequest, patience: float | None, once: Once | None, if_match: str | None
) -> Response:
    names = (call.principal, call.path["agent_key"], call.path["session_key"])
    hub, deltas = call.services.hub, request.stream_response

    def attach(turn: turn_answer.Turn) -> Source:
        return _source(hub, turn, deltas)

    turn, tail = await call.services.inputs.compact(*names, request, attach, once, if_match)
    return await _turn(turn, tail, patience, deltas)


async def _tool_output(call: Call, request: ToolOutputRequest, patience: float | None, once: Once | None) -> Response:
    call.refuse(b"if-match")
    names = (call.principal, call.path["agent_key"], call.path["session_key"])
    hub, deltas = call.services.hub, request.stream_response

    def attach(found: Answered | Rejoined) -> Source:
        return _source(hub, found, deltas)

    found, tail = await call.services.inputs.answer_calls(*names, request, attach, once)
    return await _turn(found, tail, patience, deltas)


def _source(hub: Hub, turn: turn_answer.Turn, deltas: bool) -> Source:
    """Where the answer of a turn comes from: live, from its middle, or from the log."""
    session_id, cursor = turn.session.id, turn.opened[-1].sequence
    if not isinstance(turn, Rejoined):
        return hub.follow(session_id, cursor, deltas=deltas)
    if turn.running:
        return hub.follow(session_id, cursor, deltas=deltas, joins=True)
    return hub.replay(session_id, cursor)


async def _turn(turn: turn_answer.Turn, tail: Source, patience: float | None, stream: bool) -> Response:
    if isinstance(turn, Rejoined) and not turn.running:
        patience = None  # reading the log is no wait, and a turn that has stopped is not told as a running one
    headers = {"x-turn-id": turn.turn_id}
    if turn.opened[0].type not in RECORD_TYPES:
        headers["x-event-id"] = turn.opened[0].id
    if stream:
        return LiveStream(turn_answer.TurnAnswer(turn), tail, 201, headers, patience)
    return JsonResponse(await turn_answer.whole(turn, tail, patience), 201, headers)


def _behavior(request: InputMessageRequest, if_match: str | None) -> Behavior | None:
    """What the input does while a turn runs; None: it is refused then. Raises InvalidParameter."""
    behavior: Behavior | None = None if request.since is UNSET else "follow_up"
    if request.behavior is not UNSET:
        behavior = request.behavior
    if behavior is not None and if_match is not None:
        raise InvalidParameter("if-match: an input with behavior or since has no such condition.")
    return behavior


async def _interrupt(call: Call, request: InterruptRequest, patience: float | None) -> Response:
    call.refuse(b"idempotency-key", b"if-match")
    hub = call.services.hub

    def attach(found: Interruption) -> Tail:
        return hub.follow(found.session.id, found.session.last_sequence, deltas=False)

    path = call.path
    found, tail = await call.services.inputs.interrupt(call.principal, path["agent_key"], path["session_key"], attach)
    headers = {} if found.turn_id is None else {"x-turn-id": found.turn_id}
    if request.stream_response:
        return interrupt_answer.stream(found, tail, patience, headers)
    return JsonResponse(await interrupt_answer.whole(found, tail, patience), 201, headers)


async def list_events(call: Call) -> Response:
    """GET …/events"""
    query = call.query(ListEventsQuery)
    listing = f"events.{query.order}"
    page = await call.services.events.list(
        call.principal,
        call.path["agent_key"],
        call.path["session_key"],
        EventQuery(
            cursor=decode_cursor(listing, query.page_key),
            limit=query.limit,
            order=query.order,
            types=None if query.type is UNSET else query.type.split(","),
            records=query.records,
            include_hidden=query.include_hidden,
        ),
    )
    metadata = encode_cursor(listing, page.next)
    return JsonResponse(page_body("events", [entry.json for entry in page.rows], metadata))


async def follow(call: Call) -> Response:
    """GET …/events as a stream"""
    query = call.query(FollowQuery)
    since = call.headers.get(b"last-event-id", b"").decode("latin-1") or query.since
    names = (call.principal, call.path["agent_key"], call.path["session_key"])
    events = call.services.events
    at = await events.locate(*names, since)
    leave = call.services.limits.follow(call.principal.key_id)
    tail = call.services.hub.follow(at.session_id, at.cursor, deltas=query.deltas, joins=True, agent_id=at.agent_id)
    state = None
    try:
        # Asked after the tail is attached: who deletes the session from now on ends the tail too.
        state = await events.state(*names, at.session_id)
    finally:
        if state is None:
            tail.close()
            leave()
    rendering = Following(at.position, state, deltas=query.deltas, include_hidden=query.include_hidden)
    return LiveStream(rendering, tail, 200, on_close=leave)


async def get(call: Call) -> Response:
    """GET …/events/{event_id}"""
    path = call.path
    entry = await call.services.events.get(call.principal, path["agent_key"], path["session_key"], path["event_id"])
    return JsonResponse(entry.json)


async def get_turn(call: Call) -> Response:
    """GET …/turns/{turn_id}"""
    path = call.path
    turn = await call.services.events.get_turn(call.principal, path["agent_key"], path["session_key"], path["turn_id"])
    return JsonResponse(codec.encode(turn))


async def outstanding(call: Call) -> Response:
    """GET …/outstanding_client_tool_calls"""
    path = call.path
    calls = await call.services.events.outstanding(call.principal, path["agent_key"], path["session_key"])
    return JsonResponse(codec.encode(calls))


ROUTES = (
    Route(
        method="POST",
        path=_PATH + "/events",
        operation="createAgentInput",
        tag="Events",
        summary="Post an input and get its turn, whole or streamed; answer client tools; or interrupt the turn",
        description=(
            "An `input_message` starts a turn: the model and tool calls that answer it. The answer is the whole turn "
            "as JSON or, with `stream_response`, an event stream of what happens. A caller that goes away stops "
            "nothing: the turn goes on, and its events can be listed; the same request with the same "
            "`Idempotency-Key` joins the turn again.\n\n"
            "One turn runs at a time. While it does, an input with `behavior: follow_up` waits for a turn of its own, "
            "one with `behavior: steer` joins the turn before its next model call, and one without is a 409. With "
            "`since` (an event id, or `start`) an input waits too, and its answer holds all that came after.\n\n"
            "A `compact` starts a turn that asks the model for a summary, which then stands for what it covers.\n\n"
            "An `interrupt` stops the turn that runs, and is answered when it has stopped, with the events "
            "that were kept; without one it is answered at once, with none.\n\n"
            "A `tool_output` answers calls of client tools. When no call is left without an output, the turn goes on."
            "\n\n"
            "As `multipart/form-data` an input may bring files, which become artifacts of the session."
        ),
        handler=create,
        roles=roles.USERS,
        status=201,
        body=InputRequest,
        multipart=MultipartInput,
        examples=examples.INPUT,
        answer=InputResponse,
        stream=StreamFrame,
        headers=("Idempotency-Key", "If-Match of an input"),
        answer_headers=("X-Turn-Id", "X-Event-Id"),
        errors=(400, 403, 404, 409, 410, 412, 422),
    ),
    Route(
        method="GET",
        path=_PATH + "/events",
        operation="listAgentEvents",
        tag="Events",
        summary="List events of a session, or follow it",
        description=(
            "The log of a session in the order of `sequence`, or from its end with `order=desc`. "
            "`metadata.page_key` asks for the next page; it is absent on the last one. With `text/event-stream` first "
            "in `Accept`: the log after `since` and then whatever happens, as it happens, until the session is deleted "
            "or the server stops. A stream takes `since`, `deltas` and `include_hidden` only, and whoever may post "
            "inputs may read it; a list takes all but `since` and `deltas`."
        ),
        handler=list_events,
        roles=roles.READERS,
        query=ListEventsQuery,
        answer=ListEventsResponse,
        stream=FollowFrame,
        streaming=Streaming(handler=follow, roles=roles.USERS_AND_READERS, query=FollowQuery),
        headers=("Last-Event-ID",),
        errors=(400, 403, 404),
    ),
    Route(
        method="GET",
        path=_PATH + "/events/{event_id}",
        operation="getAgentEvent",
        tag="Events",
        summary="Show one event",
        description="By its id, records and hidden events too.",
        handler=get,
        roles=roles.READERS,
        answer=AnyEvent,
        errors=(403, 404),
    ),
    Route(
        method="GET",
        path=_PATH + "/outstanding_client_tool_calls",
        operation="listOutstandingClientToolCalls",
        tag="Events",
        summary="List the client tool calls that wait for an output",
        description="The calls that the session's turn waits for, in their order; none when it does not wait.",
        handler=outstanding,
        roles=roles.USERS,
        answer=OutstandingToolCalls,
        errors=(403, 404),
    ),
    Route(
        method="GET",
        path=_PATH + "/turns/{turn_id}",
        operation="getTurn",
        tag="Events",
        summary="Show how a turn stands",
        description="Whether it runs, how it ended, its tokens. The id was in `X-Turn-Id` of the answer to the input.",
        handler=get_turn,
        roles=roles.USERS_AND_READERS,
        answer=Turn,
        errors=(403, 404),
    ),
)
