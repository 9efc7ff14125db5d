"""The tools that the server's configuration names, by name."""

from collections.abc import Mapping

from sessile.config import ToolConfig
from sessile.ports import Tool
from sessile.tools import python


class ToolRegistry:
    """The Tools port over `[tools.NAME]` tables. Every function is imported when the registry is made."""

    def __init__(self, configs: Mapping[str, ToolConfig]) -> None:
        """Raises ConfigError for the first tool that cannot be loaded."""
        self._tools: dict[str, Tool] = {name: python.load(name, config) for name, config in configs.items()}

    def get(self, name: str) -> Tool | None:
        """The tool of this name, or None."""
        return self._tools.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._tools)
