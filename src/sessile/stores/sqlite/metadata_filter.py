"""A metadata filter as a condition on `s.metadata`: fixed pieces of SQL, and every word of the caller as a value.

An expression is 1, 0, or NULL where nothing can be said, as SQL has it. The names of values are made here.
"""

from typing import Any

from sessile.domain.metadata_filter import And, Compare, Filter, Has, In, IsNull, Like, Not, Or, Path, Value, Wild, kind

_JSON = "CAST(s.metadata AS TEXT)"
_OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_GLOB = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]"})
_WILD = {Wild.ANY: "*", Wild.ONE: "?"}


def compile_filter(tree: Filter) -> tuple[str, dict[str, Any]]:
    """The condition and its values."""
    values = _Values()
    return _condition(tree, values), values.named


class _Values:
    """Values by the names that stand for them."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}

    def add(self, value: Any) -> str:
        name = f"f{len(self.named)}"
        self.named[name] = value
        return f":{name}"

    def path(self, path: Path) -> str:
        """A path as SQLite's JSON functions take it; a name has no quote, no backslash and no control character."""
        return self.add("$" + "".join(f'."{name}"' for name in path))


def _condition(tree: Filter, values: _Values) -> str:
    match tree:
        case And(parts):
            return f"({' AND '.join(_condition(part, values) for part in parts)})"
        case Or(parts):
            return f"({' OR '.join(_condition(part, values) for part in parts)})"
        case Not(part):
            return f"(NOT {_condition(part, values)})"
        case IsNull(path):
            return f"(coalesce(json_type({_JSON}, {values.path(path)}), 'null') = 'null')"
        case Compare(path, op, value):
            return _comparison(path, op, value, values)
        case Like(path, pieces):
            pattern = "".join(_WILD[piece] if isinstance(piece, Wild) else piece.translate(_GLOB) for piece in pieces)
            return _by_type(values.path(path), {"text": f"@ GLOB {values.add(pattern)}"}, "0")
        case In(path, literals):
            return _membership(path, literals, values)
        case Has(path, value):
            place = values.path(path)
            item = _equal_item(value, values)
            found = f"EXISTS (SELECT 1 FROM json_each({_JSON}, {place}) WHERE {item})"
            return _by_type(place, {"array": found}, "0")


def _comparison(path: Path, op: str, value: Value, values: _Values) -> str:
    place, otherwise = values.path(path), "1" if op == "!=" else "0"
    match kind(value):
        case "boolean":
            equal = {"true": int(value is True), "false": int(value is False)}
            return _by_type(place, {type: str(int(same == (op == "="))) for type, same in equal.items()}, otherwise)
        case "number":
            test = f"@ {_OPERATORS[op]} {values.add(value)}"
            return _by_type(place, {"integer": test, "real": test}, otherwise)
        case _:
            return _by_type(place, {"text": f"@ {_OPERATORS[op]} {values.add(value)}"}, otherwise)


def _membership(path: Path, literals: tuple[Value, ...], values: _Values) -> str:
    place = values.path(path)
    by_kind: dict[str, list[Value]] = {}
    for literal in literals:
        by_kind.setdefault(kind(literal), []).append(literal)
    tests = {str(literal).lower(): "1" for literal in by_kind.pop("boolean", ())}
    for name, same_kind in by_kind.items():
        test = f"@ IN ({', '.join(values.add(literal) for literal in same_kind)})"
        tests |= {"text": test} if name == "text" else {"integer": test, "real": test}
    return _by_type(place, tests, "0")


def _by_type(place: str, tests: dict[str, str], otherwise: str) -> str:
    """A test for each JSON type, `@` being the value; unknown where there is none, and `otherwise` for other types."""
    value = f"json_extract({_JSON}, {place})"
    cases = "".join(f" WHEN '{type}' THEN {test.replace('@', value)}" for type, test in tests.items())
    return f"(CASE coalesce(json_type({_JSON}, {place}), 'null') WHEN 'null' THEN NULL{cases} ELSE {otherwise} END)"


def _equal_item(value: Value, values: _Values) -> str:
    match kind(value):
        case "boolean":
            return f"type = '{str(value).lower()}'"
        case "number":
            return f"type IN ('integer', 'real') AND atom = {values.add(value)}"
        case _:
            return f"type = 'text' AND atom = {values.add(value)}"
