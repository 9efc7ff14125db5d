"""The tools of this server: those that its configuration names, and those that are built in."""

from collections.abc import Callable, Mapping
from typing import Any

from sessile.config import ConfigError, ToolConfig, WebGetConfig
from sessile.ports import Tool
from sessile.tools import python
from sessile.tools.guard import Guard
from sessile.tools.web_get import WebGetTool


class ToolRegistry:
    """The Tools port over `[tools.NAME]` tables, and over functions that a program hands in.

    Every function of a table is imported when the registry is made.
    """

    def __init__(
        self,
        configs: Mapping[str, ToolConfig],
        functions: Mapping[str, Callable[..., Any]] | None = None,
        web_get: WebGetConfig | None = None,
    ) -> None:
        """Raises ConfigError for the first tool that cannot be loaded, or that is there twice."""
        self._tools: dict[str, Tool] = {name: python.load(name, config) for name, config in configs.items()}
        for name, function in (functions or {}).items():
            if name in self._tools:
                raise ConfigError(f"tools.{name}: there is a function of this name, and a table too")
            self._tools[name] = python.PythonTool(name, ToolConfig(function=name), function)
        self._built_in: dict[str, Tool] = {}
        web_get = web_get or WebGetConfig()
        if web_get.enabled:
            self._built_in[WebGetTool.name] = WebGetTool(guard("web_get", web_get.allow))

    def built_in(self) -> Mapping[str, Tool]:
        """The tools that stand behind a type of tool configurations, by type."""
        return self._built_in

    def get(self, name: str) -> Tool | None:
        """The tool of this name, or None."""
        return self._tools.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._tools)


def guard(table: str, allow: list[str]) -> Guard:
    """What the tools of one table may reach. Raises ConfigError."""
    try:
        return Guard(allow)
    except ValueError as error:
        raise ConfigError(f"{table}.allow: {error}") from None
