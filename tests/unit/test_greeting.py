"""What `sessile serve` says when it starts."""

from typing import Any

import msgspec
import pytest

from sessile.cli.greeting import WIDTH, Facts, greeting, warns
from sessile.config import ModelConfig
from sessile.models.default import choose
from sessile.models.providers import default_providers
from sessile.models.registry import Choice, Described, Place, Registry

LOCAL = Described(
    name="default",
    provider="local",
    place=Place(model="SmolLM2", where="this machine"),
    choice=Choice("local", "no provider's key is set"),
)
FACTS = Facts(
    url="http://127.0.0.1:8700",
    data="data",
    command=".venv/bin/sessile",
    options=" --data data",
    model=LOCAL,
    secret="sk-sessile-1",
    sample=("agt_support", "welcome"),
)


def told(**changes: Any) -> str:
    return greeting(msgspec.structs.replace(FACTS, **changes))


def commands(text: str) -> list[str]:
    """The lines to paste."""
    return [line.strip() for line in text.splitlines() if line.startswith("  ")]


def described(environ: dict[str, str], setting: str | None = None) -> Described:
    choice = choose(setting, environ, local_installed=False)
    return Registry({}, default_providers(environ), default=choice).describe("default")


def test_a_first_start() -> None:
    text = told()
    assert "ready at http://127.0.0.1:8700\n" in text
    assert "http://127.0.0.1:8700/docs\n" in text
    assert "Owner key, shown this once: sk-sessile-1\n" in text
    chat, curl = commands(text)
    assert chat == "SESSILE_API_KEY=sk-sessile-1 .venv/bin/sessile chat agt_support"
    assert curl.startswith('curl -N -H "x-api-key: sk-sessile-1" ')
    assert curl.endswith(" http://127.0.0.1:8700/v2/agents/agt_support/sessions/welcome/events")


def test_another_address_is_told_to_the_client() -> None:
    chat, _ = commands(told(url="http://127.0.0.1:9000"))
    assert chat == "SESSILE_API_KEY=sk-sessile-1 SESSILE_URL=http://127.0.0.1:9000 .venv/bin/sessile chat agt_support"


def test_a_later_start_says_how_to_get_a_key() -> None:
    key, chat, curl = commands(told(secret=None))
    assert key == "export SESSILE_API_KEY=$(.venv/bin/sessile keys create me --role owner --data data)"
    assert chat == ".venv/bin/sessile chat agt_support"
    assert '"x-api-key: $SESSILE_API_KEY"' in curl


def test_a_key_from_the_environment_is_not_repeated() -> None:
    assert "SESSILE_OWNER_KEY" in told(secret=None, key_in_environment=True)


def test_without_authentication_no_key_is_asked_for() -> None:
    text = told(secret=None, no_auth=True)
    assert "x-api-key" not in text
    assert "SESSILE_API_KEY" not in text


def test_without_a_sample_there_is_nothing_to_paste() -> None:
    assert commands(told(sample=None)) == []


def test_the_local_model_is_not_praised() -> None:
    text = told()
    assert "SmolLM2, on this machine" in text
    assert "makes things up" in text
    assert "OPENAI_API_KEY" in text
    assert not warns(LOCAL)


def test_a_cloud_model_is_named_with_the_reason() -> None:
    text = told(model=described({"ANTHROPIC_API_KEY": "secret"}))
    assert "at https://api.anthropic.com/v1, because ANTHROPIC_API_KEY is set." in text
    assert "secret" not in text


def test_a_missing_key_is_said() -> None:
    assert "OPENAI_API_KEY is not set" in told(model=described({}, "openai:gpt-6-luna"))


def test_a_demo_that_nobody_asked_for_is_loud() -> None:
    found = described({})
    assert warns(found)
    assert "NONE THAT UNDERSTANDS ANYTHING" in told(model=found)
    assert "pip install" in told(model=found)


def test_a_demo_that_somebody_asked_for_is_not() -> None:
    assert not warns(described({}, "demo"))
    assert "NONE" not in told(model=described({}, "demo"))
    registry = Registry({"default": ModelConfig(provider="demo")}, default_providers({}))
    assert not warns(registry.describe("default"))


@pytest.mark.parametrize("model", [LOCAL, described({}), described({"XAI_API_KEY": "k"})])
def test_only_lines_to_paste_are_long(model: Described) -> None:
    assert [line for line in told(model=model).splitlines() if len(line) > WIDTH and not line.startswith("  ")] == []
