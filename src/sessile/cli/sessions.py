"""`sessile sessions`: list, get, create, fork, update, check, compact, export, import, delete."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from sessile.cli import documents, faults, output
from sessile.cli.options import (
    AgentKey,
    ApiKey,
    Description,
    Enabled,
    Everything,
    Filter,
    IfMatch,
    Json,
    Limit,
    SessionKey,
    Url,
    Yes,
)
from sessile.cli.remote import server
from sessile.cli.transcript import pending_text
from sessile.cli.turns import leave_by
from sessile.client import Session
from sessile.wire.events import CompactionEvent
from sessile.wire.sessions import Status

app = typer.Typer(
    help="""Sessions of an agent: list, get, create, fork, update, check, pending, compact, export, import, delete.

    Example: sessile sessions list helper
    """,
    no_args_is_help=True,
    add_completion=False,
)

Name = Annotated[str | None, typer.Option(metavar="TEXT", help="A name for people; the key by default.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="Any JSON object; templates can use it.")]
TtiMinutes = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Minutes without use after which it is deleted; 0: never.")
]

Where = Annotated[
    str | None,
    typer.Option(
        "--where", metavar="CONDITION", help="Only those whose metadata are so: \"tier >= 2 AND team = 'a'\"."
    ),
]

_COLUMNS = [
    output.Column("KEY", lambda session: session.key),
    output.Column("NAME", lambda session: session.name, flexible=True),
    output.Column("STATUS", lambda session: _status(session)),
    output.Column("UPDATED", lambda session: output.when(session.updated_at)),
]
_OF_ALL_AGENTS = [output.Column("AGENT", lambda session: session.agent_key), *_COLUMNS]


@app.command("list")
def list_(
    agent: Annotated[str | None, typer.Argument(metavar="AGENT", help="The key of the agent; all without it.")] = None,
    filter: Filter = None,
    where: Where = None,
    status: Annotated[Status | None, typer.Option(help="Only those of this status.")] = None,
    limit: Limit = None,
    everything: Everything = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the sessions of an agent, or of all agents, newest first.

    Example: sessile sessions list helper --limit 5

    Example: sessile sessions list --status running --where "channel = 'web'"
    """
    shown = output.cut(limit, everything, as_json=as_json)
    with server(url, api_key) as client:
        found = client.sessions.list(agent, filter=filter, metadata_filter=where, status=status, limit=shown.page_size)
        output.listing(found, _COLUMNS if agent else _OF_ALL_AGENTS, shown, as_json=as_json)


