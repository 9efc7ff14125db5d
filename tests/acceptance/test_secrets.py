"""Secrets over HTTP: set, shown as masks, kept encrypted, found nowhere in the clear, and moved to another key."""

import asyncio
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance import tool_server_process
from acceptance.cli_support import environment, run
from acceptance.stage import Stage, eventually, refused
from sessile.client import AsyncClient
from sessile.domain.overrides import MASK as MASKED
from sessile.testing.script import call, say
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.secrets import MASK

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

BAD: list[Any] = [
    {"secrets": {"a": 1}},
    {"secrets": {"a": "x" * 4097}},
    {"secrets": {"a": ""}},
    {"secrets": {"a b": "x"}},
    {"secrets": {"a\n": "x"}},
    {"secrets": {"": "x"}},
    {"secrets": {"n" * 101: "x"}},
    {"secrets": {"a": MASK}},
    {"secrets": {f"n{number}": "x" for number in range(101)}},
    {"secrets": ["a"]},
    {"secrets": None},
]


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {
        "secret_tools": '''
def repeat(own: str, shared: str, both: str, times: int) -> dict:
    """Say it."""
    return {"said": [f"{own} {shared} {both}"] * times}


def stumble(own: str, shared: str, both: str, times: int) -> dict:
    """Fail."""
    raise RuntimeError(f"{own} {shared} {both}")
'''
    }


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return "".join(f'[tools.{name}]\nfunction = "secret_tools:{name}"\n' for name in ("repeat", "stumble"))


def a_secret() -> str:
    return f"hush-{secrets.token_hex(12)}"


def key_file(server: ServerProcess) -> Path:
    return server.data / "sessile.db.secrets-key"


