"""`sessile tenants`: create, list. They work on a data folder, beside a running server or without one."""

from typing import Annotated

import typer

from sessile.cli import admin, output
from sessile.cli.options import ConfigFile, Data, Database, Json
from sessile.config import load

app = typer.Typer(
    help="""Tenants of a data folder, or of a PostgreSQL database.

    Example: sessile tenants list
    """,
    no_args_is_help=True,
    add_completion=False,
)

_COLUMNS = [
    output.Column("KEY", lambda tenant: tenant.key),
    output.Column("NAME", lambda tenant: tenant.name, flexible=True),
    output.Column("CREATED", lambda tenant: tenant.created_at),
]


@app.command()
def create(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The tenant's key: 1 to 50 of 0-9 a-z A-Z _ -")],
    name: Annotated[str, typer.Option(metavar="TEXT", help="A name for people; the key by default.")] = "",
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Make a tenant and print its first owner key, once.

    Example: sessile tenants create acme --name "Acme Ltd."
    """
    print(admin.create_tenant(load(config, {"data": data, "database": database}), key, name or key))


@app.command("list")
def list_(data: Data = None, database: Database = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the tenants.

    Example: sessile tenants list
    """
    tenants = admin.list_tenants(load(config, {"data": data, "database": database}))
    output.listing(tenants, _COLUMNS, output.Cut(None), as_json=as_json)
