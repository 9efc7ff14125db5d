"""`sessile tool-servers`: list, get, create, sync, tools, delete."""

from typing import Annotated, Any

import typer

from sessile.cli import documents, output
from sessile.cli.options import ApiKey, Everything, Json, Limit, Url, Yes
from sessile.cli.remote import server
from sessile.client import ToolServer

app = typer.Typer(
    help="""Tool servers (MCP): list, get, create, sync, tools, delete.

    Example: sessile tool-servers list
    """,
    no_args_is_help=True,
    add_completion=False,
)

ServerId = Annotated[str, typer.Argument(metavar="SERVER", help="The id of the tool server: tsr_…")]

_COLUMNS = [
    output.Column("ID", lambda found: found.id),
    output.Column("NAME", lambda found: found.name, flexible=True),
    output.Column("URI", lambda found: found.uri, flexible=True),
    output.Column("ENABLED", lambda found: output.yes_no(found.enabled)),
]
_TOOL_COLUMNS = [
    output.Column("ID", lambda tool: tool.id),
    output.Column("NAME", lambda tool: tool.name, flexible=True),
    output.Column("DESCRIPTION", lambda tool: tool.description, flexible=True),
    output.Column("ENABLED", lambda tool: output.yes_no(tool.enabled)),
]


@app.command("list")
def list_(
    limit: Limit = None,
    everything: Everything = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the tool servers, newest first.

    Example: sessile tool-servers list
    """
    shown = output.cut(limit, everything, as_json=as_json)
    with server(url, api_key) as client:
        output.listing(client.tool_servers.list(limit=shown.page_size), _COLUMNS, shown, as_json=as_json)


@app.command()
def get(tool_server: ServerId, url: Url = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Show a tool server.

    Example: sessile tool-servers get tsr_clock_0123456789abcdef
    """
    with server(url, api_key) as client:
        _show(client.tool_servers.get(tool_server), as_json=as_json)


@app.command()
def create(
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="The document as JSON; `-` reads it from standard input."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="A name for people.")] = None,
    uri: Annotated[str | None, typer.Option(metavar="URI", help="Where it answers.")] = None,
    transport: Annotated[
        str | None, typer.Option(metavar="NAME", help="`streamable-http` (the default) or `sse`.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Add a tool server and print its id. Options win over the file; credentials belong into the file.

    Example: sessile tool-servers create --name Time --uri https://example.com/mcp

    Example: sessile tool-servers create --file server.json
    """
    document: Any = {"transport": "streamable-http"} | (documents.read(file) if file else {})
    given = {"name": name, "uri": uri, "transport": transport}
    document |= {field: value for field, value in given.items() if value is not None}
    with server(url, api_key) as client:
        made = client.tool_servers.create(**document)
    if as_json:
        output.json_line(made)
    else:
        output.line(made.id)
    output.remark(f"Added. Ask it for its tools: sessile tool-servers sync {made.id}")


@app.command()
def sync(tool_server: ServerId, url: Url = None, api_key: ApiKey = None) -> None:
    """Ask a tool server for its tools.

    Example: sessile tool-servers sync tsr_clock_0123456789abcdef
    """
    with server(url, api_key) as client:
        client.tool_servers.sync(tool_server)
    output.remark(f"{tool_server} is synced. See its tools: sessile tool-servers tools {tool_server}")


@app.command()
def tools(
    tool_server: Annotated[
        str | None, typer.Argument(metavar="SERVER", help="The id of a tool server; all tools without it.")
    ] = None,
    limit: Limit = None,
    everything: Everything = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the tools of a tool server, or all: the functions of the server too.

    Example: sessile tool-servers tools
    """
    shown = output.cut(limit, everything, as_json=as_json)
    with server(url, api_key) as client:
        found = client.tools.list(tool_server_id=tool_server, limit=shown.page_size)
        output.listing(found, _TOOL_COLUMNS, shown, as_json=as_json)


@app.command()
def delete(tool_server: ServerId, yes: Yes = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Delete a tool server with its tools. Agents that name them stay.

    Example: sessile tool-servers delete tsr_clock_0123456789abcdef --yes
    """
    output.confirm(f"Delete the tool server {tool_server} with its tools?", yes=yes)
    with server(url, api_key) as client:
        client.tool_servers.delete(tool_server)
    output.remark(f"{tool_server} is deleted.")


def _show(found: ToolServer, *, as_json: bool) -> None:
    if as_json:
        output.json_line(found)
        return
    output.details(
        [
            ("id", found.id),
            ("name", found.name),
            ("description", found.description or ""),
            ("uri", found.uri),
            ("transport", found.transport),
            ("headers", ", ".join(found.headers)),
            ("enabled", output.yes_no(found.enabled)),
            ("created", output.when(found.created_at)),
            ("updated", output.when(found.updated_at)),
        ]
    )
