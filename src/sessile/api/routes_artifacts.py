"""Operations on the files of a session."""

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response, StreamingResponse

from sessile.api import ranges
from sessile.api.call import Call, JsonResponse
from sessile.api.openapi import RAW
from sessile.api.pages import Limit, PageKey, decode_cursor, encode_cursor
from sessile.api.route import Route
from sessile.auth import roles
from sessile.rows import ArtifactRow
from sessile.service.artifacts import shown
from sessile.wire import codec
from sessile.wire.artifacts import ListSessionArtifactsResponse, SessionArtifact
from sessile.wire.limits import DEFAULT_PAGE_LIMIT

_PATH = "/v2/agents/{agent_key}/sessions/{session_key}/artifacts"
_SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, no-cache",
    "accept-ranges": "bytes",
}
"""Whoever opens a file in a browser shall not run it in the name of this server."""


class ListArtifactsQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of files."""

    limit: Limit = DEFAULT_PAGE_LIMIT
    page_key: PageKey | UnsetType = UNSET
    sort_by: Annotated[Literal["created_at", "updated_at"], Meta(description="The same: a file never changes")] = (
        "created_at"
    )
    order_by: Annotated[Literal["asc", "desc"], Meta(description="Oldest or newest first")] = "desc"


async def list_artifacts(call: Call) -> Response:
    """GET …/artifacts"""
    query = call.query(ListArtifactsQuery)
    listing = f"artifacts.{query.order_by}"
    page = await call.services.artifacts.list(
        call.principal,
        call.path["agent_key"],
        call.path["session_key"],
        cursor=decode_cursor(listing, query.page_key),
        limit=query.limit,
        order=query.order_by,
    )
    answer = ListSessionArtifactsResponse(artifacts=page.rows, metadata=encode_cursor(listing, page.next))
    return JsonResponse(codec.encode(answer))


async def get(call: Call) -> Response:
    """GET …/artifacts/{artifact_id}"""
    path, service = call.path, call.services.artifacts
    row = await service.get(call.principal, path["agent_key"], path["session_key"], path["artifact_id"])
    if call.asks_first_for(RAW.encode()):
        return await _raw(call, row)
    head = codec.encode(shown(row))[:-1] + b',"data":"'
    size = len(head) + (row.size + 2) // 3 * 4 + 2
    pieces = _in_base64(head, await service.open(row, 0, row.size))
    return StreamingResponse(pieces, 200, {"content-length": str(size)}, "application/json")


async def _raw(call: Call, row: ArtifactRow) -> Response:
    headers = {
        **_SAFE,
        "etag": f'"{row.sha256}"',
        "content-disposition": ranges.attachment(row.name),
    }
    if ranges.matches(call.headers.get(b"if-none-match", b""), row.sha256):
        return Response(status_code=304, headers=headers)
    wanted = ranges.wanted(call.headers, row.sha256, row.size)
    start, length, status = (0, row.size, 200) if wanted is None else (*wanted, 206)
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{start + length - 1}/{row.size}"
    headers["content-length"] = str(length)
    return StreamingResponse(await call.services.artifacts.open(row, start, length), status, headers, RAW)


async def _in_base64(head: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The JSON of a file whose last field is its content. A piece is a multiple of three bytes, save the last."""
    yield head
    async for piece in pieces:
        yield b64encode(piece)
    yield b'"}'


ROUTES = (
    Route(
        method="GET",
        path=_PATH,
        operation="listSessionArtifacts",
        tag="Artifacts",
        summary="List the files of a session",
        description="Newest first, without their content: files that came with inputs, and those that tools have made.",
        handler=list_artifacts,
        roles=roles.READERS,
        query=ListArtifactsQuery,
        answer=ListSessionArtifactsResponse,
        errors=(400, 403, 404),
    ),
    Route(
        method="GET",
        path=_PATH + "/{artifact_id}",
        operation="getSessionArtifact",
        tag="Artifacts",
        summary="Read a file of a session",
        description=(
            "As JSON with its content in base64; or, with `application/octet-stream` first in `Accept`, its bytes as "
            "they are, whole or a `Range` of them."
        ),
        handler=get,
        roles=roles.READERS,
        answer=SessionArtifact,
        raw=True,
        headers=("Range", "If-Range", "If-None-Match"),
        errors=(403, 404, 416),
    ),
)
