"""Arguments that the demo model reads out of a user's text for a JSON schema. Pure, and only as clever as it looks."""

import re
from typing import Any

MAX_DEPTH = 8
MAX_ITEMS = 10
_CODE = re.compile(r"(?<![\w-])(?=[\w-]*\d)\w(?:[\w-]*\w)?(?![\w-])")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_DIGITS = re.compile(r"\d{1,15}")
_WORD = re.compile(r"[^\W_][\w'-]*")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"https?://[^\s<>\"']+")
_WHOLE_TEXT = frozenset({"body", "content", "input", "message", "prompt", "q", "query", "question", "search", "text"})
_LOOKS = {"string": _CODE, "integer": _NUMBER, "number": _NUMBER}
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T09:30:00Z",
    "time": "09:30:00Z",
    "email": "demo@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def fill_arguments(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """An object for the schema: its required properties, or all without a default when none is required."""
    return _object(schema, text, schema, 0)


def has_value_for(schema: dict[str, Any], text: str) -> bool:
    """Whether the text holds something that looks like the value of a required argument."""
    for name in _required(schema):
        argument = _resolve(_properties(schema).get(name), schema)
        choices = argument.get("enum")
        if isinstance(choices, list):
            if _named_choice(choices, text) is not None:
                return True
            continue
        pattern = _LOOKS.get(_kind(argument))
        if pattern is not None and pattern.search(text):
            return True
    return False


def _object(schema: dict[str, Any], text: str, root: dict[str, Any], depth: int) -> dict[str, Any]:
    properties = _properties(schema)
    names = _required(schema)
    if not names and depth == 0:
        names = [name for name, argument in properties.items() if not _has_default(argument)]
    return {name: _value(name, properties.get(name), text, root, depth + 1) for name in names}


def _value(name: str, schema: Any, text: str, root: dict[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        return None
    schema = _resolve(schema, root)
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        named = _named_choice(choices, text)
        return choices[0] if named is None else named
    match _kind(schema):
        case "boolean":
            return True
        case "integer" | "number" as kind:
            return _number(schema, text, whole=kind == "integer")
        case "array":
            return _array(name, schema, text, root, depth)
        case "object":
            return _object(schema, text, root, depth)
        case "null":
            return None
    return _string(name, schema, text)


def _string(name: str, schema: dict[str, Any], text: str) -> str:
    wanted = schema.get("format")
    if wanted in _FORMATS:
        pattern = {"email": _EMAIL, "uri": _URL}.get(wanted)
        found = pattern.search(text) if pattern else None
        return found[0] if found else _FORMATS[wanted]
    if name.lower() not in _WHOLE_TEXT:
        if code := _CODE.search(text):
            return code[0]
        if words := _WORD.findall(text):
            return str(words[-1])
    return text.strip()


def _number(schema: dict[str, Any], text: str, *, whole: bool) -> int | float:
    found = _NUMBER.search(text) or _DIGITS.search(text)
    number = float(found[0]) if found else 1.0
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int | float):
        number = max(number, low)
    if isinstance(high, int | float):
        number = min(number, high)
    number = max(-1e15, min(1e15, number))
    return int(number) if whole or number.is_integer() else number


def _array(name: str, schema: dict[str, Any], text: str, root: dict[str, Any], depth: int) -> list[Any]:
    count = schema.get("minItems")
    length = min(count, MAX_ITEMS) if isinstance(count, int) else 0
    return [_value(name, schema.get("items"), text, root, depth + 1) for _ in range(length)]


def _named_choice(choices: list[Any], text: str) -> str | None:
    words = {word.lower() for word in _WORD.findall(text)}
    return next((choice for choice in choices if isinstance(choice, str) and choice.lower() in words), None)


def _resolve(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """The schema behind local references and the first alternative that is not null."""
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict):
            return {}
        if isinstance(reference := schema.get("$ref"), str):
            schema = _look_up(reference, root)
        elif isinstance(parts := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"), list):
            real = [part for part in parts if not (isinstance(part, dict) and part.get("type") == "null")]
            schema = real[0] if real else {"type": "null"}
        else:
            return schema
    return {}


def _look_up(reference: str, root: dict[str, Any]) -> Any:
    target: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        target = target.get(step) if isinstance(target, dict) else None
    return target


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((item for item in kind if item != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _required(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []


def _has_default(argument: Any) -> bool:
    return isinstance(argument, dict) and "default" in argument