@app.command()
def get(agent: AgentKey, session: SessionKey, url: Url = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Show a session.

    Example: sessile sessions get helper first
    """
    with server(url, api_key) as client:
        found = client.sessions.get(agent, session)
    if as_json:
        output.json_line(found)
    else:
        _show(found)


@app.command()
def create(
    agent: AgentKey,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Its key; the server makes one by default.")] = None,
    name: Name = None,
    description: Description = None,
    metadata: Metadata = None,
    tti_minutes: TtiMinutes = None,
    enabled: Enabled = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Create a session and print its key.

    Example: sessile sessions create helper --key first
    """
    fields = _fields(metadata, key=key, name=name, description=description, tti_minutes=tti_minutes, enabled=enabled)
    with server(url, api_key) as client:
        session = client.sessions.create(agent, **fields)
    if as_json:
        output.json_line(session)
    else:
        output.line(session.key)
    output.remark(f"Created. Talk in it: sessile chat {agent} --session {session.key}")


@app.command()
def fork(
    agent: AgentKey,
    session: SessionKey,
    up_to: Annotated[
        str | None, typer.Option(metavar="EVENT", help="The last event to copy; the newest one by default.")
    ] = None,
    compact_up_to: Annotated[
        str | None,
        typer.Option(metavar="EVENT", help="Copy all; a summary stands for what is up to this event."),
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Its key; the server makes one by default.")] = None,
    under: Annotated[
        str | None, typer.Option(metavar="AGENT", help="The agent of the new session; the same one by default.")
    ] = None,
    name: Name = None,
    description: Description = None,
    metadata: Metadata = None,
    tti_minutes: TtiMinutes = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Create a session that starts with a copy of another one's log, and print its key.

    Example: sessile sessions fork helper first --key second
    """
    source = {"agent_key": agent, "session_key": session}
    if up_to is not None:
        source["include_up_to_event_id"] = up_to
    if compact_up_to is not None:
        source["compact_up_to_event_id"] = compact_up_to
    fields = _fields(
        metadata, key=key, name=name, description=description, tti_minutes=tti_minutes, from_session=source
    )
    with server(url, api_key) as client:
        made = client.sessions.create(under or agent, **fields)
    if as_json:
        output.json_line(made)
    else:
        output.line(made.key)
    output.remark(f"Forked. Talk in it: sessile chat {made.agent_key} --session {made.key}")


@app.command()
def update(
    agent: AgentKey,
    session: SessionKey,
    name: Name = None,
    description: Description = None,
    metadata: Metadata = None,
    tti_minutes: TtiMinutes = None,
    enabled: Enabled = None,
    if_match: IfMatch = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Change some fields of a session; the others stay. New --metadata takes the place of the old.

    Example: sessile sessions update helper first --name "Orders"
    """
    fields = _fields(metadata, name=name, description=description, tti_minutes=tti_minutes, enabled=enabled)
    if not fields:
        raise typer.BadParameter("nothing to change is given.")
    with server(url, api_key) as client:
        changed = client.sessions.update(agent, session, if_match=if_match, **fields)
    if as_json:
        output.json_line(changed)
    output.remark(f"{changed.key} is updated.")


@app.command()
def check(agent: AgentKey, session: SessionKey, url: Url = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Check the whole log of a session against the rules of a transcript.

    The exit code is 1 when the log breaks one.

    Example: sessile sessions check helper first
    """
    with server(url, api_key) as client:
        found = client.sessions.check(agent, session)
    if as_json:
        output.json_line(found)
    else:
        for violation in found.violations:
            output.line(f"{violation.sequence}\t{violation.rule}\t{violation.message}")
        output.remark(f"{found.events} events, {len(found.violations) or 'no'} violations.")
    if not found.ok:
        raise typer.Exit(faults.FAILED)


@app.command()
def pending(
    agent: AgentKey, session: SessionKey, url: Url = None, api_key: ApiKey = None, as_json: Json = False
) -> None:
    """List the client tool calls that wait for an output; `sessile events tool-output` answers one.

    Example: sessile sessions pending helper first
    """
    with server(url, api_key) as client:
        calls = client.sessions.outstanding_client_tool_calls(agent, session)
    for call in calls:
        if as_json:
            output.json_line(call)
        else:
            output.line(f"{call.event_id}\t{pending_text(call)}")
    if not calls and not as_json:
        output.remark("Nothing waits.")


@app.command()
def export(
    agent: AgentKey,
    session: SessionKey,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; stdout if absent.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write a session with all its events, a JSON object on each line.

    Example: sessile sessions export helper first > first.jsonl
    """
    with server(url, api_key) as client:
        data = client.sessions.export(agent, session)
    if to is None:
        sys.stdout.buffer.write(data)
    else:
        try:
            to.write_bytes(data)
        except OSError as error:
            raise typer.BadParameter(f"cannot write {to}: {error.strerror}", param_hint="--output") from None
    output.remark(f"{session} is exported: {len(data)} bytes.")


@app.command("import")
def import_(
    agent: AgentKey,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What export has written; - is stdin.")],
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Its key; the exported one by default.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="End a turn that the export leaves open.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Make a session from a file that export has written, and print its key.

    Example: sessile sessions import helper first.jsonl --key second
    """
    data = documents.data_of(file)
    with server(url, api_key) as client:
        made = client.sessions.import_(agent, data, key=key, repair=repair)
    if as_json:
        output.json_line(made)
    else:
        output.line(made.key)
    output.remark(f"Imported. Talk in it: sessile chat {made.agent_key} --session {made.key}")


@app.command()
def compact(
    agent: AgentKey,
    session: SessionKey,
    up_to: Annotated[
        str | None, typer.Option(metavar="EVENT", help="The last event to cover; by default all but recent inputs.")
    ] = None,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is asked for, if not what its agent says.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="How long to wait; the compaction goes on.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Have the model summarise older parts of a session, and print the summary; it reads that in their place.

    Example: sessile sessions compact helper first
    """
    with server(url, api_key) as client:
        answer = client.events.compact(agent, session, up_to=up_to, message=message, timeout=timeout)
    for event in answer.events:
        if as_json:
            output.json_line(event)
        elif isinstance(event, CompactionEvent) and event.summary_text:
            output.line(event.summary_text)
            output.remark(f"{event.turns_compacted} turns, {event.events_compacted} events are summarised and hidden.")
    leave_by(answer.status, answer.stop_reason, answer.error, f"{agent} {session} {answer.turn_id}")


@app.command()
def delete(
    agent: AgentKey,
    session: SessionKey,
    yes: Yes = False,
    if_match: IfMatch = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a session with its whole log.

    Example: sessile sessions delete helper first --yes
    """
    output.confirm(f"Delete the session {session} of {agent} with its whole log?", yes=yes)
    with server(url, api_key) as client:
        client.sessions.delete(agent, session, if_match=if_match)
    output.remark(f"{session} is deleted.")


def _fields(metadata: str | None, **fields: Any) -> Any:
    """The fields of the options that were given. Raises typer.BadParameter."""
    given = {name: value for name, value in fields.items() if value is not None}
    if metadata is not None:
        given["metadata"] = documents.parse(metadata, "--metadata")
    return given


def _show(session: Session) -> None:
    usage = session.usage
    output.details(
        [
            ("key", session.key),
            ("agent", session.agent_key),
            ("name", session.name),
            ("description", session.description or ""),
            ("status", _status(session)),
            ("enabled", output.yes_no(session.enabled)),
            ("metadata", msgspec.json.encode(session.metadata).decode() if session.metadata else ""),
            ("usage", f"{usage.model_calls} model calls, {usage.input_tokens} tokens in, {usage.output_tokens} out"),
            ("forked from", _origin(session)),
            ("etag", session.etag or ""),
            ("created", output.when(session.created_at)),
            ("updated", output.when(session.updated_at)),
        ]
    )


def _origin(session: Session) -> str:
    origin = session.from_session
    if origin is None:
        return ""
    up_to = f" up to {origin.include_up_to_event_id}" if origin.include_up_to_event_id else ""
    if origin.compact_up_to_event_id:
        up_to = f", compacted up to {origin.compact_up_to_event_id}"
    return f"{origin.agent_key} {origin.session_key}{up_to}"


def _status(session: Session) -> str:
    return f"{session.status} ({session.stop_reason})" if session.stop_reason else session.status
