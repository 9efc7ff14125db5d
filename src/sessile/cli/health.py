"""`sessile health`."""

import typer

from sessile.cli import faults, output
from sessile.cli.options import DEFAULT_URL, Json, Url
from sessile.cli.remote import server

app = typer.Typer(add_completion=False)


@app.command()
def health(url: Url = None, as_json: Json = False) -> None:
    """Ask whether a server answers and is ready.

    The exit code is 3 when nobody answers, and 1 when the server cannot store anything.

    Example: sessile health --url http://127.0.0.1:8700
    """
    where = url or DEFAULT_URL
    with server(url, None) as client:
        client.health()
        ready = client.ready()
    if as_json:
        output.json_line({"url": where, "ready": ready})
    else:
        output.line(f"The Sessile server at {where} answers and is {'ready' if ready else 'NOT ready'}.")
    if not ready:
        raise typer.Exit(faults.FAILED)
