"""Traces of a real server, as a collector gets them: a small OTLP/HTTP receiver that decodes what it is sent."""

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from acceptance.stage import WAIT_SECONDS, Stage, lambdas, model_config
from sessile.testing.script import call, hang, say, status, usage, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = pytest.mark.acceptance

SOURCE = '''
def good(city: str) -> str:
    """Answers."""
    return f"sunny in {city}"


def bad() -> str:
    """Raises."""
    raise ValueError("unspeakable words")
'''
TABLES = "\n".join(f'[tools.{name}]\nfunction = "trace_tools:{name}"' for name in ("good", "bad"))
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CLIENT_TOOL = {"type": "client", "tool_id": "tol_form", "description": "Ask.", "input_schema": {"properties": {}}}


class Collector:
    """What a collector has received."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.raw = b""
        self.headers: list[dict[str, str]] = []
        self._news = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        assert request.headers["content-type"] == "application/x-protobuf"
        self.headers.append(dict(request.headers))
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self._news.set()
        return web.Response(content_type="application/x-protobuf")

    async def until(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """Wait until enough spans have come."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not enough(self.spans):
                self._news.clear()
                await self._news.wait()
        return self.spans

    async def turns(self, count: int) -> list[Span]:
        """All spans, once so many of them are roots of turns."""
        return await self.until(lambda spans: len(roots(spans)) >= count)


def attributes(of: Any) -> dict[str, Any]:
    """Attributes as Python values."""
    found = {}
    for pair in of.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


def roots(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.name.startswith("invoke_agent")]


