"""`sessile artifacts`: list the files of a session, get one."""

from pathlib import Path
from typing import Annotated

import typer

from sessile.cli import output
from sessile.cli.options import AgentKey, ApiKey, Everything, Json, Limit, SessionKey, Url
from sessile.cli.remote import server

app = typer.Typer(
    help="""Files of a session: list, get.

    Example: sessile artifacts list helper first
    """,
    no_args_is_help=True,
    add_completion=False,
)

_COLUMNS = [
    output.Column("ID", lambda artifact: artifact.artifact_id),
    output.Column("NAME", lambda artifact: artifact.filename, flexible=True),
    output.Column("TYPE", lambda artifact: artifact.mime_type, flexible=True),
    output.Column("BYTES", lambda artifact: str(artifact.size_bytes)),
    output.Column("CREATED", lambda artifact: output.when(artifact.created_at)),
    output.Column("SHA-256", lambda artifact: artifact.checksum_sha256, for_people=False),
]


@app.command("list")
def list_(
    agent: AgentKey,
    session: SessionKey,
    limit: Limit = None,
    everything: Everything = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the files of a session, newest first.

    Example: sessile artifacts list helper first --json
    """
    shown = output.cut(limit, everything, as_json=as_json)
    with server(url, api_key) as client:
        artifacts = client.artifacts.list(agent, session, limit=shown.page_size)
        output.listing(artifacts, _COLUMNS, shown, as_json=as_json)


@app.command()
def get(
    agent: AgentKey,
    session: SessionKey,
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The id of the file: art_…")],
    target: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; what stands there is replaced.")
    ],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write the content of a file to the disk, after its hash was checked.

    Example: sessile artifacts get helper first art_0123456789 --output report.csv
    """
    if target.is_dir() or not target.parent.is_dir():
        raise typer.BadParameter("must be a file in a folder that exists.", param_hint="--output")
    with server(url, api_key) as client:
        size = client.artifacts.download(agent, session, artifact, target)
    output.remark(f"{size} bytes written to {target}.")
