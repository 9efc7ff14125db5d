"""`/metrics` of a real server: what a scrape holds after real turns, and who may make one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from acceptance.stage import EventStream, Stage, eventually, lambdas, model_config, refused
from sessile.compose.access import owner_key
from sessile.compose.runtime import running
from sessile.compose.serving import build_app
from sessile.config import Config
from sessile.telemetry.metrics import Metrics
from sessile.testing.script import call, hang, say, status, usage, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SOURCE = '''
def good() -> str:
    """Answers."""
    return "yes"


def bad() -> str:
    """Raises."""
    raise ValueError("no")
'''
CLIENT_TOOL = {"type": "client", "tool_id": "tol_form", "description": "Ask.", "input_schema": {"properties": {}}}
Samples = dict[tuple[str, ...], float]


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"metric_tools": SOURCE}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return "\n".join(f'[tools.{name}]\nfunction = "metric_tools:{name}"' for name in ("good", "bad"))


async def scrape(client: httpx.AsyncClient) -> Samples:
    """A scrape as Prometheus makes one: every sample by its name and the values of its labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@asynccontextmanager
async def counted(stage: Stage) -> AsyncIterator[Samples]:
    """What was added while this was open, filled in at its end; gauges are as they stand then."""
    before, found = await scrape(stage.client), {}
    yield found
    found |= {key: value - before.get(key, 0) for key, value in (await scrape(stage.client)).items()}


async def test_a_turn_with_tools_is_counted(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("good", "bad"))
    upstream.add(call("good"), call("bad"), call("nothing"), usage(100, 20))
    upstream.add(say("One two three.", whole=False), usage(200, 30, 50, 10))
    async with counted(stage) as found:
        async with stage.stream(session) as stream:
            frames = await stream.rest()
        deltas = sum(name == "streaming_agent_output" for name, _ in frames)
        await stage.stopped(session)
    assert found["sessile_turns_started_total", "new"] == 1
    assert found["sessile_turns_ended_total", "end_turn"] == 1
    assert found["sessile_turn_seconds_count",] == 1
    assert found["sessile_turn_first_delta_seconds_count",] == 1
    assert found["sessile_model_calls_total", "scripted", "ok"] == 2
    tokens = {kind: found["sessile_model_tokens_total", kind, "scripted"] for kind in ("input", "output", "cached")}
    assert tokens == {"input": 300, "output": 50, "cached": 50}
    assert found["sessile_tool_calls_total", "ok", "lambda"] == 1
    assert found["sessile_tool_calls_total", "tool_failed", "lambda"] == 1
    assert found["sessile_tool_calls_total", "tool_unknown", "unknown"] == 1
    assert found["sessile_deltas_sent_total",] >= deltas > 0
    assert 1 <= found["sessile_delta_lag_seconds_count",] <= found["sessile_deltas_sent_total",]
    assert found["sessile_commit_batch_verbs_sum",] >= found["sessile_commit_batch_verbs_count",] > 0
    assert found["sessile_commit_seconds_count",] == found["sessile_commit_batch_verbs_count",]
    route = "/v2/agents/{agent_key}/sessions/{session_key}/events"
    assert found["sessile_http_requests_total", "POST", route, "201"] == 1
    assert found["sessile_http_request_seconds_count", "POST", route] == 1


