"""The commands and their options."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sessile.cli import admin, serving
from sessile.config import Config, ConfigError, load
from sessile.wire.errors import SessileError

app = typer.Typer(
    name="sessile",
    help="An open, self-hosted home for the conversations between people and AI agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="API keys of a data folder.", no_args_is_help=True)
tenants_app = typer.Typer(help="Tenants of a data folder.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(tenants_app, name="tenants")

Data = Annotated[str | None, typer.Option(help="The data folder. [default: data]")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="The configuration. [default: sessile.toml if there]")]
Tenant = Annotated[str, typer.Option(help="The key of the tenant.")]

_out = Console(highlight=False)
_errors = Console(stderr=True, highlight=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [default: 8700]")] = None,
    data: Data = None,
    config: ConfigFile = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody in as the owner. For loopback only.")
    ] = False,
    sample: Annotated[
        str | None, typer.Option(help="An agent document (JSON) to create, with a session, if it is not there yet.")
    ] = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Example: sessile serve --data /var/lib/sessile --config sessile.toml
    """
    settings = _load(config, host=host, port=port, data=data, no_auth=no_auth or None)
    serving.serve(settings, config, sample, _out)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[list[str] | None, typer.Option(help="A role for everything; may be repeated.")] = None,
    agent_role: Annotated[
        list[str] | None, typer.Option(help="A role for one agent, as AGENT=ROLE; may be repeated.")
    ] = None,
    tenant: Tenant = admin.DEFAULT_TENANT,
    data: Data = None,
    config: ConfigFile = None,
) -> None:
    """Make an API key and print its secret, once.

    Example: sessile keys create "web shop" --role agent_user
    """
    secret = admin.create_key(_load(config, data=data), tenant, name, role or [], agent_role or [])
    print(secret)


@keys_app.command("list")
def keys_list(tenant: Tenant = admin.DEFAULT_TENANT, data: Data = None, config: ConfigFile = None) -> None:
    """Show the keys of a tenant, never their secrets."""
    keys = admin.list_keys(_load(config, data=data), tenant)
    rows = [(key.id, key.name, key.roles, key.created_at, key.revoked_at or "") for key in keys]
    _print_table(("id", "name", "roles", "created", "revoked"), rows)


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The id that `keys list` shows.")],
    tenant: Tenant = admin.DEFAULT_TENANT,
    data: Data = None,
    config: ConfigFile = None,
) -> None:
    """Revoke a key for ever. A running server refuses it within a second."""
    admin.revoke_key(_load(config, data=data), tenant, key_id)
    _errors.print(f"{key_id} is revoked.", markup=False)


@tenants_app.command("create")
def tenants_create(
    key: Annotated[str, typer.Argument(help="The tenant's key: 1 to 50 of 0-9 a-z A-Z _ -")],
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    data: Data = None,
    config: ConfigFile = None,
) -> None:
    """Make a tenant and print its first owner key, once."""
    print(admin.create_tenant(_load(config, data=data), key, name or key))


@tenants_app.command("list")
def tenants_list(data: Data = None, config: ConfigFile = None) -> None:
    """Show the tenants."""
    tenants = admin.list_tenants(_load(config, data=data))
    _print_table(("key", "name", "created"), [(tenant.key, tenant.name, tenant.created_at) for tenant in tenants])


def main() -> None:
    """Run the command line; a fault that is not ours to hide ends with a traceback, all others with one clear line."""
    try:
        app()
    except (ConfigError, SessileError) as error:
        _errors.print(f"sessile: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(1)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people, whose first column is never cut; lines with tabs for programs."""
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    if not _out.is_terminal:
        for row in cells:
            print("\t".join(row))
        return
    table = Table(Column(headings[0], no_wrap=True), *headings[1:])
    for row in cells:
        table.add_row(*map(Text, row))
    _out.print(table)


def _load(config: str | None, **overrides: object) -> Config:
    return load(config, overrides)
