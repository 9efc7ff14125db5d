"""Reads a whole log, page by page, and finds what breaks the rules of logs, and what its session says of it wrongly."""

from typing import Any

from msgspec import json

from sessile.domain.transcript import TranscriptCheck
from sessile.ports import Store
from sessile.rows import EventQuery, SessionRef, SessionRow
from sessile.wire.sessions import Usage, Violation

MAX_VIOLATIONS = 100
_EVERYTHING: dict[str, Any] = {"limit": 1000, "records": True, "include_deleted": True}


async def check_log(store: Store, session: SessionRow) -> list[Violation]:
    """At most `MAX_VIOLATIONS` of what is wrong. What comes after the last event that `session` names is not read.

    Raises NotFound when the session is deleted meanwhile.
    """
    transcript = TranscriptCheck()
    found: list[Violation] = []
    cursor: int | None = 0
    while cursor is not None and transcript.state.last_sequence < session.last_sequence:
        page = await store.read_log(session.id, EventQuery(cursor=cursor, **_EVERYTHING))
        for entry in page.rows:
            if entry.sequence <= session.last_sequence and len(found) < MAX_VIOLATIONS:
                found += transcript.feed(entry.event())
        cursor = page.next
    if transcript.state.last_sequence != session.last_sequence:
        await store.get_session(SessionRef(session.tenant_id, session.agent_key, session.key))
    found += transcript.end()
    cached: dict[str, Any] = {
        "status": session.status,
        "stop_reason": session.stop_reason,
        "running_turn": session.running_turn,
        "last_sequence": session.last_sequence,
        "last_event_id": session.last_event_id,
    }
    if session.running_turn is None:  # a log tells what a turn has used when it ends
        cached["usage"] = json.decode(session.usage, type=Usage)
    found += transcript.stale(**cached)
    return found[:MAX_VIOLATIONS]
