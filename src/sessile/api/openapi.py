"""The OpenAPI 3.1 document, made from the route table and the wire types: nothing in it is written by hand twice."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from inspect import cleandoc
from typing import Any

import msgspec
from msgspec.structs import fields

from sessile.api import examples
from sessile.api.errors import BadRequestError, Error, NotFoundError
from sessile.api.route import Route, Tag
from sessile.wire.events import Event
from sessile.wire.ids import (
    ARTIFACT_ID_PATTERN,
    EVENT_ID_PATTERN,
    IDEMPOTENCY_KEY_PATTERN,
    KEY_PATTERN,
    TOOL_ID_PATTERN,
    TOOL_SERVER_ID_PATTERN,
    TURN_ID_PATTERN,
)
from sessile.wire.tool_configurations import VENDOR_TYPES

RAW = "application/octet-stream"
_PREFIX = "#/components/schemas/"
_DESCRIPTION = """\
Sessions of people and AI agents: the Agents v2 contract, durable and streamed.

Give your API key under *Authorize*. Then the examples work as they are, in this order: create an agent, create a
session of it, post an input. `PROTOCOL.md` says all that is promised beyond what stands here.
"""
_TAGS: dict[Tag, str] = {
    "Agents": "A model, instructions and tools, as one document",
    "Sessions": "Conversations, each with one agent",
    "Tools": "Tools that agents can name, and the servers that they come from",
    "Events": "Inputs, the turns that answer them, and the log of a session",
    "Artifacts": "Files of a session: those that came with inputs, and those that tools have made",
    "Server": "Whether it is alive and ready",
}
_ERRORS: dict[int, tuple[str, type]] = {
    400: ("The request is not valid", BadRequestError),
    401: ("The API key is missing or not valid", Error),
    403: ("The key's roles do not allow this, or the Host or Origin is not allowed", Error),
    404: ("There is no such thing", NotFoundError),
    409: ("A turn of this session is running, or has taken the input", Error),
    410: ("The input was withdrawn", Error),
    412: ("The session has another version, or another last event, than If-Match names", Error),
    413: ("The body is too large", Error),
    415: ("The body is not of the media type that is asked for", Error),
    416: ("The file is shorter than the range asks for", Error),
    422: ("The request is well formed and cannot be carried out", Error),
    431: ("The request line or the headers are too large", Error),
    429: ("The API key sends more than it may; nothing was done", Error),
    503: ("The store or the server cannot do this now; nothing was changed", Error),
}
_PATH_PARAMETERS = {
    "agent_key": {"description": "The key of an agent", "example": examples.AGENT_KEY},
    "session_key": {"description": "The key of a session of this agent", "example": examples.SESSION_KEY},
    "event_id": {"description": "The id of an event of this session, or of an input that waits"},
    "turn_id": {"description": "The id of a turn of this session"},
    "artifact_id": {"description": "The id of a file of this session"},
    "tool_server_id": {"description": "The id of a tool server"},
    "tool_id": {"description": "The id of a tool"},
}
_PATH_PATTERNS = {
    "event_id": EVENT_ID_PATTERN,
    "turn_id": TURN_ID_PATTERN,
    "artifact_id": ARTIFACT_ID_PATTERN,
    "tool_server_id": TOOL_SERVER_ID_PATTERN,
    "tool_id": TOOL_ID_PATTERN,
}
_HEADERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "type": "string",
        "description": "The ETag of the session, or `*`",
        "anyOf": [{"const": "*"}, {"pattern": '^"[0-9]{1,18}"$'}],
    },
    "Last-Event-ID": {
        "type": "string",
        "description": "Where a stream goes on: after this event. A browser's EventSource sends it by itself",
    },
    "Idempotency-Key": {
        "type": "string",
        "pattern": IDEMPOTENCY_KEY_PATTERN,
        "description": "One for each thing to do: the same request with the same key happens once, within 24 hours",
    },
    "If-Match of an input": {
        "type": "string",
        "description": 'The id of the last event of the session in quotes, `"start"` for none, or `*`',
        "anyOf": [{"const": "*"}, {"pattern": '^"(start|aev_[0-9a-zA-Z_-]+)"$'}],
    },
    "Range": {"type": "string", "description": "The part of the bytes that is wanted: `bytes=0-1023`, one range only"},
    "If-Range": {"type": "string", "description": "The ETag that the range belongs to; else all bytes come"},
    "If-None-Match": {"type": "string", "description": "ETags that the caller has; 304 for one of them"},
    "Request-Timeout": {"type": "integer", "minimum": 1, "description": "Seconds to wait; more than a day is a day"},
    "Request-Timeout-Millis": {
        "type": "integer",
        "minimum": 1,
        "description": "Milliseconds to wait; beats Request-Timeout",
    },
}
_EVERY_HEADER = ("Request-Timeout", "Request-Timeout-Millis")
"""Request headers of every operation that needs a role."""
_ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {"type": "string", "pattern": "^[0-9A-Za-z._-]{1,100}$", "description": "As in the body of errors"},
    "ETag": {"type": "string", "pattern": '^"[0-9]+"$', "description": "The version of the session, for If-Match"},
    "X-Turn-Id": {
        "type": "string",
        "pattern": TURN_ID_PATTERN,
        "description": "The turn that takes the input, if that is known yet, or was interrupted",
    },
    "X-Event-Id": {
        "type": "string",
        "pattern": EVENT_ID_PATTERN,
        "description": "The event of the input, or the id that it waits under; not for an interrupt",
    },
    "X-Sessile-Inactive": {
        "type": "string",
        "description": "Tool configurations that no model is offered, as `name=type, name=type`; absent without any",
    },
    "WWW-Authenticate": {"type": "string"},
    "Retry-After": {"type": "integer", "description": "Seconds"},
}
_OPTIONAL_ANSWER_HEADERS = frozenset({"X-Sessile-Inactive", "X-Turn-Id", "X-Event-Id"})
_ERROR_HEADERS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
_MADE_BY = {
    "createAgent": {"agent_key": "$response.body#/key"},
    "createToolServer": {"tool_server_id": "$response.body#/id"},
    "createAgentSession": {"agent_key": "$request.path.agent_key", "session_key": "$response.body#/key"},
    "createAgentInput": {
        "agent_key": "$request.path.agent_key",
        "session_key": "$request.path.session_key",
        "event_id": "$response.header.X-Event-Id",
        "turn_id": "$response.header.X-Turn-Id",
    },
}
"""What the operations that make something tell about its path: they link to every operation on it."""


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document."""
    types = [t for route in routes for t in (route.body, route.multipart, route.answer, route.stream) if t is not None]
    types += [kind for _, kind in _ERRORS.values()]
    schemas, components = msgspec.json.schema_components(types, ref_template=_PREFIX + "{name}")
    by_type = dict(zip(map(id, types), schemas, strict=True))
    _require_envelopes(components)
    _default_the_input_type(components)
    _admit_kept_tool_configurations(components)
    _split_tool_activity(components)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, by_type)
        if links := _links(route, routes):
            operation["responses"][str(route.status)]["links"] = links
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Sessile",
            "version": version("sessile"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "api_key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "The owner key that the first start prints, or one that `sessile keys create` made",
                },
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same API key as a bearer token"},
            },
        },
    }
    _publish(whole)
    return whole


