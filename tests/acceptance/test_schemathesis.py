"""The server against its own OpenAPI document: generated requests, right and wrong, to every operation."""

import asyncio
import hashlib
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import httpx
import pytest
import pytest_asyncio
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from schemathesis.hooks import unregister

from acceptance import tool_server_process
from acceptance.stage import WAIT_SECONDS, Stage
from sessile.testing.script import hang, say, usage
from sessile.testing.upstream import Decide

pytestmark = pytest.mark.acceptance
with_the_stage = pytest.mark.asyncio(loop_scope="module")

SEED = 20260101
Document = dict[str, Any]
Statuses = dict[str, Counter[int]]
Hook = Callable[..., Any]

CONFIG: Document = {
    "seed": SEED,
    "generation": {"deterministic": True, "database": "none", "with-security-parameters": False, "max-examples": 8},
    "continue-on-failure": True,
    "cache": {"enabled": False},
}

NOT_BUILT = {}
"""Fields of the contract that are documented, and answered 400 `not_supported` until they are built."""
NOT_BUILT_YET = "Not built yet"
"""How the description of a parameter begins that is answered 400 `not_supported`."""
OF_A_STREAM = ("since", "deltas")
"""Parameters of the operation that answers in two forms, which the list refuses; test_follow.py has them."""
REFERENCES = {
    "FromSession": ("include_up_to_event_id", "compact_up_to_event_id"),
    "CreateAgentRequest": ("first_step_name",),
    "UpdateAgentRequest": ("first_step_name",),
    "CompactRequest": ("compact_up_to_event_id",),
    **dict.fromkeys(("AgentStep", "FirstAgentStep"), ("next_steps", "reentry_step")),
    **dict.fromkeys(("UpdateAgentStep", "UpdateFirstAgentStep"), ("next_steps", "reentry_step")),
    **dict.fromkeys(("InputMessageRequest", "MultipartInput"), ("since",)),
    "WebGetToolConfiguration": ("argument_override",),
}
"""Fields that must name something elsewhere in the same document, or in the log, or a path, which no schema can say."""
REFUSALS = {
    "invalid_parameter": "An input with a behavior takes no If-Match, which a schema cannot say of one field.",
    "invalid_json": "NUL, numbers beyond 64 bits and lone surrogates are JSON that this server does not take.",
    "invalid_filter": "A filter has a grammar, which no JSON schema can say.",
    "precondition_failed": "Which version a session has, no document knows.",
    "idempotency_key_reused": "Which keys have come before, no document knows.",
    "nothing_to_compact": "How long a session is, no document knows.",
    "agent_disabled": "An earlier request has disabled it.",
    "session_disabled": "An earlier request has disabled it.",
    "tool_call_not_outstanding": "Which calls wait for a client, no document knows.",
    "tool_server_failed": "Which tool servers answer, no document knows.",
    "unknown_tool": "Which functions a server has, no document knows.",
}
"""Refusals of requests that the document allows. Besides: JSON Schema takes 1.0 for an integer, the server does not."""
CHAIN = {"createAgent", "createAgentSession", "getAgent", "deleteAgent"}
"""Operations that chains must have gone through, or they prove nothing."""
MUTATING = frozenset({"PATCH", "PUT", "DELETE"})


@pytest.fixture(scope="module")
def settings() -> str:
    return 'log_level = "error"'


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"tools": 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.ping]\nfunction = "tools:ping"\n[mcp]\nallow = ["127.0.0.1"]\n'


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with tool_server_process.echo() as uri:
        yield uri


@pytest.fixture(scope="module")
def decide() -> Decide | None:
    return lambda request: [hang()] if "Never answer." in str(request.body) else [say("Hello."), usage(1, 1)]


