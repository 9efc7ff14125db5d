"""Rows of a database as the port's data, for every store. Column orders are those of each store's `queries.sql`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from sessile.domain.log import Entry
from sessile.rows import (
    AgentRow,
    ApiKeyRow,
    ArtifactRow,
    SessionRow,
    TenantRow,
    ToolRow,
    ToolServerRow,
    TurnRow,
    WaitingInput,
)

Row = Sequence[Any]
SESSION_COLUMNS = 22
AGENT_COLUMNS = 8
WAITING_COLUMNS = 7
TOOL_COLUMNS = 8


def tenant(row: Row) -> TenantRow:
    """id, key, name, created_at"""
    return TenantRow(id=row[0], key=row[1], name=row[2], created_at=row[3])


def api_key(row: Row) -> ApiKeyRow:
    """key_id, tenant_id, name, roles, agent_roles, created_at, revoked_at"""
    return ApiKeyRow(
        key_id=row[0],
        tenant_id=row[1],
        name=row[2],
        roles=msgspec.json.decode(row[3], type=list[str]),
        agent_roles=msgspec.json.decode(row[4], type=dict[str, list[str]]),
        created_at=row[5],
        revoked_at=row[6],
    )


def agent(row: Row) -> AgentRow:
    """id, tenant_id, key, enabled, version, document, created_at, updated_at"""
    return AgentRow(
        id=row[0],
        tenant_id=row[1],
        key=row[2],
        enabled=bool(row[3]),
        version=row[4],
        document=row[5],
        created_at=row[6],
        updated_at=row[7],
    )


def tool_server(row: Row) -> ToolServerRow:
    """id, tenant_id, key, enabled, document, created_at, updated_at, the names of its secrets as JSON"""
    return ToolServerRow(
        id=row[0],
        tenant_id=row[1],
        key=row[2],
        enabled=bool(row[3]),
        document=row[4],
        created_at=row[5],
        updated_at=row[6],
        secrets=frozenset(msgspec.json.decode(row[7])),
    )


def tool(row: Row) -> ToolRow:
    """id, key, name, enabled, document, created_at, updated_at, the key of its server"""
    return ToolRow(
        id=row[0],
        key=row[1],
        name=row[2],
        enabled=bool(row[3]),
        document=row[4],
        created_at=row[5],
        updated_at=row[6],
        server_key=row[7],
    )


def session(row: Row) -> SessionRow:
    """The columns of `get_session`, in the order of the fields; the status stands for the running turn.

    A turn that is parked has not ended, but it does not run.
    """
    runs = row[11] is not None and row[12] != "requires_action"
    status = "running" if runs else "stopped" if row[13] else "unstarted"
    fields = (*row[:8], bool(row[8]), *row[9:11], status, *row[12:SESSION_COLUMNS], row[11])
    return SessionRow(*fields)


def turn(row: Row) -> TurnRow:
    """The columns of `get_turn`."""
    return TurnRow(
        id=row[0],
        turn_id=row[1],
        input_sequence=row[2],
        input_event_id=row[3],
        fence=row[4],
        running=bool(row[5]),
        stop_reason=row[6],
        error=row[7],
        usage=stored_json(row[8]),
        created_at=row[9],
        ended_at=row[10],
        parked=bool(row[11]),
    )


def artifact(row: Row) -> ArtifactRow:
    """The columns of `get_artifact`, in the order of the fields."""
    return ArtifactRow(**dict(zip(ArtifactRow.__struct_fields__, row, strict=True)))


def entry(session_key: str, row: Row) -> Entry:
    """id, sequence, turn_id, type, created_at, hidden, body"""
    return Entry(row[0], session_key, *row[1:7])


def waiting_input(row: Row) -> WaitingInput:
    """id, event_id, turn_id, behavior, body, upload, created_at"""
    _, event_id, turn_id, behavior, body, upload, created_at = row[:WAITING_COLUMNS]
    return WaitingInput(
        event_id=event_id, turn_id=turn_id, behavior=behavior, body=body, upload=upload, created_at=created_at
    )


def stored_json(value: bytes | str) -> bytes:
    """A JSON column, which holds text where a query wrote its first value."""
    return value.encode() if isinstance(value, str) else value
