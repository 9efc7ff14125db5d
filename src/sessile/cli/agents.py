"""`sessile agents`: list, get, create, update, replace, delete."""

from typing import Annotated, Any

import typer

from sessile.cli import documents, output
from sessile.cli.options import AgentKey, ApiKey, Description, Enabled, Everything, Filter, Json, Limit, Url, Yes
from sessile.cli.remote import server
from sessile.client import Agent

app = typer.Typer(
    help="""Agents: list, get, create, update, replace, delete.

    Example: sessile agents list
    """,
    no_args_is_help=True,
    add_completion=False,
)

File = Annotated[
    str | None,
    typer.Option("--file", "-f", metavar="FILE", help="The document as JSON; `-` reads it from standard input."),
]
Name = Annotated[str | None, typer.Option(metavar="TEXT", help="A name for people.")]
Model = Annotated[
    str | None, typer.Option(metavar="MODEL", help="A model of the server; `sessile models list` shows them.")
]
Instructions = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the agent is told; the template of its first step.")
]

_COLUMNS = [
    output.Column("KEY", lambda agent: agent.key),
    output.Column("NAME", lambda agent: agent.name, flexible=True),
    output.Column("MODEL", lambda agent: _model(agent), flexible=True),
    output.Column("ENABLED", lambda agent: output.yes_no(agent.enabled)),
    output.Column("UPDATED", lambda agent: output.when(agent.updated_at)),
]


@app.command("list")
def list_(
    enabled: Annotated[bool | None, typer.Option("--enabled/--disabled", help="Only those.")] = None,
    filter: Filter = None,
    limit: Limit = None,
    everything: Everything = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the agents, newest first.

    Example: sessile agents list --enabled --limit 5
    """
    shown = output.cut(limit, everything, as_json=as_json)
    with server(url, api_key) as client:
        output.listing(
            client.agents.list(enabled=enabled, filter=filter, limit=shown.page_size), _COLUMNS, shown, as_json=as_json
        )


@app.command()
def get(agent: AgentKey, url: Url = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Show an agent; with --json its whole document.

    Example: sessile agents get helper --json
    """
    with server(url, api_key) as client:
        _show(client.agents.get(agent), as_json=as_json)


@app.command()
def create(
    file: File = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Its key; the server makes one by default.")] = None,
    name: Name = None,
    model: Model = None,
    description: Description = None,
    instructions: Instructions = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Create an agent and print its key. Options win over the file.

    Example: sessile agents create --name Helper --model demo

    Example: sessile agents create --file agent.json --key helper
    """
    document = _document(file, key=key, name=name, model=model, description=description, instructions=instructions)
    with server(url, api_key) as client:
        agent = client.agents.create(**document)
    _written(agent, f"Created. Talk with it: sessile chat {agent.key}", as_json=as_json, show_key=True)


@app.command()
def update(
    agent: AgentKey,
    file: File = None,
    name: Name = None,
    model: Model = None,
    description: Description = None,
    instructions: Instructions = None,
    enabled: Enabled = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Change some fields of an agent; the others stay. A new --model comes without the parameters of the old one.

    Example: sessile agents update helper --disabled

    Example: sessile agents update helper --model demo --description "For tests"
    """
    document = _document(
        file, name=name, model=model, description=description, instructions=instructions, enabled=enabled
    )
    with server(url, api_key) as client:
        changed = client.agents.update(agent, **document)
    _written(changed, f"{changed.key} is updated.", as_json=as_json)


@app.command()
def replace(
    agent: AgentKey,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="The whole document as JSON; `-` is standard input.")
    ],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Replace an agent by a whole document, such as `agents get --json` prints.

    Example: sessile agents replace helper --file helper.json
    """
    document = documents.read_agent(file)
    with server(url, api_key) as client:
        replaced = client.agents.replace(agent, **document)
    _written(replaced, f"{replaced.key} is replaced.", as_json=as_json)


@app.command()
def delete(agent: AgentKey, yes: Yes = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Delete an agent with all its sessions.

    Example: sessile agents delete helper --yes
    """
    output.confirm(f"Delete the agent {agent} with all its sessions?", yes=yes)
    with server(url, api_key) as client:
        client.agents.delete(agent)
    output.remark(f"{agent} is deleted.")


def _document(file: str | None, *, model: str | None = None, instructions: str | None = None, **fields: Any) -> Any:
    """The document of the file with the fields of the options. Raises typer.BadParameter when there is neither."""
    document = documents.read_agent(file) | {name: value for name, value in fields.items() if value is not None}
    if model is not None:
        document["model"] = {**_object(document.get("model")), "name": model}
    if instructions is not None:
        inline = {"type": "inline", "name": "instructions", "template": instructions}
        document["first_step"] = {**_object(document.get("first_step")), "instructions": [inline]}
    if not document:
        raise typer.BadParameter("nothing is given: take --file, or options for single fields.")
    return document


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _written(agent: Agent, remark: str, *, as_json: bool, show_key: bool = False) -> None:
    if as_json:
        output.json_line(agent)
    elif show_key:
        output.line(agent.key)
    output.remark(remark)
    if agent.inactive_tools:
        output.remark(f"The server does not run these tools: {_names(agent.inactive_tools)}")


def _show(agent: Agent, *, as_json: bool) -> None:
    if as_json:
        output.json_line(agent)
        return
    output.details(
        [
            ("key", agent.key),
            ("name", agent.name),
            ("description", agent.description or ""),
            ("model", _model(agent)),
            ("enabled", output.yes_no(agent.enabled)),
            ("tools", ", ".join(agent.tool_configurations)),
            ("not run", _names(agent.inactive_tools or {})),
            ("created", output.when(agent.created_at)),
            ("updated", output.when(agent.updated_at)),
        ]
    )


def _model(agent: Agent) -> str:
    return str(agent.model.get("name", ""))


def _names(inactive: dict[str, str]) -> str:
    return ", ".join(f"{name} ({type})" for name, type in inactive.items())
