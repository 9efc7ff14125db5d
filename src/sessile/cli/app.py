"""The root of the command line: which commands there are, and where they live. It imports none of them."""

import io
import sys
from typing import Annotated, Any

import typer

from sessile.cli import faults
from sessile.cli.lazy import Lazy, LazyGroup

TALK, SERVER = "Conversations, over HTTP", "A server, on this machine"

COMMANDS = {
    "chat": Lazy("sessile.cli.chat", "Talk with an agent.", TALK),
    "agents": Lazy("sessile.cli.agents", "Agents: list, get, create, update, replace, delete.", TALK),
    "sessions": Lazy(
        "sessile.cli.sessions",
        "Sessions of an agent: list, get, create, fork, update, check, pending, compact, export, import, delete.",
        TALK,
    ),
    "events": Lazy(
        "sessile.cli.events",
        "Events of a session: send, answer tools, interrupt, follow, list, get, hide, unhide, delete.",
        TALK,
    ),
    "inputs": Lazy("sessile.cli.inputs", "Inputs of a session that wait while a turn runs: list, withdraw.", TALK),
    "turns": Lazy("sessile.cli.turns", "Turns of a session: get one, wait for its end.", TALK),
    "artifacts": Lazy("sessile.cli.artifacts", "Files of a session: list, get.", TALK),
    "tool-servers": Lazy(
        "sessile.cli.tool_servers", "Tool servers (MCP): list, get, create, sync, tools, delete.", TALK
    ),
    "health": Lazy("sessile.cli.health", "Ask whether a server answers and is ready.", TALK),
    "secrets": Lazy("sessile.cli.secrets", "Secrets of agents, sessions: list, set, remove; rotate their key.", TALK),
    "serve": Lazy("sessile.cli.serve", "Run the server until SIGTERM or Ctrl-C.", SERVER),
    "models": Lazy("sessile.cli.models", "What models are configured, and whether they answer.", SERVER),
    "keys": Lazy("sessile.cli.keys", "API keys of a data folder, or of a PostgreSQL database.", SERVER),
    "tenants": Lazy("sessile.cli.tenants", "Tenants of a data folder, or of a PostgreSQL database.", SERVER),
    "db": Lazy("sessile.cli.db", "The database: bring it up to date, check it, see what is large.", SERVER),
}
"""Every command: a new one is a module and a line here."""

EPILOG = """
Example: sessile chat agt_customer_support

Commands over HTTP find the server by SESSILE_URL and SESSILE_API_KEY.

Exit codes:
  0  done
  1  the server refused or failed
  2  wrong usage
  3  the server cannot be reached, or went away
  4  not found
  5  the turn ended with an error, or was cut off by a limit
  130  Ctrl-C
  141  whoever read our output went away
"""


class Root(LazyGroup):
    """All commands, and the one place where an error becomes a message and an exit code."""

    table = COMMANDS

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with faults.handled(ctx.meta):
            return super().invoke(ctx)


app = typer.Typer(name="sessile", cls=Root, no_args_is_help=True, pretty_exceptions_enable=False, epilog=EPILOG)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # Here, because it takes long and --help does without.

        typer.echo(f"sessile {version('sessile')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """An open, self-hosted home for the conversations between people and AI agents."""


def main() -> None:
    """Run the command line and exit. Only a defect ends with a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # As stderr does it: what a locale lacks fails no command.
    app(prog_name="sessile")
