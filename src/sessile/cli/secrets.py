"""`sessile secrets`: list, set, remove over HTTP, of an agent or a session; rotate-key on a data folder.

A value is never an argument.
"""

import asyncio
import sys
from typing import Annotated

import typer

from sessile.cli import output
from sessile.cli.options import AgentKey, ApiKey, ConfigFile, Data, Json, Url
from sessile.cli.remote import server
from sessile.compose.storage import rotate_secrets_key
from sessile.config import load

app = typer.Typer(
    help="""Secrets of agents, sessions: list, set, remove; rotate their key.

    Example: sessile secrets list helper
    """,
    no_args_is_help=True,
    add_completion=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the secret.")]
Of = Annotated[
    str | None, typer.Option("--session", metavar="SESSION", help="Of this session of the agent, whose own win.")
]


@app.command("list")
def list_(agent: AgentKey, session: Of = None, url: Url = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """List the names of the secrets of an agent, or of one of its sessions.

    Example: sessile secrets list helper
    """
    with server(url, api_key) as client:
        if session is None:
            names = list(client.agents.get_secrets(agent))
        else:
            names = list(client.sessions.get(agent, session).secrets or {})
    output.listing(names, [output.Column("NAME", lambda name: name)], output.Cut(None), as_json=as_json)


@app.command("set")
def set_(agent: AgentKey, name: Name, session: Of = None, url: Url = None, api_key: ApiKey = None) -> None:
    """Set a secret of an agent or of a session: to what is typed, unseen, or to the first line of standard input.

    Example: sessile secrets set helper shop_token < token.txt
    """
    if sys.stdin.isatty():
        value = typer.prompt("Value", hide_input=True, err=True)
    else:
        value = sys.stdin.readline().rstrip("\r\n")
    _change(agent, session, {name: value}, url, api_key)
    output.remark(f"{name} is set.")


@app.command()
def remove(agent: AgentKey, name: Name, session: Of = None, url: Url = None, api_key: ApiKey = None) -> None:
    """Remove a secret of an agent or of a session.

    Example: sessile secrets remove helper shop_token
    """
    _change(agent, session, {name: None}, url, api_key)
    output.remark(f"{name} is removed.")


@app.command()
def rotate_key(data: Data = None, config: ConfigFile = None) -> None:
    """Encrypt all secrets of a data folder with a new key, also beside a running server.

    The old key is forgotten when nothing needs it any more. One that was cut off is finished by the next one.

    Example: sessile secrets rotate-key
    """
    moved = asyncio.run(rotate_secrets_key(load(config, {"data": data})))
    output.remark(f"A new key is in use; {moved} secrets were encrypted anew.")


def _change(
    agent: str, session: str | None, changes: dict[str, str | None], url: str | None, api_key: str | None
) -> None:
    with server(url, api_key) as client:
        if session is None:
            client.agents.update_secrets(agent, changes)
        else:
            client.sessions.update(agent, session, secrets=changes)
