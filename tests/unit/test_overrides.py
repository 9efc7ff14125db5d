import traceback
from typing import Any
from urllib.parse import quote

import pytest

from sessile.domain.overrides import MASK, NONE, Unresolved, broken_references, hidden, masked, merged, of, resolve

SCOPE = {
    "session": {"key": "s", "metadata": {"user": "u1", "tags": ["a", "b"], "nothing": None}},
    "agent": {"key": "a", "metadata": {}},
    "secrets": {"token": "s3cret", "a.b": "dotted"},
    "tools": {"lookup": {"order": {"id": 7}}},
    "currentDate": "2026-01-31",
}


def ref(path: str) -> dict[str, str]:
    return {"$ref": path}


def test_no_override() -> None:
    assert of(None) is NONE
    assert of({}) is NONE
    assert resolve(NONE, {}).values == {}


def test_paths_and_references() -> None:
    override = of(
        {"url": "x", "headers": {"A": ref("secrets.token"), "B": "b"}, "empty": {}, "list": [ref("session.key")]}
    )
    assert override.paths == ("url", "headers.A", "headers.B", "empty", "list")
    assert override.references == {"secrets.token", "session.key"}
    assert override.needs("secrets")
    assert not override.needs("tools")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("session.key", "s"),
        ("session.metadata.user", "u1"),
        ("session.metadata.tags", ["a", "b"]),
        ("session.metadata.tags.1", "b"),
        ("session.metadata.nothing", None),
        ("secrets.token", "s3cret"),
        ("secrets.a.b", "dotted"),
        ("tools.lookup.order.id", 7),
        ("currentDate", "2026-01-31"),
    ],
)
def test_a_reference_is_replaced(path: str, value: Any) -> None:
    assert resolve(of({"x": {"y": [ref(path)]}}), SCOPE).values == {"x": {"y": [value]}}


@pytest.mark.parametrize(
    "path", ["session.metadata.lost", "session.metadata.tags.2", "session.key.more", "secrets.lost", "tools.other.x"]
)
def test_a_reference_that_leads_nowhere(path: str) -> None:
    with pytest.raises(Unresolved, match=path):
        resolve(of({"x": ref(path)}), SCOPE)


def test_secrets_are_masked_where_they_are_shown() -> None:
    resolved = resolve(of({"token": ref("secrets.token"), "user": ref("session.metadata.user")}), SCOPE)
    assert resolved.values == {"token": "s3cret", "user": "u1"}
    assert resolved.shown == {"token": MASK, "user": "u1"}
    assert resolved.secrets == {"s3cret"}


def test_masked_texts() -> None:
    value = {"k s3cret": ["say s3cret", 1, None, {"x": "s3cret-long"}]}
    shown = masked(value, frozenset({"s3cret", "s3cret-long", "ay"}))
    assert shown == {f"k {MASK}": [f"say {MASK}", 1, None, {"x": MASK}]}


@pytest.mark.parametrize(
    "path", ["other.key", "session", "secrets", "tools", "", ".", "session.", "session..key", "Session.key"]
)
def test_references_that_can_never_be_resolved(path: str) -> None:
    assert broken_references({"x": [{"y": ref(path)}]}) == [path]
    assert broken_references({"x": {"$ref": path, "other": 1}}) == []


def test_a_reference_is_an_object_with_nothing_else() -> None:
    values = {"x": {"$ref": "session.key", "more": 1}, "y": {"$ref": 5}}
    assert resolve(of(values), SCOPE).values == values


SCHEMA = {
    "type": "object",
    "properties": {
        "url": {"type": "string"},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "body": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]},
    },
    "required": ["url", "body"],
    "additionalProperties": False,
}


def test_what_is_fixed_is_hidden() -> None:
    shown = hidden(SCHEMA, {"url": "x"})
    assert list(shown["properties"]) == ["headers", "body"]
    assert shown["required"] == ["body"]
    assert "url" in SCHEMA["properties"], "the schema of the tool itself stays"


def test_the_rest_of_an_object_that_is_fixed_in_part_stays() -> None:
    shown = hidden(SCHEMA, {"headers": {"A": "a"}, "body": {"a": "x"}})
    assert shown["properties"]["headers"] == SCHEMA["properties"]["headers"]
    assert shown["properties"]["body"] == {"type": "object", "properties": {"b": {"type": "string"}}, "required": []}
    assert shown["required"] == ["url", "body"]


def test_an_object_that_a_reference_stands_for_is_hidden_whole() -> None:
    assert "body" not in hidden(SCHEMA, {"body": ref("session.metadata")})["properties"]


def test_a_schema_without_properties() -> None:
    assert hidden({"type": "object"}, {"x": 1}) == {"type": "object"}


def test_merging() -> None:
    assert merged({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 9}, "e": 4}) == {"a": 1, "b": {"c": 9, "d": 3}, "e": 4}
    assert merged({"b": "text"}, {"b": {"c": 9}}) == {"b": {"c": 9}}
    assert merged({"b": {"c": 1}}, {"b": None}) == {"b": None}


@pytest.mark.parametrize("spelled", [str, repr, lambda text: repr(text.encode()), lambda text: quote(text, safe="")])
def test_a_secret_is_found_however_it_is_spelled(spelled: Any) -> None:
    secret = 'pa"ss\\w/örd\n'
    assert masked(f"wrong key {spelled(secret)}!", frozenset({secret})).replace("'", "").endswith("***!")


def test_a_secret_of_several_lines_is_found_in_a_traceback_that_indents_it() -> None:
    secret = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"
    group = ExceptionGroup("many", [ValueError(f"no key: {secret}")])
    assert "MIIE" not in masked("".join(traceback.format_exception(group)), frozenset({secret}))
    assert "MIIE" not in masked(str(KeyError(secret)), frozenset({secret}))
