"""What an implementation's OpenAPI document lacks of a contract's: operation by operation, through every reference.

A request may be looser than the contract's, an answer tighter. A difference reads `request Agent.name: what it is`: the
path starts anew at each named schema of the contract, so that each schema is compared, and reported, once a direction.
"""

from collections.abc import Iterator
from typing import Any, Literal

Document = dict[str, Any]
Schema = dict[str, Any]
Direction = Literal["request", "answer"]
_LIMITS = {
    "maxLength": "max",
    "maximum": "max",
    "maxItems": "max",
    "maxProperties": "max",
    "minLength": "min",
    "minimum": "min",
    "minItems": "min",
}
_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_EVERY_TYPE = frozenset({"string", "boolean", "integer", "number", "null", "object", "array"})


def operations(document: Document) -> set[tuple[str, str]]:
    """Method and path of every operation."""
    return {(method, path) for path, item in document["paths"].items() for method in item if method != "parameters"}


def differences(contract: Document, ours: Document) -> set[str]:
    """Everything in the operations of both that the contract promises and ours does not keep."""
    comparison = _Comparison(contract, ours)
    for method, path in sorted(operations(contract) & operations(ours)):
        comparison.operation(f"{method.upper()} {path}", contract["paths"][path][method], ours["paths"][path][method])
    return comparison.found


class _View:
    """A schema with its references followed, its `allOf` merged, and null set apart."""

    def __init__(self, document: Document, schema: Schema | bool) -> None:
        self.name: str | None = None
        self.nullable = False
        self.schema: Schema = {}
        self._document = document
        self._take(schema if isinstance(schema, dict) else {}, outermost=True)
        self.nullable |= not self.schema

    @property
    def alternatives(self) -> list[Schema]:
        return [one for key in ("oneOf", "anyOf") for one in self.schema.get(key, ()) if one != {"type": "null"}]

    @property
    def types(self) -> frozenset[str]:
        """The JSON types a value may have, without null."""
        given = self.schema.get("type")
        if given is not None:
            return frozenset([given] if isinstance(given, str) else given) - {"null"}
        if "enum" in self.schema:
            return frozenset(_JSON_TYPES[type(value)] for value in self.schema["enum"]) - {"null"}
        if "properties" in self.schema:
            return frozenset({"object"})
        if alternatives := self.alternatives:
            return frozenset().union(*(_View(self._document, one).types for one in alternatives))
        return _EVERY_TYPE - {"null"}

    @property
    def variants(self) -> dict[str, Schema]:
        """Schemas by the value of their tag; a lone tagged object is the only variant of itself."""
        if "discriminator" in self.schema:
            return {tag: {"$ref": ref} for tag, ref in self.schema["discriminator"]["mapping"].items()}
        tags = self.schema.get("properties", {}).get("type", {}).get("enum", ())
        return dict.fromkeys(tags, self.schema)

    def _take(self, schema: Schema, *, outermost: bool = False) -> None:
        self.nullable |= schema.get("nullable", False) or schema.get("type") == "null"
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            self.name = name if outermost else self.name
            self._take(_resolved(self._document, schema["$ref"]), outermost=outermost)
        for part in schema.get("allOf", ()):
            self._take(part)
        for key, value in schema.items():
            if key == "properties":
                self.schema[key] = self.schema.get(key, {}) | value
            elif key == "required":
                self.schema[key] = [*self.schema.get(key, ()), *value]
            elif key not in ("$ref", "allOf"):
                self.schema[key] = value
        if {"type": "null"} in schema.get("anyOf", ()):
            self.nullable = True
            rest = [one for one in schema["anyOf"] if one != {"type": "null"}]
            if len(rest) == 1:
                del self.schema["anyOf"]
                self._take(rest[0])


