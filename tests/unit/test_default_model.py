"""What `default` stands for on a server that does not say so itself."""

import pytest

from sessile.models.default import PREFERRED, choose
from sessile.models.providers import ENDPOINTS, default_providers
from sessile.models.registry import Registry

ALL_KEYS = {endpoint.key_variable: "k" for endpoint in ENDPOINTS.values() if endpoint.key_variable}


def test_the_setting_comes_first() -> None:
    assert choose("ollama:llama3.2", ALL_KEYS, local_installed=True).name == "ollama:llama3.2"
    assert choose("", ALL_KEYS, local_installed=True).name.startswith("openai:")


def test_then_the_first_provider_with_a_key_in_the_order_of_preference() -> None:
    left = dict(ALL_KEYS)
    for provider in PREFERRED:
        choice = choose(None, left, local_installed=True)
        assert choice.name == f"{provider}:{ENDPOINTS[provider].default_model}"
        variable = ENDPOINTS[provider].key_variable
        assert variable in choice.reason
        del left[variable]
    assert choose(None, left, local_installed=True).name == "local"


def test_a_blank_key_is_none() -> None:
    assert choose(None, {"OPENAI_API_KEY": "  "}, local_installed=True).name == "local"


def test_then_the_local_model_then_the_demo() -> None:
    assert choose(None, {}, local_installed=True).name == "local"
    assert choose(None, {}, local_installed=False).name == "demo"


def test_every_preferred_provider_has_a_default_model() -> None:
    assert [name for name in PREFERRED if not (ENDPOINTS[name].default_model and ENDPOINTS[name].key_variable)] == []


@pytest.mark.parametrize("provider", PREFERRED)
def test_a_key_is_enough_for_an_agent_to_use_the_default_even_if_it_may_name_no_provider(provider: str) -> None:
    endpoint = ENDPOINTS[provider]
    environ = {str(endpoint.key_variable): "secret"}
    choice = choose(None, environ, local_installed=False)
    registry = Registry({}, default_providers(environ), provider_models=False, default=choice)
    assert registry.get("default").name == f"{provider}:{endpoint.default_model}"
    place = registry.describe("default").place
    assert (place.model, place.where, place.key_is_set) == (endpoint.default_model, endpoint.base_url, True)
