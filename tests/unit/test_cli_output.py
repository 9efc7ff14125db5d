"""What is printed for people and for programs."""

import sys

import msgspec
import pytest
import typer
from rich.cells import cell_len

from sessile.cli import output
from sessile.cli.output import Column, Cut

COLUMNS = [
    Column("KEY", lambda row: row[0]),
    Column("TEXT", lambda row: row[1], flexible=True),
    Column("MORE", lambda row: row[2], flexible=True),
    Column("SECRET", lambda row: "for programs", for_people=False),
]
ROWS = [("first", "short", "日本語" * 40), ("second", "x" * 200, "\x1b[31m")]


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.usefixtures("on_terminal")
def test_a_table_fits_the_terminal_and_keeps_what_names_things(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing(ROWS, COLUMNS, Cut(None), as_json=False)
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["KEY", "TEXT", "MORE"]
    assert all(cell_len(line) <= 60 for line in (heading, first, second))
    assert first.startswith("first ")
    assert first.endswith("...")
    assert second.split()[0] == "second"
    assert "x..." in second
    assert second.endswith("\\x1b[31m")
    assert heading.index("MORE") == second.index("\\x1b")


@pytest.mark.usefixtures("on_terminal")
def test_a_narrow_terminal_wraps_rather_than_loses_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    output.listing(ROWS, COLUMNS, Cut(None), as_json=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["KEY", "first", "second"]


def test_lines_for_programs_hold_every_column_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing(ROWS, COLUMNS, Cut(None), as_json=False)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["first", "short", "日本語" * 40, "for programs"],
        ["second", "x" * 200, "\\x1b[31m", "for programs"],
    ]


def test_json_lines_are_exact(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output.listing(ROWS, COLUMNS, Cut(None), as_json=True)
    lines = capfdbinary.readouterr().out.splitlines()
    assert [tuple(msgspec.json.decode(line)) for line in lines] == ROWS


def test_a_list_that_goes_on_says_so_and_reads_no_further(capsys: pytest.CaptureFixture[str]) -> None:
    read = []

    def items() -> object:
        for row in ROWS * 10:
            read.append(row)
            yield row

    output.listing(items(), COLUMNS, Cut(2), as_json=False)  # type: ignore[arg-type]
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "more than 2" in told.err
    assert len(read) == 3


def test_how_much_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.cut(None, False, as_json=False) == Cut(None)
    assert output.cut(7, False, as_json=False) == Cut(7)
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    assert output.cut(None, False, as_json=False) == Cut(output.SCREENFUL)
    assert output.cut(None, True, as_json=False) == Cut(None)
    assert output.cut(None, False, as_json=True) == Cut(None)
    with pytest.raises(typer.BadParameter):
        output.cut(7, True, as_json=False)


@pytest.mark.parametrize(("limit", "size"), [(None, 100), (1, 2), (20, 21), (99, 100), (500, 100)])
def test_pages_are_no_larger_than_a_list_needs(limit: int | None, size: int) -> None:
    assert Cut(limit).page_size == size


@pytest.mark.usefixtures("on_terminal")
def test_times_are_local_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(output.when("2026-01-31T09:30:00.000000Z")) == len("2026-01-31 09:30:00")
    assert output.when("one day") == "one day"
    monkeypatch.setattr(output, "on_terminal", lambda: False)
    assert output.when("2026-01-31T09:30:00.000000Z") == "2026-01-31T09:30:00.000000Z"


@pytest.mark.usefixtures("on_terminal")
def test_details_are_aligned_and_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    output.details([("key", "k"), ("empty", ""), ("description", "one\ntwo")])
    assert capsys.readouterr().out == "key          k\ndescription  one\n             two\n"


def test_nobody_is_asked_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    output.confirm("Sure?", yes=True)
    with pytest.raises(typer.BadParameter):
        output.confirm("Sure?", yes=False)