def narrowed(document: Document) -> Document:
    """The document with what only this installation knows, and without what is documented but not built yet."""
    schemas = document["components"]["schemas"]
    schemas["AgentModel"]["properties"]["name"] = {"const": "scripted"}
    # Which functions a server has is its own configuration.
    schemas["LambdaToolConfiguration"]["properties"]["tool_id"] = {"const": "tol_ping"}
    # schemathesis cannot check its own bytes against a schema, so it is not asked which of text and files to give.
    multipart = schemas["MultipartInput"]
    del multipart["oneOf"], multipart["properties"]["messages"]
    multipart["required"] = ["message"]
    for name, fields in [*NOT_BUILT.items(), *REFERENCES.items()]:
        for field in fields:
            del schemas[name]["properties"][field]
    for item in document["paths"].values():
        for operation in item.values():
            operation["parameters"] = [
                parameter
                for parameter in operation["parameters"]
                if parameter["name"] not in OF_A_STREAM
                and not parameter.get("description", "").startswith(NOT_BUILT_YET)
            ]
            for parameter in operation["parameters"]:
                if parameter["name"] == "page_key":
                    # Opaque: only an earlier page gives one that is right. An empty one means the first page.
                    parameter["schema"] = {"const": ""}
            for answer in operation["responses"].values():
                if (stream := answer.get("content", {}).get("text/event-stream")) is not None:
                    _describe_the_frames(stream)
    return document


def _describe_the_frames(stream: Document) -> None:
    """In OpenAPI 3.1 the schema of a stream is that of a frame's data; 3.2 can say so, which schemathesis reads."""
    frame = stream.pop("schema")
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": frame}
    stream["itemSchema"] = {
        "type": "object",
        "properties": {"event": {"enum": sorted(frame["discriminator"]["mapping"])}, "data": data},
        "required": ["event", "data"],
    }