def everything_on_disk(server: ServerProcess) -> bytes:
    return b"".join(path.read_bytes() for path in server.data.rglob("*") if path.is_file())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of its own."""
    with ServerProcess(tmp_path, 'log_level = "debug"') as server:
        yield server


def a_client(server: ServerProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30)


async def an_agent(client: httpx.AsyncClient, key: str = "helper") -> str:
    made = await client.post("/v2/agents", json={"key": key, "name": "H", "model": {"name": "demo"}})
    assert made.status_code == 201
    return f"/v2/agents/{key}"


async def test_secrets_of_an_agent_are_set_shown_masked_removed_and_replaced(stage: Stage) -> None:
    path = f"/v2/agents/{await stage.agent()}/secrets"
    assert await stage.get(path) == {"secrets": {}}
    put = await stage.client.put(path, json={"secrets": {"b": a_secret(), "a": a_secret()}})
    assert (put.status_code, put.json()) == (200, {"secrets": {"a": MASK, "b": MASK}})
    changed = await stage.client.patch(path, json={"secrets": {"a": None, "c": "1", "no": None}})
    assert changed.json() == {"secrets": {"b": MASK, "c": MASK}}
    assert (await stage.client.patch(path, json={"secrets": {}})).json() == changed.json()
    assert (await stage.client.put(path, json={"secrets": {"d": "2"}})).json() == {"secrets": {"d": MASK}}
    assert (await stage.client.put(path, json={"secrets": {}})).json() == await stage.get(path) == {"secrets": {}}


async def test_secrets_of_a_session_are_shown_wherever_it_is(stage: Stage) -> None:
    agent = await stage.agent()
    path = f"/v2/agents/{agent}/sessions"
    headers = {"idempotency-key": secrets.token_hex(8)}
    body = {"key": "s", "secrets": {"token": a_secret()}}
    for _ in range(2):
        made = await stage.client.post(path, json=body, headers=headers)
        assert (made.status_code, made.json()["secrets"]) == (201, {"token": MASK})
    assert (await stage.get(f"{path}/s"))["secrets"] == {"token": MASK}
    assert [one["secrets"] for one in (await stage.get(path))["sessions"]] == [{"token": MASK}]
    assert (await stage.get("/v2/sessions", agent_key=agent))["sessions"][0]["secrets"] == {"token": MASK}
    changed = await stage.client.patch(f"{path}/s", json={"secrets": {"token": None, "other": a_secret()}})
    assert (changed.json()["secrets"], changed.headers["etag"]) == ({"other": MASK}, '"2"')
    stale = await stage.client.patch(f"{path}/s", json={"secrets": {"other": None}}, headers={"if-match": '"1"'})
    refused(stale, 412, "precondition_failed")
    assert (await stage.client.patch(f"{path}/s", json={"name": "x"})).json()["secrets"] == {"other": MASK}
    gone = await stage.client.patch(f"{path}/s", json={"secrets": {"other": None}})
    assert "secrets" not in gone.json()
    assert "secrets" not in (await stage.client.post(path, json={})).json()


@pytest.mark.parametrize("body", BAD)
async def test_bad_secrets_are_refused_and_nothing_is_changed(stage: Stage, body: Any) -> None:
    agent = await stage.agent()
    session = await stage.session(agent)
    path = f"/v2/agents/{agent}/secrets"
    for answer in (
        await stage.client.put(path, json=body),
        await stage.client.patch(path, json=body),
        await stage.client.patch(session, json=body),
        await stage.client.post(f"/v2/agents/{agent}/sessions", json=body),
    ):
        told = refused(answer, 400, "invalid_request", *answer.json().get("field_errors", {}))
        assert "secrets" in str(told["field_errors"]), told
        assert "xxxx" not in answer.text
    assert await stage.get(path) == {"secrets": {}}
    assert "secrets" not in await stage.get(session)


async def test_what_is_missing_or_unknown_is_refused(stage: Stage) -> None:
    path = f"/v2/agents/{await stage.agent()}/secrets"
    for method in ("PUT", "PATCH"):
        refused(await stage.client.request(method, path, json={}), 400, "invalid_request", "secrets")
        refused(await stage.client.request(method, path, json={"secrets": {}, "x": 1}), 400, "invalid_request", "x")
        missing = await stage.client.request(method, "/v2/agents/nobody/secrets", json={"secrets": {"a": "b"}})
        refused(missing, 404, "not_found")
    refused(await stage.client.put(path, json={"secrets": {"a": None}}), 400, "invalid_request", "secrets[...]")
    refused(await stage.client.get("/v2/agents/nobody/secrets"), 404, "not_found")


async def test_secrets_together_have_a_number(stage: Stage) -> None:
    path = f"/v2/agents/{await stage.agent()}/secrets"
    many = {f"n{number}": "x" for number in range(100)}
    assert len((await stage.client.put(path, json={"secrets": many})).json()["secrets"]) == 100
    refused(await stage.client.patch(path, json={"secrets": {"one_more": "x"}}), 400, "invalid_request", "secrets")
    assert (await stage.client.patch(path, json={"secrets": {"one_more": "x", "n1": None}})).status_code == 200


async def test_only_administrators_may(stage: Stage) -> None:
    agent = await stage.agent()
    for role, status in (("agent_developer", 403), ("viewer", 403), ("agent_administrator", 200)):
        made = await run(
            environment(stage.server.url), "keys", "create", "k", "--role", role, "--data", str(stage.server.data)
        )
        headers = {"x-api-key": made.stdout.strip()}
        assert (await stage.client.get(f"/v2/agents/{agent}/secrets", headers=headers)).status_code == status


async def test_a_secret_is_nowhere_in_the_clear(server: ServerProcess) -> None:
    known = [a_secret() for _ in range(5)]
    answers = []
    async with a_client(server) as client:
        agent = await an_agent(client)
        answers.append(await client.put(f"{agent}/secrets", json={"secrets": {"a": known[0]}}))
        answers.append(await client.patch(f"{agent}/secrets", json={"secrets": {"b": known[1], "!": known[1]}}))
        answers.append(await client.post(f"{agent}/sessions", json={"key": "s", "secrets": {"c": known[2]}}))
        answers.append(await client.patch(f"{agent}/sessions/s", json={"secrets": {"c": known[3]}, "name": 1}))
        answers.append(await client.patch(f"{agent}/sessions/s", json={"secrets": {"c": known[4] + "x" * 5000}}))
        turn = await client.post(f"{agent}/sessions/s/events", json={"content": "Tell me your secrets."})
        answers += [turn, await client.get(f"{agent}/sessions/s/events"), await client.get(f"{agent}/sessions/s")]
    assert [answer.status_code for answer in answers] == [200, 400, 201, 400, 400, 201, 200, 200]
    server.terminate()
    told = "".join(answer.text for answer in answers) + server.stdout + server.stderr
    on_disk = everything_on_disk(server)
    assert b"Tell me your secrets." in on_disk
    for text in known:
        assert text not in told
        assert text.encode() not in on_disk


async def test_the_key_file_is_private_and_made_with_the_first_secret(server: ServerProcess) -> None:
    async with a_client(server) as client:
        agent = await an_agent(client)
        assert (await client.get(f"{agent}/secrets")).json() == {"secrets": {}}
        assert not key_file(server).exists()
        writes = (client.patch(f"{agent}/secrets", json={"secrets": {f"n{n}": "x"}}) for n in range(20))
        assert {answer.status_code for answer in await asyncio.gather(*writes)} == {200}
    assert stat.S_IMODE(key_file(server).stat().st_mode) == 0o600
    assert [path.name for path in server.data.iterdir() if path.name.startswith(key_file(server).name)] == [
        key_file(server).name
    ]


async def test_without_its_key_a_server_says_so_and_goes_on(server: ServerProcess) -> None:
    async with a_client(server) as client:
        agent = await an_agent(client)
        await client.put(f"{agent}/secrets", json={"secrets": {"a": "x"}})
    server.kill()
    kept = key_file(server).read_bytes()
    for harm in (key_file(server).unlink, lambda: key_file(server).write_text("garbage\n"), lambda: None):
        harm()
        if key_file(server).exists():
            os.chmod(key_file(server), 0o600)
        server.start()
        async with a_client(server) as client:
            answer = await client.patch(f"{agent}/secrets", json={"secrets": {"b": "y"}})
            refused(answer, 503, "secrets_unavailable")
            assert (await client.get(f"{agent}/secrets")).json() == {"secrets": {"a": MASK}}
            assert (await client.post(f"{agent}/sessions", json={})).status_code == 201
            key_file(server).write_bytes(kept)
            os.chmod(key_file(server), 0o644)
            refused(await client.patch(f"{agent}/secrets", json={"secrets": {"b": "y"}}), 503, "secrets_unavailable")
            os.chmod(key_file(server), 0o600)
            assert (await client.patch(f"{agent}/secrets", json={"secrets": {"a": "y"}})).status_code == 200
        server.kill()
        key_file(server).write_text("garbage\n")


async def test_the_key_is_changed_beside_a_server_that_writes(server: ServerProcess) -> None:
    async with a_client(server) as client:
        agent = await an_agent(client)
        await client.put(f"{agent}/secrets", json={"secrets": {f"n{n}": a_secret() for n in range(50)}})
        before = key_file(server).read_bytes()
        stop = asyncio.Event()
        statuses: list[int] = []

        async def write() -> None:
            number = 0
            while not stop.is_set():
                answer = await client.patch(f"{agent}/secrets", json={"secrets": {f"w{number % 20}": a_secret()}})
                statuses.append(answer.status_code)
                number += 1

        writer = asyncio.create_task(write())
        for _ in range(3):
            done = await run(environment(server.url), "secrets", "rotate-key", "--data", str(server.data))
            assert done.code == 0, done.stderr
        await eventually(lambda: asyncio.sleep(0, len(statuses) > 30))
        stop.set()
        await writer
    assert set(statuses) == {200}
    assert key_file(server).read_bytes() != before
    assert len(key_file(server).read_text().split()) == 1
    assert stat.S_IMODE(key_file(server).stat().st_mode) == 0o600


async def test_credentials_of_tool_servers_are_secrets_too(server: ServerProcess) -> None:
    token, team = a_secret(), a_secret()
    with tool_server_process.echo() as uri:
        async with a_client(server) as client:
            body = {"name": "T", "type": "mcp", "uri": uri, "transport": "streamable-http"}
            masked = await client.post("/v2/tool_servers", json=body | {"headers": {"x-team": "***"}})
            refused(masked, 400, "invalid_request", "headers")
            bare = await client.post("/v2/tool_servers", json=body)
            assert bare.json()["headers"] == {}
            assert not key_file(server).exists()
            auth = {"type": "bearer", "token": token}
            made = await client.post("/v2/tool_servers", json=body | {"headers": {"x-team": team}, "auth": auth})
            path = f"/v2/tool_servers/{made.json()['id']}"
            refused(await client.patch(path, json={"headers": {"x-no": "***"}}), 400, "invalid_request", "headers")
        done = await run(environment(server.url), "secrets", "rotate-key", "--data", str(server.data))
        assert "2 secrets" in done.stdout + done.stderr
        async with a_client(server) as client:
            assert (await client.post(f"{path}/sync")).status_code == 422, "the guard, not the vault, refuses"
        server.kill()
        on_disk = everything_on_disk(server)
        assert token.encode() not in on_disk
        assert team.encode() not in on_disk
        key_file(server).unlink()
        server.start()
        async with a_client(server) as client:
            refused(await client.post(f"{path}/sync"), 503, "secrets_unavailable")
            refused(await client.patch(path, json={"auth": auth}), 503, "secrets_unavailable")
            renamed = await client.patch(path, json={"name": "Renamed"})
            assert (renamed.status_code, renamed.json()["headers"]) == (200, {"x-team": "***"})
            assert (await client.delete(path)).status_code == 204


async def test_a_tool_gets_secrets_that_nobody_sees(stage: Stage, upstream: Upstream) -> None:
    own, shared, both = a_secret(), a_secret(), 'a "quoted" \u00fc-secret'
    override = {name: {"$ref": f"secrets.{name}"} for name in ("own", "shared", "both")}
    configuration = {name: {"type": "lambda", "argument_override": override} for name in ("repeat", "stumble")}
    agent = await stage.agent(
        tool_configurations=configuration, tool_output_offloading={"enabled": True, "max_threshold_bytes": 1024}
    )
    put = await stage.client.put(f"/v2/agents/{agent}/secrets", json={"secrets": {"shared": shared, "both": "agent"}})
    assert put.status_code == 200
    session = await stage.session(agent, secrets={"own": own, "both": both})
    upstream.add(call("repeat", {"times": 1}), call("repeat", {"times": 600}), call("stumble", {"times": 1}))
    upstream.add(say("Done."))
    await stage.post(session, "Go.")
    log = await stage.log(session)
    once, often, failed = [event for event in log if event["type"] == "tool_output"]
    assert once["tool_output"] == {"said": ["*** *** ***"]}
    assert once["resolved_argument_overrides"] == dict.fromkeys(override, MASKED)
    assert often["tool_output"]["truncated"], "it was cut after it was masked"
    assert failed["tool_output"] == {"error": "RuntimeError: *** *** ***", "code": "tool_failed"}
    seen = json.dumps([log, [request.body for request in upstream.requests]], ensure_ascii=False) + stage.server.stderr
    assert "stumble" in seen
    assert "RuntimeError" in stage.server.stderr
    for text in (own, shared, both, json.dumps(both, ensure_ascii=False)[1:-1], json.dumps(both)[1:-1]):
        assert text[:12] not in seen
    (tool,) = [one for one in upstream.requests[-2].body["tools"] if one["function"]["name"] == "repeat"]
    assert list(tool["function"]["parameters"]["properties"]) == ["times"]


async def test_without_the_key_a_call_that_needs_a_secret_is_answered(stage: Stage, upstream: Upstream) -> None:
    override = {name: {"$ref": f"secrets.{name}"} for name in ("own", "shared", "both")}
    agent = await stage.agent(tool_configurations={"repeat": {"type": "lambda", "argument_override": override}})
    session = await stage.session(agent, secrets=dict.fromkeys(override, "value"))
    key = key_file(stage.server)
    aside = key.with_suffix(".aside")
    stage.server.kill()
    key.rename(aside)
    try:
        stage.server.start()
        stage.client.base_url = httpx.URL(stage.server.url)
        upstream.add(call("repeat", {"times": 1})).add(say("Well."))
        answer = await stage.post(session, "Go.")
    finally:
        aside.rename(key)
    (output,) = [event for event in answer["events"] if event["type"] == "tool_output"]
    assert output["tool_output"]["code"] == "tool_override_unresolved"
    upstream.add(call("repeat", {"times": 1})).add(say("Well."))
    again = await stage.post(session, "Again.")
    assert [event["error"] for event in again["events"] if event["type"] == "tool_output"] == [False]


async def test_the_client_and_the_command_line_keep_secrets(stage: Stage) -> None:
    agent = await stage.agent()
    async with AsyncClient(stage.server.url, stage.server.key) as client:
        assert await client.agents.replace_secrets(agent, {"a": a_secret()}) == {"a": MASK}
        assert await client.agents.update_secrets(agent, {"a": None, "b": "1"}) == {"b": MASK}
        assert await client.agents.get_secrets(agent) == {"b": MASK}
        session = await client.sessions.create(agent, secrets={"c": a_secret()})
        assert session.secrets == {"c": MASK}
        assert (await client.sessions.update(agent, session.key, secrets={"c": None})).secrets is None
    env = environment(stage.server.url)
    value = a_secret()
    done = await run(env, "secrets", "set", agent, "typed", stdin=f"{value}\n".encode())
    assert done.code == 0, done.stderr
    assert value not in done.stdout + done.stderr
    assert (await run(env, "secrets", "remove", agent, "b")).code == 0
    assert (await run(env, "secrets", "list", agent)).rows() == [["typed"]]
    assert json.loads((await run(env, "secrets", "list", agent, "--json")).stdout) == "typed"
    of = (agent, "--session", session.key)
    done = await run(env, "secrets", "set", *of, "own", stdin=f"{value}\n".encode())
    assert (done.code, value in done.stdout + done.stderr) == (0, False)
    assert (await run(env, "secrets", "list", *of)).rows() == [["own"]]
    assert (await run(env, "secrets", "list", agent)).rows() == [["typed"]]
    assert (await run(env, "secrets", "remove", *of, "own")).code == 0
    assert (await run(env, "secrets", "list", *of)).rows() == []
