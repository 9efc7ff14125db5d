"""`sessile events`: send an input or tool output, interrupt, follow, list the log; see, hide, delete one event."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import structs

from sessile.cli import documents, faults, output
from sessile.cli.options import AgentKey, ApiKey, EventId, Everything, Json, Limit, SessionKey, Url, Yes
from sessile.cli.remote import server
from sessile.cli.screen import Screen
from sessile.cli.transcript import Transcript, summary
from sessile.cli.turns import leave_by
from sessile.client import Answer, Event, Followed, UnknownEvent, event_type
from sessile.wire.errors import SessileError

app = typer.Typer(
    help="""Events of a session: send, answer tools, interrupt, follow, list, get, hide, unhide, delete.

    Example: sessile events list helper first
    """,
    no_args_is_help=True,
    add_completion=False,
)


class Behavior(StrEnum):
    """What an input does while a turn runs."""

    STEER = "steer"
    FOLLOW_UP = "follow_up"


class Order(StrEnum):
    """The order of a list of events."""

    ASC = "asc"
    DESC = "desc"


_WAITED: dict[str | None, str] = {
    "withdrawn": "It was withdrawn.",
    "deleted": "The session was deleted.",
    "drain": "The server stops; the next one runs the turn.",
}
"""Why no turn has taken an input that waited."""
_COLUMNS = [
    output.Column("SEQ", lambda event: str(event.sequence)),
    output.Column("TYPE", event_type),
    output.Column("TEXT", summary, flexible=True),
    output.Column("ID", lambda event: event.id),
    output.Column("CREATED", lambda event: event.created_at, for_people=False),
]


@app.command()
def send(
    agent: AgentKey,
    session: SessionKey,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to say; `-`, or nothing, takes all of standard input.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="How long to wait; the turn goes on.")
    ] = None,
    behavior: Annotated[
        Behavior | None,
        typer.Option(help="While a turn runs: join it (`steer`), or wait for a turn of its own (`follow_up`)."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A file to send along; may be repeated."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Send an input, wait until the turn has ended, and print the answer; with --json all its events.

    While another turn runs, it is refused, unless it has a --behavior. `sessile inputs` shows what waits.

    Example: sessile events send helper first "Where is A-1042?"

    Example: sessile events send helper first --json < question.txt

    Example: sessile events send helper first "What is in it?" --file report.csv
    """
    content = documents.read_text(text)
    files = [documents.readable(path) for path in file or ()]
    with server(url, api_key) as client:
        answer = client.events.send(agent, session, content, timeout=timeout, behavior=_chosen(behavior), files=files)
    _print(answer, as_json=as_json)
    if answer.reason is not None or not answer.events:
        output.remark(_WAITED.get(answer.reason, f"It waits. See: sessile inputs list {agent} {session}"))
        raise typer.Exit(faults.FAILED)
    leave_by(answer.status, answer.stop_reason, answer.error, f"{agent} {session} {answer.turn_id}")


