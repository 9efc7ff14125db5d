"""Structured output: which JSON schemas an agent may ask for, and whether an answer follows one. Pure.

A schema is written by one caller and run on what a model wrote, so it must be cheap to run, whatever it says: no other
document is fetched, patterns run in linear time, and `$ref` may neither go round in a circle nor multiply.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from msgspec import Struct

from sessile.domain.messages import OutputSchema
from sessile.wire import codec
from sessile.wire.errors import InvalidJson
from sessile.wire.limits import MAX_JSON_DEPTH, MAX_OUTPUT_SCHEMA_BYTES, MAX_OUTPUT_SCHEMA_NODES

_VALUES = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data, not schemas."""
_OTHER_BASES = ("$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")
"""Keywords that would let a `$ref` mean something else than a place in this document."""
_MAX_MESSAGE_CHARS = 500
_MAX_PROBLEMS = 5
_MAX_WORK = 100_000
"""Characters of an answer times parts of its schema up to which all that is wrong is looked for: tenths of a second."""
_MAX_CHECKED = 50_000_000
"""The same up to which an answer is checked at all; nothing else happens in the server meanwhile."""
_INSTRUCTION = (
    "Give your final answer as JSON alone, without any other text, valid against this JSON schema ({name}):\n{schema}"
)
_REPAIR = "Your answer does not follow the JSON schema: {problem}\nAnswer again with the corrected JSON alone."


class Output(Struct, frozen=True):
    """The output that the first step of an agent asks for, ready to check answers."""

    schema: OutputSchema
    instruction: str
    """What a model is told about it."""
    unusable: str | None
    """Why it cannot be run: an agent may be older than the rules for schemas."""
    _validator: Any = None
    _parts: int = 0
    """How many parts the schema has, references written out."""

    def read(self, text: str) -> tuple[Any, str | None]:
        """What an answer holds, and None; or what is wrong with it."""
        if len(text) * self._parts > _MAX_CHECKED:
            return None, "The answer is too large to be checked against this schema."
        try:
            content = codec.decode(_unfenced(text).encode())
        except (InvalidJson, UnicodeEncodeError) as error:
            return None, str(error).replace("The body", "The answer", 1)[:_MAX_MESSAGE_CHARS]
        return content, " ".join(map(_told, self._errors(content, len(text))))[:_MAX_MESSAGE_CHARS] or None

    def _errors(self, content: Any, size: int) -> list[Exception]:
        """The first errors. The library makes all of them before it gives one: of large answers only one is made."""
        import jsonschema_rs

        if size * self._parts <= _MAX_WORK:
            return list(islice(self._validator.iter_errors(content), _MAX_PROBLEMS))
        try:
            self._validator.validate(content)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []


def output(parser: dict[str, Any]) -> Output | None:
    """The output that an `output_parser` of a stored document asks for; None: plain text."""
    if parser["type"] != "structured":
        return None
    spec = parser["json_schema"]
    schema = OutputSchema(spec["name"], spec["schema"], spec.get("description"), spec.get("strict"))
    if (reason := schema_error(schema.schema)) is not None:
        return Output(schema, "", reason)
    text = codec.encode(schema.schema).decode()
    instruction = _INSTRUCTION.format(name=schema.name, schema=text)
    return Output(schema, instruction, None, _validator(schema.schema), _parts(schema.schema))


def repair(problem: str) -> str:
    """What a model is told about an answer that cannot be taken."""
    return _REPAIR.format(problem=problem)


def schema_error(schema: dict[str, Any]) -> str | None:
    """Why an agent may not ask for output of this schema, if it may not."""
    if len(codec.encode(schema)) > MAX_OUTPUT_SCHEMA_BYTES:
        return f"The schema is larger than {MAX_OUTPUT_SCHEMA_BYTES} bytes."
    if "$schema" in schema and not isinstance(schema["$schema"], str):
        return "$schema must be a string."
    try:
        _parts(schema)
        _validator(schema)
    except _Refused as refused:
        return str(refused)
    except ValueError as error:
        return f"This is no JSON schema: {_told(error)}"[:_MAX_MESSAGE_CHARS]
    return None


def _parts(schema: dict[str, Any]) -> int:
    """How many parts a schema has, references written out. Raises _Refused."""
    expansion = _Expansion(schema)
    expansion.count(schema, ())
    return expansion.nodes


class _Refused(Exception):
    """A schema that could cost more than any answer is worth."""


class _Expansion:
    """Counts what a schema is when every reference in it is written out."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self.nodes = 0

    def count(self, node: Any, within: tuple[str, ...]) -> None:
        """Walk a schema. Raises _Refused for what goes round in a circle, multiplies, or leads elsewhere."""
        self.nodes += 1
        if self.nodes > MAX_OUTPUT_SCHEMA_NODES:
            raise _Refused(f"The schema has more than {MAX_OUTPUT_SCHEMA_NODES} parts, references written out.")
        if isinstance(node, list):
            for child in node:
                self.count(child, within)
        if not isinstance(node, dict):
            return
        for keyword in _OTHER_BASES:
            if isinstance(node.get(keyword), str):
                raise _Refused(f"{keyword} is not supported.")
        for keyword, child in node.items():
            if keyword == "$ref" and isinstance(child, str):
                self._follow(child, within)
            elif keyword != "$defs" and keyword != "definitions" and keyword not in _VALUES:
                self.count(child, within)

    def _follow(self, reference: str, within: tuple[str, ...]) -> None:
        if not reference.startswith("#"):
            raise _Refused(f"$ref {reference[:100]!r} leads out of the schema; nothing is fetched.")
        if len(within) == MAX_JSON_DEPTH:
            raise _Refused(f"References lead from one to the next deeper than {MAX_JSON_DEPTH} levels.")
        if reference in within:
            raise _Refused(f"$ref {reference[:100]!r} goes round in a circle.")
        self.count(self._target(reference), (*within, reference))

    def _target(self, reference: str) -> Any:
        node: Any = self._root
        for part in _steps(reference):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                raise _Refused(f"$ref {reference[:100]!r} leads nowhere.")
        return node


def _steps(reference: str) -> Iterator[str]:
    pointer = reference[1:]
    if (pointer and not pointer.startswith("/")) or "%" in pointer:
        raise _Refused(f"$ref {reference[:100]!r} is no plain pointer into the schema.")
    for part in pointer.split("/")[1:]:
        yield part.replace("~1", "/").replace("~0", "~")


def _validator(schema: dict[str, Any]) -> Any:
    """Raises ValueError for what is no schema. The library is loaded when first needed: it takes 5 MB and some time."""
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(schema, offline=True, pattern_options=jsonschema_rs.RegexOptions())
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(str(error)) from None


def _unfenced(text: str) -> str:
    """An answer without the Markdown fence around it. No pattern: it took cubic time over white space."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    inner, _, last = rest.rpartition("\n")
    return inner if first.rstrip() in ("```", "```json") and last.strip() == "```" else text


def _told(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    path = "/".join(map(str, getattr(error, "instance_path", ())))
    return f"{message} (at /{path})." if path else f"{message}."
