"""Whatever is wrong with a request is refused with a status and a code that say so, and harms nobody else."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from acceptance.databases import database as database
from acceptance.stage import WAIT_SECONDS, Stage, refused
from sessile.cli import admin
from sessile.config import Config
from sessile.testing.script import say

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

JSON = {"content-type": "application/json"}
MODEL = {"name": "scripted"}
MIB = 1024 * 1024


@dataclass
class Place:
    """An agent, its session, and the same of another tenant."""

    agent: str
    session: str
    foreign: httpx.AsyncClient
    foreign_agent: str
    foreign_session: str


@pytest.fixture(scope="module")
def config(stage: Stage, database: str | None) -> Config:
    return Config(data=str(stage.server.data), database=database)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(stage: Stage, config: Config) -> AsyncIterator[Place]:
    secret = await asyncio.to_thread(admin.create_tenant, config, "other", "Other")
    agent = await stage.agent()
    session = await stage.session(agent)
    async with client_with(stage, secret) as foreign:
        other = Stage(stage.server, stage.upstream, foreign)
        foreign_agent = await other.agent()
        yield Place(agent, session, foreign, foreign_agent, await other.session(foreign_agent))


def client_with(stage: Stage, secret: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=stage.server.url, headers={"x-api-key": secret}, timeout=WAIT_SECONDS)


async def send(stage: Stage, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes; the status, the headers and the body of the first answer. Status 0: closed without one."""
    url = urlsplit(stage.server.url)
    async with asyncio.timeout(WAIT_SECONDS):
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").splitlines()
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, {}, b""
        finally:
            writer.close()
        return int(first.split()[1]), headers, body


def head(stage: Stage, line: str, *headers: str) -> bytes:
    host = urlsplit(stage.server.url).netloc
    lines = [f"{line} HTTP/1.1", f"host: {host}", f"x-api-key: {stage.server.key}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def nested(depth: int) -> bytes:
    return b'{"metadata": {"a": ' + b"[" * depth + b"]" * depth + b"}}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"name": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"name": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param('{"name": "a"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"name": "a"}', id="byte-order mark"),
        pytest.param(b'{"name": "\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"name": "\\udc00\\ud800"}', id="swapped surrogates"),
        pytest.param(b'{"metadata": {"\\ud800": 1}}', id="lone surrogate in a key"),
        pytest.param(b'{"name": "a\\u0000b"}', id="escaped NUL"),
        pytest.param(b'{"name": "a\x00b"}', id="NUL"),
        pytest.param(b'{"name": "a\nb"}', id="raw newline"),
        pytest.param(b'{"name": "a", "name": "b"}', id="duplicate key"),
        pytest.param(b'{"name": "a", "\\u006eame": "b"}', id="duplicate key, one escaped"),
        pytest.param(b'{"metadata": {"a": [{"x": 1, "x": 1}]}}', id="nested duplicate key"),
        pytest.param(b'{"metadata": {"a": NaN}}', id="NaN"),
        pytest.param(b'{"metadata": {"a": Infinity}}', id="Infinity"),
        pytest.param(b'{"metadata": {"a": -Infinity}}', id="-Infinity"),
        pytest.param(b'{"metadata": {"a": 1e999}}', id="1e999"),
        pytest.param(b'{"metadata": {"a": -1e999}}', id="-1e999"),
        pytest.param(b'{"metadata": {"a": 9223372036854775808}}', id="2**63"),
        pytest.param(b'{"metadata": {"a": -9223372036854775809}}', id="below -2**63"),
        pytest.param(b'{"metadata": {"a": ' + b"9" * 100_000 + b"}}", id="a number of 100,000 digits"),
        pytest.param(nested(63), id="65 levels"),
        pytest.param(nested(100_000), id="100,000 levels"),
        pytest.param(b"[" * 100_000, id="100,000 open brackets"),
        pytest.param(b'{"a":' * 100_000, id="100,000 open braces"),
        pytest.param(b"", id="empty"),
        pytest.param(b"   ", id="blank"),
        pytest.param(b'{"name": "a"', id="cut off"),
        pytest.param(b'{"name": "a"} {}', id="two values"),
        pytest.param(b'{"name": "a",}', id="trailing comma"),
        pytest.param(b"{'name': 'a'}", id="single quotes"),
        pytest.param(b'{"name": "a"} // hi', id="comment"),
        pytest.param(b'{"tti_minutes": 01}', id="leading zero"),
        pytest.param(b"name=a", id="form"),
    ],
)
async def test_what_is_not_strict_json_is_refused(stage: Stage, place: Place, body: bytes) -> None:
    before = await stage.get(f"/v2/agents/{place.agent}/sessions", limit=100)
    for method, path in (
        ("POST", f"/v2/agents/{place.agent}/sessions"),
        ("PATCH", place.session),
        ("POST", f"{place.session}/events"),
        ("POST", "/v2/agents"),
        ("PUT", f"/v2/agents/{place.agent}"),
        ("PATCH", f"/v2/agents/{place.agent}"),
    ):
        refused(await stage.client.request(method, path, content=body, headers=JSON), 400, "invalid_json")
    assert await stage.get(f"/v2/agents/{place.agent}/sessions", limit=100) == before


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 1e308, 5e-324, "\U0001f389", "\ufeff", "\ud7ff\ue000\uffff"])
async def test_values_at_the_edge_come_back_as_they_were(stage: Stage, place: Place, value: Any) -> None:
    path = await stage.session(place.agent, metadata={"value": value, str(value): [value]})
    assert (await stage.get(path))["metadata"] == {"value": value, str(value): [value]}


