"""An agent reads the web: a real server, a real page, and addresses that no tool may reach."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from acceptance.stage import Stage, types
from sessile.testing.script import call, say
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


class Page(BaseHTTPRequestHandler):
    """One page, a redirect to a metadata service, and an echo of the header `x-key`."""

    def do_GET(self) -> None:
        if self.path == "/metadata":
            self.send_response(302)
            self.send_header("location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(f"<title>Shop</title><p>Open 9 to 17, {self.headers.get('x-key', 'nobody')}".encode())

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[web_get]\nallow = ["127.0.0.1"]\n'


async def outputs(stage: Stage, upstream: Upstream, configuration: dict[str, Any], *arguments: Any) -> list[Any]:
    """The tool outputs of a turn in which the model makes these calls."""
    agent = await stage.agent(tool_configurations={"web": configuration}, metadata={"shop": "berlin"})
    session = await stage.session(agent, metadata={"user": "u1"})
    upstream.add(*(call("web", given, f"c{number}") for number, given in enumerate(arguments)))
    upstream.add(say("Done."))
    answer = await stage.client.post(f"{session}/events", json={"content": "Look"})
    assert answer.status_code == 201, answer.text
    events = answer.json()["events"]
    assert types(events)[-1] == "agent_output", events
    return [event for event in events if event["type"] in ("tool_input", "tool_output")]


async def test_an_agent_reads_a_page(stage: Stage, upstream: Upstream, page: str) -> None:
    asked, told = await outputs(stage, upstream, {"type": "web_get"}, {"url": page})
    assert asked["tool_name"] == "web_get"
    assert "argument_override_paths" not in asked
    assert told["error"] is False
    assert told["tool_output"]["content"] == "Open 9 to 17, nobody"
    assert "resolved_argument_overrides" not in told


async def test_a_metadata_address_gets_nowhere_and_the_turn_goes_on(
    stage: Stage, upstream: Upstream, page: str
) -> None:
    wanted = [f"{page}/metadata", "http://169.254.169.254/", "http://[::1]/", "file:///etc/passwd"]
    events = await outputs(stage, upstream, {"type": "web_get"}, *({"url": url} for url in wanted))
    told = [event["tool_output"]["code"] for event in events if event["type"] == "tool_output"]
    assert told == ["tool_address_refused"] * 4


async def test_what_the_agent_fixes_the_model_neither_sees_nor_chooses(
    stage: Stage, upstream: Upstream, page: str
) -> None:
    override = {"url": page, "headers": {"x-key": {"$ref": "session.metadata.user"}}}
    configuration = {"type": "web_get", "argument_override": override}
    asked, told = await outputs(
        stage, upstream, configuration, {"url": "http://other.example/", "headers": {"x-b": "b"}}
    )
    assert asked["tool_input"] == {"url": "http://other.example/", "headers": {"x-b": "b"}}
    assert asked["argument_override_paths"] == ["url", "headers.x-key"]
    assert told["tool_output"]["content"] == "Open 9 to 17, u1"
    assert told["resolved_argument_overrides"] == {"url": page, "headers": {"x-key": "u1"}}
    offered = upstream.requests[-1].body["tools"][0]["function"]["parameters"]
    assert "url" not in offered["properties"]
    assert "headers" in offered["properties"]


async def test_a_reference_without_a_value_is_told_to_the_model(stage: Stage, upstream: Upstream, page: str) -> None:
    override = {"url": page, "body": {"$ref": "session.metadata.lost"}}
    _, told = await outputs(stage, upstream, {"type": "web_get", "argument_override": override}, {})
    assert (told["error"], told["tool_output"]["code"]) == (True, "tool_override_unresolved")


async def test_an_earlier_output_can_be_an_argument(stage: Stage, upstream: Upstream, page: str) -> None:
    agent = await stage.agent(
        tool_configurations={
            "first": {"type": "web_get", "argument_override": {"url": page}},
            "second": {"type": "web_get", "argument_override": {"url": {"$ref": "tools.first.url"}}},
        }
    )
    session = await stage.session(agent)
    upstream.add(call("second", {}, "c1"))
    upstream.add(call("first", {}, "c2"))
    upstream.add(call("second", {}, "c3"))
    upstream.add(say("Done."))
    events = (await stage.client.post(f"{session}/events", json={"content": "Look"})).json()["events"]
    told = [event["tool_output"] for event in events if event["type"] == "tool_output"]
    assert told[0]["code"] == "tool_override_unresolved"
    assert [output["status"] for output in told[1:]] == [200, 200]


async def test_a_reference_that_can_never_have_a_value_is_refused(stage: Stage) -> None:
    override = {"body": {"$ref": "nobody.knows"}}
    body = {
        "name": "A",
        "model": {"name": "scripted"},
        "tool_configurations": {"web": {"type": "web_get", "argument_override": override}},
    }
    answer = await stage.client.post("/v2/agents", json=body)
    assert answer.status_code == 400
    assert list(answer.json()["field_errors"]) == ["tool_configurations.web.argument_override"]
    assert "nobody.knows" in json.dumps(answer.json())


async def test_a_web_get_tool_is_not_inactive(stage: Stage) -> None:
    agent = await stage.agent(
        tool_configurations={"web": {"type": "web_get"}, "off": {"type": "web_get", "enabled": False}}
    )
    shown = await stage.client.get(f"/v2/agents/{agent}")
    assert shown.headers["x-sessile-inactive"] == "off=web_get"


async def test_a_large_output_is_cut_as_the_agent_says(stage: Stage, upstream: Upstream, page: str) -> None:
    agent = await stage.agent(
        tool_configurations={"web": {"type": "web_get", "argument_override": {"headers": {"x-key": "k" * 3_000}}}},
        tool_output_offloading={"enabled": True, "mode": "truncate", "max_threshold_bytes": 1_024},
    )
    session = await stage.session(agent)
    upstream.add(call("web", {"url": page}, "c1"))
    upstream.add(say("Done."))
    told = (await stage.post(session))["events"][2]["tool_output"]
    assert (told["truncated"], told["content"].startswith('{"url"')) == (True, True)
    assert len(json.dumps(told)) < 1_400
