"""Sessions: what may be done with them, and what an answer shows."""

import builtins
import re
from datetime import datetime
from typing import Any, Unpack

from msgspec import Struct

from sessile.client.call import Caller, Reply, once, path
from sessile.client.documents import SessionChanges, SessionDocument
from sessile.client.errors import ConnectionLost
from sessile.client.pages import AsyncPages, Page
from sessile.client.reading import read, read_page
from sessile.wire.errors import InvalidParameter
from sessile.wire.events import PendingToolCall
from sessile.wire.inputs import OutstandingToolCalls
from sessile.wire.portable import MEDIA_TYPE
from sessile.wire.sessions import Origin, SessionCheck, SessionContextUsage, Status, StopReason, Usage

_ETAG = re.compile(r"[!-~]+")
_ALL_SESSIONS = "/v2/sessions"
_SESSIONS = "/v2/agents/{agent_key}/sessions"
_SESSION = "/v2/agents/{agent_key}/sessions/{session_key}"
_OUTSTANDING = "/v2/agents/{agent_key}/sessions/{session_key}/outstanding_client_tool_calls"
_IMPORTS = "/v2/agents/{agent_key}/session_imports"
_END_BYTES = 200
"""The last line of an export is shorter."""
_CHECK = "/v2/agents/{agent_key}/sessions/{session_key}/check"


class Session(Struct, kw_only=True, omit_defaults=True):
    """One conversation with one agent. None: there is no value."""

    id: str
    key: str
    agent_id: str
    agent_key: str
    name: str
    description: str | None = None
    metadata: dict[str, Any]
    current_step_name: str | None = None
    enabled: bool
    status: Status
    stop_reason: StopReason | None
    last_event_id: str | None
    tti_minutes: int
    created_at: str
    updated_at: str
    session_context_usage: SessionContextUsage | None = None
    usage: Usage
    effective_compaction: dict[str, Any] | None = None
    alias_key: str | None = None
    created_by_agent_key: str | None = None
    created_by_session_key: str | None = None
    secrets: dict[str, str] | None = None
    from_session: Origin | None = None
    etag: str | None = None
    """The version, for `if_match`; None in lists."""


