"""A connection as verbs see it: queries by their names, with named values. Knows no verb and no failure."""

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, field

from sessile.stores.queries import load_queries
from sessile.stores.stray import RULES

_PARAMETER = re.compile(r"(?<![:\w]):([a-z]\w*)")

Row = Sequence[Any]


class _Query(Struct, frozen=True):
    """A query whose parameters are numbered, and the names of the values in that order."""

    text: str
    names: list[str]


def numbered(text: str) -> tuple[str, list[str]]:
    """A query with `:name` parameters in PostgreSQL's own notation, `$1`, and the names in order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PARAMETER.sub(number, text), names


_TEXTS = load_queries("sessile.stores.postgres") | RULES
_QUERIES = {name: _Query(*numbered(text)) for name, text in _TEXTS.items()}


def text_of(name: str) -> str:
    """The text of a query."""
    return _QUERIES[name].text


class Changed(Struct):
    """The sessions and agents that a transaction has changed, by their internal ids, for whoever follows them."""

    sessions: set[int] = field(default_factory=set)
    agents: set[int] = field(default_factory=set)


class Db:
    """One connection, mostly within a transaction. `wrote`: whether it was asked for a change."""

    def __init__(self, connection: Any, seconds: float | None = None) -> None:
        """`seconds`: how long a query that reads may take, unless it is what the connection says."""
        self._connection = connection
        self._seconds = seconds
        self.wrote = False
        self.changed = Changed()
        self.calls = 1
        """Verbs in this transaction."""

    async def all(self, name: str, /, **values: Any) -> Sequence[Row]:
        """All rows of a query that reads."""
        query = _QUERIES[name]
        given = [values[name] for name in query.names]
        rows: Sequence[Row] = await self._connection.fetch(query.text, *given, timeout=self._seconds)
        return rows

    async def all_where(self, name: str, condition: str, /, **values: Any) -> Sequence[Row]:
        """All rows of a query that reads, with a condition in the place of its last TRUE."""
        head, _, tail = _TEXTS[name].rpartition("TRUE")
        text, names = numbered(head + condition + tail)
        given = [values[name] for name in names]
        rows: Sequence[Row] = await self._connection.fetch(text, *given, timeout=self._seconds)
        return rows

    async def one(self, name: str, /, **values: Any) -> Row | None:
        """The first row of a query that reads."""
        query = _QUERIES[name]
        row: Row | None = await self._connection.fetchrow(query.text, *[values[name] for name in query.names])
        return row

    async def change(self, name: str, /, **values: Any) -> Sequence[Row]:
        """What a query that writes returns."""
        self.wrote = True
        return await self.all(name, **values)

    async def count(self, name: str, /, **values: Any) -> int:
        """How many rows a query that writes has changed."""
        self.wrote = True
        query = _QUERIES[name]
        status: str = await self._connection.execute(query.text, *[values[name] for name in query.names])
        return int(status.rpartition(" ")[2])
