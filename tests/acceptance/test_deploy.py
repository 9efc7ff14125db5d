"""`deploy/`: what its files name exists, and two nodes with the environment of compose.yaml do what they are for.

The nodes stand behind nginx with the configuration that is given, where nginx is installed; elsewhere the test asks the
nodes themselves, and nothing else differs.
"""

import asyncio
import base64
import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import yaml

from acceptance.cli_support import environment, run
from acceptance.documents import ROOT
from acceptance.stage import WAIT_SECONDS, EventStream, Stage, eventually, model_config
from log_rules import problems
from sessile.auth.keyring import VARIABLE
from sessile.config import Config
from sessile.testing.script import hang, say
from sessile.testing.server import OWNER_KEY, ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.limits import MAX_HEADER_BYTES, MAX_IMPORT_BYTES, MAX_UPLOAD_BYTES, MAX_URL_BYTES

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio]

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
PROXY = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
NODES = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
GIVEN = {
    "POSTGRES_PASSWORD": "secret",
    "SESSILE_OWNER_KEY": OWNER_KEY,
    "SESSILE_SECRETS_KEY": base64.urlsafe_b64encode(bytes(32)).decode(),
}
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/usr/bin")


def filled(text: str) -> str:
    """A value of compose.yaml with the variables that somebody has set."""

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        return GIVEN[name] if default is None else GIVEN.get(name, default)

    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", value, text)


async def test_every_variable_and_every_command_exists() -> None:
    variables = {f"SESSILE_{setting.name.upper()}" for setting in msgspec.structs.fields(Config)}
    variables |= {VARIABLE, "SESSILE_OWNER_KEY"}
    for node in NODES.values():
        assert set(node["environment"]) <= variables
    command = json.loads(DOCKERFILE.partition("\nCMD ")[2].splitlines()[0])
    helped = (await run(environment(""), command[0], "--help")).stdout
    assert {option for option in command if option.startswith("--")} <= set(re.findall(r"--[a-z-]+", helped))
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())


async def test_images_are_pinned() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if "image" in service]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 3
    assert all(re.fullmatch(r"\w+:\d+\.\d+[\w.-]*", image) for image in images)


async def test_nodes_share_what_they_must_and_get_the_time_they_need() -> None:
    command = json.loads(DOCKERFILE.partition("\nCMD ")[2].splitlines()[0])
    data = command[command.index("--data") + 1]
    volumes = {name: node["volumes"] for name, node in NODES.items()}
    assert len(volumes) == 2
    assert {tuple(given) for given in volumes.values()} == {(f"files:{data}",)}
    assert set(COMPOSE["volumes"]) == {"files", "postgres"}
    config = Config()
    for node in NODES.values():
        assert int(node["stop_grace_period"].removesuffix("s")) > config.drain_seconds + config.shutdown_seconds + 1
        assert all(f"{name}" in node["environment"] for name in ("SESSILE_SECRETS_KEY", "SESSILE_OWNER_KEY"))
    database = urlsplit(filled(NODES["node1"]["environment"]["SESSILE_DATABASE"]))
    postgres = COMPOSE["services"][database.hostname]
    assert (database.username, database.path[1:]) == (
        postgres["environment"]["POSTGRES_USER"],
        postgres["environment"]["POSTGRES_DB"],
    )
    assert postgres["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


async def test_the_proxy_lets_through_what_nodes_take_and_knows_them_all() -> None:
    port = int(re.search(r"--port\", \"(\d+)", DOCKERFILE)[1])  # type: ignore[index]
    assert set(re.findall(r"server (\w+):(\d+)", PROXY)) == {(name, str(port)) for name in NODES}
    assert COMPOSE["services"]["proxy"]["ports"] == [f"{port}:{re.search(r'listen (.+);', PROXY)[1]}"]  # type: ignore[index]
    largest = int(re.search(r"client_max_body_size (\d+)m", PROXY)[1]) * 2**20  # type: ignore[index]
    assert largest > max(MAX_UPLOAD_BYTES, MAX_IMPORT_BYTES)
    count, size = re.search(r"large_client_header_buffers (\d+) (\d+)k", PROXY).groups()  # type: ignore[union-attr]
    assert int(size) * 1024 >= MAX_HEADER_BYTES + MAX_URL_BYTES
    assert int(count) > 1


@pytest.fixture
async def nodes(tmp_path: Path, new_database: str) -> AsyncIterator[dict[str, Stage]]:
    """The nodes, started at the same time on an empty database."""
    async with Upstream() as upstream, AsyncExitStack() as running:
        stages = {}
        for name, node in NODES.items():
            (tmp_path / name).mkdir()
            given = {key: filled(value) for key, value in node["environment"].items()}
            given["SESSILE_DATABASE"] = new_database
            arguments = ["--host", "0.0.0.0", "--data", str(tmp_path / "files")]
            config = "lease_seconds = 2\n" + model_config(upstream)
            server = ServerProcess(tmp_path / name, config, arguments=arguments, env=given)
            running.callback(server.__exit__, None, None, None)
            stages[name] = server
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in stages.values()))
        found = {}
        for name, server in stages.items():
            url = server.url.replace("0.0.0.0", "127.0.0.1")
            client = httpx.AsyncClient(base_url=url, headers=server.headers, timeout=WAIT_SECONDS)
            found[name] = Stage(server, upstream, await running.enter_async_context(client))
        yield found


