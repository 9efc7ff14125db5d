"""Reads the text of a `metadata_filter`. What is wrong with it is told with the character where it is wrong.

The grammar stands in `metadata_filter.lark`; it is loaded when the first filter comes.
"""

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sessile.domain.metadata_filter import And, Compare, Filter, Has, In, IsNull, Like, Not, Or, Path, Value, Wild
from sessile.wire.errors import InvalidFilter
from sessile.wire.limits import MAX_FILTER_CONDITIONS, MAX_FILTER_DEPTH, MAX_FILTER_LIST, MAX_INTEGER, MIN_INTEGER

if TYPE_CHECKING:
    from lark import Lark, Token

_EXCERPT = 30
_ONE_CELL = {code: " " for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SAID = {
    "NAME": "a name",
    "STRING": "a text in single quotes",
    "NUMBER": "a number",
    "TRUE": "true or false",
    "OPERATOR": "= != < <= > >=",
    "LPAR": "(",
    "_RPAR": ")",
    "_COMMA": ",",
    "_DOT": ".",
    "$END": "the end",
    "QUOTED": "",
    "FALSE": "",
}
"""How a token is called in a message; an empty one always comes with another that is said."""


_ONE_A_CONDITION = {"OPERATOR", "_LIKE", "_IS", "_IN"}


def parse(text: str) -> Filter:
    """The tree of a filter. Raises InvalidFilter."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        part: Any = _parser().parse(text)
    except UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        raise invalid("metadata_filter", text, at, _unreadable(text[at])) from None
    except UnexpectedToken as error:
        at = len(text) if error.token.type == "$END" else error.token.start_pos or 0
        raise invalid("metadata_filter", text, at, f"expected {_names(error.accepts)}") from None
    except _Refused as error:
        raise invalid("metadata_filter", text, error.at, error.reason) from None
    if part.conditions > MAX_FILTER_CONDITIONS:
        places = [token.start_pos or 0 for token in _parser().lex(text) if token.type in _ONE_A_CONDITION]
        reason = f"more than {MAX_FILTER_CONDITIONS} conditions"
        raise invalid("metadata_filter", text, places[MAX_FILTER_CONDITIONS], reason)
    tree: Filter = part.tree
    return tree


def invalid(parameter: str, text: str, at: int, reason: str) -> InvalidFilter:
    """The error: the character, counted from 1, and what stands around it."""
    start = max(0, at - _EXCERPT)
    excerpt = text[start : at + _EXCERPT].translate(_ONE_CELL)
    reason = f"{reason}, at character {at + 1}\n  {excerpt}\n  {' ' * (at - start)}^"
    return InvalidFilter(f"{parameter}: {reason}", field_errors={parameter: reason})


@cache
def _parser() -> "Lark":
    from lark import Lark

    grammar = files("sessile.domain").joinpath("metadata_filter.lark").read_text(encoding="utf-8")
    builder: Any = _Builder()
    return Lark(grammar, parser="lalr", lexer="basic", transformer=builder)


class _Refused(Exception):
    """Something that the grammar allows and a rule does not."""

    def __init__(self, at: "Token", reason: str, offset: int = 0) -> None:
        super().__init__(reason)
        self.at = (at.start_pos or 0) + offset
        self.reason = reason


class _Part(Struct, frozen=True):
    """A tree with its depth and how many conditions it has."""

    tree: Filter
    depth: int = 1
    conditions: int = 1


class _Builder:
    """What becomes of each rule of the grammar, while the text is read: nothing recurses into what is nested."""

    def disjoin(self, parts: list[_Part]) -> _Part:
        return _joined(Or(tuple(part.tree for part in parts)), parts)

    def conjoin(self, parts: list[_Part]) -> _Part:
        return _joined(And(tuple(part.tree for part in parts)), parts)

    def negate(self, found: list[Any]) -> _Part:
        word, part = found
        return _deeper(word, Not(part.tree), part)

    def group(self, found: list[Any]) -> _Part:
        bracket, part = found
        return _deeper(bracket, part.tree, part)

    def condition(self, found: list[Any]) -> _Part:
        (tree,) = found
        return _Part(tree)

    def compare(self, found: list[Any]) -> Filter:
        path, operator, literal = found
        return _comparison(path, operator, literal, str(operator))

    def compare_flipped(self, found: list[Any]) -> Filter:
        literal, operator, path = found
        return _comparison(path, operator, literal, _FLIPPED.get(operator, str(operator)))

    def like(self, found: list[Any]) -> Filter:
        path, pattern, escape = found
        return Like(path, _pieces(pattern, escape))

    def not_like(self, found: list[Any]) -> Filter:
        path, _, pattern, escape = found
        return Not(Like(path, _pieces(pattern, escape)))

    def escape(self, found: list[Any]) -> "Token | None":
        return found[0] if found else None

    def is_null(self, found: list[Any]) -> Filter:
        return IsNull(found[0])

    def is_not_null(self, found: list[Any]) -> Filter:
        return Not(IsNull(found[0]))

    def is_in(self, found: list[Any]) -> Filter:
        path, _, *literals = found
        return In(path, _list(literals))

    def is_not_in(self, found: list[Any]) -> Filter:
        path, _, _, *literals = found
        return Not(In(path, _list(literals)))

    def has(self, found: list[Any]) -> Filter:
        literal, path = found
        return Has(path, _value(literal))

    def has_not(self, found: list[Any]) -> Filter:
        literal, _, path = found
        return Not(Has(path, _value(literal)))

    def path(self, names: list["Token"]) -> Path:
        return tuple(name[1:-1] if name.type == "QUOTED" else str(name) for name in names)


def _joined(tree: Filter, parts: Sequence[_Part]) -> _Part:
    return _Part(tree, 1 + max(part.depth for part in parts), sum(part.conditions for part in parts))


def _deeper(token: "Token", tree: Filter, part: _Part) -> _Part:
    if part.depth == MAX_FILTER_DEPTH:
        raise _Refused(token, f"nested deeper than {MAX_FILTER_DEPTH} levels")
    return _Part(tree, part.depth + 1, part.conditions)


def _comparison(path: Path, operator: "Token", literal: "Token", op: str) -> Compare:
    value = _value(literal)
    if isinstance(value, bool) and op not in ("=", "!=", "<>"):
        raise _Refused(operator, "true and false have no order; use = or !=")
    return Compare(path, "!=" if op == "<>" else op, value)


def _list(literals: list["Token"]) -> tuple[Value, ...]:
    if len(literals) > MAX_FILTER_LIST:
        raise _Refused(literals[MAX_FILTER_LIST], f"a list of more than {MAX_FILTER_LIST} values")
    return tuple(map(_value, literals))


def _value(token: "Token") -> Value:
    match token.type:
        case "STRING":
            return token[1:-1].replace("''", "'")
        case "NUMBER":
            return _number(token)
        case _:
            return token.lower() == "true"


def _number(token: "Token") -> int | float:
    if token.lstrip("-").isdigit():
        if len(token) > 20 or not MIN_INTEGER <= (integer := int(token)) <= MAX_INTEGER:
            raise _Refused(token, "an integer beyond 64 bits")
        return integer
    number = float(token)
    if not math.isfinite(number):
        raise _Refused(token, "a number beyond the range of a double")
    return number


def _pieces(pattern: "Token", escape: "Token | None") -> tuple[str | Wild, ...]:
    """The pattern with its wildcards told apart from text; neighbouring characters of text are one piece."""
    mark = None if escape is None else _value(escape)
    if escape is not None and (not isinstance(mark, str) or len(mark) != 1):
        raise _Refused(escape, "an escape must be one character")
    pieces: list[str | Wild] = []
    text = ""
    characters = iter(str(_value(pattern)))
    for character in characters:
        if character == mark:
            if (escaped := next(characters, "")) not in ("%", "_", mark):
                raise _Refused(pattern, f"in this pattern {mark} must stand before %, _ or {mark}")
            text += escaped
        elif character in "%_":
            pieces += [text, Wild(character)] if text else [Wild(character)]
            text = ""
        else:
            text += character
    return (*pieces, text) if text else tuple(pieces)


def _unreadable(character: str) -> str:
    match character:
        case "'":
            return "a text that does not end"
        case '"':
            return 'a name that does not end, or has a " \\ or control character in it'
        case _:
            return "no part of a filter starts like this"


def _names(tokens: set[str]) -> str:
    said = sorted({_SAID.get(token, token.removeprefix("_")) for token in tokens} - {""})
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"
