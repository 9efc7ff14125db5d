"""Pages of lists that a pattern searches row by row, for every store. No I/O, no SQL."""

from typing import Any, TypeVar

import msgspec

from sessile.domain import name_filter
from sessile.rows import Page, ToolRow, ToolServerRow

Listed = TypeVar("Listed", ToolServerRow, ToolRow)
_EXAMINED = 200
"""Rows that a page with a pattern looks at."""


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
