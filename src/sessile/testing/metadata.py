"""What a metadata filter means, said a second time in Python: stores are compared with it."""

import re
from typing import Any

from sessile.domain.metadata_filter import And, Compare, Filter, Has, In, IsNull, Like, Not, Or, Path, Wild, kind

_WILD = {Wild.ANY: ".*", Wild.ONE: "."}


def evaluate(tree: Filter, metadata: dict[str, Any]) -> bool | None:
    """Whether metadata are as a filter says; None: unknown."""
    match tree:
        case And(parts):
            return _all(evaluate(part, metadata) for part in parts)
        case Or(parts):
            return _opposite(_all(_opposite(evaluate(part, metadata)) for part in parts))
        case Not(part):
            return _opposite(evaluate(part, metadata))
        case IsNull(path):
            return _at(metadata, path) is None
        case _:
            value = _at(metadata, tree.path)
            return None if value is None else _holds(tree, value)


def _holds(tree: Compare | Like | In | Has, value: Any) -> bool:
    match tree:
        case Compare(_, op, literal):
            return _compared(value, op, literal)
        case Like(_, pieces):
            pattern = "".join(_WILD[piece] if isinstance(piece, Wild) else re.escape(piece) for piece in pieces)
            return isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None
        case In(_, literals):
            return any(_compared(value, "=", literal) for literal in literals)
        case Has(_, literal):
            return isinstance(value, list) and any(_compared(item, "=", literal) for item in value)


def _compared(value: Any, op: str, literal: Any) -> bool:
    if kind(value) != kind(literal):
        return op == "!="
    match op:
        case "=":
            return bool(value == literal)
        case "!=":
            return bool(value != literal)
        case "<":
            return bool(value < literal)
        case "<=":
            return bool(value <= literal)
        case ">":
            return bool(value > literal)
        case _:
            return bool(value >= literal)


def _at(metadata: Any, path: Path) -> Any:
    for name in path:
        metadata = metadata.get(name) if isinstance(metadata, dict) else None
    return metadata


def _all(outcomes: Any) -> bool | None:
    seen = set(outcomes)
    return False if False in seen else None if None in seen else True


def _opposite(outcome: bool | None) -> bool | None:
    return None if outcome is None else not outcome
