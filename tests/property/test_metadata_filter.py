"""A metadata filter that is written out is read back the same, and SQLite finds what Python says it means."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sessile.domain.filter_parser import parse
from sessile.domain.metadata_filter import (
    MAX_TERMS,
    UNINDEXED,
    And,
    Compare,
    Filter,
    Has,
    In,
    IsNull,
    Like,
    Not,
    Or,
    Wild,
    required_terms,
    terms,
)
from sessile.stores.sqlite.metadata_filter import compile_filter
from sessile.testing.metadata import evaluate
from sessile.wire import codec
from sessile.wire.errors import InvalidFilter
from sessile.wire.limits import MAX_INTEGER, MIN_INTEGER

NAMES = st.sampled_from(["a", "b", "c", "a.b", "weird key", "and", "é", "", "$", "[0]", "0"])
LETTERS = st.text(st.sampled_from("ab%_*?[]'\"\\^-é\n😀A"), max_size=4)
NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([MIN_INTEGER, MAX_INTEGER, 2**53 + 1])
    | st.sampled_from([0.5, 2.0, -1.25, 1e300, 9007199254740992.0])
)
LITERALS = LETTERS | NUMBERS | st.booleans()
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
LEAVES = st.none() | LITERALS
METADATA = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)),
    max_size=4,
)
DATABASE = sqlite3.connect(":memory:")


@st.composite
def patterns(draw: Callable[[Any], Any]) -> tuple[str | Wild, ...]:
    """Pieces as the parser makes them: no two of text side by side, none empty."""
    pieces: list[str | Wild] = []
    for piece in draw(st.lists(LETTERS | st.sampled_from(Wild), max_size=5)):
        if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += piece
        elif piece:
            pieces.append(piece)
    return tuple(pieces)


def compares(path: tuple[str, ...], value: Any) -> st.SearchStrategy[Compare]:
    operators = ["=", "!="] if isinstance(value, bool) else ["=", "!=", "<", "<=", ">", ">="]
    return st.sampled_from(operators).map(lambda op: Compare(path, op, value))


CONDITIONS = (
    st.tuples(PATHS, LITERALS).flatmap(lambda found: compares(*found))
    | st.builds(Like, PATHS, patterns())
    | st.builds(IsNull, PATHS)
    | st.builds(In, PATHS, st.lists(LITERALS, min_size=1, max_size=4).map(tuple))
    | st.builds(Has, PATHS, LITERALS)
)
TREES: st.SearchStrategy[Filter] = st.recursive(
    CONDITIONS,
    lambda part: (
        st.builds(Not, part)
        | st.builds(And, st.lists(part, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(part, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


def text_of(tree: Filter) -> str:
    """The tree as somebody could have written it."""
    match tree:
        case And(parts):
            return " AND ".join(f"({text_of(part)})" for part in parts)
        case Or(parts):
            return " or ".join(f"({text_of(part)})" for part in parts)
        case Not(part):
            return f"NOT ({text_of(part)})"
        case IsNull(path):
            return f"{named(path)} IS NULL"
        case Compare(path, op, value):
            return f"{named(path)} {op} {literal(value)}"
        case Like(path, pieces):
            escaped = "".join(
                piece.value
                if isinstance(piece, Wild)
                else piece.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
                for piece in pieces
            )
            return f"{named(path)} LIKE {literal(escaped)} ESCAPE '\\'"
        case In(path, values):
            return f"{named(path)} IN ({', '.join(map(literal, values))})"
        case Has(path, value):
            return f"{literal(value)} IN {named(path)}"


def named(path: tuple[str, ...]) -> str:
    return ".".join(f'"{name}"' for name in path)


def literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else json.dumps(value)


def in_sqlite(tree: Filter, metadata: dict[str, Any]) -> bool | None:
    condition, values = compile_filter(tree)
    query = f"SELECT {condition} FROM (SELECT :metadata AS metadata) s"
    (found,) = DATABASE.execute(query, {**values, "metadata": codec.encode(metadata)}).fetchone()
    return None if found is None else bool(found)


@given(TREES)
def test_what_is_written_out_is_read_back_the_same(tree: Filter) -> None:
    assert parse(text_of(tree)) == tree


@given(TREES, METADATA)
def test_sqlite_finds_what_python_says_it_means(tree: Filter, metadata: dict[str, Any]) -> None:
    assert in_sqlite(tree, metadata) is evaluate(tree, metadata)


@given(TREES, METADATA)
def test_metadata_that_a_filter_takes_have_the_terms_it_requires(tree: Filter, metadata: dict[str, Any]) -> None:
    if evaluate(tree, metadata):
        found = terms(codec.encode(metadata))
        assert found == [UNINDEXED] or set(required_terms(tree)) <= set(found)


@given(st.dictionaries(st.text(max_size=3), st.integers(), min_size=MAX_TERMS + 1, max_size=MAX_TERMS + 3))
def test_metadata_with_many_values_are_not_indexed(metadata: dict[str, int]) -> None:
    assert terms(json.dumps(metadata).encode()) == [UNINDEXED]


@given(st.text(max_size=60) | st.text(st.sampled_from("ab'\"()=<>! ,.%-1eNOTINLIKEAND"), max_size=60))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    refused: InvalidFilter | None = None
    try:
        parse(text)
    except InvalidFilter as error:
        refused = error
    if refused is not None and refused.field_errors is not None:
        reason, excerpt, caret = refused.field_errors["metadata_filter"].split("\n")
        at = int(reason.rpartition(" ")[2])
        assert 1 <= at <= len(text) + 1
        column = caret.index("^")
        assert excerpt[column : column + 1].strip() in text[at - 1 : at]


@given(LETTERS, NUMBERS)
def test_no_text_of_the_caller_is_part_of_the_condition(text: str, number: float) -> None:
    def condition(text: str, number: float) -> str:
        path = (text, "b")
        parts = (Compare(path, "=", text), In(path, (text, number)), Has(path, text), Like(path, (text, Wild.ANY)))
        return compile_filter(And(parts))[0]

    assert condition(text, number) == condition("plain", 7)
