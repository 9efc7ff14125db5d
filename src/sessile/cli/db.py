"""`sessile db`: migrate, check, size. They work on a database, `check` and `size` beside a running server too."""

from typing import Annotated

import typer

from sessile.cli import faults, output, upkeep
from sessile.cli.options import ConfigFile, Data, Database, Json
from sessile.config import load
from sessile.service.upkeep import Finding

app = typer.Typer(
    help="""The database: bring it up to date, check it, see what is large.

    Example: sessile db size
    """,
    no_args_is_help=True,
    add_completion=False,
)

_TABLES = [
    output.Column("TABLE", lambda table: table.name),
    output.Column("ROWS", lambda table: str(table.rows)),
    output.Column("BYTES", lambda table: str(table.bytes)),
]
_SESSIONS = [
    output.Column("TENANT", lambda session: session.tenant_key),
    output.Column("AGENT", lambda session: session.agent_key, flexible=True),
    output.Column("SESSION", lambda session: session.session_key, flexible=True),
    output.Column("EVENTS", lambda session: str(session.events)),
    output.Column("BYTES", lambda session: str(session.bytes)),
]


@app.command()
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Bring the database to the schema of this version; prints what was done.

    `sessile serve` does it by itself when it starts. No server may run on a database file; servers on PostgreSQL may.

    Example: sessile db migrate --dry-run
    """
    settings = load(config, {"data": data, "database": database})
    names = upkeep.pending(settings) if dry_run else upkeep.migrate(settings)
    for name in names:
        output.line(name)
    if not names:
        output.remark("Nothing to do.")


@app.command()
def check(data: Data = None, database: Database = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Check the database itself, and the log of every session against the rules of a transcript.

    Prints what is wrong and where; the exit code is 1 then.

    Example: sessile db check
    """
    ok = True

    def show(finding: Finding) -> None:
        nonlocal ok
        ok = False
        if as_json:
            output.json_line(finding)
        else:
            output.line("\t".join([_place(finding), finding.rule, finding.message]))

    checked = upkeep.check(load(config, {"data": data, "database": database}), show)
    output.remark(f"{checked.sessions} sessions, {checked.events} events: {'all is well' if ok else 'see above'}.")
    if not ok:
        raise typer.Exit(faults.FAILED)


@app.command()
def size(
    sessions: Annotated[int, typer.Option(min=0, metavar="N", help="How many of the largest sessions to show.")] = 10,
    data: Data = None,
    database: Database = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show rows and bytes of every table with its indexes, and the sessions with the largest logs.

    It reads every event.

    Example: sessile db size --sessions 3
    """
    sizes = upkeep.size(load(config, {"data": data, "database": database}), sessions)
    if as_json:
        output.json_line(sizes)
        return
    output.table(_TABLES, sizes.tables)
    if sizes.sessions:
        output.line("")
        output.table(_SESSIONS, sizes.sessions)


def _place(finding: Finding) -> str:
    if finding.agent is None:
        return "database"
    if finding.session is None:
        return f"{finding.tenant}/{finding.agent}"
    return f"{finding.tenant}/{finding.agent}/{finding.session}:{finding.sequence}"
