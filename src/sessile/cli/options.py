"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from sessile.cli import faults

DEFAULT_URL = "http://127.0.0.1:8700"


def _remember(ctx: typer.Context, wanted: bool) -> bool:
    if wanted:
        ctx.meta[faults.AS_JSON] = True
    return wanted


Url = Annotated[
    str | None, typer.Option(envvar="SESSILE_URL", metavar="URL", help=f"The server; {DEFAULT_URL} by default.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="SESSILE_API_KEY", metavar="KEY", help="An API key; better kept in the variable than typed."),
]
Json = Annotated[
    bool, typer.Option("--json", callback=_remember, help="Print JSON: one document, or one line for each of a list.")
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="How many at most; by default 20 on a terminal, and all for programs."),
]
Everything = Annotated[bool, typer.Option("--all", help="However many there are.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
IfMatch = Annotated[
    str | None, typer.Option(metavar="ETAG", help="Only if the session still has this ETag; `sessions get` shows it.")
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", metavar="REGEX", help="Only those whose name or description has this regular expression."),
]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.")]
Enabled = Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it takes inputs.")]

AgentKey = Annotated[str, typer.Argument(metavar="AGENT", help="The key of the agent.")]
SessionKey = Annotated[str, typer.Argument(metavar="SESSION", help="The key of the session.")]
TurnId = Annotated[str, typer.Argument(metavar="TURN", help="The id of the turn: trn_…")]
EventId = Annotated[str, typer.Argument(metavar="EVENT", help="The id of the event: aev_…")]

Data = Annotated[str | None, typer.Option(metavar="FOLDER", help="The data folder; `data` by default.")]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="A PostgreSQL database, postgresql://…, or a file; better kept in SESSILE_DATABASE."
    ),
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="The configuration; `sessile.toml` if it is there.")
]
Tenant = Annotated[str, typer.Option(metavar="TENANT", help="The key of the tenant.")]
