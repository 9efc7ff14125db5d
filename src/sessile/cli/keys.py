"""`sessile keys`: create, list, revoke. They work on a data folder, beside a running server or without one."""

from typing import Annotated

import typer

from sessile.cli import admin, output
from sessile.cli.options import ConfigFile, Data, Database, Json, Tenant
from sessile.config import load

app = typer.Typer(
    help="""API keys of a data folder, or of a PostgreSQL database.

    Example: sessile keys list
    """,
    no_args_is_help=True,
    add_completion=False,
)

_COLUMNS = [
    output.Column("ID", lambda key: key.id),
    output.Column("NAME", lambda key: key.name, flexible=True),
    output.Column("ROLES", lambda key: key.roles, flexible=True),
    output.Column("CREATED", lambda key: key.created_at),
    output.Column("REVOKED", lambda key: key.revoked_at or ""),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    role: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="A role for everything; may be repeated.")
    ] = None,
    agent_role: Annotated[
        list[str] | None, typer.Option(metavar="AGENT=ROLE", help="A role for one agent; may be repeated.")
    ] = None,
    tenant: Tenant = admin.DEFAULT_TENANT,
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Make an API key and print its secret, once.

    Example: sessile keys create "web shop" --role agent_user
    """
    print(
        admin.create_key(load(config, {"data": data, "database": database}), tenant, name, role or [], agent_role or [])
    )


@app.command("list")
def list_(
    tenant: Tenant = admin.DEFAULT_TENANT,
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show the keys of a tenant, never their secrets.

    Example: sessile keys list --tenant default
    """
    keys = admin.list_keys(load(config, {"data": data, "database": database}), tenant)
    output.listing(keys, _COLUMNS, output.Cut(None), as_json=as_json)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The id that `keys list` shows.")],
    tenant: Tenant = admin.DEFAULT_TENANT,
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Revoke a key for ever. A running server refuses it within a second.

    Example: sessile keys revoke key_0123456789abcdef
    """
    admin.revoke_key(load(config, {"data": data, "database": database}), tenant, key_id)
    output.remark(f"{key_id} is revoked.")
