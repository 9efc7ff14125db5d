"""Pages of lists that are searched row by row, for every store. No I/O, no SQL."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from sessile.domain import name_filter
from sessile.domain.metadata_filter import Filter, conditions
from sessile.rows import Page, ToolRow, ToolServerRow

Listed = TypeVar("Listed", ToolServerRow, ToolRow)
_EXAMINED = 200
"""Rows that a page with a pattern looks at."""
_METADATA_BYTES = 4 * 1024 * 1024
"""How much metadata the conditions of a filter look through for a page, each counted: tenths of a second at most."""


def examined(limit: int, pattern: str | None) -> int:
    """How many rows are looked at for a page."""
    return limit if pattern is None else _EXAMINED


def page(found: list[Listed], limit: int, pattern: str | None) -> Page[Listed]:
    """The page in rows that were looked at, of which there is one more when the list goes on."""
    slice = examined(limit, pattern)
    matching = [row for row in found[:slice] if pattern is None or _has(row, pattern)]
    if len(matching) > limit:
        return Page(matching[:limit], matching[limit - 1].id)
    return Page(matching, found[slice - 1].id if len(found) > slice else None)


def _has(row: ToolServerRow | ToolRow, pattern: str) -> bool:
    document: dict[str, Any] = msgspec.json.decode(row.document)
    name = row.name if isinstance(row, ToolRow) else document.get("name")
    return name_filter.matches(pattern, name, document.get("description"))


def metadata_budget(filter: Filter) -> int:
    """How many bytes of metadata are looked through for a page of sessions that a filter takes."""
    return _METADATA_BYTES // conditions(filter)


def affordable(ids: Sequence[int], sizes: Mapping[int, int], budget: int) -> tuple[Sequence[int], int]:
    """Those of the sessions whose metadata may still be looked through, at least one, and what is left then."""
    for place, session_id in enumerate(ids, 1):
        budget -= sizes.get(session_id, 0)
        if budget <= 0:
            return ids[:place], 0
    return ids, budget
