"""The tools that the server's configuration names, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from sessile.config import ConfigError, ToolConfig
from sessile.ports import Tool
from sessile.tools import python


class ToolRegistry:
    """The Tools port over `[tools.NAME]` tables, and over functions that a program hands in.

    Every function of a table is imported when the registry is made.
    """

    def __init__(
        self, configs: Mapping[str, ToolConfig], functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        """Raises ConfigError for the first tool that cannot be loaded, or that is there twice."""
        self._tools: dict[str, Tool] = {name: python.load(name, config) for name, config in configs.items()}
        for name, function in (functions or {}).items():
            if name in self._tools:
                raise ConfigError(f"tools.{name}: there is a function of this name, and a table too")
            self._tools[name] = python.PythonTool(name, ToolConfig(function=name), function)

    def get(self, name: str) -> Tool | None:
        """The tool of this name, or None."""
        return self._tools.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._tools)
