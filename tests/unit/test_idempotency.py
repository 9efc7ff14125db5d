from typing import Any

import pytest

from sessile.domain.idempotency import fingerprint, with_stream
from sessile.wire import ids

BASE: tuple[str, str, str | None, Any] = ("POST", "/v2/agents", "key_1", {"name": "A", "model": {"name": "m"}})


def test_the_order_of_fields_does_not_count() -> None:
    body = {"model": {"name": "m"}, "name": "A"}
    assert fingerprint("POST", "/v2/agents", "key_1", body) == fingerprint(*BASE)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "PUT"),
        (1, "/v2/agents/a"),
        (2, "key_2"),
        (2, None),
        (3, {"name": "B", "model": {"name": "m"}}),
        (3, {"name": "A", "model": {"name": "m", "parameters": {}}}),
        (3, {"name": "A"}),
        (3, [{"name": "A", "model": {"name": "m"}}]),
        (3, None),
    ],
)
def test_everything_else_counts(place: int, value: Any) -> None:
    other = list(BASE)
    other[place] = value
    assert fingerprint(*other) != fingerprint(*BASE)


def test_fields_that_may_change_are_left_out_at_the_top_only() -> None:
    def of(body: Any) -> bytes:
        return fingerprint("POST", "/", None, body, ("since", "stream_response"))

    assert of({"content": "x", "stream_response": True, "since": "start"}) == of({"content": "x"})
    assert of({"content": {"since": "start"}}) != of({"content": {}})
    assert of(["since"]) != of([])


def test_numbers_and_texts_that_look_alike_are_not_the_same() -> None:
    bodies: list[Any] = [1, 1.5, "1", True, "true", "\u00e9", "e\u0301", 2**63 - 1, -(2**63)]
    assert len({fingerprint("POST", "/", None, body) for body in bodies}) == len(bodies)


def test_a_key_of_our_own_is_one() -> None:
    made = {ids.idempotency_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("idk_") and key.isalnum() is False and key.isascii() for key in made)


def test_a_stream_is_a_part_of_its_request() -> None:
    request = fingerprint(*BASE)
    bound = with_stream(request, b"a digest")
    assert bound == with_stream(request, b"a digest")
    assert (
        len(
            {
                request,
                bound,
                with_stream(request, b"another"),
                with_stream(fingerprint("POST", "/", None, {}), b"a digest"),
            }
        )
        == 4
    )
