"""Rules over the agent document: what is stored of a request, what a change makes of it, which tools it offers.

A document is decoded JSON and stays as its caller wrote it; the structs of `wire.agents` only check it.

**The first step.** A stored document always has `first_step` and `first_step_name`, and the second is the name of the
first. If `steps` holds a step of that name, that step is the truth and `first_step` is a copy of it, made anew by
every `normalize`; if not, `first_step` itself is the truth. Nothing else needs to be stored to tell the two apart,
and a caller may send back a document as it was shown.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from sessile.domain import overrides
from sessile.domain.structured import schema_error
from sessile.wire import codec
from sessile.wire.agents import CreateAgentRequest, UpdateAgentRequest
from sessile.wire.errors import InvalidRequest
from sessile.wire.limits import MAX_AGENT_BYTES, MAX_KEY_CHARS, MAX_METADATA_BYTES
from sessile.wire.tool_configurations import VENDOR_TYPES

Document = dict[str, Any]

_CONFIGURATION_NAME = re.compile(rf"[0-9a-zA-Z_-]{{1,{MAX_KEY_CHARS}}}")
_MAX_STEP_NAME_CHARS = 255
_FIRST_STEP_FIELDS = frozenset({"first_step", "first_step_name", "steps"})
_TOOL_PREFIX = "tol_"


def normalize(request: Document) -> Document:
    """The document to store for the body of a create: checked, its defaults filled in, without `key`.

    Raises InvalidRequest that names the fields.
    """
    _check(request, CreateAgentRequest)
    document: Document = {"metadata": {}, "enabled": True} | request
    document.pop("key", None)
    if document.get("description", "") is None:
        del document["description"]
    document["tool_configurations"] = _without_nulls(document.get("tool_configurations", {}))
    if "skills" in document:
        document["skills"] = _without_nulls(document["skills"])
    if "steps" in document:
        document["steps"] = {name: _filled(step) for name, step in document["steps"].items()}
    document["first_step"] = _first_step(document)
    document["first_step_name"] = document["first_step"]["name"]
    _raise_if(dict(_name_errors(document)))
    _raise_if(dict(_argument_errors(document)))
    _raise_if(dict(_override_errors(document)))
    _raise_if(dict(_size_errors(document)))
    _raise_if(dict(_output_errors(document)))
    return document


def patched(document: Document, changes: Document) -> Document:
    """The document to store after a PATCH. Raises InvalidRequest that names the fields.

    Entries of `tool_configurations` and `skills` are replaced whole, null removes one. Fields of a step are replaced
    one by one, null removes a field, and null for a step removes it. Every other field is replaced whole, null puts
    it back to its default.

    `first_step_name`, or the `name` in `first_step`, says which step is the first one: that of this name in `steps`
    if there is one, else the one that was the first, which thereby gets this name (only with `first_step`). The fields
    of `first_step` are then applied to it. A change of the first step through `steps` shows in `first_step` too; to
    remove the first step, another one has to be named in the same PATCH.
    """
    _check(changes, UpdateAgentRequest)
    result = dict(document)
    for name, value in changes.items():
        if name in _FIRST_STEP_FIELDS:
            continue
        if value is None:
            result.pop(name, None)
        elif name in ("tool_configurations", "skills"):
            result[name] = _without_nulls(result.get(name, {}) | value)
        else:
            result[name] = value
    if changes.keys() & _FIRST_STEP_FIELDS:
        _patch_steps(result, changes)
    return normalize(result)


def function_of(name: str, configuration: Mapping[str, Any]) -> str:
    """The name of the function that a `lambda` configuration of this name asks for."""
    asked: str = configuration.get("tool_id", _TOOL_PREFIX + name)
    return asked.removeprefix(_TOOL_PREFIX)


def active_tools(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Configuration name and function name of every enabled `lambda` configuration."""
    return [
        (name, function_of(name, configuration))
        for name, configuration in document["tool_configurations"].items()
        if configuration["type"] == "lambda" and configuration.get("enabled", True)
    ]