def named(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


@asynccontextmanager
async def traced(
    folder: Path, settings: str = "", by_variable: bool = False, env: dict[str, str | None] | None = None
) -> AsyncIterator[tuple[Stage, Collector]]:
    """A server process with a model, and the collector it sends to."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    (folder / "trace_tools.py").write_text(SOURCE)
    table = f"[traces]\n{settings}\n" if by_variable else f'[traces]\nendpoint = "{url}/v1/traces"\n{settings}\n'
    variables: dict[str, str | None] = {"OTEL_BSP_SCHEDULE_DELAY": "20", **(env or {})}
    if by_variable:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    try:
        async with Upstream() as upstream:
            with ServerProcess(folder, "\n".join([model_config(upstream), TABLES, table]), env=variables) as server:
                headers = server.headers
                async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=WAIT_SECONDS) as client:
                    stage = Stage(server, upstream, client)
                    yield stage, collector
                    server.terminate()
                    assert [line for line in stage.defects() if '"tool_raised"' not in line] == []
    finally:
        await runner.cleanup()


async def test_a_turn_is_one_trace_of_its_calls(tmp_path: Path) -> None:
    async with traced(tmp_path) as (stage, collector):
        parameters = {"temperature": 0.25, "max_tokens": 500}
        agent = await stage.agent(
            name="Weather desk",
            model={"name": "scripted", "parameters": parameters},
            tool_configurations=lambdas("good", "bad"),
        )
        session = await stage.session(agent)
        upstream = stage.upstream
        upstream.add(call("good", {"city": "Oslo"}, "call_1"), call("bad", {}, "call_2"), usage(100, 20, 40, 5))
        upstream.add(say("A secret forecast."), usage(150, 8))
        answer = await stage.client.post(
            f"{session}/events", json={"content": "Private question?"}, headers={"traceparent": PARENT}
        )
        assert answer.status_code == 201
        spans = await collector.turns(1)
        (root,) = roots(spans)
        assert root.name == "invoke_agent Weather desk"
        found = attributes(root)
        assert found == {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": agent,
            "gen_ai.agent.name": "Weather desk",
            "gen_ai.conversation.id": session.rsplit("/", 1)[1],
            "sessile.turn.id": answer.headers["x-turn-id"],
            "sessile.turn.continued": False,
            "sessile.turn.stop_reason": "end_turn",
        }
        assert root.status.code == Status.STATUS_CODE_UNSET
        assert not root.parent_span_id
        assert [(link.trace_id.hex(), link.span_id.hex()) for link in root.links] == [
            ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
        ]
        children = [span for span in spans if span.parent_span_id == root.span_id]
        assert {span.trace_id for span in children} == {root.trace_id}
        assert [span.name for span in sorted(children, key=lambda span: span.start_time_unix_nano)] == [
            "chat m",
            "execute_tool good",
            "execute_tool bad",
            "chat m",
        ]
        first, last = [attributes(span) for span in children if span.name == "chat m"]
        assert first["gen_ai.operation.name"] == "chat"
        assert first["gen_ai.provider.name"] == "openai_compatible"
        assert (first["gen_ai.request.model"], first["sessile.model"]) == ("m", "scripted")
        assert (first["gen_ai.request.temperature"], first["gen_ai.request.max_tokens"]) == (0.25, 500)
        assert (first["gen_ai.usage.input_tokens"], first["gen_ai.usage.output_tokens"]) == (100, 20)
        assert (first["gen_ai.usage.cache_read.input_tokens"], first["gen_ai.usage.reasoning.output_tokens"]) == (40, 5)
        assert last["gen_ai.usage.input_tokens"] == 150
        assert last["gen_ai.response.finish_reasons"] == ["stop"]
        good, bad = named(children, "execute_tool good"), named(children, "execute_tool bad")
        assert attributes(good)["gen_ai.tool.call.id"] == "call_1"
        assert good.status.code == Status.STATUS_CODE_UNSET
        assert attributes(bad)["error.type"] == "tool_failed"
        assert (bad.status.code, bad.status.message) == (Status.STATUS_CODE_ERROR, "tool_failed")
        assert {resource["service.name"] for resource in collector.resources} == {"sessile"}
        for private in (b"Private question", b"secret forecast", b"Oslo", b"sunny", b"unspeakable"):
            assert private not in collector.raw


async def test_content_is_recorded_when_it_is_configured_and_keys_never_are(tmp_path: Path) -> None:
    env = {"OTEL_SERVICE_NAME": "desk", "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=sk-collector"}
    async with traced(tmp_path, "content = true", by_variable=True, env=env) as (stage, collector):
        session = await stage.conversation(
            tool_configurations=lambdas("good"),
            first_step={"instructions": [{"type": "inline", "name": "main", "template": "Be brief."}]},
        )
        stage.upstream.add(call("good", {"city": "Oslo"}))
        stage.upstream.add(say("It is sunny."))
        await stage.post(session, "What weather?")
        spans = await collector.turns(1)
        chats = sorted((span for span in spans if span.name == "chat m"), key=lambda span: span.start_time_unix_nano)
        said = attributes(chats[1])
        assert "Be brief." in said["gen_ai.system_instructions"]
        for text in ("What weather?", "tool_call_response", "Oslo"):
            assert text in said["gen_ai.input.messages"]
        assert "It is sunny." in said["gen_ai.output.messages"]
        tool = attributes(named(spans, "execute_tool good"))
        assert tool["gen_ai.tool.call.arguments"] == '{"city":"Oslo"}'
        assert "sunny in Oslo" in tool["gen_ai.tool.call.result"]
        assert {resource["service.name"] for resource in collector.resources} == {"desk"}
        assert collector.headers[0]["x-collector-key"] == "sk-collector"
        assert stage.server.key.encode() not in collector.raw


async def test_faults_and_interrupts_are_errors_by_their_codes(tmp_path: Path) -> None:
    async with traced(tmp_path) as (stage, collector):
        session = await stage.conversation(model={"name": "scripted", "retry_configuration": {"enabled": False}})
        stage.upstream.add(status(400, {"error": {"message": "the provider's words"}}))
        await stage.post(session)
        (root,) = roots(await collector.turns(1))
        assert (root.status.code, root.status.message) == (Status.STATUS_CODE_ERROR, "model_rejected")
        assert attributes(root)["sessile.turn.stop_reason"] == "error"
        assert attributes(named(collector.spans, "chat m"))["error.type"] == "model_rejected"
        assert b"the provider's words" not in collector.raw
        stage.upstream.add(say("A long", whole=True), hang())
        async with stage.stream(session) as stream:
            await stream.until("streaming_agent_output")
            await stage.client.post(f"{session}/events", json={"type": "interrupt"})
            await stream.rest()
        _, root = roots(await collector.turns(2))
        assert attributes(root)["sessile.turn.stop_reason"] == "interrupted"
        (chat,) = [span for span in collector.spans if span.parent_span_id == root.span_id]
        assert attributes(chat)["error.type"] == "cancelled"


async def test_a_turn_that_waits_for_a_client_goes_on_in_its_trace(tmp_path: Path) -> None:
    async with traced(tmp_path) as (stage, collector):
        session = await stage.conversation(tool_configurations={"form": CLIENT_TOOL})
        stage.upstream.add(call("form"))
        stage.upstream.add(say("Thanks."))
        await stage.post(session)
        (pending,) = [event for event in await stage.log(session) if event["type"] == "tool_input"]
        outputs = [{"type": "success", "event_id": pending["id"], "output": {"ok": True}}]
        body = {"type": "tool_output", "tool_outputs": outputs}
        answer = await stage.client.post(f"{session}/events", json=body, headers={"traceparent": PARENT})
        assert answer.status_code == 201, answer.text
        first, second = roots(await collector.turns(2))
        assert first.trace_id == second.trace_id
        assert attributes(first)["sessile.turn.stop_reason"] == "requires_action"
        assert (attributes(second)["sessile.turn.continued"], len(first.links), len(second.links)) == (True, 0, 1)


async def test_an_input_that_waits_keeps_its_link_and_another_turn_has_none(tmp_path: Path) -> None:
    async with traced(tmp_path) as (stage, collector):
        session = await stage.conversation()
        go_on = asyncio.Event()
        stage.upstream.add(say("One", whole=True), wait_for(go_on))
        stage.upstream.add(say("Two", whole=True))
        async with stage.stream(session) as stream:
            await stream.until("streaming_agent_output")
            body = {"content": "And?", "behavior": "follow_up", "stream_response": True}
            headers = {"traceparent": PARENT}
            async with stage.client.stream("POST", f"{session}/events", json=body, headers=headers) as waiting:
                assert waiting.status_code == 201
                go_on.set()
                await waiting.aread()
            await stream.rest()
        first, second = roots(await collector.turns(2))
        assert (len(first.links), len(second.links)) == (0, 1)
        assert first.trace_id != second.trace_id


async def test_a_collector_that_is_away_harms_nothing(tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    async with Upstream() as upstream:
        with ServerProcess(tmp_path, model_config(upstream), env=env) as server:
            async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
                stage = Stage(server, upstream, client)
                session = await stage.conversation()
                upstream.add(say("Fine."))
                await stage.post(session, headers={"traceparent": "nonsense"})
            assert server.terminate() == 0


async def test_without_configuration_nothing_is_loaded(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\nfrom sessile.compose.runtime import running\nfrom sessile.config import Config\n"
        f"async def main():\n    async with running(Config(database={str(tmp_path / 's.db')!r})):\n        pass\n"
        "asyncio.run(main())\nassert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