def without_references(value: Any) -> Any:
    """A body whose templates refer to nothing: what there is to refer to, no document knows."""
    if isinstance(value, list):
        return [without_references(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: item.replace("$", "").replace("#", "")
        if name == "template" and isinstance(item, str)
        else without_references(item)
        for name, item in value.items()
    }


class Seeds:
    """Things that are there, made through the API; mutating requests get their own."""

    def __init__(self, url: str, headers: dict[str, str], tool_server: str) -> None:
        self._tool_server = {"name": "Echo", "type": "mcp", "uri": tool_server, "transport": "streamable-http"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=WAIT_SECONDS)
        self._shared = self._fresh() | self._tools()

    def close(self) -> None:
        self._client.close()

    def fill(self, case: schemathesis.Case) -> None:
        """Let a request that is otherwise right reach something that exists, and make something that does not yet."""
        keys = self._shared
        if case.path_parameters and not _is_negative(case, "path"):
            keys = self._fresh(*case.path_parameters) if case.method.upper() in MUTATING else self._shared
            if keys is not self._shared and "/inputs/" in case.operation.path:
                keys |= self._waiting(keys)
            case.path_parameters = {name: keys[name] for name in case.path_parameters}
        if case.operation.definition.raw["operationId"] == "importAgentSession" and not _is_negative(case, "body"):
            case.body = _export()
            if case.query and "key" in case.query and not _is_negative(case, "query"):
                case.query = {**case.query, "key": secrets.token_hex(8)}
        if not _is_negative(case, "body") and (plain := without_references(case.body)) != case.body:
            case.body = plain
        if isinstance(case.body, dict) and "key" in case.body and not _is_negative(case, "body"):
            case.body = {**case.body, "key": keys["agent_key"] if case.method == "PUT" else secrets.token_hex(8)}

    def _fresh(self, *names: str) -> dict[str, str]:
        if {"tool_server_id", "tool_id"} & set(names):
            return self._tools()
        agent = self._post("/v2/agents", {"name": "Seed", "model": {"name": "scripted"}})["key"]
        if names == ("agent_key",):
            return {"agent_key": agent}
        session = self._post(f"/v2/agents/{agent}/sessions", {})["key"]
        if names and not {"event_id", "turn_id", "artifact_id"} & set(names):
            return {"agent_key": agent, "session_key": session}
        path = f"/v2/agents/{agent}/sessions/{session}/events"
        answer = self._client.post(path, data={"message": "Hello"}, files={"files": ("a.txt", b"abc")})
        assert answer.status_code == 201, answer.text
        turn = answer.json()
        said, sent, *_ = turn["events"]
        return {
            "agent_key": agent,
            "session_key": session,
            "event_id": said["id"],
            "turn_id": turn["turn_id"],
            "artifact_id": sent["artifacts"][0]["artifact_id"],
        }

    def _waiting(self, keys: dict[str, str]) -> dict[str, str]:
        """An input that waits in the session, whose turn does not end."""
        path = f"/v2/agents/{keys['agent_key']}/sessions/{keys['session_key']}/events"
        for body in ({"content": "Never answer."}, {"content": "Wait.", "behavior": "follow_up"}):
            answer = self._client.post(path, json=body, headers={"request-timeout-millis": "1"})
            assert answer.status_code == 201, answer.text
        return {"event_id": answer.headers["x-event-id"]}

    def _tools(self) -> dict[str, str]:
        server = self._post("/v2/tool_servers", self._tool_server)["id"]
        assert self._client.post(f"/v2/tool_servers/{server}/sync").status_code == 204
        tools = self._client.get("/v2/tools", params={"tool_server_id": server}).json()["tools"]
        return {"tool_server_id": server, "tool_id": tools[0]["id"]}

    def _post(self, path: str, body: Document) -> Any:
        answer = self._client.post(path, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()


def _export() -> str:
    """A session without events, as an export has it."""
    session = {"kind": "session", "format": 1, "key": secrets.token_hex(8), "name": "Travelled", "metadata": {}}
    lines = [session | {"enabled": True, "tti_minutes": 0}, {"kind": "agent", "key": "elsewhere", "document": {}}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    end = {"kind": "end", "events": 0, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return text + json.dumps(end) + "\n"


@schemathesis.serializer("application/jsonl")
def _as_it_is(context: schemathesis.SerializationContext, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


def _is_negative(case: schemathesis.Case, location: str) -> bool:
    """Whether this part of a request is meant to be wrong."""
    parts = {} if case.meta is None else case.meta.components
    return any(place.value == location and info.mode.is_negative for place, info in parts.items())


def run(document: Document, stage: Stage, config: Document, *hooks: Hook) -> tuple[Statuses, list[str]]:
    """Run the engine: how often each operation answered with each status, and what failed."""
    config = {**config, "base-url": stage.server.url, "auth": {"openapi": {"api_key": {"api_key": stage.server.key}}}}
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(config))
    statuses: Statuses = defaultdict(Counter)
    failures: list[str] = []
    for event in _events(schema, hooks):
        if isinstance(event, FatalError):
            raise event.exception
        if isinstance(event, NonFatalError):
            failures.append(f"{event.label}: {event.value!r}")
        if isinstance(event, ScenarioFinished):
            for case_id, interaction in event.recorder.interactions.items():
                operation = event.recorder.cases[case_id].value.operation.definition.raw["operationId"]
                if interaction.response is not None:
                    statuses[operation][interaction.response.status_code] += 1
            for case_id, checks in event.recorder.checks.items():
                for check in checks:
                    if check.failure_info is not None:
                        failures.append(_told(event, case_id, check))
    print(*failures, sep="\n")
    return statuses, failures


def without_success(document: Document, statuses: Statuses) -> list[str]:
    """The operations that never answered 2xx; prints how often each operation answered with each status."""
    print(*(f"{name}: {dict(sorted(seen.items()))}" for name, seen in statuses.items()), sep="\n")
    operations = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    return [name for name in operations if not any(200 <= status < 300 for status in statuses[name])]


def filter_failure(
    context: schemathesis.HookContext, failure: Any, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """Drop what is no failure: refusals that no schema can tell, and headers that by HTTP are ignored when unknown."""
    if failure.checks == ("negative_data_rejection",):
        if response.status_code == 431:  # A filter that is too long for its limit may be too long for a URL before.
            return False
        return "in header - object with unexpected properties" not in failure.message
    if failure.checks == ("positive_data_acceptance",):
        answer = response.json()
        not_integers = set(answer.get("field_errors", {}).values()) == {"Expected `int`, got `float`"}
        # Interrupts take no Idempotency-Key, and like tool outputs no If-Match: a schema cannot say that.
        of_an_interrupt = answer["code"] == "not_supported" and "The header " in answer["messages"][0]
        return answer["code"] not in REFUSALS and not not_integers and not of_an_interrupt
    return True


def _events(schema: Any, hooks: Sequence[Hook]) -> Iterator[Any]:
    """The events of a run, with hooks that end with it: schemathesis knows hooks on calls only for all schemas."""
    for hook in hooks:
        schemathesis.hook(hook)
    try:
        yield from from_schema(schema).execute()
    finally:
        for hook in hooks:
            unregister(hook)


def _told(event: ScenarioFinished, case_id: str, check: Any) -> str:
    failure = check.failure_info.failure
    answer = event.recorder.interactions[case_id].response
    text = "" if answer is None else f"{answer.status_code} {answer.text[:400]}"
    return f"{check.name}: {failure.message}\n    {check.failure_info.code_sample[:400]}\n    {text}"


@pytest_asyncio.fixture(loop_scope="module")
async def document(stage: Stage) -> Document:
    return narrowed((await stage.client.get("/openapi.json")).json())


@with_the_stage
async def test_every_operation_keeps_to_the_document(stage: Stage, document: Document, echo: str) -> None:
    seeds = await asyncio.to_thread(Seeds, stage.server.url, stage.server.headers, echo)

    def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Document) -> None:
        seeds.fill(case)

    config = {
        **CONFIG,
        "phases": {"examples": {"enabled": False}, "stateful": {"enabled": False}},
        # The body of this one is that of createAgent, and its coverage is a third of the whole run.
        "operations": [{"include-operation-id": "replaceAgent", "phases": {"coverage": {"enabled": False}}}],
    }
    with closing(seeds):
        statuses, failures = await asyncio.to_thread(run, document, stage, config, before_call, filter_failure)
    assert failures == []
    assert without_success(document, statuses) == []


@with_the_stage
async def test_chains_of_operations_keep_to_the_document(stage: Stage, document: Document) -> None:
    phases = {name: {"enabled": False} for name in ("examples", "coverage", "fuzzing")}
    # Only the links of the document: what schemathesis infers beside them fills half of a path and ends at a 404.
    stateful = {"enabled": True, "max-steps": 12, "inference": {"algorithms": []}, "link-calibration": False}
    generation = {**CONFIG["generation"], "mode": "positive", "max-examples": 60, "allow-x00": False}
    config = {**CONFIG, "generation": generation, "phases": {**phases, "stateful": stateful}}

    def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Document) -> None:
        if (plain := without_references(case.body)) != case.body:
            case.body = plain
        if isinstance(case.body, dict) and "key" in case.body:
            case.body = {name: value for name, value in case.body.items() if name != "key"}
        if case.operation.definition.raw["operationId"] == "importAgentSession":
            case.body, case.query = _export(), {}
        # One that came in an earlier chain gives what was made there, and perhaps deleted.
        case.headers.pop("Idempotency-Key", None)

    statuses, failures = await asyncio.to_thread(run, document, stage, config, before_call, filter_failure)
    assert failures == []
    assert CHAIN.isdisjoint(without_success(document, statuses))


@with_the_stage
async def test_every_link_of_the_document_leads_to_what_was_made(stage: Stage, document: Document) -> None:
    bodies: Document = {
        "createAgent": {"name": "Linked", "model": {"name": "scripted"}},
        "createAgentSession": {},
        "createAgentInput": {"content": "Hello"},
        "createToolServer": {"name": "T", "type": "mcp", "uri": "http://127.0.0.1:1/", "transport": "sse"},
    }
    operations = {
        operation["operationId"]: (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    followed, parameters = set(), {}
    for name, body in bodies.items():
        _, path, operation = operations[name]
        made = await stage.client.post(path.format(**parameters), json=body)
        values = {f"$request.path.{key}": value for key, value in parameters.items()}
        values |= {f"$response.body#/{key}": value for key, value in made.json().items()}
        values |= {
            f"$response.header.{key}": made.headers[key] for key in ("X-Turn-Id", "X-Event-Id") if key in made.headers
        }
        for link in operation["responses"]["201"]["links"].values():
            method, target, _ = operations[link["operationId"]]
            found = {key: values[expression] for key, expression in link["parameters"].items()}
            parameters |= found
            followed.add(link["operationId"])
            if method == "get":
                assert (await stage.client.get(target.format(**found))).status_code == 200
    # The id of a file stands somewhere among the events of the answer, where no link can point.
    on_something = {name for name, (_, path, _) in operations.items() if "{" in path}
    of_tools = {name for name, (_, path, _) in operations.items() if "{tool_id}" in path}
    assert of_tools, "nothing that is created names a tool: a sync finds them"
    assert followed | of_tools == on_something - {"getSessionArtifact"}
