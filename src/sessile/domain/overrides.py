"""Argument overrides: arguments that an agent fixes for a tool, so that its model neither sees nor chooses them. Pure.

An override is JSON. An object `{"$ref": "path"}` in it stands for a value that is looked up when the tool is called.
"""

import json
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, quote_plus

from msgspec import Struct

from sessile.domain import templates

MASK = "***"
"""Stands for a secret wherever a call is shown."""
MIN_MASKED_CHARS = 4
"""Shorter secrets are not looked for in what a tool answers: they would blacken ordinary words."""
_MIN_LINE_CHARS = 8
SECRETS = "secrets"
TOOLS = "tools"
ROOTS = (*templates.ROOTS, SECRETS, TOOLS)
"""What a path may start with: the roots of templates, secrets by name, and outputs of tools by configuration name."""
_REF = "$ref"

Object = dict[str, Any]


class Unresolved(Exception):
    """A reference leads nowhere; the text says which."""


class Override(Struct, frozen=True):
    """The override of one tool configuration."""

    values: Mapping[str, Any]
    paths: tuple[str, ...]
    """The paths of the arguments that it fixes, names joined by dots."""
    references: frozenset[str]
    """The paths that its references name."""

    def needs(self, root: str) -> bool:
        """Whether a reference starts with this root."""
        return any(path.split(".")[0] == root for path in self.references)


class Resolved(Struct, frozen=True):
    """An override with its references replaced: as the tool gets it, and as it may be shown."""

    values: Object
    shown: Object
    secrets: frozenset[str]
    """The values of the secrets in it."""


IN_USE: ContextVar[frozenset[str]] = ContextVar("secrets_in_use", default=frozenset())
"""The secrets of the call that runs: whatever it writes to the log of the server is masked."""

NONE = Override({}, (), frozenset())
NOTHING = Resolved({}, {}, frozenset())


def of(values: Mapping[str, Any] | None) -> Override:
    """The override in a tool configuration."""
    if not values:
        return NONE
    return Override(values, tuple(_leaves(values)), frozenset(_references(values)))


def broken_references(values: Any) -> list[str]:
    """References that can never be resolved: their root is not one of ROOTS, or nothing follows it."""
    return [path for path in _references(values) if not _is_path(path)]


def resolve(override: Override, scope: Mapping[str, Any]) -> Resolved:
    """Look the references up in `scope`, root name to JSON value. Raises Unresolved."""
    if not override.references:
        return Resolved(dict(override.values), dict(override.values), frozenset())
    secrets = {str(_found(path, scope)) for path in override.references if path.split(".")[0] == SECRETS}
    values = _replaced(override.values, scope, masked=False)
    return Resolved(values, _replaced(override.values, scope, masked=True), frozenset(secrets))


def merged(given: Any, fixed: Any) -> Any:
    """The arguments of a call: objects are merged name by name, and of anything else the fixed value counts."""
    if not (isinstance(given, Mapping) and isinstance(fixed, Mapping)):
        return fixed
    names = dict.fromkeys([*given, *fixed])
    return {name: merged(given.get(name), fixed[name]) if name in fixed else given[name] for name in names}


def hidden(schema: Mapping[str, Any], values: Mapping[str, Any]) -> Object:
    """The schema of the arguments that are left for the model.

    What is fixed whole disappears. Of an object that is fixed in part, the other properties stay.
    """
    shown = dict(schema)
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return shown
    left: Object = {}
    for name, inner in properties.items():
        if name not in values:
            left[name] = inner
        elif _is_fixed_in_part(inner, values[name]):
            left[name] = hidden(inner, values[name])
    shown["properties"] = left
    if isinstance(required := schema.get("required"), list):
        shown["required"] = [name for name in required if name not in values or name in left]
    return shown


def masked(value: Any, secrets: frozenset[str]) -> Any:
    """A JSON value without the secrets that stand in its texts."""
    return _without(value, _spellings(secrets)) if secrets else value


def masked_now(text: str) -> str:
    """A text without the secrets of the call that runs. Before the text is cut: half of a secret is not found."""
    shown: str = masked(text, IN_USE.get())
    return shown


def traced(error: BaseException) -> str:
    """The traceback of an error, for the log of the server: without the secrets of the call that runs."""
    return masked_now("".join(traceback.format_exception(error)).rstrip("\n"))


def _without(value: Any, spellings: list[str]) -> Any:
    if isinstance(value, str):
        for spelling in spellings:
            value = value.replace(spelling, MASK)
        return value
    if isinstance(value, Mapping):
        return {_without(name, spellings): _without(inner, spellings) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without(inner, spellings) for inner in value]
    return value


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Secrets as they may stand in a text, the longest first: as they are, quoted in Python, JSON or a URL.

    A traceback may indent a text of several lines, so each longer line of a secret counts as one.
    """
    found: set[str] = set()
    for secret in secrets:
        lines = (line.strip() for line in secret.splitlines())
        for part in {secret, *(line for line in lines if len(line) >= _MIN_LINE_CHARS)}:
            encoded = part.encode("utf-8", "surrogatepass")
            found |= {part, repr(part)[1:-1], repr(encoded)[2:-1], ascii(part)[1:-1]}
            found |= {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
            found |= {quote(encoded), quote(encoded, safe=""), quote_plus(encoded)}
    return sorted((text for text in found if len(text) >= MIN_MASKED_CHARS), key=len, reverse=True)


def _is_fixed_in_part(schema: Any, value: Any) -> bool:
    if not isinstance(value, Mapping) or _reference(value) is not None or not isinstance(schema, Mapping):
        return False
    return isinstance(schema.get("properties"), Mapping) or "additionalProperties" in schema


def _reference(value: Mapping[str, Any]) -> str | None:
    path = value.get(_REF)
    return path if isinstance(path, str) and len(value) == 1 else None


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        path = _reference(value)
        if path is not None:
            yield path
        else:
            for inner in value.values():
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _leaves(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value and _reference(value) is None:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield before + name


def _is_path(path: str) -> bool:
    names = path.split(".")
    return names[0] in ROOTS and all(names) and (len(names) > 1 or names[0] == "currentDate")


def _replaced(value: Any, scope: Mapping[str, Any], *, masked: bool) -> Any:
    if isinstance(value, Mapping):
        path = _reference(value)
        if path is None:
            return {name: _replaced(inner, scope, masked=masked) for name, inner in value.items()}
        return MASK if masked and path.split(".")[0] == SECRETS else _found(path, scope)
    if isinstance(value, list):
        return [_replaced(inner, scope, masked=masked) for inner in value]
    return value


def _found(path: str, scope: Mapping[str, Any]) -> Any:
    value: Any = scope
    names = path.split(".")
    for place, name in enumerate(names):
        if isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 7 and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, Mapping) and name in value:
            value = value[name]
        elif place == 1 and names[0] == SECRETS and isinstance(value, Mapping) and path.partition(".")[2] in value:
            return value[path.partition(".")[2]]
        else:
            raise Unresolved(f"${{{path[:200]}}} has no value.")
    return value
