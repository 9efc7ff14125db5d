"""What a `metadata_filter` is once it is read: a small tree, and the terms by which an index finds equal values.

`filter_parser` reads the text, stores compile the tree; no text of a filter ever becomes part of a query. What a tree
means is written down in PROTOCOL.md; `sessile.testing.metadata` says it once more, for tests.
"""

from collections.abc import Iterator
from enum import Enum
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct

Value = str | int | float | bool
Path = tuple[str, ...]
UNINDEXED = 0
"""The only term of metadata with more than MAX_TERMS values: an index cannot tell what is in it."""
MAX_TERMS = 32


class Wild(Enum):
    """What stands for other characters in a pattern."""

    ANY = "%"
    ONE = "_"


class Compare(Struct, frozen=True):
    """The value at a path against a literal. `op` is one of `=` `!=` `<` `<=` `>` `>=`; booleans take the first two."""

    path: Path
    op: str
    value: Value


class Like(Struct, frozen=True):
    """The text at a path, whole and with case, against a pattern."""

    path: Path
    pieces: tuple[str | Wild, ...]


class IsNull(Struct, frozen=True):
    """There is nothing at a path, or null."""

    path: Path


class In(Struct, frozen=True):
    """The value at a path equals one of some literals."""

    path: Path
    values: tuple[Value, ...]


class Has(Struct, frozen=True):
    """The list at a path has a literal among its items."""

    path: Path
    value: Value


class Not(Struct, frozen=True):
    """The opposite; unknown stays unknown."""

    part: "Filter"


class And(Struct, frozen=True):
    """All parts, two or more."""

    parts: tuple["Filter", ...]


class Or(Struct, frozen=True):
    """At least one of two or more parts."""

    parts: tuple["Filter", ...]


Filter = Compare | Like | IsNull | In | Has | Not | And | Or


def kind(value: object) -> str:
    """The type of a JSON value, as far as comparing goes: numbers are one type, booleans another."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
        case _:
            return "object"


def conditions(tree: Filter) -> int:
    """How many conditions a filter has: how often it looks at the metadata of a session, at the worst."""
    match tree:
        case And(parts) | Or(parts):
            return sum(map(conditions, parts))
        case Not(part):
            return conditions(part)
        case _:
            return 1


def required_terms(tree: Filter) -> list[int]:
    """Terms that the metadata must have for the filter to be true: its equalities that hold all together."""
    parts = tree.parts if isinstance(tree, And) else (tree,)
    return [term(part.path, part.value) for part in parts if isinstance(part, Compare) and part.op == "="]


def terms(metadata: bytes | str) -> list[int]:
    """A term for every text, number and boolean in metadata, given as JSON, that is not inside a list."""
    found: set[int] = set()
    for path, value in _leaves((), msgspec.json.decode(metadata)):
        found.add(term(path, value))
        if len(found) > MAX_TERMS:
            return [UNINDEXED]
    return sorted(found)


def term(path: Path, value: Value) -> int:
    """A number of 64 bits that stands for a value at a path. Values that are equal have the same term."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    digest = blake2b(msgspec.json.encode([path, value]), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Value]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves((*path, name), inner)
    elif isinstance(value, str | int | float):
        yield path, value
