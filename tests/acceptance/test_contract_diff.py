"""The server's own OpenAPI document keeps what the Agents v2 contract promises, in every operation that is built."""

import json
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from acceptance.openapi_diff import differences, operations
from sessile.api import openapi
from sessile.api.app import ROUTES

CONTRACT = json.loads((Path(__file__).parents[1] / "contract" / "agents-v2.openapi.json").read_text())
EVENTS = "/v2/agents/{agent_key}/sessions/{session_key}/events"
BUILT = {
    ("get", "/v2/agents"),
    ("post", "/v2/agents"),
    *((method, "/v2/agents/{agent_key}") for method in ("get", "patch", "put", "delete")),
    *((method, "/v2/agents/{agent_key}/sessions") for method in ("get", "post")),
    *((method, "/v2/agents/{agent_key}/sessions/{session_key}") for method in ("get", "patch", "delete")),
    *((method, EVENTS) for method in ("get", "post")),
    *((method, EVENTS + "/{event_id}") for method in ("get", "delete")),
    *(("post", EVENTS + "/{event_id}/" + verb) for verb in ("hide", "unhide")),
    ("get", EVENTS + "/{event_id}"),
    ("get", EVENTS.removesuffix("events") + "artifacts"),
    ("get", EVENTS.removesuffix("events") + "artifacts/{artifact_id}"),
}

BOUNDED = "Every text and list has a limit here, and PROTOCOL.md lists it."
NOT_BUILT = "Not built yet."
NOT_EMITTED = "Not built yet, and until then no stream holds such a frame."
DELIBERATE = {
    f"answer POST {EVENTS} 502: no such answer": "A durable input is never answered 5xx: a model fault is a 201.",
    "answer InputMessageEvent.message_diffs: no such property": "Input is never rewritten: no diff to tell.",
    "answer JsonSchemaDefinition*": "A JSON schema is kept and shown as its caller gave it, whatever its keywords.",
    **{
        f"answer AgentStreamedResponse: no variant {tag}": NOT_EMITTED
        for tag in (
            "image_read",
            "skill_load",
            "step_transition",
            "step_transition_limit_exceeded",
        )
    },
    "answer LambdaTool.*: no such property": "Optional, and a function of the server has none of it.",
    "answer FunctionDefinition.*: no such property": "Optional, and a function of the server has none of it.",
    "answer McpTool.*: no such property": "Optional, and MCP servers tell none of it.",
    "answer Tool: no variant *": "Tools of other types need no id: agents name them by their type.",
    "request UpdateToolRequest: no variant *": "Functions are changed in the configuration of the server.",
    "request *Auth.*: m* *, contract None": BOUNDED,
    "request *Auth.*: pattern *, contract None": "What no header can hold is refused when it is given.",
    "request *ToolServerRequest.*: m* *, contract None": BOUNDED,
    "request *ToolServerRequest.headers*: pattern *, contract None": "What no header can hold is refused at once.",
    "request *ToolServerRequest.headers: only certain names": "What no header can be called is refused at once.",
    "request Create*Request.description: maxLength 4000, contract None": BOUNDED,
    "request Update*Request.description: maxLength 4000, contract None": BOUNDED,
    "request *AgentSessionRequest.name: maxLength 255, contract None": BOUNDED,
    "request CreateAgentSessionRequest.from_session.*_key: m??Length *, contract None": "They are keys.",
    "request CreateAgentSessionRequest.from_session.*: pattern *, contract None": "They are keys and event ids.",
    "request *AgentSessionRequest.tti_minutes: maximum 5256000, contract None": "Ten years: a time must stay a date.",
    "request AgentModel.name: maxLength 255, contract None": BOUNDED,
    "request AgentModel.name: minLength 1, contract None": "No model has an empty name.",
    "request *.first_step_name: maxLength 255, contract None": "The name of a step, which the contract bounds there.",
    "request UpdateFirstAgentStep.name: m??Length *, contract None": "The contract bounds the same name on create.",
    "request *AgentRequest.steps: only certain names": "The name of a step, which the contract bounds in first_step.",
    "request *AgentRequest.tool_configurations: only certain names": "Models are told these names, and take no others.",
    "request CreateInputMessageRequest.messages: m??Items *, contract None": BOUNDED,
    "request ClientToolOutputRequest.tool_outputs: m??Items *, contract None": BOUNDED,
    "request CreateCompactRequest.compact*: maxLength *, contract None": BOUNDED,
    "request CreateCompactRequest.compact*: minLength 1, contract None": "An empty one says nothing.",
    "request MultipartInputEvent.*: m* *, contract None": BOUNDED,
    "request InstructionTemplate: maxLength 100000, contract None": BOUNDED,
    "request ToolDescriptionTemplate: maxLength 10000, contract None": BOUNDED,
    "request ToolId: maxLength 255, contract None": BOUNDED,
    "request ToolId: pattern ^tol_.*$, contract ^tol_.*": "An identifier is one line.",
    "request *AgentSecretsRequest.secrets: only certain names": "The contract bounds the same names of sessions.",
    "request *AgentSecretsRequest.secrets.additionalProperties: minLength 1, contract None": "As those of sessions.",
    "request GET * query.filter: maxLength 1000, contract None": BOUNDED,
    "request GET * query.page_key: maxLength 200, contract None": "Opaque, and the server makes none that is longer.",
}


