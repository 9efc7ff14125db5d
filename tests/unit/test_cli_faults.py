"""What a person and a script are told when something fails."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import typer

from sessile.cli import faults
from sessile.config import ConfigError
from sessile.wire.errors import InvalidRequest, KeyTaken, NotFound, SessileError, SessionRunning, Unauthenticated


class Unreachable(SessileError):
    """Nobody answers."""

    code = "server_unreachable"


def answered(error: SessileError, status: int) -> SessileError:
    """The error as the client raises it for an answer of the server."""
    error.status, error.request_id = status, "req_1"
    return error


def left(error: BaseException, meta: Mapping[str, Any] | None = None) -> int:
    """The exit code for an error."""
    with pytest.raises(typer.Exit) as caught, faults.handled(meta or {}):
        raise error
    return caught.value.exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (answered(NotFound(), 404), 4),
        (NotFound(), 1),
        (answered(KeyTaken(), 400), 1),
        (answered(Unauthenticated(), 401), 1),
        (Unreachable(), 3),
        (ConfigError("bad"), 1),
        (BrokenPipeError(), 141),
    ],
)
def test_every_kind_of_failure_has_its_exit_code(error: BaseException, code: int) -> None:
    assert left(error) == code


@pytest.mark.parametrize("defect", [ValueError("x"), KeyError("x"), AssertionError()])
def test_a_defect_keeps_its_traceback(defect: Exception) -> None:
    with pytest.raises(type(defect)), faults.handled({}):
        raise defect


def test_people_are_told_code_and_request_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert left(answered(Unauthenticated(), 401)) == 1
    told = capsys.readouterr()
    assert told.out == ""
    first, second = told.err.splitlines()
    assert first == "sessile: The API key is missing or not valid. (unauthenticated, request req_1)"
    assert "SESSILE_API_KEY" in second


def test_fields_are_told_when_the_message_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    faults.report(answered(InvalidRequest("Two fields.", field_errors={"name": "Too long.", "key": "Odd."}), 400))
    assert capsys.readouterr().err.splitlines()[1:] == ["  name: Too long.", "  key: Odd."]
    faults.report(answered(InvalidRequest("name: Too long.", field_errors={"name": "Too long."}), 400))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_hostile_messages_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    faults.report(NotFound("\x1b[2J"))
    assert "\x1b[2J" not in capsys.readouterr().err


def test_programs_are_told_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    error = answered(SessionRunning(id="trn_1"), 409)
    assert left(error, {faults.AS_JSON: True}) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err) == {
        "code": "session_running",
        "messages": ["A turn of this session is running."],
        "status": 409,
        "request_id": "req_1",
        "id": "trn_1",
    }


def test_what_is_not_known_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    faults.report(Unreachable(), as_json=True)
    assert json.loads(capsys.readouterr().err) == {"code": "server_unreachable", "messages": ["Nobody answers."]}
