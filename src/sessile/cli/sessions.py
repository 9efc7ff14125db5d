"""`sessile sessions`: list, get, create, update, check, compact, delete."""

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

app = typer.Typer(
    help="""Sessions of an agent: list, get, create, update, check, pending, compact, delete.

    Example: sessile sessions list helper
    """,
    no_args_is_help=True,
    add_completion=False,
)

Name = Annotated[str | None, typer.Option(metavar="TEXT", help="A name for people; the key by default.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="Any JSON object; templates can use it.")]
TtiMinutes = Annotated[int | None, typer.Option(min=0, metavar="N", help="Minutes without use; kept, not acted on.")]

_COLUMNS = [
    output.Column("KEY", lambda session: session.key),
    output.Column("NAME", lambda session: session.name, flexible=True),
    output.Column("STATUS", lambda session: _status(session)),
    output.Column("UPDATED", lambda session: output.when(session.updated_at)),
]


@app.command("list")
def list_(
    agent: AgentKey,
    limit: Limit = None,
    everything: Everything = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the sessions of an agent, newest first.

    Example: sessile sessions list helper --limit 5
    """
    shown = output.cut(limit, everything, as_json=as_json)
    with server(url, api_key) as client:
        output.listing(client.sessions.list(agent, limit=shown.page_size), _COLUMNS, shown, as_json=as_json)


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
            ("etag", session.etag or ""),
            ("created", output.when(session.created_at)),
            ("updated", output.when(session.updated_at)),
        ]
    )


def _status(session: Session) -> str:
    return f"{session.status} ({session.stop_reason})" if session.stop_reason else session.status