async def test_64_levels_are_accepted(stage: Stage, place: Place) -> None:
    answer = await stage.client.post(f"/v2/agents/{place.agent}/sessions", content=nested(62), headers=JSON)
    assert answer.status_code == 201, answer.text
    refused(
        await stage.client.post(f"/v2/agents/{place.agent}/sessions", content=nested(63), headers=JSON),
        400,
        "invalid_json",
    )


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null", b"true", b'[{"name": "a"}]'])
async def test_a_body_that_is_not_an_object_is_refused(stage: Stage, place: Place, body: bytes) -> None:
    for method, path in (
        ("POST", f"/v2/agents/{place.agent}/sessions"),
        ("PATCH", place.session),
        ("POST", f"{place.session}/events"),
        ("POST", "/v2/agents"),
        ("PUT", f"/v2/agents/{place.agent}"),
        ("PATCH", f"/v2/agents/{place.agent}"),
    ):
        answer = await stage.client.request(method, path, content=body, headers=JSON)
        refused(answer, 400, "invalid_request", "body")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/jsonp",
        "application/json, text/plain",
        "text/plain; application/json",
    ],
)
async def test_a_wrong_content_type_is_refused(stage: Stage, place: Place, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    for path in (f"/v2/agents/{place.agent}/sessions", f"{place.session}/events", "/v2/agents"):
        if path == f"{place.session}/events" and content_type and content_type.startswith("multipart/"):
            continue  # an input may come so: test_artifacts.py
        answer = await stage.client.post(path, content=b'{"name": "a"}', headers=headers)
        refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "APPLICATION/JSON", "application/json;charset=UTF-8", 'application/json; charset="utf-8"'],
)
async def test_a_right_content_type_is_accepted(stage: Stage, place: Place, content_type: str) -> None:
    path = f"/v2/agents/{place.agent}/sessions"
    answer = await stage.client.post(path, content=b"{}", headers={"content-type": content_type})
    assert answer.status_code == 201


