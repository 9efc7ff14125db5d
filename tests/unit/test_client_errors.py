"""Every code that a server may answer with becomes the exception of that code; others are told as they came."""

import copy
import pickle
import re
from pathlib import Path

import pytest

from sessile.client import errors
from sessile.client.errors import StreamBroken, UnknownFault, fault
from sessile.wire.errors import Draining, FenceLost, InvalidRequest, NotFound, SessileError

DOCUMENT = (Path(__file__).parents[2] / "PROTOCOL.md").read_text()
SECTION = DOCUMENT[DOCUMENT.index("### 9.2 Codes of requests") : DOCUMENT.index("### 9.3")]
CODES = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", SECTION, re.MULTILINE))


def test_the_table_of_the_protocol_was_found() -> None:
    assert len(CODES) > 20
    assert CODES["not_found"] == "404"


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_protocol_has_its_exception(code: str) -> None:
    error = fault(code, "because", status=int(CODES[code]), request_id="req_1", field_errors={"a": "b"}, id="x")
    assert not isinstance(error, UnknownFault | FenceLost)
    assert type(error).code == code
    assert (error.code, error.status, error.request_id, error.id) == (code, int(CODES[code]), "req_1", "x")
    assert (error.message, error.field_errors) == ("because", {"a": "b"})
    assert not type(error).__subclasses__() or type(error) is SessileError


def test_a_code_stands_for_its_most_special_class() -> None:
    assert errors.KINDS["invalid_request"] is InvalidRequest
    assert errors.KINDS["internal_error"] is SessileError
    assert errors.KINDS.keys() == CODES.keys()


def test_an_unknown_code_is_told() -> None:
    error = fault("quota_exceeded", "No more.", status=402, request_id="req_1")
    assert isinstance(error, UnknownFault)
    assert (error.code, str(error)) == ("quota_exceeded", "No more.")
    assert UnknownFault.code == "unknown_fault"


def test_the_request_id_is_told_where_the_log_of_the_server_helps() -> None:
    assert str(fault("internal_error", "It failed.", status=500, request_id="req_1")) == "It failed. (request req_1)"
    assert str(fault("not_found", "There is no agent.", status=404, request_id="req_1")) == "There is no agent."
    assert str(SessileError("On the server.")) == "On the server."


def test_errors_survive_pickling_and_copying() -> None:
    broken = StreamBroken("It broke.", turn_id="trn_1", event_id="aev_1")
    refused = fault("not_found", "There is no agent.", status=404, request_id="req_1", id="x")
    for clone in (pickle.loads(pickle.dumps(broken)), copy.copy(broken)):
        assert (clone.turn_id, clone.event_id, str(clone)) == ("trn_1", "aev_1", "It broke.")
    clone = pickle.loads(pickle.dumps(refused))
    assert isinstance(clone, NotFound)
    assert (clone.status, clone.request_id, clone.id) == (404, "req_1", "x")


def test_what_python_programs_catch_anyway() -> None:
    assert isinstance(errors.RequestTimedOut(), TimeoutError)
    assert isinstance(errors.ServerUnreachable(), ConnectionError)
    assert isinstance(errors.ConnectionLost(), ConnectionError)
    assert str(errors.ConnectionLost()) == errors.ConnectionLost.__doc__
    assert Draining().status is None