class _Comparison:
    def __init__(self, contract: Document, ours: Document) -> None:
        self.found: set[str] = set()
        self._contract = contract
        self._ours = ours
        self._seen: set[tuple[str, str | None, str]] = set()

    def operation(self, name: str, contract: Schema, ours: Schema) -> None:
        self._roles(name, contract, ours)
        self._parameters(name, contract, ours)
        body = contract.get("requestBody")
        if body is not None:
            self._content("request", f"{name} body", body, ours.get("requestBody", {}))
        for status, answer in contract["responses"].items():
            if status not in ours["responses"]:
                self._report("answer", f"{name} {status}", "no such answer")
            else:
                self._content("answer", f"{name} {status}", answer, ours["responses"][status])

    def _report(self, direction: Direction, path: str, what: str) -> None:
        self.found.add(f"{direction} {path}: {what}")

    def _roles(self, name: str, contract: Schema, ours: Schema) -> None:
        sides = [
            {entry["type"]: set(entry["roles"]) for entry in side.get("x-required-roles", ())}
            for side in (contract, ours)
        ]
        if sides[0] != sides[1]:
            self._report("request", name, "other required roles")

    def _parameters(self, name: str, contract: Schema, ours: Schema) -> None:
        known = {(one["in"], one["name"].lower()): one for one in _parameters(self._ours, ours)}
        for parameter in _parameters(self._contract, contract):
            path = f"{name} {parameter['in']}.{parameter['name']}"
            found = known.pop((parameter["in"], parameter["name"].lower()), None)
            if found is None:
                self._report("request", path, "no such parameter")
                continue
            if found.get("required", False) and not parameter.get("required", False):
                self._report("request", path, "required only by us")
            self._schema("request", path, parameter["schema"], found["schema"])
        for (place, extra), parameter in known.items():
            if parameter.get("required", False):
                self._report("request", f"{name} {place}.{extra}", "required only by us")

    def _content(self, direction: Direction, path: str, contract: Schema, ours: Schema) -> None:
        for media, content in contract.get("content", {}).items():
            found = ours.get("content", {}).get(media)
            if found is None:
                self._report(direction, path, f"no {media}")
            else:
                self._schema(direction, f"{path} {media}", content["schema"], found["schema"])

    def _schema(self, direction: Direction, path: str, contract: Schema | bool, ours: Schema | bool) -> None:
        theirs, mine = _View(self._contract, contract), _View(self._ours, ours)
        if theirs.name is not None:
            path = theirs.name
            key = (path, mine.name or repr(ours), direction)
            if key in self._seen:
                return
            self._seen.add(key)
        for difference in self._compared(direction, path, theirs, mine):
            self._report(direction, path, difference)

    def _compared(self, direction: Direction, path: str, theirs: _View, mine: _View) -> Iterator[str]:
        """Differences of the schemas themselves; those of their parts are reported on the way."""
        if "discriminator" in theirs.schema:
            if mine.variants or mine.types != {"object"}:
                yield from self._variants(direction, theirs, mine)
            return
        if theirs.alternatives:
            yield from self._alternatives(direction, path, theirs, mine)
            return
        yield from _type_differences(direction, theirs, mine)
        if direction == "request":
            yield from _limit_differences(theirs.schema, mine.schema)
        self._parts(direction, path, theirs, mine)

    def _variants(self, direction: Direction, theirs: _View, mine: _View) -> Iterator[str]:
        variants = mine.variants
        for tag, schema in theirs.variants.items():
            if tag in variants:
                self._schema(direction, tag, schema, variants[tag])
            else:
                yield f"no variant {tag}"

    def _alternatives(self, direction: Direction, path: str, theirs: _View, mine: _View) -> Iterator[str]:
        """Whatever the one side may send, the other must take."""
        ours = mine.alternatives or [mine.schema]
        if direction == "request":
            for number, given in enumerate(theirs.alternatives):
                if not any(self._fits(direction, given, taken) for taken in ours):
                    yield f"alternative {number} of the contract fits none of ours"
        else:
            for number, given in enumerate(ours):
                if not any(self._fits(direction, taken, given) for taken in theirs.alternatives):
                    yield f"alternative {number} of ours fits none of the contract's"

    def _fits(self, direction: Direction, contract: Schema, ours: Schema) -> bool:
        trial = _Comparison(self._contract, self._ours)
        trial._schema(direction, "", contract, ours)
        return not trial.found

    def _parts(self, direction: Direction, path: str, theirs: _View, mine: _View) -> None:
        known, others = mine.schema.get("properties", {}), mine.schema.get("additionalProperties", {})
        for name, schema in theirs.schema.get("properties", {}).items():
            if name in known:
                self._schema(direction, f"{path}.{name}", schema, known[name])
            elif known or others is False:
                self._report(direction, f"{path}.{name}", "no such property")
            else:
                self._schema(direction, f"{path}.{name}", schema, others)
        needed, given = set(theirs.schema.get("required", ())), set(mine.schema.get("required", ()))
        if direction == "request":
            for name in given - needed:
                self._report(direction, f"{path}.{name}", "required only by us")
        for name in needed - given if direction == "answer" else ():
            self._report(direction, f"{path}.{name}", "not always there")
        for key in ("items", "additionalProperties"):
            part = theirs.schema.get(key)
            if isinstance(part, dict):
                self._schema(direction, f"{path}.{key}", part, mine.schema.get(key, {}))


def _parameters(document: Document, operation: Schema) -> list[Schema]:
    given = operation.get("parameters", ())
    return [_resolved(document, one["$ref"]) if "$ref" in one else one for one in given]


def _type_differences(direction: Direction, theirs: _View, mine: _View) -> Iterator[str]:
    wanted, given = theirs.types, mine.types
    if direction == "answer":
        if not given - {"integer"} <= wanted or ("integer" in given and not wanted & {"integer", "number"}):
            yield f"{_names(given)} where the contract has {_names(wanted)}"
        if mine.nullable and not theirs.nullable:
            yield "may be null"
    else:
        if not wanted - {"integer"} <= given or ("integer" in wanted and not given & {"integer", "number"}):
            yield f"{_names(given)} where the contract has {_names(wanted)}"
        if theirs.nullable and not mine.nullable:
            yield "may not be null"
    allowed, values = theirs.schema.get("enum"), mine.schema.get("enum")
    if allowed is not None and values is not None and not set(allowed) <= set(values):
        yield f"no value {sorted(set(allowed) - set(values))}"
    if direction == "answer" and allowed is not None and not set(values or [None]) <= set(allowed):
        yield "values that the contract does not have"
    if direction == "request" and allowed is None and values is not None and [theirs.schema.get("default")] != values:
        yield f"only the values {sorted(values)}"


def _limit_differences(theirs: Schema, mine: Schema) -> Iterator[str]:
    for name, kind in _LIMITS.items():
        if name not in mine:
            continue
        ours, limit = mine[name], theirs.get(name)
        narrower = limit is None or (ours < limit if kind == "max" else ours > limit)
        if narrower and not (limit is None and kind == "min" and ours <= 0):
            yield f"{name} {ours}, contract {limit}"
    if "pattern" in mine and mine["pattern"].removeprefix("^") != theirs.get("pattern", "").removeprefix("^"):
        yield f"pattern {mine['pattern']}, contract {theirs.get('pattern')}"
    if "propertyNames" in mine and "propertyNames" not in theirs:
        yield "only certain names"


def _names(types: frozenset[str]) -> str:
    return "|".join(sorted(types)) if types < _EVERY_TYPE - {"null"} else "anything"


def _resolved(document: Document, reference: str) -> Schema:
    value: Any = document
    for part in reference.removeprefix("#/").split("/"):
        value = value[part]
    schema: Schema = value
    return schema