LONG_KEY = "k" * 51
SESSION_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, "nonsense"),
    ({"status": "running"}, "status"),
    ({"name": 7}, "name"),
    ({"name": None}, "name"),
    ({"name": "n" * 256}, "name"),
    ({"description": "d" * 4001}, "description"),
    ({"description": ["d"]}, "description"),
    ({"metadata": []}, "metadata"),
    ({"metadata": None}, "metadata"),
    ({"metadata": {"a": "m" * 65536}}, "metadata"),
    ({"metadata": {"a": "ä" * 33000}}, "metadata"),
    ({"enabled": "yes"}, "enabled"),
    ({"enabled": 1}, "enabled"),
    ({"tti_minutes": -1}, "tti_minutes"),
    ({"tti_minutes": 1.5}, "tti_minutes"),
    ({"tti_minutes": "5"}, "tti_minutes"),
    ({"tti_minutes": 2**62}, "tti_minutes"),
]


@pytest.mark.parametrize(("fields", "name"), SESSION_ROWS)
async def test_a_wrong_field_of_a_session_is_named(
    stage: Stage, place: Place, fields: dict[str, Any], name: str
) -> None:
    before = await stage.get(place.session)
    created = await stage.client.post(f"/v2/agents/{place.agent}/sessions", json=fields)
    refused(created, 400, "invalid_request", name)
    refused(await stage.client.patch(place.session, json=fields), 400, "invalid_request", name)
    assert await stage.get(place.session) == before


@pytest.mark.parametrize("key", ["", "a b", "a/b", "a.b", "ä", "a\n", LONG_KEY, 7, None, ["a"]])
async def test_a_key_that_does_not_fit_the_pattern_is_refused(stage: Stage, place: Place, key: Any) -> None:
    answer = await stage.client.post(f"/v2/agents/{place.agent}/sessions", json={"key": key})
    refused(answer, 400, "invalid_request", "key")
    answer = await stage.client.post("/v2/agents", json={"key": key, "name": "A", "model": MODEL})
    refused(answer, 400, "invalid_request", "key")


AGENT_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, "nonsense"),
    ({"name": ""}, "name"),
    ({"name": "n" * 51}, "name"),
    ({"description": "d" * 4001}, "description"),
    ({"model": {}}, "model.name"),
    ({"model": {"name": ""}}, "model.name"),
    ({"model": {"name": "scripted", "nonsense": 1}}, "model.nonsense"),
    ({"model": {"name": "scripted", "parameters": []}}, "model.parameters"),
    (
        {"model": {"name": "scripted", "retry_configuration": {"max_retries": 11}}},
        "model.retry_configuration.max_retries",
    ),
    ({"model": {"name": "scripted", "retry_configuration": {"tries": 1}}}, "model.retry_configuration.tries"),
    ({"model": None}, "model"),
    ({"first_step": {"nonsense": 1}}, "first_step.nonsense"),
    ({"first_step": {"instructions": [{"type": "inline", "name": "a"}]}}, "first_step.instructions[0].template"),
    ({"first_step": {"instructions": [{"type": "odd"}]}}, "first_step.instructions[0].type"),
    ({"first_step": {"instructions": [{"name": "a", "template": "b"}]}}, "first_step.instructions[0].type"),
    ({"first_step_name": ""}, "first_step_name"),
    ({"tool_configurations": {"a": {"type": "imaginary"}}}, "tool_configurations[...].type"),
    ({"tool_configurations": {"a": {"type": "lambda", "nonsense": 1}}}, "tool_configurations[...].nonsense"),
    ({"tool_configurations": {"a b": {"type": "lambda"}}}, "tool_configurations.a b"),
    ({"tool_configurations": []}, "tool_configurations"),
    ({"metadata": {"a": "m" * 65536}}, "metadata"),
    ({"enabled": "yes"}, "enabled"),
    ({"compaction": {"threshold_percent": 10}}, "compaction.threshold_percent"),
]


@pytest.mark.parametrize(("fields", "name"), AGENT_ROWS)
async def test_a_wrong_field_of_an_agent_is_named(
    stage: Stage, place: Place, fields: dict[str, Any], name: str
) -> None:
    path = f"/v2/agents/{place.agent}"
    before = await stage.get(path)
    body = {"name": "A", "model": MODEL, **fields}
    refused(await stage.client.post("/v2/agents", json=body), 400, "invalid_request", name)
    refused(await stage.client.put(path, json=body), 400, "invalid_request", name)
    refused(await stage.client.patch(path, json=fields), 400, "invalid_request", name)
    assert await stage.get(path) == before


