"""What an agent fixes, no model can change; what it leaves, stays as the model gave it."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessile.domain.overrides import MASK, hidden, masked, merged, of, resolve

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # tests do not depend on speed
names = st.sampled_from(["a", "b", "c", "url"])
leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
objects = st.dictionaries(names, values, max_size=4)


def at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def leaf_paths(value: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        return [path for name, inner in value.items() for path in leaf_paths(inner, (*before, name))]
    return [before]


@unhurried
@given(objects, objects)
def test_what_is_fixed_is_what_the_tool_gets(chosen: dict[str, Any], fixed: dict[str, Any]) -> None:
    result = merged(chosen, fixed)
    for path in leaf_paths(fixed):
        if at(fixed, path) != {}:
            assert at(result, path) == at(fixed, path)
    for name, value in chosen.items():
        if name not in fixed:
            assert result[name] == value
    assert result.keys() == chosen.keys() | fixed.keys()
    assert merged(result, fixed) == result


@unhurried
@given(objects, objects)
def test_the_paths_that_are_told_are_the_places_that_are_fixed(chosen: dict[str, Any], fixed: dict[str, Any]) -> None:
    assert list(of(fixed).paths) == [".".join(path) for path in leaf_paths(fixed) if path]


@unhurried
@given(st.dictionaries(names, st.just({"type": "string"})), objects)
def test_a_model_is_not_told_what_is_fixed(properties: dict[str, Any], fixed: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": properties, "required": sorted(properties)}
    shown = hidden(schema, fixed)
    assert shown["properties"].keys() == properties.keys() - fixed.keys()
    assert set(shown["required"]) == properties.keys() - fixed.keys()


@unhurried
@given(objects, st.text("xyz", min_size=4, max_size=8))
def test_a_secret_is_in_nothing_that_is_shown(fixed: dict[str, Any], secret: str) -> None:
    override = of({**fixed, "key": {"$ref": "secrets.key"}, "list": [{"in": {"$ref": "secrets.key"}}]})
    resolved = resolve(override, {"secrets": {"key": secret}})
    assert resolved.values["key"] == secret
    assert resolved.values["list"] == [{"in": secret}]
    assert (resolved.shown["key"], resolved.shown["list"]) == (MASK, [{"in": MASK}])
    assert secret not in str(masked({"answer": [f"it was {secret}!", {secret: 1}]}, resolved.secrets))