@app.command("tool-output")
def tool_output(
    agent: AgentKey,
    session: SessionKey,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The id of the call that waits: aev_…")],
    text: Annotated[
        str | None,
        typer.Argument(metavar="OUTPUT", help="JSON or text; `-`, or nothing, takes all of standard input."),
    ] = None,
    failed: Annotated[bool, typer.Option("--error", help="The call failed, and OUTPUT says why.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="How long to wait; the turn goes on.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Answer a client tool call. After the last one the turn goes on: wait until it has ended, and print the answer.

    What is no JSON object is sent as one: {"result": OUTPUT}.

    Example: sessile events tool-output helper first aev_0123456789 '{"ok": true}'

    Example: sessile events tool-output helper first aev_0123456789 --error "No."
    """
    content = documents.read_text(text)
    outputs = {} if failed else {event: documents.tool_output(content)}
    errors = {event: content} if failed else {}
    with server(url, api_key) as client:
        answer = client.events.send_tool_outputs(agent, session, outputs, errors=errors, timeout=timeout)
    _print(answer, as_json=as_json)
    leave_by(answer.status, answer.stop_reason, answer.error, f"{agent} {session} {answer.turn_id}")


@app.command()
def interrupt(
    agent: AgentKey,
    session: SessionKey,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="How long to wait; the turn stops all the same.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Stop the turn that runs, wait until it has stopped, and print what was kept of its answer.

    Example: sessile events interrupt helper first
    """
    with server(url, api_key) as client:
        answer = client.events.interrupt(agent, session, timeout=timeout)
    _print(answer, as_json=as_json)
    if answer.status == "running":
        output.remark(f"It has not stopped yet. Wait for it: sessile turns wait {agent} {session} {answer.turn_id}")
        raise typer.Exit(faults.FAILED)
    if not answer.turn_id:
        output.remark("No turn was running.")
    elif answer.stop_reason == "interrupted":
        output.remark("Interrupted.")
    else:
        output.remark(f"The turn had its own end first: {answer.stop_reason or 'the session was deleted'}.")


@app.command()
def follow(
    agent: AgentKey,
    session: SessionKey,
    since: Annotated[
        str, typer.Option(metavar="WHERE", help="Where to begin: `start`, after the event with this id, or `now`.")
    ] = "start",
    deltas: Annotated[bool, typer.Option("--deltas/--no-deltas", help="Whether to show answers as they come.")] = True,
    include_hidden: Annotated[bool, typer.Option("--include-hidden", help="Hidden events too.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show a session as it goes on, from turn to turn, until it is deleted; Ctrl-C leaves.

    A lost connection is made again by itself, for as long as it takes, and nothing is shown twice.

    Example: sessile events follow helper first

    Example: sessile events follow helper first --since now --no-deltas --json
    """
    show, finish = (_as_lines, lambda: None) if as_json else _on_screen()

    def lost(error: SessileError) -> None:
        finish()
        output.remark("(The connection to the server is lost; waiting for it. Ctrl-C leaves.)")

    with server(url, api_key) as client:
        follower = client.events.follow(
            agent,
            session,
            since=since,
            deltas=deltas,
            include_hidden=include_hidden,
            on_lost=lost,
            on_found=lambda: output.remark("(The server is there again.)"),
        )
        try:
            with follower:
                for item in follower:
                    show(item)
        except KeyboardInterrupt:
            finish()
            output.remark(f"(Go on later with --since {follower.last_event_id})")
            raise typer.Exit(faults.INTERRUPTED) from None
        finally:
            finish()


def _as_lines(item: Followed) -> None:
    output.json_line(item.data if isinstance(item, UnknownEvent) else item)
    sys.stdout.flush()


def _on_screen() -> tuple[Callable[[Followed], None], Callable[[], None]]:
    """What shows an item as a conversation does, and what ends a line that is unfinished."""
    screen, transcript = Screen(sys.stdout, sys.stdout), Transcript()

    def show(item: Followed) -> None:
        live = getattr(item, "sequence", 0) == 0
        screen.show(transcript.frame(item) if live else transcript.event(item))

    return show, screen.finish


@app.command("list")
def list_(
    agent: AgentKey,
    session: SessionKey,
    order: Annotated[Order, typer.Option(help="Oldest first, or newest first.")] = Order.ASC,
    type: Annotated[
        list[str] | None, typer.Option(metavar="TYPE", help="Only events of this type; may be repeated.")
    ] = None,
    records: Annotated[bool, typer.Option("--records", help="Turn starts and ends too.")] = False,
    include_hidden: Annotated[bool, typer.Option("--include-hidden", help="Hidden events too.")] = False,
    limit: Limit = None,
    everything: Everything = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the log of a session.

    Example: sessile events list helper first --order desc --limit 5

    Example: sessile events list helper first --type tool_input --json
    """
    shown = output.cut(limit, everything, as_json=as_json)
    with server(url, api_key) as client:
        events = client.events.list(
            agent,
            session,
            order="asc" if order is Order.ASC else "desc",
            types=type,
            records=records,
            include_hidden=include_hidden,
            limit=shown.page_size,
        )
        output.listing(events, _COLUMNS, shown, as_json=as_json, document=_document)


@app.command()
def get(
    agent: AgentKey,
    session: SessionKey,
    event: EventId,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show one event; with --json the whole of it.

    Example: sessile events get helper first aev_0123456789 --json
    """
    with server(url, api_key) as client:
        found = client.events.get(agent, session, event)
    if as_json:
        output.json_line(_document(found))
        return
    output.details(
        [
            ("id", found.id),
            ("type", event_type(found)),
            ("sequence", str(found.sequence)),
            ("turn", getattr(found, "turn_id", "")),
            ("created", output.when(getattr(found, "created_at", ""))),
            ("text", getattr(found, "content", None) or summary(found)),
        ]
    )


@app.command()
def hide(agent: AgentKey, session: SessionKey, event: EventId, url: Url = None, api_key: ApiKey = None) -> None:
    """Hide an event from the model, and from readers that do not ask for hidden ones.

    Example: sessile events hide helper first aev_0123456789
    """
    with server(url, api_key) as client:
        client.events.hide(agent, session, event)
    output.remark(f"{event} is hidden. Show it again: sessile events unhide {agent} {session} {event}")


@app.command()
def unhide(agent: AgentKey, session: SessionKey, event: EventId, url: Url = None, api_key: ApiKey = None) -> None:
    """Show a hidden event again.

    Example: sessile events unhide helper first aev_0123456789
    """
    with server(url, api_key) as client:
        client.events.unhide(agent, session, event)
    output.remark(f"{event} is visible.")


@app.command()
def delete(
    agent: AgentKey, session: SessionKey, event: EventId, yes: Yes = False, url: Url = None, api_key: ApiKey = None
) -> None:
    """Delete an event: what it holds is erased for good, and its place in the log stays.

    Example: sessile events delete helper first aev_0123456789 --yes
    """
    output.confirm(f"Delete the event {event} for good?", yes=yes)
    with server(url, api_key) as client:
        client.events.delete(agent, session, event)
    output.remark(f"{event} is deleted.")


def _chosen(behavior: Behavior | None) -> Literal["steer", "follow_up"] | None:
    if behavior is None:
        return None
    return "steer" if behavior is Behavior.STEER else "follow_up"


def _print(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        output.json_line({**structs.asdict(answer), "events": [_document(event) for event in answer.events]})
    elif answer.text:
        output.line(answer.text)


def _document(event: Event) -> Any:
    """An event as the server sent it."""
    return event.data if isinstance(event, UnknownEvent) else event
