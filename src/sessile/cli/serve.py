"""`sessile serve`."""

from typing import Annotated

import typer
from rich.console import Console

from sessile.cli import serving
from sessile.cli.options import ConfigFile, Data, Database
from sessile.config import load

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. 8700 by default.")] = None,
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
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
    given = {"host": host, "port": port, "data": data, "database": database, "no_auth": no_auth or None}
    settings = load(config, given)
    serving.serve(settings, config, sample, Console(highlight=False))