def _operation(route: Route, schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.description,
        "parameters": _parameters(route),
        "responses": {str(route.status): _success(route, schemas)},
    }
    if route.roles is None:
        operation["security"] = []
    else:
        operation["security"] = [{"api_key": []}, {"bearer": []}]
        operation["x-required-roles"] = [
            {"type": kind, "roles": sorted(roles)}
            for kind, roles in (("AgentRole", route.roles.agent), ("ApiRole", route.roles.api))
            if roles
        ]
    if route.body is not None:
        content = {route.body_media: {"schema": schemas[id(route.body)], **_examples(route)}}
        if route.multipart is not None:
            content["multipart/form-data"] = {"schema": schemas[id(route.multipart)]}
        operation["requestBody"] = {"required": True, "content": content}
    if route.raw:
        operation["responses"] |= _parts(operation["responses"][str(route.status)])
    for status in _statuses(route):
        description, kind = _ERRORS[status]
        content = {"application/json": {"schema": schemas[id(kind)]}}
        headers = _answer_headers(_ERROR_HEADERS.get(status, ()))
        operation["responses"][str(status)] = {"description": description, "headers": headers, "content": content}
    return operation


def _examples(route: Route) -> dict[str, Any]:
    named = {example.name: {"summary": example.summary, "value": example.value} for example in route.examples}
    return {"examples": named} if named else {}


