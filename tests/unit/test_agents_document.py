from typing import Any

import pytest

from sessile.domain.agents import active_tools, inactive_tools, normalize, patched, unknown_tools
from sessile.wire.errors import InvalidRequest
from sessile.wire.limits import MAX_AGENT_BYTES, MAX_METADATA_BYTES

DEFAULT_PARSER = {"type": "default"}
EMPTY = {"instructions": [], "output_parser": DEFAULT_PARSER}


def request(**fields: Any) -> dict[str, Any]:
    return {"name": "Helper", "tool_configurations": {}, "model": {"name": "demo"}} | fields


def says(text: str) -> list[dict[str, str]]:
    return [{"type": "inline", "name": "say", "template": text}]


def step(text: str) -> dict[str, Any]:
    return {"instructions": says(text), "output_parser": DEFAULT_PARSER}


IN_STEPS = normalize(request(steps={"a": step("A"), "b": step("B")}, first_step_name="a"))
INLINE = normalize(request(first_step={"name": "only", "instructions": says("O")}, steps={"b": step("B")}))


def refused(call: Any, *arguments: Any) -> set[str]:
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments)
    assert caught.value.field_errors
    return set(caught.value.field_errors)


def test_defaults() -> None:
    assert normalize({"name": "Helper", "model": {"name": "demo"}, "key": "k", "description": None}) == {
        "name": "Helper",
        "model": {"name": "demo"},
        "tool_configurations": {},
        "metadata": {},
        "enabled": True,
        "first_step": {"name": "first_step"} | EMPTY,
        "first_step_name": "first_step",
    }


def test_the_request_is_kept_as_given_and_not_touched() -> None:
    body = request(
        description="d",
        model={"name": "demo", "parameters": {"temperature": 0.25}},
        tool_configurations={
            "gone": None,
            "search": {"type": "corpora_search", "anything": {"at": ["all"]}},
            "add": {"type": "lambda", "metadata": {"x": None}},
        },
        skills={"s": {"description": "d", "content": "c"}, "t": None},
        steps={"a": {}},
        first_step_name="a",
    )
    before = repr(body)
    document = normalize(body)
    assert repr(body) == before
    assert list(document["tool_configurations"]) == ["search", "add"]
    assert document["tool_configurations"]["search"] == body["tool_configurations"]["search"]
    assert document["tool_configurations"]["add"] == body["tool_configurations"]["add"]
    assert document["skills"] == {"s": {"description": "d", "content": "c"}}
    assert document["model"] == body["model"]
    assert document["steps"] == {"a": EMPTY}
    assert document["first_step"] == {"name": "a"} | EMPTY


@pytest.mark.parametrize("document", [IN_STEPS, INLINE, normalize(request())])
def test_a_document_can_be_sent_back_as_shown(document: dict[str, Any]) -> None:
    assert normalize(document) == document
    assert patched(document, document) == document
    assert patched(document, {}) == document


def test_a_first_step_without_name_takes_first_step_name() -> None:
    document = normalize(request(first_step={"instructions": says("x")}, first_step_name="n"))
    assert document["first_step"] == {"name": "n"} | step("x")
    assert document["first_step_name"] == "n"
    assert normalize(request(first_step={}))["first_step"] == {"name": "first_step"} | EMPTY


