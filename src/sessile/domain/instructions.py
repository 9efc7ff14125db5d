"""The instructions of an agent: the templates of its first step, compiled once and rendered for each turn."""

from collections.abc import Sequence
from typing import Any, Self

from msgspec import Struct

from sessile.domain import templates

_SEPARATOR = "\n\n"


class Instructions(Struct, frozen=True):
    """Compiled templates and what they can say about the agent."""

    templates: tuple[templates.Template, ...]
    agent: dict[str, Any]
    constant: str | None
    """The text, when it is the same for every turn."""

    @classmethod
    def of(cls, agent_key: str, document: dict[str, Any]) -> Self:
        """The instructions of an agent document. Raises TemplateInvalid."""
        texts = [
            templates.compile(instruction["template"], instruction.get("template_type", "velocity"))
            for instruction in document["first_step"]["instructions"]
            if instruction["type"] == "inline" and instruction.get("enabled", True)
        ]
        agent = {
            "id": agent_key,
            "key": agent_key,
            "name": document["name"],
            "description": document.get("description", ""),
            "metadata": document["metadata"],
        }
        constant = None if any(text.paths for text in texts) else _joined(texts, {})
        return cls(tuple(texts), agent, constant)

    def render(self, session: dict[str, Any], date: str) -> str:
        """The text for one turn; `date` is the day as YYYY-MM-DD. Raises TemplateInvalid."""
        if self.constant is not None:
            return self.constant
        scope = {"agent": self.agent, "session": session, "currentDate": date}
        return _joined(self.templates, scope)


def _joined(parts: Sequence[templates.Template], scope: dict[str, Any]) -> str:
    """The texts one after the other, within one limit for all of them."""
    texts: list[str] = []
    left = templates.MAX_RENDERED_CHARS
    for part in parts:
        texts.append(part.render(scope, left))
        left -= len(texts[-1]) + len(_SEPARATOR)
    return _SEPARATOR.join(texts)