@pytest.mark.parametrize(("body", "name"), [({}, "name"), ({"name": "A"}, "model"), ({"model": MODEL}, "name")])
async def test_a_field_that_is_missing_is_named(stage: Stage, body: dict[str, Any], name: str) -> None:
    refused(await stage.client.post("/v2/agents", json=body), 400, "invalid_request", name)


INPUT_ROWS: list[tuple[dict[str, Any], str]] = [
    ({}, "messages"),
    ({"type": "input_message"}, "messages"),
    ({"type": "nonsense", "content": "a"}, "type"),
    ({"type": "agent_output", "content": "a"}, "type"),
    ({"type": 7, "content": "a"}, "type"),
    ({"type": None, "content": "a"}, "type"),
    ({"type": ["input_message"], "content": "a"}, "type"),
    ({"content": ""}, "content"),
    ({"content": 7}, "content"),
    ({"content": None}, "content"),
    ({"content": "x" * 1_000_001}, "content"),
    ({"content": "a", "nonsense": 1}, "nonsense"),
    ({"content": "a", "messages": [{"type": "text", "content": "b"}]}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "a"}, "messages"),
    ({"messages": [{"type": "text", "content": "b"}] * 101}, "messages"),
    ({"messages": [{"type": "text", "content": "x" * 600_000}] * 2}, "messages"),
    ({"messages": [{"type": "text"}]}, "messages[0].content"),
    ({"messages": [{"type": "image", "content": "b"}]}, "messages[0].type"),
    ({"messages": [{"content": "b"}]}, "messages[0].type"),
    ({"messages": [{"type": "text", "content": "b", "nonsense": 1}]}, "messages[0].nonsense"),
    ({"messages": [{"type": "skill"}]}, "messages[0].skill_name"),
    ({"content": "a", "stream_response": "yes"}, "stream_response"),
    ({"content": "a", "stream_response": None}, "stream_response"),
    ({"content": "a", "behavior": "shout"}, "behavior"),
    ({"content": "a", "since": "yesterday"}, "since"),
]


@pytest.mark.parametrize(("body", "name"), INPUT_ROWS, ids=range(len(INPUT_ROWS)))
async def test_a_wrong_field_of_an_input_is_named(stage: Stage, place: Place, body: dict[str, Any], name: str) -> None:
    answer = await stage.client.post(f"{place.session}/events", json=body)
    refused(answer, 400, "invalid_request", name)
    assert len(answer.content) < 2000
    assert await stage.log(place.session, records="true") == []


async def test_metadata_and_parameters_are_free(stage: Stage) -> None:
    free = {"nonsense": {"type": "x", "key": ["a b"], "": None}}
    agent = await stage.agent(metadata=free, model={"name": "scripted", "parameters": free})
    shown = await stage.get(f"/v2/agents/{agent}")
    assert (shown["metadata"], shown["model"]["parameters"]) == (free, free)
    assert (await stage.get(await stage.session(agent, metadata=free)))["metadata"] == free


