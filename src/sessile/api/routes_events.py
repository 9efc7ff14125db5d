"""Operations on the events and turns of a session."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from sessile.api import examples, interrupt_answer, turn_answer, uploads
from sessile.api.call import Call, JsonResponse
from sessile.api.follow import Following
from sessile.api.live_stream import LiveStream
from sessile.api.pages import Limit, PageKey, decode_cursor, encode_cursor, page_body
from sessile.api.route import Route, Streaming
from sessile.auth import roles
from sessile.live.replay import Source
from sessile.live.tail import Tail
from sessile.rows import Claim, EventQuery, Interruption, NewArtifact, Once, Rejoined
from sessile.service.inputs import parse
from sessile.wire import codec
from sessile.wire.events import AnyEvent, FollowFrame, ListEventsResponse, StreamFrame, Turn
from sessile.wire.inputs import InputMessageRequest, InputRequest, InputResponse, InterruptRequest, MultipartInput
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
            return await _accept(call, given, patience, if_match, once, files)
    body = await call.json()
    once = call.once(body, apart_from=("stream_response", "since"))
    request = parse(body)
    if isinstance(request, InterruptRequest):
        return await _interrupt(call, request, patience)
    return await _accept(call, request, patience, if_match, once)


async def _accept(
    call: Call,
    request: InputMessageRequest,
    patience: float | None,
    if_match: str | None,
    once: Once | None,
    files: Sequence[NewArtifact] = (),
) -> Response:
    hub = call.services.hub

    def attach(claim: Claim | Rejoined) -> Source:
        session_id, cursor, deltas = claim.session.id, claim.opened[-1].sequence, request.stream_response
        if isinstance(claim, Claim):
            return hub.follow(session_id, cursor, deltas=deltas)
        if claim.running:
            return hub.follow(session_id, cursor, deltas=deltas, joins=True)
        return hub.replay(session_id, cursor)

    claim, tail = await call.services.inputs.accept(
        call.principal, call.path["agent_key"], call.path["session_key"], request, attach, once, if_match, files
    )
    if isinstance(claim, Rejoined) and not claim.running:
        patience = None  # reading the log is no wait, and a turn that has stopped is not told as a running one
    headers = {"x-turn-id": claim.turn_id, "x-event-id": claim.opened[0].id}
    if request.stream_response:
        return LiveStream(turn_answer.TurnAnswer(claim), tail, 201, headers, patience)
    return JsonResponse(await turn_answer.whole(claim, tail, patience), 201, headers)


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
    tail = call.services.hub.follow(at.session_id, at.cursor, deltas=query.deltas, joins=True, agent_id=at.agent_id)
    state = None
    try:
        # Asked after the tail is attached: who deletes the session from now on ends the tail too.
        state = await events.state(*names, at.session_id)
    finally:
        if state is None:
            tail.close()
    rendering = Following(at.position, state, deltas=query.deltas, include_hidden=query.include_hidden)
    return LiveStream(rendering, tail, 200)


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


ROUTES = (
    Route(
        method="POST",
        path=_PATH + "/events",
        operation="createAgentInput",
        tag="Events",
        summary="Post an input and get its turn, whole or streamed; or interrupt the turn that runs",
        description=(
            "An `input_message` starts a turn: the model and tool calls that answer it. The answer is the whole turn "
            "as JSON or, with `stream_response`, an event stream of what happens. A caller that goes away stops "
            "nothing: the turn goes on, and its events can be listed; the same request with the same "
            "`Idempotency-Key` joins the turn again. One turn runs at a time; a second input is a 409.\n\n"
            "An `interrupt` stops the turn that runs, and is answered when it has stopped, with the events "
            "that were kept; without one it is answered at once, with none.\n\n"
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
        errors=(400, 403, 404, 409, 412, 422),
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
