r"""Instruction templates: one pass that puts values of a session, its agent and the date into a text.

The subset of the contract's template language that cannot loop: it never evaluates, calls or substitutes twice.

- `${path}` and `$path`: the value; `$!{path}` and `$!path`: the same, and nothing where there is no value.
- A path is names joined by dots; its root is one of ROOTS. A call or an index after a path is refused.
- `\$` is a literal `$`. A `$` that no letter, `_`, `{` or `!` follows is text (`$5`), and so is `$$`.
- `#if`, `#{else}` and every other word of DIRECTIVES, whole and in lower case, is refused wherever it stands, since
  text that its author meant as a directive must not reach a model. `# if`, `#1`, `#ifdef`, `##` are text, and `\#if`
  is the literal `#if`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from msgspec import Struct

from sessile.wire import codec
from sessile.wire.errors import TemplateInvalid

ROOTS = ("session", "agent", "currentDate")
DIRECTIVES = (
    *("if", "elseif", "else", "end", "foreach", "set", "macro", "parse", "include", "stop", "break"),
    *("evaluate", "define"),
)
MAX_RENDERED_CHARS = 1_000_000
"""A longer text is refused: a short template can name a large value many times."""

_NAME = "[A-Za-z_][A-Za-z0-9_-]*+"
_PATH = rf"{_NAME}(?:\.{_NAME})*+"
_WORDS = "|".join(DIRECTIVES)
_DIRECTIVE = rf"\#(?:\{{(?:{_WORDS})\}}|(?:{_WORDS})(?![A-Za-z0-9_-]))"
_TOKEN = re.compile(
    rf"""
      \\(?P<escaped>\$|{_DIRECTIVE})
    | (?P<directive>{_DIRECTIVE})
    | \$(?P<quiet>!?)(?:\{{(?P<braced>{_PATH})\}}|(?P<bare>{_PATH})(?=(?P<suffix>[(\[])?))
    | (?P<broken>\$!?\{{)
    """,
    re.VERBOSE,
)


class Reference(Struct, frozen=True):
    """A place where a value goes. `quiet` gives nothing for a value that is missing or null."""

    names: tuple[str, ...]
    quiet: bool

    @property
    def path(self) -> str:
        """The names joined by dots."""
        return ".".join(self.names)


class Template(Struct, frozen=True):
    """A compiled template: texts and references in order."""

    parts: tuple[str | Reference, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path the template uses, once, in order."""
        return tuple(dict.fromkeys(part.path for part in self.parts if isinstance(part, Reference)))

    def render(self, scope: Mapping[str, Any], left: int = MAX_RENDERED_CHARS) -> str:
        """Put the values of `scope` (root name to JSON value) in: strings as they are, all else as compact JSON.

        Raises TemplateInvalid for a path that leads nowhere, and for a text of more than `left` characters.
        """
        texts = []
        for part in self.parts:
            text = part if isinstance(part, str) else _value(part, scope)
            left -= len(text)
            if left < 0:
                raise TemplateInvalid(f"The instructions are longer than {MAX_RENDERED_CHARS} characters.")
            texts.append(text)
        return "".join(texts)


def compile(text: str, template_type: str = "velocity") -> Template:
    """Parse a template in linear time; of the type `text` nothing is substituted.

    Raises TemplateInvalid that names an unknown root, a directive, a call or index, or a `${` that is not closed.
    """
    return Template((text,) if template_type == "text" else tuple(_parts(text)))


def _parts(text: str) -> Iterator[str | Reference]:
    end = 0
    for token in _TOKEN.finditer(text):
        if token.start() > end:
            yield text[end : token.start()]
        end = token.end()
        yield token["escaped"] or _reference(text, token)
    if end < len(text):
        yield text[end:]


def _reference(text: str, token: re.Match[str]) -> Reference:
    if token["directive"]:
        _refuse(f"The directive {token['directive']} is not supported; write \\{token['directive']} for the text.")
    if token["broken"]:
        excerpt = text[token.start() : token.end() + 40]
        _refuse(f"{excerpt!r} does not hold a path that a }} closes.")
    path: str = token["braced"] or token["bare"]
    if token["suffix"] == "[" or (token["suffix"] == "(" and "." in path):
        _refuse(f"${path[:200]}{token['suffix']} is a call or an index; only paths are supported.")
    names = tuple(path.split("."))
    if names[0] not in ROOTS:
        _refuse(f"${path[:200]} names nothing; a path starts with {', '.join(ROOTS)}. Write \\$ for a plain $.")
    return Reference(names, bool(token["quiet"]))


def _value(reference: Reference, scope: Mapping[str, Any]) -> str:
    value: Any = scope
    for name in reference.names:
        if not isinstance(value, Mapping) or name not in value:
            if reference.quiet:
                return ""
            _refuse(f"${{{reference.path[:200]}}} has no value.")
        value = value[name]
    if isinstance(value, str):
        return value
    return "" if value is None and reference.quiet else codec.encode(value).decode()


def _refuse(message: str) -> NoReturn:
    raise TemplateInvalid(message)
