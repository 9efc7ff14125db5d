"""What commands print: results on stdout, remarks on stderr. Tables are for people, lines with tabs for programs."""

import contextlib
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
import typer
from rich.cells import cell_len, set_cell_size

from sessile.cli.terminal import Style, styled
from sessile.cli.text import one_line, printable

T = TypeVar("T")
SCREENFUL = 20
"""How many of a list people are shown unless they ask for more."""
_LARGEST_PAGE = 100
_GAP, _CUT = "  ", "..."
_NARROWEST = 12
"""The fewest cells of the terminal that are left to a column that gives way to others."""


class Column(NamedTuple):
    """A column of a list: its heading and how a cell is read from an item; only a `flexible` one is ever cut."""

    heading: str
    cell: Callable[[Any], str]
    flexible: bool = False
    for_people: bool = True
    """False leaves it out of tables; lines for programs always have it."""


class Cut(NamedTuple):
    """How much of a list is shown: at most `limit` items, or all when it is None."""

    limit: int | None

    @property
    def page_size(self) -> int:
        """How many to ask the server for at once; one more than is shown tells whether there is more."""
        return _LARGEST_PAGE if self.limit is None else min(_LARGEST_PAGE, self.limit + 1)


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def cut(limit: int | None, everything: bool, *, as_json: bool) -> Cut:
    """How much to show, from the options of a list. Raises typer.BadParameter."""
    if limit is not None and everything:
        raise typer.BadParameter("--limit and --all exclude each other.")
    if limit is None and not everything and on_terminal() and not as_json:
        return Cut(SCREENFUL)
    return Cut(limit)


def remark(text: str) -> None:
    """A line beside the result, on stderr."""
    typer.echo(printable(text), err=True)


def line(text: str) -> None:
    """A line of the result."""
    print(printable(text))


def json_line(value: Any) -> None:
    """A JSON document on one line, in UTF-8 whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")


def listing(
    items: Iterable[T],
    columns: Sequence[Column],
    shown: Cut,
    *,
    as_json: bool,
    document: Callable[[T], Any] = lambda item: item,
) -> None:
    """Print a list, as it comes for programs; says on stderr when there was more. `document` is an item as JSON."""
    rest = iter(items)
    first = itertools.islice(rest, shown.limit)
    if as_json:
        for item in first:
            json_line(document(item))
    else:
        table([column for column in columns if column.for_people or not on_terminal()], first)
    if shown.limit is not None and next(rest, None) is not None:
        sys.stdout.flush()
        remark(f"There are more than {shown.limit}: --limit N shows more of them, --all everything.")


def table(columns: Sequence[Column], items: Iterable[Any]) -> None:
    """A table for people, as wide as the terminal if that is possible; lines with tabs for programs."""
    rows = ([one_line(column.cell(item)) for column in columns] for item in items)
    if not on_terminal():
        for row in rows:
            print("\t".join(row))
        return
    shown = list(rows)
    if not shown:
        remark("There are none.")
        return
    headings = [column.heading for column in columns]
    widths = _widths(columns, [headings, *shown], shutil.get_terminal_size().columns)
    print(styled(_row(headings, widths), Style.BOLD, sys.stdout))
    for row in shown:
        print(_row(row, widths))


def when(timestamp: str) -> str:
    """A time of the wire as it is for programs, and in the local time zone, to the second, for people."""
    if not on_terminal():
        return timestamp
    with contextlib.suppress(ValueError, OverflowError):
        return f"{datetime.fromisoformat(timestamp).astimezone():%Y-%m-%d %H:%M:%S}"
    return timestamp


def yes_no(value: bool) -> str:
    """A truth value in words."""
    return "yes" if value else "no"


def details(fields: Iterable[tuple[str, str]]) -> None:
    """One thing: its fields, aligned for people, with tabs for programs."""
    known = [(name, text) for name, text in fields if text]
    width = max(len(name) for name, _ in known) + 2
    for name, text in known:
        if on_terminal():
            first, *more = printable(text).splitlines() or [""]
            print(f"{name:<{width}}{first}", *(" " * width + next_line for next_line in more), sep="\n")
        else:
            print(f"{name}\t{one_line(text)}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is gone for ever. Raises typer.Abort, and typer.BadParameter without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here; --yes goes ahead.", param_hint="--yes")
    typer.confirm(printable(question), abort=True, err=True)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """How many cells of the terminal each column takes: as many as it needs, but flexible ones give way."""
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    flexible = [place for place, column in enumerate(columns) if column.flexible]
    too_wide = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    while too_wide > 0 and flexible:
        widest = max(flexible, key=lambda place: widths[place])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
        too_wide -= 1
    return widths


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(_cell(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cell(text: str, width: int) -> str:
    if cell_len(text) > width:
        text = set_cell_size(text, width - len(_CUT)) + _CUT
    return set_cell_size(text, width)
