"""`sessile turns`: get one, wait for its end."""

from typing import Annotated, Any

import typer

from sessile.cli import faults, output
from sessile.cli.options import AgentKey, ApiKey, Json, SessionKey, TurnId, Url
from sessile.cli.remote import server
from sessile.wire.events import Turn, TurnError

app = typer.Typer(
    help="""Turns of a session: get one, wait for its end.

    Example: sessile turns get helper first trn_0123456789
    """,
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def get(
    agent: AgentKey,
    session: SessionKey,
    turn: TurnId,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show how a turn stands.

    Example: sessile turns get helper first trn_0123456789
    """
    with server(url, api_key) as client:
        _show(client.turns.get(agent, session, turn), as_json=as_json)


@app.command()
def wait(
    agent: AgentKey,
    session: SessionKey,
    turn: TurnId,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="How long at most; without end by default.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Wait until a turn has ended, and show it. The exit code is 5 when it ended badly, 1 when time ran out.

    Example: sessile turns wait helper first trn_0123456789 --timeout 60
    """
    with server(url, api_key) as client:
        ended = client.turns.wait(agent, session, turn, timeout=timeout)
    _show(ended, as_json=as_json)
    leave_by(ended.status, ended.stop_reason, ended.error, f"{agent} {session} {turn}")


def leave_by(status: str, stop_reason: str | None, error: TurnError | None, names: str) -> None:
    """Leave with an exit code when a turn did not end well, or has not ended; `names` are agent, session and turn.

    Raises typer.Exit.
    """
    if status == "running":
        output.remark(f"The turn goes on. Wait for it: sessile turns wait {names}")
        raise typer.Exit(faults.FAILED)
    if stop_reason == "requires_action":
        agent, session, _ = names.split()
        output.remark(f"The turn waits for client tools: sessile sessions pending {agent} {session}")
    if error is not None:
        output.remark(f"The turn ended badly: {error.message} ({error.code})")
    if stop_reason != "end_turn":
        raise typer.Exit(faults.TURN_FAILED)


def _show(turn: Turn, *, as_json: bool) -> None:
    if as_json:
        output.json_line(turn)
        return
    fields: list[tuple[str, Any]] = [
        ("id", turn.id),
        ("status", f"{turn.status} ({turn.stop_reason})" if turn.stop_reason else turn.status),
        ("error", f"{turn.error.message} ({turn.error.code})" if turn.error else ""),
        ("input", turn.input_event_id or "none: a compaction"),
        ("model calls", str(turn.usage.model_calls)),
        ("tokens", f"{turn.usage.input_tokens} in, {turn.usage.output_tokens} out"),
        ("created", output.when(turn.created_at)),
        ("ended", output.when(turn.ended_at) if turn.ended_at else ""),
    ]
    output.details(fields)