def client_tools(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Configuration name and tool name of every enabled `client` configuration."""
    return [
        (name, configuration["tool_id"].removeprefix(_TOOL_PREFIX))
        for name, configuration in document["tool_configurations"].items()
        if configuration["type"] == "client" and configuration.get("enabled", True)
    ]


def remote_tools(document: Mapping[str, Any]) -> dict[str, str]:
    """Configuration name and tool id of every enabled `mcp` configuration."""
    return {
        name: configuration.get("tool_id", _TOOL_PREFIX + name)
        for name, configuration in document["tool_configurations"].items()
        if configuration["type"] == "mcp" and configuration.get("enabled", True)
    }


def inactive_tools(
    document: Mapping[str, Any],
    known: Collection[str],
    kinds: Collection[str] = frozenset(),
    remote: Collection[str] = frozenset(),
) -> dict[str, str]:
    """Name and type of every configuration that no model is offered.

    `known` are the functions of this server, `kinds` the types besides `lambda` that it has tools for, `remote` the ids
    of the tools of tool servers that can be used.
    """
    configurations = document["tool_configurations"]
    active = {name for name, function in active_tools(document) if function in known}
    active.update(name for name, _ in client_tools(document))
    active |= {name for name, own in configurations.items() if own["type"] in kinds and own.get("enabled", True)}
    active |= {name for name, id in remote_tools(document).items() if id in remote}
    return {name: configuration["type"] for name, configuration in configurations.items() if name not in active}


def unknown_tools(document: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """The tools that enabled `lambda` configurations ask for and this server does not have, each once."""
    return list(dict.fromkeys(tool for _, tool in active_tools(document) if tool not in known))


def _check(body: Any, type: type[CreateAgentRequest] | type[UpdateAgentRequest]) -> None:
    """Check all but the tool configurations of types that are kept unread."""
    if not isinstance(body, dict):
        codec.convert(body, type)
    configurations = body.get("tool_configurations") if isinstance(body, dict) else None
    if isinstance(configurations, dict):
        for name in configurations:
            if not _CONFIGURATION_NAME.fullmatch(name):
                reason = f"The name of a tool configuration is 1 to {MAX_KEY_CHARS} of the characters 0-9 a-z A-Z _ -"
                _refuse(f"tool_configurations.{name[:100]}", reason)
        read = {name: value for name, value in configurations.items() if not _is_vendor(value)}
        body = body | {"tool_configurations": read}
    codec.convert(body, type)


def _is_vendor(configuration: Any) -> bool:
    if not isinstance(configuration, dict):
        return False
    kind = configuration.get("type")
    return isinstance(kind, str) and kind in VENDOR_TYPES


def _without_nulls(entries: Document) -> Document:
    return {name: entry for name, entry in entries.items() if entry is not None}


def _filled(step: Document) -> Document:
    return {"instructions": [], "output_parser": {"type": "default"}, **step}


def _first_step(document: Document) -> Document:
    """The first step with its name. A given one that contradicts `steps` or `first_step_name` is refused."""
    given, wanted = document.get("first_step"), document.get("first_step_name")
    steps: Document = document.get("steps", {})
    name = (given or {}).get("name", wanted or "first_step")
    if wanted is not None and name != wanted:
        _refuse("first_step_name", "This is not the name in first_step.")
    if name in steps:
        step: Document = {"name": name} | steps[name]
        if given is not None and {"name": name} | _filled(given) != step:
            _refuse("first_step", f"This is not the step {name[:100]!r} in steps.")
        return step
    if wanted is not None and given is None:
        _refuse("first_step_name", f"There is no step {wanted[:100]!r} in steps.")
    return {"name": name} | _filled(given or {})


def _patch_steps(result: Document, changes: Document) -> None:
    """Apply `steps`, then `first_step` and `first_step_name`, as `patched` says."""
    shown, current = result.pop("first_step"), result.pop("first_step_name")
    before: Document = result.get("steps", {})
    steps = _patched_entries(before, changes.get("steps", {}), current, shown)
    first = _first_name(changes, current)
    fields = changes.get("first_step")
    if fields is not None:
        origin = first
        if first not in steps and current in steps:
            origin = current
            steps = {first if name == current else name: step for name, step in steps.items()}
        if first in steps:
            _refuse_double_change(fields, (changes.get("steps") or {}).get(origin, {}), origin)
            steps[first] = _with_fields(steps[first], fields)
        else:
            result["first_step"] = _with_fields(shown, fields) | {"name": first}
    elif first == current and current not in before and current not in steps:
        result["first_step"] = shown
    result["first_step_name"] = first
    if changes.get("steps", result.get("steps")) is not None:
        result["steps"] = steps
    else:
        result.pop("steps", None)


def _patched_entries(before: Document, changes: Document | None, current: str, shown: Document) -> Document:
    """The steps after a change of `steps`. A first step that stands in `first_step` only can be changed here too."""
    if changes is None:
        return {}
    steps = dict(before)
    for name, fields in changes.items():
        if fields is None:
            steps.pop(name, None)
        else:
            steps[name] = _with_fields(steps.get(name, shown if name == current else {}), fields)
    return steps


def _first_name(changes: Document, current: str) -> str:
    named: str | None = (changes.get("first_step") or {}).get("name")
    wanted: str | None = changes.get("first_step_name")
    if named is not None and wanted is not None and named != wanted:
        _refuse("first_step_name", "This is not the name in first_step.")
    return wanted or named or current


def _with_fields(step: Document, fields: Document) -> Document:
    """A step without its name, some of its fields changed."""
    return {name: value for name, value in (step | fields).items() if value is not None and name != "name"}


def _refuse_double_change(fields: Document, in_steps: Document, step: str) -> None:
    """A whole document that was read, edited and sent back must not lose the edit to the stale copy."""
    for name in sorted(fields.keys() & in_steps.keys()):
        if fields[name] != in_steps[name]:
            _refuse(f"first_step.{name}", f"steps.{step[:100]}.{name} gives the same field another value.")


def _name_errors(document: Document) -> Iterator[tuple[str, str]]:
    """Names of steps that cannot be, and references to steps that are not there."""
    steps: Document = document.get("steps", {})
    first = document["first_step_name"]
    places = [(f"steps.{name[:100]}", step) for name, step in steps.items()]
    if first not in steps:
        places.append(("first_step", document["first_step"]))
    for name in steps:
        if not 1 <= len(name) <= _MAX_STEP_NAME_CHARS:
            yield f"steps.{name[:100]}", f"The name of a step has 1 to {_MAX_STEP_NAME_CHARS} characters."
    for place, step in places:
        targets = [(f"{place}.next_steps[{i}]", next["step_name"]) for i, next in enumerate(step.get("next_steps", []))]
        if "reentry_step" in step:
            targets.append((f"{place}.reentry_step", step["reentry_step"]))
        for field, target in targets:
            if target != first and target not in steps:
                yield field, f"There is no step {target[:100]!r}."


def _argument_errors(document: Document) -> Iterator[tuple[str, str]]:
    """Arguments of a client tool that are no object: no model could write them."""
    for name, configuration in document["tool_configurations"].items():
        schema = configuration.get("input_schema", {}) if configuration["type"] == "client" else {}
        if schema.get("type", "object") != "object":
            yield f"tool_configurations.{name}.input_schema", "The arguments of a tool are an object."


def _override_errors(document: Document) -> Iterator[tuple[str, str]]:
    """References of argument overrides that can never lead anywhere."""
    for name, configuration in document["tool_configurations"].items():
        if not _is_vendor(configuration):
            for path in overrides.broken_references(configuration.get("argument_override")):
                roots = ", ".join(overrides.ROOTS)
                reason = f"The reference {path[:200]!r} is no path that starts with one of {roots}."
                yield f"tool_configurations.{name}.argument_override", reason


def _size_errors(document: Document) -> Iterator[tuple[str, str]]:
    if len(codec.encode(document["metadata"])) > MAX_METADATA_BYTES:
        yield "metadata", f"The metadata is larger than {MAX_METADATA_BYTES} bytes."
    if len(codec.encode(document)) > MAX_AGENT_BYTES:
        yield "body", f"The agent is larger than {MAX_AGENT_BYTES} bytes."


def _output_errors(document: Document) -> Iterator[tuple[str, str]]:
    """JSON schemas of outputs that cannot be, or that could cost more than any answer is worth."""
    steps = {f"steps.{name[:100]}": step for name, step in document.get("steps", {}).items()}
    if document["first_step_name"] not in document.get("steps", {}):
        steps["first_step"] = document["first_step"]
    for place, step in steps.items():
        parser = step["output_parser"]
        if parser["type"] == "structured" and (reason := schema_error(parser["json_schema"]["schema"])) is not None:
            yield f"{place}.output_parser.json_schema.schema", reason


def _raise_if(errors: dict[str, str]) -> None:
    if errors:
        field, reason = next(iter(errors.items()))
        raise InvalidRequest(f"{field}: {reason}", field_errors=errors)


def _refuse(field: str, reason: str) -> NoReturn:
    raise InvalidRequest(f"{field}: {reason}", field_errors={field: reason})