async def test_a_body_that_is_too_large_is_refused(stage: Stage, place: Place) -> None:
    body = json.dumps({"content": "x" * (4 * MIB)}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    path = f"{place.session}/events"
    refused(await stage.client.post(path, content=body, headers=JSON), 413, "request_too_large")
    refused(await stage.client.post(path, content=chunks(), headers=JSON), 413, "request_too_large")
    assert (await stage.client.get("/healthz")).status_code == 200


async def test_a_body_without_end_is_refused(stage: Stage, place: Place) -> None:
    first = head(stage, f"POST {place.session}/events", "content-type: application/json", "transfer-encoding: chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    status, _, body = await send(stage, first, *[chunk] * 80)
    assert status == 413
    assert json.loads(body)["code"] == "request_too_large"


@pytest.mark.parametrize("length", ["1000000000000", "99999999999999999999999999"])
async def test_a_content_length_that_is_a_lie_harms_nobody(stage: Stage, place: Place, length: str) -> None:
    first = head(stage, f"POST {place.session}/events", "content-type: application/json", f"content-length: {length}")
    status, _, _ = await send(stage, first, *[b" " * MIB] * 5)
    assert status in (0, 400, 413)
    assert (await stage.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("headers", [{"x-long": "a" * 33_000}, {f"x-{n}": "a" * 400 for n in range(100)}])
async def test_headers_that_are_too_large_are_refused(stage: Stage, headers: dict[str, str]) -> None:
    refused(await stage.client.get("/healthz", headers=headers), 431, "headers_too_large")


async def test_a_head_without_end_closes_the_connection(stage: Stage) -> None:
    start = f"GET /healthz HTTP/1.1\r\nhost: {urlsplit(stage.server.url).netloc}\r\n".encode()
    for line in (b"x-more: " + b"a" * 1000 + b"\r\n", b"a" * 1000):
        status, _, _ = await send(stage, start, *[line] * 5000)
        assert status in (0, 431)
        assert (await stage.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, id="TLS"),
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
        pytest.param(b"BREW /v2/agents HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", id="unknown method"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="version"),
        pytest.param(b"GET /\x00 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", id="NUL in the path"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nbad header\r\n\r\n", id="header without a colon"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\x00b\r\n\r\n", id="NUL in a header"),
        pytest.param(
            b"POST /v2/agents HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", id="chunk size"
        ),
        pytest.param(
            b"POST /v2/agents HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            id="two lengths",
        ),
    ],
)
async def test_what_is_not_http_is_refused(stage: Stage, data: bytes) -> None:
    status, _, _ = await send(stage, data)
    assert status == 400
    assert (await stage.client.get("/healthz")).status_code == 200


async def test_a_url_that_is_too_long_is_refused(stage: Stage) -> None:
    refused(await stage.client.get("/v2/agents/" + "a" * 17_000), 431, "headers_too_large")
    refused(await stage.client.get("/v2/agents", params={"page_key": "a" * 17_000}), 431, "headers_too_large")
    status, _, _ = await send(stage, b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert status in (0, 431)


@pytest.mark.parametrize(
    "key",
    ["none", "a%00b", "%ff%fe", "%ED%A0%80", "a%20b", "a%0d%0ax-evil:%201", "'; DROP TABLE agents; --", "%2e%2e", "é"],
)
async def test_odd_keys_in_a_path_are_not_found(stage: Stage, place: Place, key: str) -> None:
    for path in (
        f"/v2/agents/{key}",
        f"/v2/agents/{place.agent}/sessions/{key}",
        f"{place.session}/events/{key}",
        f"{place.session}/turns/{key}",
    ):
        answer = await stage.client.get(httpx.URL(stage.server.url + path))
        refused(answer, 404, "not_found")
        assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "abc"}, "limit"),
        ({"limit": "1.5"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"limit": "9" * 30}, "limit"),
        ({"limit": "NaN"}, "limit"),
        ({"page_key": "a" * 201}, "page_key"),
        ({"nonsense": "1"}, "nonsense"),
        ({"Limit": "1"}, "Limit"),
    ],
)
async def test_a_wrong_parameter_of_a_list_is_named(
    stage: Stage, place: Place, params: dict[str, str], name: str
) -> None:
    for path in ("/v2/agents", f"/v2/agents/{place.agent}/sessions", f"{place.session}/events"):
        refused(await stage.client.get(path, params=params), 400, "invalid_parameter", name)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"order": "sideways"}, "order"),
        ({"records": "maybe"}, "records"),
        ({"include_hidden": "2"}, "include_hidden"),
        ({"type": ""}, "type"),
        ({"type": "a b"}, "type"),
        ({"type": "agent_output,"}, "type"),
        ({"type": ",".join(["thinking"] * 31)}, "type"),
    ],
)
async def test_a_wrong_parameter_of_the_event_list_is_named(
    stage: Stage, place: Place, params: dict[str, str], name: str
) -> None:
    refused(await stage.client.get(f"{place.session}/events", params=params), 400, "invalid_parameter", name)


