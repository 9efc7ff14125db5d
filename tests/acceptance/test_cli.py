"""The command line beside a running server: keys, tenants, help."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import pytest_asyncio

from acceptance.stage import WAIT_SECONDS, Stage, eventually, refused
from sessile.testing.script import say
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


Done = subprocess.CompletedProcess[str]
HELP: list[tuple[list[str], list[str]]] = [
    ([], ["serve", "keys", "tenants"]),
    (["serve"], ["--host", "--port", "--data", "--config", "--no-auth", "--sample"]),
    (["keys", "create"], ["--role", "--agent-role", "--tenant"]),
    (["tenants"], ["create", "list"]),
]
REFUSALS: list[tuple[list[str], str]] = [
    (["keys", "create", "x", "--role", "emperor"], "emperor"),
    (["keys", "create", "x", "--role", "[/bold]"], "[/bold]"),
    (["keys", "create", "x"], "--role"),
    (["keys", "create", "x", "--agent-role", "agt=owner"], "agt=owner"),
    (["keys", "create", "x", "--role", "owner", "--tenant", "nobody"], "nobody"),
    (["keys", "list", "--tenant", "nobody"], "nobody"),
    (["keys", "revoke", "key_0000"], "key_0000"),
    (["tenants", "create", "default"], "default"),
    (["tenants", "create", "not a key"], "0-9 a-z A-Z"),
    (["tenants", "create", "newline\n"], "0-9 a-z A-Z"),
    (["keys", "list", "--config", "absent.toml"], "absent.toml"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def helps() -> list[Done]:
    """What every command of HELP did; they run side by side, because each costs a start of the interpreter."""
    return await asyncio.gather(*(sessile(*arguments, "--help") for arguments, _ in HELP))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def refusals(stage: Stage) -> list[Done]:
    """What every command of REFUSALS did."""
    return await asyncio.gather(*(sessile(*arguments, *data_of(stage)) for arguments, _ in REFUSALS))


async def sessile(*arguments: str) -> Done:
    """Run a command."""
    command = [sys.executable, "-m", "sessile", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )


def data_of(stage: Stage) -> list[str]:
    return ["--data", str(stage.server.data)]


async def administer(stage: Stage, *arguments: str) -> str:
    """Run a command on the data of the server, which must succeed; returns what it printed."""
    done = await sessile(*arguments, *data_of(stage))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


async def create_key(stage: Stage, *arguments: str) -> str:
    """Make a key; what is printed is the secret and nothing else."""
    secret = (await administer(stage, "keys", "create", *arguments)).removesuffix("\n")
    assert secret.startswith("sk-sessile-")
    assert not set(secret) & set(" \n\t")
    return secret


async def key_ids(stage: Stage, *arguments: str) -> dict[str, str]:
    """The id of every key by its name."""
    lines = (await administer(stage, "keys", "list", *arguments)).splitlines()
    return {line.split("\t")[1]: line.split("\t")[0] for line in lines}


async def ask(
    stage: Stage, secret: str, method: str, path: str, body: Mapping[str, Any] | None = None
) -> httpx.Response:
    return await stage.client.request(method, path, json=body, headers={"x-api-key": secret})


@pytest.mark.parametrize(("arguments", "words"), HELP)
async def test_help_names_what_there_is(helps: list[Done], arguments: list[str], words: list[str]) -> None:
    done = helps[HELP.index((arguments, words))]
    assert done.returncode == 0
    assert [word for word in words if word not in done.stdout] == []


async def test_a_new_key_works_at_once_with_exactly_its_role(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    secret = await create_key(stage, "web shop", "--role", "agent_user")
    upstream.add(say("Hi."))
    assert (await ask(stage, secret, "POST", f"{session}/events", {"content": "Hello."})).status_code == 201
    assert (await ask(stage, secret, "GET", session)).status_code == 200
    refused(await ask(stage, secret, "GET", f"{session}/events"), 403, "forbidden")
    refused(await ask(stage, secret, "PATCH", session, {}), 403, "forbidden")
    refused(await ask(stage, secret, "DELETE", session), 403, "forbidden")
    refused(await ask(stage, secret, "GET", "/v2/agents"), 403, "forbidden")


async def test_a_key_may_hold_roles_for_single_agents(stage: Stage) -> None:
    session, other = await stage.conversation(), await stage.conversation()
    secret = await create_key(stage, "one", "--agent-role", f"{session.split('/')[3]}=agent_viewer")
    assert (await ask(stage, secret, "GET", session)).status_code == 200
    refused(await ask(stage, secret, "GET", other), 403, "forbidden")
    refused(await ask(stage, secret, "PATCH", session, {}), 403, "forbidden")


async def test_a_revoked_key_is_refused_within_seconds_and_no_list_shows_a_secret(stage: Stage) -> None:
    secret = await create_key(stage, "[red]odd\tname\n", "--role", "viewer")
    assert (await ask(stage, secret, "GET", "/v2/agents")).status_code == 200
    key_id = (await key_ids(stage))["[red]odd name"]
    await administer(stage, "keys", "revoke", key_id)

    async def probe() -> bool:
        return (await ask(stage, secret, "GET", "/v2/agents")).status_code == 401

    async with asyncio.timeout(5):
        await eventually(probe)
    shown = await administer(stage, "keys", "list")
    (line,) = [line for line in shown.splitlines() if line.startswith(key_id)]
    assert line.split("\t")[4] != ""
    assert secret.removeprefix("sk-sessile-")[:8] not in shown
    assert (await stage.client.get("/v2/agents")).status_code == 200


async def test_the_owner_of_another_tenant_sees_nothing_of_the_first(stage: Stage) -> None:
    session = await stage.conversation()
    agent = session.split("/")[3]
    secret = (await administer(stage, "tenants", "create", "second", "--name", "The second")).strip()
    tenants = [line.split("\t")[:2] for line in (await administer(stage, "tenants", "list")).splitlines()]
    assert [key for key, _ in tenants] == ["default", "second"]
    assert tenants[1][1] == "The second"
    assert (await ask(stage, secret, "GET", "/v2/agents")).json()["agents"] == []
    for path in (f"/v2/agents/{agent}", session, f"{session}/events"):
        refused(await ask(stage, secret, "GET", path), 404, "not_found")
    body = {"key": agent, "name": "The same key", "model": {"name": "scripted"}}
    assert (await ask(stage, secret, "POST", "/v2/agents", body)).status_code == 201
    assert (await stage.get(f"/v2/agents/{agent}"))["name"] == "Support"
    more = await create_key(stage, "more", "--role", "viewer", "--tenant", "second")
    assert [one["name"] for one in (await ask(stage, more, "GET", "/v2/agents")).json()["agents"]] == ["The same key"]
    assert set(await key_ids(stage, "--tenant", "second")) == {"owner", "more"}
    mine = await key_ids(stage)
    assert "more" not in mine
    done = await sessile("keys", "revoke", next(iter(mine.values())), "--tenant", "second", *data_of(stage))
    assert (done.returncode, "There is no key" in done.stderr) == (1, True)
    assert (await stage.client.get("/v2/agents")).status_code == 200


@pytest.mark.parametrize(("arguments", "words"), REFUSALS)
async def test_what_cannot_be_done_is_one_clear_line(refusals: list[Done], arguments: list[str], words: str) -> None:
    done = refusals[REFUSALS.index((arguments, words))]
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sessile: ")
    assert words in line


async def test_what_could_not_be_done_left_nothing_behind(stage: Stage, refusals: list[Done]) -> None:
    assert "x" not in await key_ids(stage)
    assert "not a key" not in await administer(stage, "tenants", "list")
