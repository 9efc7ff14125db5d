from contextlib import suppress
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sessile.domain.templates import compile
from sessile.wire.errors import TemplateInvalid

text = st.text(st.characters(exclude_categories=["Cs"]))
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda children: st.lists(children) | st.dictionaries(text, children),
)
scopes = st.fixed_dictionaries(
    {}, optional={"session": st.dictionaries(st.sampled_from(["a", "b-c"]), json), "agent": json, "currentDate": text}
)
pieces = st.sampled_from(
    ["$", "${", "}", "!", "\\", "#", "if", "else", "{", "(", "[", ".", "session", "agent", "currentDate", "a", "b-c"]
)
templates = st.lists(pieces | text).map("".join)


@given(templates, scopes)
@example("${session.a}", {"session": {"a": {"x": 1}}})
def test_nothing_but_template_invalid_is_raised(template: str, scope: dict[str, Any]) -> None:
    with suppress(TemplateInvalid):
        assert isinstance(compile(template).render(scope), str)


@given(st.text().filter(lambda text: "$" not in text and "#" not in text))
def test_plain_text_comes_back(plain: str) -> None:
    assert compile(plain).render({}) == plain


@given(st.text())
def test_escaped_text_comes_back(plain: str) -> None:
    plain = plain.replace("#", "")
    assert compile(plain.replace("$", "\\$")).render({}) == plain


@given(text, text.filter(lambda text: not text[:1].isalnum()))
def test_values_are_put_in_once_and_unread(value: str, after: str) -> None:
    rendered = compile("${session.a}" + after.replace("$", "").replace("#", "")).render({"session": {"a": value}})
    assert rendered == value + after.replace("$", "").replace("#", "")