async def test_a_parameter_that_is_given_twice_is_refused(stage: Stage, place: Place) -> None:
    for path in ("/v2/agents", f"/v2/agents/{place.agent}/sessions", f"{place.session}/events"):
        refused(await stage.client.get(f"{path}?limit=1&limit=1"), 400, "invalid_parameter")
        refused(await stage.client.get(path + "?" + "&".join(f"p{n}=1" for n in range(200))), 400, "invalid_parameter")


def page_key(text: str | bytes) -> str:
    return urlsafe_b64encode(text.encode() if isinstance(text, str) else text).decode().rstrip("=")


@pytest.mark.parametrize(
    "key",
    [
        "garbage",
        "%",
        "ä",
        "A",
        "=",
        page_key(b"\xff\xfe"),
        page_key("other:1"),
        page_key("sessions"),
        page_key("sessions:"),
        page_key("sessions:-1"),
        page_key("sessions:1.5"),
        page_key("sessions:٣"),
        page_key("sessions:" + "9" * 30),
        page_key("agents:-1"),
        page_key("events.asc:-1"),
        page_key("events.asc:" + "9" * 30),
    ],
)
async def test_a_page_key_that_no_page_gave_is_refused(stage: Stage, place: Place, key: str) -> None:
    for path in ("/v2/agents", f"/v2/agents/{place.agent}/sessions", f"{place.session}/events"):
        refused(await stage.client.get(path, params={"page_key": key}), 400, "invalid_page_key")


async def test_a_page_key_of_another_list_is_refused(stage: Stage, place: Place) -> None:
    await stage.agent()
    agents = (await stage.get("/v2/agents", limit=1))["metadata"]["page_key"]
    for path in (f"/v2/agents/{place.agent}/sessions", f"{place.session}/events"):
        refused(await stage.client.get(path, params={"page_key": agents}), 400, "invalid_page_key")


@pytest.mark.parametrize(
    "etag", ["1", "abc", '"', '""', '"abc"', '"-1"', '"1', 'W/"1"', '"1", "2"', '"' + "9" * 40 + '"']
)
async def test_a_wrong_if_match_is_refused(stage: Stage, place: Place, etag: str) -> None:
    headers = {"if-match": etag}
    refused(await stage.client.patch(place.session, json={}, headers=headers), 400, "invalid_parameter")
    refused(await stage.client.delete(place.session, headers=headers), 400, "invalid_parameter")
    assert (await stage.client.get(place.session)).status_code == 200


@pytest.mark.parametrize("name", ["request-timeout", "request-timeout-millis"])
@pytest.mark.parametrize("value", ["0", "-1", "abc", "", "1.5", "1e3", "00"])
async def test_a_wrong_request_timeout_is_refused(stage: Stage, place: Place, name: str, value: str) -> None:
    answer = await stage.client.post(f"{place.session}/events", json={"content": "Hi."}, headers={name: value})
    refused(answer, 400, "invalid_parameter")
    assert await stage.log(place.session, records="true") == []


@pytest.mark.parametrize(
    "path", ["//", "/v2", "/v1/agents", "/v2/agents/", "/v2/agents/a/b", "/V2/agents", "/..%2f..%2fetc"]
)
async def test_an_unknown_path_is_not_found(stage: Stage, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "PROPFIND"):
        refused(await stage.client.request(method, httpx.URL(stage.server.url + path)), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v2/agents", "GET, POST"),
        ("POST", "/v2/agents/a", "DELETE, GET, PATCH, PUT"),
        ("PUT", "/v2/agents/a/sessions/b", "DELETE, GET, PATCH"),
        ("DELETE", "/v2/agents/a/sessions/b/events", "GET, POST"),
        ("PUT", "/v2/agents/a/sessions/b/events/c", "DELETE, GET"),
        ("OPTIONS", "/v2/agents", "GET, POST"),
        ("PROPFIND", "/v2/agents", "GET, POST"),
        ("POST", "/healthz", "GET"),
    ],
)
async def test_a_method_that_is_not_there_is_refused(stage: Stage, method: str, path: str, allowed: str) -> None:
    answer = await stage.client.request(method, path)
    refused(answer, 405, "method_not_allowed")
    assert ", ".join(sorted(answer.headers["allow"].split(", "))) == allowed


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8700", "127.0.0.2", "[::2]", ""]
)
async def test_a_host_that_is_not_this_server_is_refused(stage: Stage, host: str) -> None:
    refused(await stage.client.get("/healthz", headers={"host": host}), 403, "host_not_allowed")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", ""])
