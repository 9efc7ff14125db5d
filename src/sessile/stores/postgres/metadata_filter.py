"""A metadata filter as a condition on `s.metadata`: fixed pieces of SQL, and every word of the caller as a value.

An expression is true, false, or NULL where nothing can be said, as SQL has it. The names of values are made here.
Numbers are compared exactly, as `numeric`; texts by their code points.
"""

from decimal import Decimal
from typing import Any

from sessile.domain.metadata_filter import And, Compare, Filter, Has, In, IsNull, Like, Not, Or, Path, Value, Wild, kind

_OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WITH_NUL = {"=": None, "!=": None, "<": "<=", "<=": "<=", ">": ">", ">=": ">"}
"""What is left to ask of the part before a NUL, which no text of the database has."""
_LIKE = str.maketrans({"%": "\\%", "_": "\\_", "\\": "\\\\"})
_EXACT, _LAST = 2**53, 2**63
"""Floats from here on are whole numbers, and there are whole numbers of other kinds beside them up to here."""
_TEXT = "(@ #>> '{}')"
_FLOAT = f"{_TEXT}::float8"
_NUMBER = (
    f"(CASE WHEN {_TEXT} ~ '[.eE]' AND abs({_FLOAT}) >= {_EXACT} AND {_FLOAT} >= -{_LAST} AND {_FLOAT} < {_LAST}"
    f" THEN {_FLOAT}::bigint::numeric ELSE {_TEXT}::numeric END)"
)


def compile_filter(tree: Filter) -> tuple[str, dict[str, Any]]:
    """The condition and its values."""
    values = _Values()
    return _condition(tree, values), values.named


class _Values:
    """Values by the names that stand for them."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}

    def add(self, value: Any, type: str) -> str:
        name = f"f{len(self.named)}"
        self.named[name] = value
        return f":{name}::{type}"

    def number(self, value: Any) -> str:
        """A number as `_NUMBER` has it."""
        exact = isinstance(value, int) or (abs(value) >= _EXACT and -_LAST <= value < _LAST)
        return self.add(Decimal(int(value)) if exact else Decimal(repr(value)), "numeric")

    def path(self, path: Path) -> str:
        """The value at a path: of objects alone, never an item of a list."""
        names = "".join(f" -> {self.add(name, 'text')}" for name in path)
        return f"(convert_from(s.metadata, 'UTF8')::json{names})"


def _condition(tree: Filter, values: _Values) -> str:
    match tree:
        case And(parts):
            return f"({' AND '.join(_condition(part, values) for part in parts)})"
        case Or(parts):
            return f"({' OR '.join(_condition(part, values) for part in parts)})"
        case Not(part):
            return f"(NOT {_condition(part, values)})"
        case IsNull(path):
            return f"(coalesce(json_typeof({values.path(path)}), 'null') = 'null')"
        case Compare(path, op, value):
            otherwise = "TRUE" if op == "!=" else "FALSE"
            return _by_type(values.path(path), _comparison(op, value, values), otherwise)
        case Like(path, pieces):
            pattern = "".join(piece.value if isinstance(piece, Wild) else piece.translate(_LIKE) for piece in pieces)
            test = "FALSE" if "\0" in pattern else f"{_TEXT} LIKE {values.add(pattern, 'text')}"
            return _by_type(values.path(path), {"string": test}, "FALSE")
        case In(path, literals):
            return _by_type(values.path(path), _any_of(literals, values), "FALSE")
        case Has(path, value):
            test = _choice("i.item", _comparison("=", value, values), "FALSE")
            found = f"EXISTS (SELECT 1 FROM json_array_elements(@) AS i (item) WHERE {test})"
            return _by_type(values.path(path), {"array": found}, "FALSE")


def _comparison(op: str, value: Value, values: _Values) -> dict[str, str]:
    """The test for values of the literal's type, `@` being the value."""
    match kind(value):
        case "boolean":
            return {"boolean": f"{_TEXT} {_OPERATORS[op]} {values.add(str(value).lower(), 'text')}"}
        case "number":
            return {"number": f"{_NUMBER} {_OPERATORS[op]} {values.number(value)}"}
        case _:
            return {"string": _text_test(op, str(value), values)}


def _text_test(op: str, text: str, values: _Values) -> str:
    before, nul, _ = text.partition("\0")
    asked = _WITH_NUL[op] if nul else _OPERATORS[op]
    if asked is None:
        return "TRUE" if op == "!=" else "FALSE"
    return f'{_TEXT} COLLATE "C" {asked} {values.add(before, "text")}'


def _any_of(literals: tuple[Value, ...], values: _Values) -> dict[str, str]:
    by_type: dict[str, list[str]] = {}
    for literal in literals:
        for type, test in _comparison("=", literal, values).items():
            by_type.setdefault(type, []).append(test)
    return {type: f"({' OR '.join(tests)})" for type, tests in by_type.items()}


def _by_type(place: str, tests: dict[str, str], otherwise: str) -> str:
    """A test for each JSON type; unknown where there is no value, and `otherwise` for other types."""
    return f"(SELECT {_choice('j.v', {'null': 'NULL', **tests}, otherwise)} FROM (SELECT {place} AS v OFFSET 0) j)"


def _choice(value: str, tests: dict[str, str], otherwise: str) -> str:
    cases = "".join(f" WHEN '{type}' THEN {test.replace('@', value)}" for type, test in tests.items())
    return f"(CASE coalesce(json_typeof({value}), 'null'){cases} ELSE {otherwise} END)"