@pytest.fixture
def ours() -> dict[str, Any]:
    return deepcopy(openapi.document(ROUTES))


def unexpected(document: dict[str, Any]) -> set[str]:
    found = differences(CONTRACT, document)
    return {difference for difference in found if not any(fnmatchcase(difference, known) for known in DELIBERATE)}


def test_every_difference_from_the_contract_is_deliberate(ours: dict[str, Any]) -> None:
    assert unexpected(ours) == set()


def test_no_deliberate_difference_is_out_of_date(ours: dict[str, Any]) -> None:
    found = differences(CONTRACT, ours)
    assert [known for known in DELIBERATE if not any(fnmatchcase(one, known) for one in found)] == []


def test_the_operations_on_agents_sessions_and_events_are_built(ours: dict[str, Any]) -> None:
    assert operations(ours) & operations(CONTRACT) >= BUILT


def test_the_contract_agrees_with_itself() -> None:
    assert differences(CONTRACT, CONTRACT) == set()


def schemas(document: dict[str, Any]) -> Any:
    return document["components"]["schemas"]


def _without_a_property(document: dict[str, Any]) -> None:
    del schemas(document)["Session"]["properties"]["effective_compaction"]


def _without_a_required_field(document: dict[str, Any]) -> None:
    schemas(document)["ToolOutputEvent"]["required"].remove("error")


def _with_another_type(document: dict[str, Any]) -> None:
    schemas(document)["SessionContextUsage"]["properties"]["total_tokens"] = {"type": "string"}


def _with_a_null_in_an_answer(document: dict[str, Any]) -> None:
    name = schemas(document)["Agent"]["properties"]
    name["name"] = {"anyOf": [name["name"], {"type": "null"}]}


def _without_a_variant(document: dict[str, Any]) -> None:
    items = schemas(document)["ListEventsResponse"]["properties"]["events"]["items"]
    del items["discriminator"]["mapping"]["thinking"]


def _with_a_field_that_must_be_sent(document: dict[str, Any]) -> None:
    schemas(document)["CreateSessionRequest"]["required"] = ["name"]


def _without_an_enum_value(document: dict[str, Any]) -> None:
    schemas(document)["InputMessageRequest"]["properties"]["behavior"]["enum"] = ["steer"]


def _with_a_narrower_limit(document: dict[str, Any]) -> None:
    schemas(document)["RetryConfiguration"]["properties"]["max_retries"]["maximum"] = 9


def _without_a_parameter(document: dict[str, Any]) -> None:
    operation = document["paths"][EVENTS]["get"]
    operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "include_hidden"]


def _with_another_role(document: dict[str, Any]) -> None:
    document["paths"][EVENTS]["get"]["x-required-roles"][0]["roles"].append("agent_user")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (_without_a_property, "answer AgentSession.effective_compaction: no such property"),
        (_without_a_required_field, "answer ToolOutputEvent.error: not always there"),
        (_with_another_type, "answer SessionContextUsage.total_tokens: string where the contract has integer"),
        (_with_a_null_in_an_answer, "answer AgentName: may be null"),
        (_without_a_variant, "answer AgentEvent: no variant thinking"),
        (_with_a_field_that_must_be_sent, "request CreateAgentSessionRequest.name: required only by us"),
        (_without_an_enum_value, "request InputBehavior: no value ['follow_up']"),
        (_with_a_narrower_limit, "request RetryConfiguration.max_retries: maximum 9, contract 10"),
        (_without_a_parameter, f"request GET {EVENTS} query.include_hidden: no such parameter"),
        (_with_another_role, f"request GET {EVENTS}: other required roles"),
    ],
)
def test_a_document_that_keeps_less_is_found_out(ours: dict[str, Any], harm: Any, expected: str) -> None:
    before = unexpected(ours)
    harm(ours)
    assert unexpected(ours) - before == {expected}
