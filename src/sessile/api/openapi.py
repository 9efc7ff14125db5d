"""The OpenAPI 3.1 document, made from the route table and the wire types: nothing in it is written by hand twice."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec.structs import fields

from sessile.api.errors import BadRequestError, Error, NotFoundError
from sessile.api.route import Route
from sessile.wire.events import Event
from sessile.wire.ids import EVENT_ID_PATTERN, KEY_PATTERN, TURN_ID_PATTERN

_PREFIX = "#/components/schemas/"
_ERRORS: dict[int, tuple[str, type]] = {
    400: ("The request is not valid", BadRequestError),
    401: ("The API key is missing or not valid", Error),
    403: ("The key's roles do not allow this, or the Host or Origin is not allowed", Error),
    404: ("There is no such thing", NotFoundError),
    406: ("The answer cannot be given in the form that was asked for", Error),
    409: ("A turn of this session is running", Error),
    412: ("The session has another version than If-Match names", Error),
    413: ("The body is too large", Error),
    415: ("The body is not application/json", Error),
    422: ("The request is well formed and cannot be carried out", Error),
    431: ("The request line or the headers are too large", Error),
    503: ("The store or the server cannot do this now; nothing was changed", Error),
}
_PATH_PATTERNS = {"event_id": EVENT_ID_PATTERN, "turn_id": TURN_ID_PATTERN}
_HEADERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "type": "string",
        "description": "The ETag of the session, or `*`",
        "pattern": r'^(\*|"[0-9]{1,18}")$',
    },
    "Request-Timeout": {"type": "integer", "minimum": 1, "maximum": 86_400, "description": "Seconds to wait"},
    "Request-Timeout-Millis": {
        "type": "integer",
        "minimum": 1,
        "maximum": 86_400_000,
        "description": "Milliseconds to wait; beats Request-Timeout",
    },
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document."""
    types = [t for route in routes for t in (route.body, route.query, route.answer, route.stream) if t is not None]
    types += [kind for _, kind in _ERRORS.values()]
    schemas, components = msgspec.json.schema_components(types, ref_template=_PREFIX + "{name}")
    by_type = dict(zip(map(id, types), schemas, strict=True))
    _require_envelopes(components)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sessile",
            "version": version("sessile"),
            "description": "Sessions of people and AI agents: the Agents v2 contract, durable and streamed.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(route: Route, schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
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
        content = {"application/json": {"schema": schemas[id(route.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    for status in _statuses(route):
        description, kind = _ERRORS[status]
        content = {"application/json": {"schema": schemas[id(kind)]}}
        operation["responses"][str(status)] = {"description": description, "content": content}
    return operation


def _statuses(route: Route) -> list[int]:
    statuses = {*route.errors, 400, 403, 431}
    if route.roles is not None:
        statuses |= {401, 503}
    if route.body is not None:
        statuses |= {413, 415}
    return sorted(statuses)


def _success(route: Route, schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.summary}
    content = {}
    if route.answer is not None:
        content["application/json"] = {"schema": schemas[id(route.answer)]}
    if route.stream is not None:
        content["text/event-stream"] = {"schema": schemas[id(route.stream)]}
    if content:
        success["content"] = content
    return success


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for part in route.path.split("/"):
        if part.startswith("{"):
            name = part[1:-1]
            schema: dict[str, Any] = {"type": "string", "pattern": _PATH_PATTERNS.get(name, KEY_PATTERN)}
            if name not in _PATH_PATTERNS:
                schema |= {"minLength": 1, "maxLength": 50}
            parameters.append({"in": "path", "name": name, "required": True, "schema": schema})
    if route.query is not None:
        properties = msgspec.json.schema_components([route.query])[1][route.query.__name__]["properties"]
        for field in fields(route.query):
            schema = properties[field.encode_name]
            parameters.append({"in": "query", "name": field.encode_name, "required": False, "schema": schema})
    for name in route.headers:
        parameters.append({"in": "header", "name": name, "required": False, "schema": _HEADERS[name]})
    return parameters


def _require_envelopes(components: dict[str, Any]) -> None:
    """An event in an answer always has its envelope; its type only leaves it out so that drafts can be made."""
    envelope = [name for name in Event.__struct_fields__ if name != "hidden"]
    for schema in components.values():
        if set(envelope) <= set(schema.get("properties", ())):
            for name in envelope:
                schema["properties"][name].pop("default", None)
            schema["required"] = [*schema.get("required", ()), *envelope]
