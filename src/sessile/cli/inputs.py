"""`sessile inputs`: list what waits while a turn runs, withdraw one."""

from typing import Annotated

import typer

from sessile.cli import output
from sessile.cli.options import AgentKey, ApiKey, Json, SessionKey, Url
from sessile.cli.remote import server

app = typer.Typer(
    help="""Inputs of a session that wait while a turn runs: list, withdraw.

    Example: sessile inputs list helper first
    """,
    no_args_is_help=True,
    add_completion=False,
)

_COLUMNS = [
    output.Column("ID", lambda input: input.id),
    output.Column("BEHAVIOR", lambda input: input.behavior),
    output.Column("TEXT", lambda input: input.content, flexible=True),
    output.Column("TURN", lambda input: input.turn_id or "", for_people=False),
    output.Column("CREATED", lambda input: input.created_at, for_people=False),
]


@app.command("list")
def list_(agent: AgentKey, session: SessionKey, url: Url = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """List the inputs that wait, in the order in which they get their turns.

    Example: sessile inputs list helper first --json
    """
    with server(url, api_key) as client:
        waiting = client.inputs.list(agent, session)
    output.listing(waiting, _COLUMNS, output.cut(None, True, as_json=as_json), as_json=as_json)


@app.command()
def withdraw(
    agent: AgentKey,
    session: SessionKey,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The id that the input waits under: aev_…")],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Withdraw an input that waits: it gets no turn.

    Example: sessile inputs withdraw helper first aev_0123456789
    """
    with server(url, api_key) as client:
        client.inputs.withdraw(agent, session, event)
    output.remark("Withdrawn.")