def _statuses(route: Route) -> list[int]:
    statuses = {*route.errors, 400, 403, 431}
    if route.roles is not None:
        statuses |= {401, 429, 503}
    if route.body is not None:
        statuses |= {413, 415}
    return sorted(statuses)


def _success(route: Route, schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.summary, "headers": _answer_headers(route.answer_headers)}
    content = {}
    if route.answer is not None:
        content[route.answer_media] = {"schema": schemas[id(route.answer)]}
    if route.stream is not None:
        content["text/event-stream"] = {"schema": schemas[id(route.stream)]}
    if route.raw:
        content[RAW] = {"schema": {"type": "string", "format": "binary"}}
    if content:
        success["content"] = content
    return success


def _parts(whole: dict[str, Any]) -> dict[str, Any]:
    """The other answers of an operation that gives bytes."""
    headers = whole["headers"]
    ranged = {"Content-Range": {"required": True, "schema": {"type": "string"}}}
    return {
        "206": {
            "description": "A range of the bytes",
            "headers": headers | ranged,
            "content": {RAW: {"schema": {"type": "string", "format": "binary"}}},
        },
        "304": {"description": "The caller has these bytes", "headers": headers},
    }


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for part in route.path.split("/"):
        if part.startswith("{"):
            name = part[1:-1]
            schema: dict[str, Any] = {"type": "string", "pattern": _PATH_PATTERNS.get(name, KEY_PATTERN)}
            if name not in _PATH_PATTERNS:
                schema |= {"minLength": 1, "maxLength": 50}
            place = {"in": "path", "name": name, "required": True}
            parameters.append({**place, **_PATH_PARAMETERS[name], "schema": schema})
    known = set()
    streamed = None if route.streaming is None else route.streaming.query
    for query in filter(None, (route.query, streamed)):
        properties = msgspec.json.schema_components([query])[1][query.__name__]["properties"]
        for name in (field.encode_name for field in fields(query) if field.encode_name not in known):
            known.add(name)
            parameters.append({"in": "query", "name": name, "required": False, **_described(properties[name])})
    for name in (*route.headers, *(_EVERY_HEADER if route.roles is not None else ())):
        place = {"in": "header", "name": name.partition(" ")[0], "required": False}
        parameters.append({**place, **_described(_HEADERS[name])})
    return parameters


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter or header of this schema: readers look for the description beside the schema, not in it."""
    outer = {"description": schema["description"]} if "description" in schema else {}
    return outer | {"schema": {name: value for name, value in schema.items() if name != "description"}}


def _answer_headers(names: Sequence[str]) -> dict[str, Any]:
    return {
        name: {"required": name not in _OPTIONAL_ANSWER_HEADERS, **_described(_ANSWER_HEADERS[name])}
        for name in ("X-Request-Id", *names)
    }


def _links(route: Route, routes: Sequence[Route]) -> dict[str, Any]:
    """Links to every operation on what this one makes."""
    known = _MADE_BY.get(route.operation, {})
    made = {name for name in known if "{" + name + "}" not in route.path}
    links = {}
    for target in routes:
        needed = {part[1:-1] for part in target.path.split("/") if part.startswith("{")}
        if needed & made and needed <= known.keys():
            parameters = {name: known[name] for name in sorted(needed)}
            links[target.operation] = {"operationId": target.operation, "parameters": parameters}
    return links


def _require_envelopes(components: dict[str, Any]) -> None:
    """An event in an answer always has its envelope; its type only leaves it out so that drafts can be made."""
    envelope = [name for name in Event.__struct_fields__ if name != "hidden"]
    for schema in components.values():
        if set(envelope) <= set(schema.get("properties", ())):
            for name in envelope:
                schema["properties"][name].pop("default", None)
            schema["required"] = [*schema.get("required", ()), *envelope]


def _default_the_input_type(components: dict[str, Any]) -> None:
    """An input without a type is an `input_message`, and has exactly one of `messages` and `content`."""
    schema = components["InputMessageRequest"]
    schema["required"].remove("type")
    schema["properties"]["type"]["default"] = "input_message"
    schema["oneOf"] = [{"required": ["messages"]}, {"required": ["content"]}]
    text = [{"required": ["messages"]}, {"required": ["message"]}]
    components["MultipartInput"]["oneOf"] = [*text, {"required": ["files"], "not": {"anyOf": text}}]


def _admit_kept_tool_configurations(components: dict[str, Any]) -> None:
    """Tool configurations of the types that are kept unread have no type of their own in `wire`."""
    name = "KeptToolConfiguration"
    for union in list(_unions_with(components, "mcp")):
        union["anyOf"].append({"$ref": _PREFIX + name})
        union["discriminator"]["mapping"] |= {kind: _PREFIX + name for kind in sorted(VENDOR_TYPES)}
    components[name] = {
        "title": name,
        "description": "A tool that Sessile does not run: kept as it was given, never offered to a model.",
        "type": "object",
        "properties": {"type": {"enum": sorted(VENDOR_TYPES)}},
        "required": ["type"],
    }


def _split_tool_activity(components: dict[str, Any]) -> None:
    """What a `tool_activity` shows depends on its `activity_type`: one type in `wire`, which has one tag a type."""
    whole = components["ToolActivity"]
    kinds = {"generic": ("GenericToolActivity", "message"), "sub_agent": ("SubAgentToolActivity", "agent_event")}
    others = {name: schema for name, schema in whole["properties"].items() if name not in ("message", "agent_event")}
    for kind, (name, shows) in kinds.items():
        properties = {**others, "activity_type": {"enum": [kind]}, shows: whole["properties"][shows]}
        required = [*whole["required"], "activity_type", shows]
        components[name] = {"title": name, "type": "object", "properties": properties, "required": required}
    components["ToolActivity"] = {
        "title": "ToolActivity",
        "description": whole["description"],
        "anyOf": [{"$ref": _PREFIX + name} for name, _ in kinds.values()],
        "discriminator": {
            "propertyName": "activity_type",
            "mapping": {kind: _PREFIX + name for kind, (name, _) in kinds.items()},
        },
    }


def _unions_with(node: Any, tag: str) -> Iterator[dict[str, Any]]:
    """Every tagged union in a document that has a member of this tag."""
    if isinstance(node, dict):
        if tag in node.get("discriminator", {}).get("mapping", {}):
            yield node
        for child in node.values():
            yield from _unions_with(child, tag)
    elif isinstance(node, list):
        for child in node:
            yield from _unions_with(child, tag)


def _publish(value: Any) -> None:
    """Python's end of text is `\\Z`, in a JSON schema it is `$`; a docstring has no indented lines."""
    if isinstance(value, list):
        for child in value:
            _publish(child)
    elif isinstance(value, dict):
        if isinstance(pattern := value.get("pattern"), str):
            value["pattern"] = pattern.replace(r"\Z", "$")
        if isinstance(description := value.get("description"), str):
            value["description"] = cleandoc(description)
        for child in value.values():
            _publish(child)
