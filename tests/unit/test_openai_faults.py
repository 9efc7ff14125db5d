"""HTTP statuses and error bodies as faults."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from sessile.models.openai_faults import MAX_MESSAGE_CHARS, retry_after, status_fault


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"Bad key sk-1"}}', "Bad key ***"),
        (b'{"error":"no such model"}', "no such model"),
        (b'{"message":"no"}', "no"),
        (b'{"detail":"no"}', "no"),
        (b'[{"error":{"message":"no"}}]', "no"),
        (b"plain\ntext", "plain text"),
        (b"<html>Bad gateway</html>", "no reason given"),
        (b"", "no reason given"),
        (b"\xff", "\ufffd"),
    ],
)
def test_the_message_is_the_providers(body: bytes, message: str) -> None:
    assert status_fault(400, body, {}, "sk-1").message == f"The provider answered HTTP 400: {message}"


def test_the_message_is_short() -> None:
    assert len(status_fault(500, b"x" * 10_000, {}).message) < MAX_MESSAGE_CHARS + 100


def test_a_refused_key_is_not_quoted() -> None:
    assert "sk-" not in status_fault(401, b'{"error":{"message":"Wrong: sk-12***34"}}', {}).message


def test_no_credit_is_not_worth_a_retry() -> None:
    fault = status_fault(429, b'{"error":{"message":"pay","type":"insufficient_quota"}}', {})
    assert (fault.code, fault.retryable) == ("model_rate_limited", False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    wait = retry_after({"Retry-After": date})
    assert wait is not None
    assert 3000 < wait <= 3600