async def test_nothing_that_a_caller_chose_is_a_label(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(say("Yes."))
    await stage.post(session)
    await stage.client.get("/nowhere/at-all")
    keys = session.split("/")
    text = (await stage.client.get("/metrics")).text
    assert not [key for key in (keys[3], keys[5], "at-all") if key in text]


async def test_how_turns_end_is_counted(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(model={"name": "scripted", "retry_configuration": {"enabled": False}})
    async with counted(stage) as found:
        upstream.add(status(400))
        await stage.post(session)
        upstream.add(say("A long", whole=True), hang())
        async with stage.stream(session) as stream:
            await stream.until("streaming_agent_output")
            now = await scrape(stage.client)
            assert now["sessile_turns_running",] == now["sessile_turns_unfinished", "running"] == 1
            assert now["sessile_followers",] == 1
            await stage.client.post(f"{session}/events", json={"type": "interrupt"})
            await stream.rest()
    assert found["sessile_turns_ended_total", "error"] == 1
    assert found["sessile_turn_errors_total", "model_rejected"] == 1
    assert found["sessile_model_calls_total", "scripted", "model_rejected"] == 1
    assert found["sessile_turns_ended_total", "interrupted"] == 1
    assert found["sessile_model_calls_total", "scripted", "cancelled"] == 1

    async def idle() -> bool:
        now = await scrape(stage.client)
        return (now["sessile_turns_running",], now["sessile_followers",]) == (0, 0)

    assert await eventually(idle)


async def test_what_waits_is_counted(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    go_on = asyncio.Event()
    upstream.add(say("One", whole=True), wait_for(go_on))
    upstream.add(say("Two", whole=True))
    async with stage.stream(session) as stream:
        await stream.until("streaming_agent_output")
        body = {"content": "And?", "behavior": "follow_up"}
        waiting = asyncio.create_task(queue(stage, session, body))

        async def waits() -> Any:
            return (await scrape(stage.client))["sessile_inputs_waiting",] == 1

        assert await eventually(waits)
        go_on.set()
        await stream.rest()
    await waiting
    assert (await scrape(stage.client))["sessile_inputs_waiting",] == 0


async def test_a_turn_that_waits_for_a_client_is_counted(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations={"form": CLIENT_TOOL})
    upstream.add(call("form"))
    async with counted(stage) as found:
        await stage.post(session)
    assert found["sessile_turns_parked_total",] == 1
    assert found["sessile_turns_unfinished", "parked"] == 1
    assert ("sessile_turns_ended_total", "end_turn") not in found or found["sessile_turns_ended_total", "end_turn"] == 0


async def test_by_default_only_this_machine_needs_no_key(stage: Stage) -> None:
    async with httpx.AsyncClient(base_url=stage.server.url) as stranger:
        assert (await stranger.get("/metrics")).status_code == 200
        for name in ("x-forwarded-for", "forwarded", "via"):
            refused(await stranger.get("/metrics", headers={name: "203.0.113.7"}), 401, "unauthenticated")
        headers = {"x-forwarded-for": "203.0.113.7", **stage.server.headers}
        assert (await stranger.get("/metrics", headers=headers)).status_code == 200
        refused(await stranger.post("/metrics"), 405, "method_not_allowed")


async def test_from_another_machine_a_key_is_needed(tmp_path: Path) -> None:
    config = Config(database=str(tmp_path / "s.db"), default_model="demo")
    metrics = Metrics((), ())
    async with running(config, metrics=metrics) as runtime:
        app = build_app(config, runtime, metrics)
        secret = await owner_key(runtime.store, runtime.tenant, runtime.clock)
        for host, status_without in (("203.0.113.7", 401), ("2001:db8::7", 401), ("127.0.0.1", 200), ("::1", 200)):
            transport = httpx.ASGITransport(app, client=(host, 1234))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                assert (await client.get("/metrics")).status_code == status_without, host
                assert (await client.get("/metrics", headers={"x-api-key": secret or ""})).status_code == 200


async def test_a_store_that_does_not_answer_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    config = Config(database=str(tmp_path / "s.db"), default_model="demo")
    metrics = Metrics((), ())
    async with running(config, metrics=metrics) as runtime:
        app = build_app(config, runtime, metrics)
        await runtime.store.close()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await scrape(client))["sessile_store_up",] == 0


@pytest.mark.parametrize(
    ("access", "without", "viewer", "owner"),
    [("key", 401, 403, 200), ("open", 200, 200, 200), ("off", 404, 404, 404), ("loopback", 200, 200, 200)],
)
async def test_who_may_read_is_configured(tmp_path: Path, access: str, without: int, viewer: int, owner: int) -> None:
    with ServerProcess(tmp_path, f'[metrics]\naccess = "{access}"\n') as server:
        viewer_key = await made_key(server, "viewer")
        async with httpx.AsyncClient(base_url=server.url) as client:
            answers = [
                await client.get("/metrics", headers=headers)
                for headers in ({}, {"authorization": f"Bearer {viewer_key}"}, server.headers)
            ]
        assert [answer.status_code for answer in answers] == [without, viewer, owner]
        server.terminate()


async def test_turns_that_are_left_and_continued_are_counted(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        settings = "drain_seconds = 0\n" + model_config(upstream)
        with ServerProcess(tmp_path, settings) as server:
            async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30) as client:
                stage = Stage(server, upstream, client)
                session = await stage.conversation()
                upstream.add(say("Half", whole=True), hang())
                async with stage.stream(session) as stream:
                    assert isinstance(stream, EventStream)
                    await stream.until("streaming_agent_output")
                    server.terminate()
            upstream.add(say("Whole."))
            server.start()
            async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30) as client:
                stage = Stage(server, upstream, client)
                await stage.stopped(session)
                found = await scrape(client)
                assert found["sessile_turns_started_total", "continued"] == 1
                assert found["sessile_turns_ended_total", "end_turn"] == 1
            server.terminate()


async def queue(stage: Stage, session: str, body: dict[str, Any]) -> None:
    answer = await stage.client.post(f"{session}/events", json=body)
    assert answer.status_code == 201, answer.text


async def made_key(server: ServerProcess, role: str) -> str:
    """The secret of a new key, made beside the running server."""
    command = [*server._command[:3], "keys", "create", role, "--role", role, "--data", str(server.data)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode().split()[-1]