class AsyncSessions:
    """Create, change, list and delete the sessions of an agent."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(
        self, agent_key: str, /, *, idempotency_key: str | None = None, **fields: Unpack[SessionDocument]
    ) -> Session:
        """Create a session; with `from_session`, as a fork of another one.

        Each call creates once, however often it has to be repeated. With an `idempotency_key` of your own, so do all
        calls with that key and the same fields within a day: each gives the session as it stands.

        Raises NotFound (the agent, the session to fork), KeyTaken, InvalidRequest, IdempotencyKeyReused.
        """
        sessions, headers = path(_SESSIONS, agent_key=agent_key), once(idempotency_key)
        return _session(await self._caller.whole("POST", sessions, document=dict(fields), headers=headers))

    async def get(self, agent_key: str, session_key: str) -> Session:
        """Show a session, with its `etag`. Raises NotFound."""
        return _session(await self._caller.whole("GET", _path(agent_key, session_key)))

    async def check(self, agent_key: str, session_key: str) -> SessionCheck:
        """Let the server read the whole log, and tell where it breaks the rules of a transcript. Raises NotFound."""
        reply = await self._caller.whole("GET", path(_CHECK, agent_key=agent_key, session_key=session_key))
        return read(SessionCheck, reply.body)

    async def outstanding_client_tool_calls(self, agent_key: str, session_key: str) -> builtins.list[PendingToolCall]:
        """The client tool calls that the session's turn waits for; none when it does not wait. Raises NotFound."""
        calls = path(_OUTSTANDING, agent_key=agent_key, session_key=session_key)
        return read(OutstandingToolCalls, (await self._caller.whole("GET", calls)).body).client_tool_calls

    def list(
        self,
        agent_key: str | None = None,
        *,
        filter: str | None = None,
        metadata_filter: str | None = None,
        status: Status | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncPages[Session]:
        """List the sessions of an agent, or of all, newest first. `limit` is the size of a page, 1 to 100.

        `filter` is a regular expression that the name or description must have, `metadata_filter` a condition such as
        `user_role = 'premium' AND tier >= 2`. Times need a time zone. Raises NotFound (the agent), InvalidFilter.
        """
        query = {"filter": filter, "metadata_filter": metadata_filter, "limit": limit}
        further = {
            "status": status,
            "created_after": _time("created_after", created_after),
            "created_before": _time("created_before", created_before),
            "updated_after": _time("updated_after", updated_after),
            "updated_before": _time("updated_before", updated_before),
        }
        sessions = _ALL_SESSIONS
        if agent_key is not None and not any(further.values()):
            sessions = path(_SESSIONS, agent_key=agent_key)
        else:
            query |= {"agent_key": agent_key, **further}

        async def fetch(page_key: str | None) -> Page[Session]:
            reply = await self._caller.whole("GET", sessions, query={**query, "page_key": page_key})
            return read_page("sessions", reply.body, lambda item: read(Session, item))

        return AsyncPages(fetch)

    async def update(
        self, agent_key: str, session_key: str, /, *, if_match: str | None = None, **fields: Unpack[SessionChanges]
    ) -> Session:
        """Change the fields that are given; with `if_match` (an `etag`) only if nobody else has changed any since.

        Raises NotFound, PreconditionFailed, InvalidRequest.
        """
        document = dict(fields)
        headers = _condition(if_match)
        reply = await self._caller.whole("PATCH", _path(agent_key, session_key), document=document, headers=headers)
        return _session(reply)

    async def export(self, agent_key: str, session_key: str) -> bytes:
        """A session with all its events as bytes, a JSON object on each line, for `import_`. Raises NotFound."""
        place = path(_SESSION + "/export", agent_key=agent_key, session_key=session_key)
        data = await self._caller.download(place, MEDIA_TYPE)
        if b'{"kind":"end",' not in data[-_END_BYTES:]:
            raise ConnectionLost("The export was cut off.")
        return data

    async def import_(
        self,
        agent_key: str,
        data: bytes,
        *,
        key: str | None = None,
        repair: bool = False,
        idempotency_key: str | None = None,
    ) -> Session:
        """Make a session of an agent from the bytes of an export, with its key or another one.

        With `repair`, a turn that the export leaves open is ended as interrupted. Each call imports once, however often
        it has to be repeated; with an `idempotency_key` of your own, so do all calls with that key and the same bytes.

        Raises NotFound (the agent), KeyTaken, InvalidRequest (it is no export, or not whole), TranscriptInvalid (no
        session may have these events), IdempotencyKeyReused.
        """
        imports, query = path(_IMPORTS, agent_key=agent_key), {"key": key, "repair": repair or None}
        return _session(await self._caller.upload(imports, data, MEDIA_TYPE, query, once(idempotency_key)))

    async def delete(self, agent_key: str, session_key: str, *, if_match: str | None = None) -> None:
        """Delete a session and its events; a turn that runs is stopped. Raises NotFound, PreconditionFailed."""
        await self._caller.whole("DELETE", _path(agent_key, session_key), headers=_condition(if_match))


def _path(agent_key: str, session_key: str) -> str:
    return path(_SESSION, agent_key=agent_key, session_key=session_key)


def _time(name: str, time: datetime | None) -> str | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise InvalidParameter(f"{name}: must have a time zone.", field_errors={name: "It has no time zone."})
    return time.isoformat()


def _condition(if_match: str | None) -> dict[str, str]:
    if if_match is None:
        return {}
    if not _ETAG.fullmatch(if_match):
        raise InvalidParameter("if_match: must be the etag of the session.", field_errors={"if_match": "Not an etag."})
    return {"if-match": if_match}


def _session(reply: Reply) -> Session:
    session = read(Session, reply.body)
    session.etag = reply.headers.get("etag")
    return session
