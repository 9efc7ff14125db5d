"""What the command line does before any command runs: a light start, help, version, completion, wrong usage."""

import asyncio
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import pytest_asyncio

from acceptance.cli_support import Done, environment, run
from acceptance.stage import WAIT_SECONDS

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

HEAVY = {"aiohttp", "starlette", "uvicorn", "sqlite3", "sessile.compose", "sessile.client", "sessile.api"}
NOWHERE = "http://127.0.0.1:9"
NAMED_SHELL = environment(NOWHERE, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
"""Typer's way to name a shell to `--show-completion`; without it the shell that calls is taken."""
TELLS_IMPORTS = """
import sys
from sessile.cli import main
try:
    main()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""
USAGE = [
    "agents get",
    "agents create",
    "agents create --file absent.json",
    "agents create --file -",
    "agents delete helper",
    "agents bogus",
    "bogus",
    "chat",
    "chat helper -m ''",
    "chat helper",
    "events list helper first --limit 0",
    "events list helper first --limit 3 --all",
    "events list helper first --order sideways",
    "events send helper first",
    "sessions create helper --metadata [1]",
    "sessions create helper --metadata {",
    "sessions update helper first",
]
"""Command lines that are wrong whatever a server would say; their stdin is empty."""


async def complete(words: str, place: int, shell: str = "bash") -> list[str]:
    """What a shell is offered for the word at `place`, through the protocol that its completion script speaks."""
    asked = {"_SESSILE_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    asked |= {"_TYPER_COMPLETE_ARGS": words}
    return (await run(environment(NOWHERE, **asked))).stdout.split()


async def imported(*arguments: str, **variables: str) -> tuple[str, set[str]]:
    """What a command line prints, and the modules that it imports."""
    command = [sys.executable, "-c", TELLS_IMPORTS, *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment(NOWHERE, **variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(WAIT_SECONDS):
        out, names = await process.communicate()
    assert process.returncode == 0, names.decode()
    return out.decode(), set(names.decode().split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--show-completion", "bash"]])
async def test_the_root_imports_nothing_heavy(arguments: list[str]) -> None:
    _, modules = await imported(*arguments)
    assert modules & HEAVY == set()


async def test_a_command_is_imported_when_it_is_used() -> None:
    (_, agents), (_, serve) = await asyncio.gather(imported("agents", "--help"), imported("serve", "--help"))
    assert "sessile.client" in agents
    assert "sessile.compose" not in agents
    assert "sessile.compose" in serve


async def test_the_version_is_the_installed_one() -> None:
    assert (await run(environment(NOWHERE), "--version")).stdout == f"sessile {version('sessile')}\n"


async def test_the_installed_script_is_this_command_line() -> None:
    script = shutil.which("sessile", path=str(Path(sys.executable).parent))
    assert script is not None
    process = await asyncio.create_subprocess_exec(script, "--version", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode() == f"sessile {version('sessile')}\n"


async def test_help_tells_the_exit_codes_and_hides_the_key() -> None:
    env = environment(NOWHERE, SESSILE_API_KEY="sk-secret")
    root, listing = await asyncio.gather(run(env, "--help"), run(env, "agents", "list", "--help"))
    assert "cannot be reached" in root.stdout
    assert "SESSILE_API_KEY" in listing.stdout
    assert "sk-secret" not in listing.stdout
    assert "\x1b" not in root.stdout + listing.stdout


@pytest.mark.parametrize(("shell", "sign"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete ")])
async def test_completion_scripts_are_shown_for_a_shell(shell: str, sign: str) -> None:
    shown = await run(NAMED_SHELL, "--show-completion", shell)
    assert shown.code == 0
    assert sign in shown.stdout
    assert "_SESSILE_COMPLETE" in shown.stdout


async def test_completion_knows_commands_and_options() -> None:
    top, group, options, after = await asyncio.gather(
        complete("sessile ", 1),
        complete("sessile agents cr", 2),
        complete("sessile agents create --", 3),
        complete("sessile events list a b --order ", 6),
    )
    assert {"chat", "agents", "serve", "models"} <= set(top)
    assert group == ["create"]
    assert {"--name", "--model", "--file", "--json"} <= set(options)
    assert set(after) == {"asc", "desc"}


async def test_completion_of_names_imports_no_command() -> None:
    """The first word of a command line is completed from the table."""
    asked = {"_SESSILE_COMPLETE": "complete_bash", "COMP_WORDS": "sessile a", "COMP_CWORD": "1"}
    names, modules = await imported(**asked)
    assert names.split() == ["agents", "artifacts"]
    assert modules & HEAVY == set()


@pytest.mark.parametrize("shell", ["bash"])
async def test_a_real_shell_completes_with_the_script(tmp_path: Path, shell: str) -> None:
    """The script of `--show-completion` in a real shell, asked as the shell asks it when Tab is pressed."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    script = await run(NAMED_SHELL, "--show-completion", shell)
    (tmp_path / "completion").write_text(script.stdout)
    asked = (
        f"PATH={Path(sys.executable).parent}:$PATH; source {tmp_path}/completion;"
        ' function_name=$(complete -p sessile | sed "s/.*-F \\([^ ]*\\).*/\\1/");'
        ' COMP_WORDS=(sessile sess); COMP_CWORD=1; $function_name sessile sess sessile; echo "${COMPREPLY[@]}"'
    )
    process = await asyncio.create_subprocess_exec(
        program, "--norc", "-c", asked, stdout=subprocess.PIPE, env=environment(NOWHERE)
    )
    out, _ = await process.communicate()
    assert out.decode().split() == ["sessions"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def refused() -> dict[str, Done]:
    """What every line of USAGE did; side by side, because each costs a start of the interpreter."""
    results = await asyncio.gather(*(run(environment(NOWHERE), *shlex.split(line)) for line in USAGE))
    return dict(zip(USAGE, results, strict=True))


@pytest.mark.parametrize("line", USAGE)
async def test_wrong_usage_is_told_before_any_server_is_asked(refused: dict[str, Done], line: str) -> None:
    done = refused[line]
    assert (done.code, done.stdout) == (2, "")
    assert "Usage: sessile" in done.stderr
