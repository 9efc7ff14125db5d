"""`sessile serve`."""

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import Console

from sessile.cli import faults, serving
from sessile.cli.options import ConfigFile, Data, Database
from sessile.cli.supervisor import Supervisor
from sessile.config import is_url, load

app = typer.Typer(add_completion=False)

ONE_WORKER = (
    "sessile: several workers need a PostgreSQL database: --database postgresql://… "
    "A database file belongs to one process; use --workers 1, or several servers with a database of their own."
)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. 8700 by default.")] = None,
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, metavar="N", help="Processes that share the port; more than one need PostgreSQL."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody in as the owner. For loopback only.")
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="An agent document (JSON) to create, with a session, unless it is there."),
    ] = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Example: sessile serve --data /var/lib/sessile --config sessile.toml
    """
    given = {
        "host": host,
        "port": port,
        "data": data,
        "database": database,
        "workers": workers,
        "no_auth": no_auth or None,
    }
    settings = load(config, given)
    console = Console(highlight=False)
    if settings.workers == 1:
        serving.serve(settings, config, sample, lambda told: serving.show(console, told))
        return
    if not is_url(settings.database):
        print(ONE_WORKER, file=sys.stderr)
        raise typer.Exit(faults.USAGE)
    supervisor = Supervisor(settings, config, sample, lambda told: serving.show(console, told))
    if code := asyncio.run(supervisor.run()):
        raise typer.Exit(code)