async def test_a_foreign_origin_is_refused(stage: Stage, place: Place, origin: str) -> None:
    headers = {"origin": origin}
    refused(await stage.client.get("/v2/agents", headers=headers), 403, "origin_not_allowed")
    answer = await stage.client.post(f"{place.session}/events", json={"content": "Hi."}, headers=headers)
    refused(answer, 403, "origin_not_allowed")
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    answer = await stage.client.options("/v2/agents", headers=preflight)
    refused(answer, 403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


async def test_the_servers_own_origin_is_allowed(stage: Stage) -> None:
    assert (await stage.client.get("/v2/agents", headers={"origin": stage.server.url})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "sk-sessile-wrong"},
        {"x-api-key": "\xff\xfe"},
        {"x-api-key": "k" * 20_000},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic dXNlcjpwYXNz"},
    ],
)
async def test_without_a_valid_key_nobody_comes_in(stage: Stage, place: Place, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=stage.server.url, timeout=WAIT_SECONDS) as client:
        for method, path in (
            ("GET", "/v2/agents"),
            ("GET", place.session),
            ("POST", f"{place.session}/events"),
            ("DELETE", place.session),
            ("GET", "/v2/agents/nobody"),
        ):
            answer = await client.request(method, path, headers=raw)
            refused(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_may_also_be_a_bearer_token(stage: Stage) -> None:
    async with httpx.AsyncClient(base_url=stage.server.url) as client:
        for scheme in ("Bearer", "bearer"):
            headers = {"authorization": f"{scheme} {stage.server.key}"}
            assert (await client.get("/v2/agents", headers=headers)).status_code == 200


async def test_a_key_without_the_role_is_refused(stage: Stage, place: Place, config: Config) -> None:
    viewer = await asyncio.to_thread(admin.create_key, config, "default", "viewer", ["agent_viewer"], [])
    user = await asyncio.to_thread(admin.create_key, config, "default", "user", ["agent_user"], [])
    sessions = f"/v2/agents/{place.agent}/sessions"
    async with client_with(stage, viewer) as client:
        for path in ("/v2/agents", f"/v2/agents/{place.agent}", sessions, place.session, f"{place.session}/events"):
            assert (await client.get(path)).status_code == 200
        for method, path in (
            ("POST", "/v2/agents"),
            ("PATCH", f"/v2/agents/{place.agent}"),
            ("PUT", f"/v2/agents/{place.agent}"),
            ("DELETE", f"/v2/agents/{place.agent}"),
            ("POST", sessions),
            ("PATCH", place.session),
            ("DELETE", place.session),
            ("POST", f"{place.session}/events"),
        ):
            answer = await client.request(method, path, content=b"not even JSON")
            assert "roles" in refused(answer, 403, "forbidden")["messages"][0]
    async with client_with(stage, user) as client:
        assert (await client.get(place.session)).status_code == 200
        for path in ("/v2/agents", f"/v2/agents/{place.agent}", sessions, f"{place.session}/events"):
            refused(await client.get(path), 403, "forbidden")


async def test_a_role_for_one_agent_is_for_that_agent_only(stage: Stage, place: Place, config: Config) -> None:
    other = await stage.session(await stage.agent())
    roles = [f"{place.agent}=agent_administrator"]
    secret = await asyncio.to_thread(admin.create_key, config, "default", "one", [], roles)
    async with client_with(stage, secret) as client:
        assert (await client.get(place.session)).status_code == 200
        assert [agent["key"] for agent in (await client.get("/v2/agents")).json()["agents"]] == [place.agent]
        assert (await client.patch(place.session, json={})).status_code == 200
        refused(await client.get(other), 403, "forbidden")
        refused(await client.post(f"{other}/events", json={"content": "Hi."}), 403, "forbidden")
        refused(await client.post("/v2/agents", json={"name": "A", "model": MODEL}), 403, "forbidden")
        refused(await client.get("/v2/agents/nobody"), 403, "forbidden")


async def test_what_is_another_tenants_is_not_found(stage: Stage, place: Place) -> None:
    agent, session = f"/v2/agents/{place.foreign_agent}", place.foreign_session
    put = {"name": "A", "model": MODEL}
    for method, path, body in (
        ("GET", agent, None),
        ("PATCH", agent, {"name": "Mine"}),
        ("PUT", agent, put),
        ("DELETE", agent, None),
        ("GET", f"{agent}/sessions", None),
        ("POST", f"{agent}/sessions", {}),
        ("GET", session, None),
        ("PATCH", session, {"name": "Mine"}),
        ("DELETE", session, None),
        ("GET", f"{session}/events", None),
        ("POST", f"{session}/events", {"content": "Hi."}),
    ):
        refused(await stage.client.request(method, path, json=body), 404, "not_found")
    assert (await place.foreign.get(session)).status_code == 200
    refused(await place.foreign.get(place.session), 404, "not_found")
    assert [one["key"] for one in (await place.foreign.get("/v2/agents")).json()["agents"]] == [place.foreign_agent]
    mine = await stage.client.post("/v2/agents", json={**put, "key": place.foreign_agent})
    assert mine.status_code == 201


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "caf\xe9"])
async def test_an_idempotency_key_that_is_none_is_refused(stage: Stage, place: Place, key: str) -> None:
    headers = {"idempotency-key": key.encode("latin-1")}
    for path in ("/v2/agents", f"/v2/agents/{place.agent}/sessions", f"{place.session}/events"):
        refused(await stage.client.post(path, json={"content": "Hi."}, headers=headers), 400, "invalid_parameter")
    path, headers = f"/v2/agents/{place.agent}/session_imports", {**headers, "content-type": b"application/jsonl"}
    refused(await stage.client.post(path, content=b"{}\n", headers=headers), 400, "invalid_parameter")


