"""The page for people, as a browser gets it: all its parts from this server, and examples that work as they stand."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from acceptance.stage import Stage, refused

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

ASSETS = {
    "/docs/docs.js": ("text/javascript", "SwaggerUIBundle("),
    "/docs/swagger_bundle.js": ("text/javascript", "SwaggerUIBundle"),
    "/docs/swagger_style.css": ("text/css", ".swagger-ui"),
}
PATHS = ["/docs", *ASSETS]
METHODS = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


class Elements(HTMLParser):
    """The start tags of a page, with their attributes, and the text inside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is not None:
            self.inline += data.strip()


async def fetch(stage: Stage, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Ask without any key, as a browser does."""
    async with httpx.AsyncClient(base_url=stage.server.url) as client:
        return await client.request(method, path, headers=headers)


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    """The directives of the content security policy."""
    directives = [one.split() for one in answer.headers["content-security-policy"].split(";")]
    return {name: sources for name, *sources in directives}


async def test_the_root_leads_to_the_page(stage: Stage) -> None:
    answer = await fetch(stage, "/")
    assert (answer.status_code, answer.headers["location"], answer.content) == (307, "/docs", b"")
    assert "access-control-allow-origin" not in answer.headers


async def test_the_page_refers_to_nothing_but_its_own_assets(stage: Stage) -> None:
    page = await fetch(stage, "/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    elements = Elements(page.text)
    named = [value for _, attributes in elements.found for name, value in attributes.items() if name in ("src", "href")]
    assert sorted(named, key=str) == sorted([*ASSETS, "/openapi.json", "data:,"])
    assert elements.inline == ""
    assert [name for _, attributes in elements.found for name in attributes if name.startswith("on")] == []


@pytest.mark.parametrize(("path", "media", "part"), [(path, *expected) for path, expected in ASSETS.items()])
async def test_an_asset_is_served(stage: Stage, path: str, media: str, part: str) -> None:
    for _ in range(2):
        answer = await fetch(stage, path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == media
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert part in answer.text
        assert answer.headers["cache-control"] == "max-age=3600"


async def test_the_script_shows_this_servers_document_and_asks_no_other_host(stage: Stage) -> None:
    script = (await fetch(stage, "/docs/docs.js")).text
    (url,) = re.findall(r'\burl: "([^"]+)"', script)
    assert (await fetch(stage, url)).json()["openapi"].startswith("3.1")
    assert "validatorUrl: null" in script
    assert "persistAuthorization: false" in script
    assert "://" not in script


@pytest.mark.parametrize("path", PATHS)
async def test_the_page_may_load_nothing_from_elsewhere_and_stand_in_no_frame(stage: Stage, path: str) -> None:
    answer = await fetch(stage, path)
    assert policy(answer) == {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/docs.html",
        "/docs/redoc.js",
        "/docs/swagger_preset.js",
        "/docs/__init__.py",
        "/docs/%2e%2e/docs/docs.js",
        "/docs/..%2f..%2fapp.py",
        "/docs/%2e%2e/app.py",
        "/docs//docs.js",
        "/assets/docs.js",
    ],
)
async def test_no_other_file_can_be_had(stage: Stage, path: str) -> None:
    url = httpx.URL(stage.server.url, raw_path=path.encode())
    refused(await stage.client.get(url), 404, "not_found")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["/", "/openapi.json", *PATHS])
async def test_the_pages_are_only_for_get(stage: Stage, path: str, method: str) -> None:
    answer = await fetch(stage, path, method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    if method != "HEAD":
        refused(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/", *PATHS])
async def test_the_pages_are_behind_the_gate(stage: Stage, path: str) -> None:
    refused(await fetch(stage, path, host="evil.example"), 403, "host_not_allowed")
    refused(await fetch(stage, path, origin="http://evil.example"), 403, "origin_not_allowed")


async def document(stage: Stage) -> dict[str, Any]:
    shown: dict[str, Any] = (await fetch(stage, "/openapi.json")).json()
    return shown


async def test_the_document_lists_operations_only_and_says_how_to_give_a_key(stage: Stage) -> None:
    shown = await document(stage)
    assert not [path for path in shown["paths"] if not path.startswith("/v2/") and path not in ("/healthz", "/readyz")]
    schemes = shown["components"]["securitySchemes"]
    assert (schemes["api_key"]["in"], schemes["api_key"]["name"]) == ("header", "x-api-key")
    operations = [operation for item in shown["paths"].values() for operation in item.values()]
    assert {operation["tags"][0] for operation in operations} == {tag["name"] for tag in shown["tags"]}
    for operation in operations:
        assert operation["summary"]
        assert operation["description"].endswith((".", "`"))
        assert [one["name"] for one in operation["parameters"] if not one.get("description")] == []
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        assert body is None or body["examples"]


async def a_tool_server(stage: Stage) -> str:
    body = {"name": "T", "type": "mcp", "uri": "https://mcp.example.com/mcp", "transport": "sse"}
    return str((await stage.client.post("/v2/tool_servers", json=body)).json()["id"])


async def test_every_example_works_after_the_first_ones_of_what_it_needs(stage: Stage) -> None:
    shown = await document(stage)
    bodies: dict[str, dict[str, Any]] = {}
    places: dict[str, tuple[str, str, str]] = {}
    for path, item in shown["paths"].items():
        for method, operation in item.items():
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                name = operation["operationId"]
                examples = operation["requestBody"]["content"]["application/json"]["examples"]
                keys = {one["name"]: one.get("example", "") for one in operation["parameters"] if one["in"] == "path"}
                if "tool_server_id" in keys:
                    keys["tool_server_id"] = await a_tool_server(stage)
                bodies[name] = {title: example["value"] for title, example in examples.items()}
                places[name] = (method, path.format(**keys), min(operation["responses"]))

    async def send(name: str, value: Any) -> None:
        method, path, expected = places[name]
        answer = await stage.client.request(method, path, json=value)
        assert str(answer.status_code) == expected, answer.text

    first = ["createAgent", "createAgentSession"]
    del bodies["updateTool"]  # only a sync with a real tool server makes a tool: test_mcp.py
    of_agents = {"createAgent", "replaceAgent", "updateAgent", "replaceAgentSecrets", "updateAgentSecrets"}
    of_sessions = {"createAgentSession", "updateAgentSession", "createAgentInput"}
    assert bodies.keys() == of_agents | of_sessions | {"createToolServer", "updateToolServer"}
    (agent,) = {body["key"] for body in bodies["createAgent"].values()}
    for name, examples in bodies.items():
        for value in examples.values():
            for needed in first[: first.index(name)] if name in first else first:
                await send(needed, next(iter(bodies[needed].values())))
            for _ in range(2 if value == {"type": "compact"} else 0):  # There must be something to summarise.
                await send(name, next(iter(examples.values())))
            await send(name, value)
            assert (await stage.client.delete(f"/v2/agents/{agent}")).status_code == 204