def test_a_step_named_as_the_default_is_the_first() -> None:
    assert normalize(request(steps={"first_step": step("x")}))["first_step"] == {"name": "first_step"} | step("x")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"first_step_name": "x"}, "first_step_name"),
        ({"first_step_name": "x", "steps": {"y": {}}}, "first_step_name"),
        ({"first_step": {"name": "x"}, "first_step_name": "y", "steps": {"y": {}}}, "first_step_name"),
        ({"first_step": step("1"), "first_step_name": "y", "steps": {"y": step("2")}}, "first_step"),
        ({"steps": {"a": {"next_steps": [{"step_name": "zz"}]}}}, "steps.a.next_steps[0]"),
        ({"steps": {"a": {"reentry_step": "zz"}}}, "steps.a.reentry_step"),
        ({"first_step": {"next_steps": [{"step_name": "zz"}]}}, "first_step.next_steps[0]"),
        ({"steps": {"": {}}}, "steps."),
        ({"metadata": {"x": "y" * MAX_METADATA_BYTES}}, "metadata"),
        ({"model": {"name": "m", "parameters": {"x": "y" * MAX_AGENT_BYTES}}}, "body"),
        ({"tool_configurations": {"a b": {"type": "lambda"}}}, "tool_configurations.a b"),
        ({"tool_configurations": {"a\n": {"type": "reference"}}}, "tool_configurations.a\n"),
        ({"tool_configurations": {"x" * 51: None}}, "tool_configurations." + "x" * 51),
        ({"tool_configurations": {"a": {"type": "lambda", "nope": 1}}}, "tool_configurations[...].nope"),
        ({"tool_configurations": {"a": "web_search"}}, "tool_configurations[...]"),
        ({"tool_configurations": {"a": {"type": ["web_search"]}}}, "tool_configurations[...].type"),
        ({"tool_configurations": []}, "tool_configurations"),
        ({"nope": 1}, "nope"),
        ({"enabled": None}, "enabled"),
    ],
)
def test_refused_requests_name_the_field(fields: dict[str, Any], field: str) -> None:
    assert refused(normalize, request(**fields)) == {field}


def test_every_bad_reference_is_named() -> None:
    steps = {"a": {"reentry_step": "x", "next_steps": [{"step_name": "first_step"}, {"step_name": "y"}]}}
    assert refused(normalize, request(steps=steps)) == {"steps.a.reentry_step", "steps.a.next_steps[1]"}


def test_steps_may_name_the_first_step() -> None:
    normalize(request(first_step={"name": "f", "reentry_step": "f"}, steps={"a": {"next_steps": [{"step_name": "f"}]}}))


def test_patch_replaces_entries_whole_and_null_removes_them() -> None:
    document = normalize(
        request(
            description="d",
            metadata={"a": 1},
            enabled=False,
            tool_configurations={"x": {"type": "lambda", "enabled": False}, "y": {"type": "lambda"}},
            skills={"s": {"description": "d", "content": "c"}},
        )
    )
    changes = {"tool_configurations": {"x": {"type": "lambda"}, "y": None, "z": {"type": "reference", "q": 1}}}
    result = patched(document, changes)
    assert result["tool_configurations"] == {"x": {"type": "lambda"}, "z": {"type": "reference", "q": 1}}
    assert result["skills"] == document["skills"]
    assert patched(document, {"metadata": {"b": 2}})["metadata"] == {"b": 2}
    nothing = dict.fromkeys(["description", "metadata", "enabled", "tool_configurations", "skills", "steps"])
    assert patched(document, nothing) == normalize(request())


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"name": None}, "name"), ({"key": "k"}, "key"), ({"tool_configurations": {"!": None}}, "tool_configurations.!")],
)
def test_refused_patches(changes: dict[str, Any], field: str) -> None:
    assert refused(patched, IN_STEPS, changes) == {field}


def test_patch_of_steps_shows_in_the_first_step() -> None:
    result = patched(IN_STEPS, {"steps": {"a": {"instructions": says("new")}, "b": None, "c": {"reentry_step": "a"}}})
    assert result["steps"] == {"a": step("new"), "c": EMPTY | {"reentry_step": "a"}}
    assert result["first_step"] == {"name": "a"} | step("new")


def test_patch_of_first_step_name_picks_a_step() -> None:
    for document in (IN_STEPS, INLINE):
        result = patched(document, {"first_step_name": "b"})
        assert (result["first_step_name"], result["first_step"]) == ("b", {"name": "b"} | step("B"))
        assert result["steps"] == document["steps"]