@pytest.mark.parametrize("condition", ['"1"', '""', "start", 'W/"start"', '"start", "start"', '"aev_"', '"', ""])
async def test_a_wrong_if_match_of_an_input_is_refused(stage: Stage, place: Place, condition: str) -> None:
    headers = {"if-match": condition}
    answer = await stage.client.post(f"{place.session}/events", json={"content": "Hi."}, headers=headers)
    refused(answer, 400, "invalid_parameter")


async def test_trailers_of_a_chunked_body_are_let_go(stage: Stage, place: Place) -> None:
    parts = urlsplit(stage.server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST {place.session}/events HTTP/1.1\r\nhost: localhost\r\nx-api-key: {stage.server.key}\r\n"
    writer.write(head.encode() + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(b"2\r\n{}\r\n0\r\n" + b"x-trailer: %b\r\n" % (b"y" * 1000) * 2000 + b"\r\n")
    await writer.drain()
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()


async def test_after_all_of_it_the_server_answers_and_has_logged_no_defect(stage: Stage, place: Place) -> None:
    assert (await stage.client.get("/readyz")).json() == {"status": "ok"}
    assert await stage.log(place.session, records="true") == []
    stage.upstream.reset()
    stage.upstream.add(say("All fine."))
    assert (await stage.post(place.session))["events"][-1]["content"] == "All fine."
    assert stage.defects() == []
    assert '"status":500' not in stage.server.stderr