@contextmanager
def proxied(folder: Path, nodes: dict[str, Stage]) -> Iterator[str]:
    """The URL of nginx with the configuration that is given, other hosts and ports, and folders of its own."""
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = PROXY.replace("listen 8700", f"listen 127.0.0.1:{port}")
    for name, stage in nodes.items():
        text = text.replace(f"server {name}:8700", f"server 127.0.0.1:{urlsplit(stage.server.url).port}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "access_log off; " + " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(text.replace("http {", f"http {{ {own}", 1))
    options = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;"
    process = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-e", f"{folder}/error.log", "-g", options])
    try:
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0


async def running_node(nodes: dict[str, Stage]) -> str:
    """Which node runs the one turn."""
    for name, stage in nodes.items():
        if "sessile_turns_running 1.0" in (await stage.client.get("/metrics")).text:
            return name
    return ""


@pytest.fixture
async def front(nodes: dict[str, Stage], tmp_path: Path) -> AsyncIterator[Stage]:
    """How clients reach the nodes: by the proxy, or where there is none, by the first of them that answers."""
    first = nodes["node1"]
    if NGINX is None:
        yield first
        return
    with proxied(tmp_path, nodes) as url:
        async with httpx.AsyncClient(base_url=url, headers=first.server.headers, timeout=WAIT_SECONDS) as client:

            async def answers() -> bool:
                try:
                    return (await client.get("/healthz")).status_code == 200
                except httpx.ConnectError:
                    return False

            await eventually(answers)
            yield Stage(first.server, first.upstream, client)


async def test_a_turn_streams_through_and_outlives_its_node(nodes: dict[str, Stage], front: Stage) -> None:
    upstream, session = front.upstream, await front.conversation()
    upstream.add(say("Half an answer"), hang())
    body = {"content": "Hello.", "stream_response": True}
    async with front.client.stream("POST", f"{session}/events", json=body) as response:
        assert response.status_code == 201
        stream = EventStream(response)
        await stream.until("streaming_agent_output")
        name = await running_node(nodes)
        upstream.add(say("A whole answer."))
        nodes[name].server.kill()
        with pytest.raises(httpx.TransportError):
            await stream.rest()
    (left,) = (stage for other, stage in nodes.items() if other != name)
    front = left if NGINX is None else front
    await front.stopped(session)
    upstream.add(say("And another."))
    assert (await front.post(session))["events"][-1]["content"] == "And another."
    said = [event["content"] for event in await front.log(session) if event["type"] == "agent_output"]
    assert said == ["A whole answer.", "And another."]
    assert problems(await front.log(session, records=True)) == []
    assert left.server.terminate() == 0


async def test_every_request_about_a_session_goes_to_one_node(nodes: dict[str, Stage], front: Stage) -> None:
    sessions = [await front.conversation() for _ in range(8)]
    ran: dict[str, int] = {}
    for session in sessions:
        for _ in range(2):
            front.upstream.add(say("Yes."))
            await front.post(session)
    for name, stage in nodes.items():
        found = re.search(r'turns_started_total\{how="new"\} (\d+)', (await stage.client.get("/metrics")).text)
        ran[name] = int(found[1]) if found else 0
    assert sum(ran.values()) == 16
    assert all(count % 2 == 0 for count in ran.values()), "both turns of a session ran at one node"


async def test_the_page_of_metrics_and_other_hosts_are_not_let_through(nodes: dict[str, Stage], front: Stage) -> None:
    forwarded = {"x-forwarded-for": "192.0.2.1", "x-api-key": "none"}
    answer = await front.client.get("/metrics", headers=forwarded)
    assert answer.status_code == (401 if NGINX is None else 404)
    assert (await front.client.get("/v2/agents", headers={"host": "elsewhere.example"})).status_code in (400, 403, 421)
    assert (await front.client.get("/v2/agents", headers={"host": "localhost:8700"})).status_code == 200
