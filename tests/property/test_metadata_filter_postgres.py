"""PostgreSQL finds what Python says a metadata filter means. A condition is asked about many metadata at once."""

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from property.test_metadata_filter import METADATA, TREES
from sessile.domain.metadata_filter import And, Compare, Filter, Has, In, Like, Or
from sessile.stores.postgres.db import numbered
from sessile.stores.postgres.metadata_filter import compile_filter
from sessile.testing.metadata import evaluate
from sessile.testing.postgres import PostgresServer
from sessile.wire import codec

BIG = 20000000000000012
"""A float writes this number with fewer digits than it has."""


class Asking:
    """A connection, used by tests that are not asynchronous."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection = self._loop.run_until_complete(asyncpg.connect(url, statement_cache_size=0))

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    def found(self, tree: Filter, metadata: list[dict[str, Any]]) -> list[bool | None]:
        """What a condition says of each metadata."""
        condition, values = compile_filter(tree)
        query = f"SELECT {condition} FROM unnest(:rows::bytea[]) WITH ORDINALITY AS s (metadata, place) ORDER BY place"
        text, names = numbered(query)
        values["rows"] = [codec.encode(one) for one in metadata]
        rows = self._loop.run_until_complete(self._connection.fetch(text, *[values[name] for name in names]))
        return [row[0] for row in rows]


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Asking]:
    asking = Asking(postgres.url())
    yield asking
    asking.close()


@given(TREES, st.lists(METADATA, min_size=1, max_size=5))
@example(Compare(("a",), "=", float(BIG)), [{"a": BIG}, {"a": float(BIG)}, {"a": BIG - 2}])
@example(Compare(("a",), "<", -float(2**63)), [{"a": -(2**63)}, {"a": -float(2**63)}, {"a": -1e300}])
@example(Compare(("a", "0"), "=", 1), [{"a": [1]}, {"a": {"0": 1}}, {"a": {"0": 1.0}}])
@example(In(("a",), (True, "x", 0.1)), [{"a": True}, {"a": "x"}, {"a": 0.1}, {"a": "true"}, {"a": None}, {}])
@example(Like(("a",), ("50%",)), [{"a": "50%"}, {"a": "50 "}])
def test_postgres_finds_what_python_says_it_means(
    database: Asking, tree: Filter, metadata: list[dict[str, Any]]
) -> None:
    assert database.found(tree, metadata) == [evaluate(tree, one) for one in metadata]


@pytest.mark.parametrize("op", ["=", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("text", ["b\0", "b\0c", "\0"])
def test_texts_that_no_metadata_have(database: Asking, op: str, text: str) -> None:
    tree = Compare(("a",), op, text)
    metadata: list[dict[str, Any]] = [{"a": value} for value in ("", "a", "b", "ba", "c")]
    assert database.found(tree, metadata) == [evaluate(tree, one) for one in metadata]


def test_patterns_and_lists_that_no_metadata_match(database: Asking) -> None:
    metadata: list[dict[str, Any]] = [{"a": "b"}, {"a": ["b"]}]
    assert database.found(Like(("a",), ("b\0",)), metadata) == [False, False]
    assert database.found(In(("a",), ("b\0", "b")), metadata) == [True, False]
    assert database.found(Has(("a",), "b\0"), metadata) == [False, False]


def test_a_filter_of_the_greatest_size_is_taken(database: Asking) -> None:
    parts = tuple(Or(tuple(In((f"p{n}",), tuple(range(100))) for n in range(2))) for _ in range(25))
    assert database.found(And(parts), [{"p0": 1, "p1": 2}, {"p0": -1, "p1": -1}]) == [True, False]