def test_patch_of_the_first_step_changes_it_where_it_stands() -> None:
    changes = {"first_step": {"instructions": says("new"), "reentry_step": None}}
    result = patched(IN_STEPS, changes)
    assert result["steps"] == {"a": step("new"), "b": step("B")}
    assert result["first_step"] == {"name": "a"} | step("new")
    result = patched(INLINE, changes)
    assert result["steps"] == INLINE["steps"]
    assert result["first_step"] == {"name": "only"} | step("new")


def test_patch_removes_a_field_of_a_step() -> None:
    document = patched(IN_STEPS, {"first_step": {"reentry_step": "b"}})
    assert document["steps"]["a"]["reentry_step"] == "b"
    assert patched(document, {"steps": {"a": {"reentry_step": None}}}) == IN_STEPS
    assert patched(document, {"steps": {"a": {"instructions": None}}})["first_step"]["instructions"] == []


def test_the_name_of_the_first_step() -> None:
    renamed = patched(INLINE, {"first_step": {"name": "new"}})
    assert (renamed["first_step_name"], renamed["first_step"]) == ("new", {"name": "new"} | step("O"))
    renamed = patched(IN_STEPS, {"first_step": {"name": "new"}})
    assert renamed["steps"] == {"new": step("A"), "b": step("B")}
    assert renamed["first_step"] == {"name": "new"} | step("A")
    picked = patched(IN_STEPS, {"first_step": {"name": "b"}})
    assert picked["steps"] == IN_STEPS["steps"]
    assert picked["first_step"] == {"name": "b"} | step("B")


def test_patch_of_an_inline_first_step_through_steps() -> None:
    result = patched(INLINE, {"steps": {"only": {"reentry_step": "b"}}})
    assert result["steps"]["only"] == step("O") | {"reentry_step": "b"}
    assert result["first_step"] == {"name": "only"} | result["steps"]["only"]


def test_steps_can_go_when_a_first_step_stays() -> None:
    assert "steps" not in patched(INLINE, {"steps": None})
    result = patched(IN_STEPS, {"steps": None, "first_step": {"name": "x"}})
    assert result["first_step"] == {"name": "x"} | step("A")
    assert "steps" not in result


@pytest.mark.parametrize(
    ("document", "changes", "field"),
    [
        (IN_STEPS, {"steps": {"a": None}}, "first_step_name"),
        (IN_STEPS, {"steps": None}, "first_step_name"),
        (IN_STEPS, {"first_step_name": "zz"}, "first_step_name"),
        (INLINE, {"first_step_name": "zz"}, "first_step_name"),
        (IN_STEPS, {"first_step_name": "b", "first_step": {"name": "a"}}, "first_step_name"),
        (IN_STEPS, {"steps": {"b": {"reentry_step": "zz"}}}, "steps.b.reentry_step"),
        (
            IN_STEPS,
            {"steps": {"a": {"instructions": says("1")}}, "first_step": {"instructions": says("2")}},
            "first_step.instructions",
        ),
    ],
)
def test_patches_that_leave_the_first_step_unclear(
    document: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    assert refused(patched, document, changes) == {field}


def test_which_tools_are_offered() -> None:
    document = normalize(
        request(
            tool_configurations={
                "add": {"type": "lambda"},
                "plus": {"type": "lambda", "tool_id": "tol_add", "enabled": True},
                "off": {"type": "lambda", "enabled": False},
                "lost": {"type": "lambda", "tool_id": "tol_lost"},
                "lost2": {"type": "lambda", "tool_id": "tol_lost"},
                "web": {"type": "web_search"},
                "remote": {"type": "mcp"},
            }
        )
    )
    assert active_tools(document) == [("add", "add"), ("plus", "add"), ("lost", "lost"), ("lost2", "lost")]
    assert unknown_tools(document, ["add"]) == ["lost"]
    assert inactive_tools(document, ["add"]) == {
        "off": "lambda",
        "lost": "lambda",
        "lost2": "lambda",
        "web": "web_search",
        "remote": "mcp",
    }
    assert "remote" not in inactive_tools(document, ["add"], ["mcp"])
    document["tool_configurations"]["remote"]["enabled"] = False
    assert inactive_tools(document, ["add"], ["mcp"])["remote"] == "mcp"
