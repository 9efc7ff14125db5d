"""The reference pages name everything there is, and nothing else."""

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sessile
from sessile.client import errors
from sessile.config import (
    Config,
    LimitsConfig,
    McpConfig,
    MetricsConfig,
    ModelConfig,
    ToolConfig,
    TracesConfig,
    WebGetConfig,
)
from sessile.models.providers import ENDPOINTS
from sessile.wire.errors import SessileError

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
PYTHON = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "type", "elsewhere"),
    [
        ("## Settings", Config, {"models", "tools", "web_get", "mcp", "metrics", "traces", "limits"}),
        ("## `[models.NAME]`", ModelConfig, set()),
        ("## `[tools.NAME]`", ToolConfig, set()),
        ("## `[web_get]`", WebGetConfig, set()),
        ("## `[mcp]`", McpConfig, set()),
        ("## `[limits]`", LimitsConfig, set()),
        ("## `[metrics]`", MetricsConfig, set()),
        ("## `[traces]`", TracesConfig, set()),
    ],
)
def test_the_configuration_page_has_every_setting(section: str, type: Any, elsewhere: set[str]) -> None:
    text = CONFIGURATION.split(section)[1].split("\n## ")[0]
    assert first_column(text) == {setting.name for setting in msgspec.structs.fields(type)} - elsewhere


def test_the_python_page_has_every_operation() -> None:
    section = PYTHON.split("## Operations")[1].split("\n## ")[0]
    for resource in ("agents", "sessions", "events", "inputs", "turns", "artifacts", "tool_servers", "tools"):
        row = next(line for line in section.splitlines() if line.startswith(f"| `client.{resource}`"))
        kind = type(getattr(sessile.Client("http://127.0.0.1:1"), resource))
        public = {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}
        assert set(re.findall(r"`(\w+)\(", row)) == public


def test_the_python_page_has_every_error_of_the_client() -> None:
    own = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, SessileError) and kind.__module__ == errors.__name__
    }
    assert first_column(PYTHON.split("## Errors")[1]) == own


def test_the_guide_to_models_names_every_provider() -> None:
    guide = (DOCS / "guides" / "models.md").read_text(encoding="utf-8")
    named = re.search(r"The providers that are known by name.*?\.", guide, re.DOTALL)
    assert named is not None
    assert set(re.findall(r"`(\w+)`", named[0])) == set(ENDPOINTS) - {"openai_compatible"}
