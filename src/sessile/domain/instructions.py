"""The instructions of an agent: the templates of its first step, compiled once and rendered for each turn."""

from typing import Any, Self

from msgspec import Struct

from sessile.domain import templates


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
        constant = "\n\n".join(text.render({}) for text in texts) if not any(text.paths for text in texts) else None
        return cls(tuple(texts), agent, constant)

    def render(self, session: dict[str, Any], date: str) -> str:
        """The text for one turn; `date` is the day as YYYY-MM-DD. Raises TemplateInvalid."""
        if self.constant is not None:
            return self.constant
        scope = {"agent": self.agent, "session": session, "currentDate": date}
        return "\n\n".join(template.render(scope) for template in self.templates)
