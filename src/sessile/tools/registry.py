"""The tools of a server: functions that its configuration names, and those that it has by itself, by type."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sessile.config import ConfigError, ToolConfig
from sessile.domain import agents
from sessile.ports import Tool
from sessile.tools import python

Factory = Callable[[Mapping[str, Any]], Tool]
"""Makes the tool that an agent's configuration stands for. The configuration was checked when it was stored."""


class ToolRegistry:
    """The Tools port over `[tools.NAME]` tables, over functions that a program hands in, and factories by type.

    Every function of a table is imported when the registry is made.
    """

    def __init__(
        self,
        configs: Mapping[str, ToolConfig],
        functions: Mapping[str, Callable[..., Any]] | None = None,
        factories: Mapping[str, Factory] | None = None,
    ) -> None:
        """Raises ConfigError for the first tool that cannot be loaded, or that is there twice."""
        self._factories = dict(factories or {})
        self._tools: dict[str, Tool] = {name: python.load(name, config) for name, config in configs.items()}
        for name, function in (functions or {}).items():
            if name in self._tools:
                raise ConfigError(f"tools.{name}: there is a function of this name, and a table too")
            self._tools[name] = python.PythonTool(name, ToolConfig(function=name), function)

    def of(self, name: str, configuration: Mapping[str, Any]) -> Tool | None:
        """The tool that an agent's configuration of this name stands for, or None."""
        if configuration["type"] == "lambda":
            return self._tools.get(agents.function_of(name, configuration))
        factory = self._factories.get(configuration["type"])
        return factory(configuration) if factory else None

    def add(self, factories: Mapping[str, Factory]) -> None:
        """Have tools for these types too."""
        self._factories |= factories

    def names(self) -> list[str]:
        """The names of all functions, sorted."""
        return sorted(self._tools)

    def kinds(self) -> Collection[str]:
        """The types of configurations that there is a factory for."""
        return self._factories.keys()
