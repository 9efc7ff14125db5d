"""How a shell would call this program again."""

import os
import sys
from pathlib import Path

import pytest

from sessile.cli import shell


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `sessile` in a folder of its own; the shell is in the folder above, and so is this process."""
    program = tmp_path / "bin" / "sessile"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bin/sessile"])
    return program


def test_a_program_below_is_called_by_the_way_to_it(program: Path) -> None:
    assert shell.command() == "bin/sessile"


def test_a_program_that_the_shell_finds_is_called_by_its_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert shell.command() == "sessile"


def test_another_program_of_that_name_is_not_meant(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = program.parent.parent / "other" / "sessile"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert shell.command() == "bin/sessile"


def test_a_program_in_the_same_folder(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(program.parent)
    monkeypatch.setenv("PWD", str(program.parent))
    monkeypatch.setattr(sys, "argv", ["./sessile"])
    assert shell.command() == "./sessile"


def test_a_shell_elsewhere_gets_whole_paths(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = program.parent.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("PWD", str(elsewhere))
    assert shell.command() == str(program)
    assert shell.path("data") == str(program.parent.parent / "data")


def test_a_module_is_called_as_one(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/sessile/__main__.py"])
    assert shell.command() == f"{sys.executable} -m sessile"


def test_odd_names_are_quoted(program: Path) -> None:
    assert shell.path("my data") == "'my data'"
    assert shell.path("data") == "data"


def test_a_shell_that_does_not_say_where_it_is(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PWD")
    assert shell.here() == Path.cwd()
    assert shell.command() == "bin/sessile"
