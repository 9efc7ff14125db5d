from typing import Any

import pytest

from sessile.domain.templates import DIRECTIVES, MAX_RENDERED_CHARS, compile
from sessile.wire.errors import TemplateInvalid

SCOPE: dict[str, Any] = {
    "session": {
        "name": "Anna's",
        "description": None,
        "metadata": {"tier": 2, "vip": True, "rate": 0.5, "tags": ["a", "ü"], "user-id": "u1", "trap": "${agent.name}"},
    },
    "agent": {"name": "Helper"},
    "currentDate": "2026-01-31",
}


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("Hi ${session.name}!", "Hi Anna's!"),
        ("$agent.name, $currentDate.", "Helper, 2026-01-31."),
        ("$agent.name.", "Helper."),
        ("${agent.name}s", "Helpers"),
        ("$session.metadata.user-id", "u1"),
        ("$session.metadata.tier/$session.metadata.vip/$session.metadata.rate", "2/true/0.5"),
        ("$session.metadata.tags", '["a","ü"]'),
        ("${agent}", '{"name":"Helper"}'),
        ("$session.description", "null"),
        ("[$!session.description]", "[]"),
        ("[$!{session.nothing.at.all}$!session.metadata.zip]", "[]"),
        ("$!agent.name$!{agent.name}", "HelperHelper"),
        ("$session.metadata.trap", "${agent.name}"),
        ("$5, $5.00 and 5$", "$5, $5.00 and 5$"),
        ("$$agent.name", "$Helper"),
        ("$$ $! $!5 $é $", "$$ $! $!5 $é $"),
        (r"\$agent.name \${agent.name}", "$agent.name ${agent.name}"),
        (r"\\$agent.name \n", r"\$agent.name \n"),
        ("$currentDate(UTC)", "2026-01-31(UTC)"),
        ("${agent.name}(s) ${agent.name}[1]", "Helper(s) Helper[1]"),
        (
            "# if\n## Heading\n#1 #ifdef #If #end-of #set_up #settle",
            "# if\n## Heading\n#1 #ifdef #If #end-of #set_up #settle",
        ),
        (r"\#if \#{else} \# \#other", r"#if #{else} \# \#other"),
        ("{{ jinja }} {% raw %} {# c #}", "{{ jinja }} {% raw %} {# c #}"),
    ],
)
def test_rendering(text: str, rendered: str) -> None:
    assert compile(text).render(SCOPE) == rendered


def test_text_type_is_not_read() -> None:
    text = "#if ${nothing $x.y() \\$"
    assert compile(text, "text").render({}) == text
    assert compile(text, "text").paths == ()


@pytest.mark.parametrize("word", DIRECTIVES)
@pytest.mark.parametrize("form", ["#{}", "a#{}($x)", "#{}\n", "#{{{}}}", "#{} ($x == 1)"])
def test_directives_are_refused(word: str, form: str) -> None:
    with pytest.raises(TemplateInvalid, match=f"#.?{word}"):
        compile(form.format(word))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("$user", "$user"),
        ("$!{user.name}", "$user.name"),
        ("$_x", "$_x"),
        ("${session.name", "${session.name"),
        ("$!{", "$!{"),
        ("${}", "${}"),
        ("${ session.name }", "${ session.name }"),
        ("${session..name}", "${session..name}"),
        ("${session.name|'x'}", "${session.name|"),
        ("$session.getName()", "$session.getName("),
        ("${session.getName()}", "${session.getName("),
        ("$session.tags[0]", "$session.tags["),
        ("$session[0]", "$session["),
    ],
)
def test_what_is_no_path_is_refused_and_named(text: str, named: str) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        compile(text)
    assert named in caught.value.message


@pytest.mark.parametrize(
    "path", ["session.nope", "session.metadata.tier.x", "currentDate.year", "session.metadata.tags.a"]
)
def test_a_path_that_leads_nowhere_is_named(path: str) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        compile(f"a ${path} b").render(SCOPE)
    assert path in caught.value.message
    with pytest.raises(TemplateInvalid):
        compile(f"${{{path}}}").render({})


def test_a_template_knows_its_paths() -> None:
    template = compile("$agent.name ${session.key} $!agent.name $currentDate")
    assert template.paths == ("agent.name", "session.key", "currentDate")


def test_the_rendered_text_is_bounded() -> None:
    template = compile("$agent.name" * 1000)
    with pytest.raises(TemplateInvalid, match="longer"):
        template.render({"agent": {"name": "x" * (MAX_RENDERED_CHARS // 999)}})


@pytest.mark.parametrize("text", ["$" * 100_000, "\\" * 100_000, "#" * 100_000, "$!" * 50_000, "#i" * 50_000])
def test_long_texts_stay_as_they_are(text: str) -> None:
    assert compile(text).render({}) == text


@pytest.mark.parametrize("text", ["${" * 50_000, "${session" + ".a" * 50_000, "$session" + "-" * 100_000 + "["])
def test_long_broken_texts_are_refused_briefly(text: str) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        compile(text)
    assert len(caught.value.message) < 500
