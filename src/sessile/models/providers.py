"""The providers Sessile knows by name: a default base URL and the usual key variable of each."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from sessile.config import ConfigError, ModelConfig
from sessile.models.demo import WORD_DELAY, Demo
from sessile.models.openai_chat import HttpSession, OpenAIChat
from sessile.models.registry import DEMO, Provider
from sessile.ports import Model


class Endpoint(Struct, frozen=True):
    """Where a provider answers. Without `key_variable` it needs no key; `url_variable` may hold another base URL."""

    base_url: str | None
    key_variable: str | None = None
    url_variable: str | None = None


ENDPOINTS = {
    "anthropic": Endpoint("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "cerebras": Endpoint("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "deepseek": Endpoint("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks": Endpoint("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": Endpoint("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "groq": Endpoint("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "huggingface": Endpoint("https://router.huggingface.co/v1", "HF_TOKEN"),
    "llamacpp": Endpoint("http://127.0.0.1:8080/v1"),
    "lmstudio": Endpoint("http://127.0.0.1:1234/v1"),
    "mistral": Endpoint("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": Endpoint("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "ollama": Endpoint("http://127.0.0.1:11434/v1"),
    "openai": Endpoint("https://api.openai.com/v1", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "openai_compatible": Endpoint(None),
    "openrouter": Endpoint("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "sglang": Endpoint("http://127.0.0.1:30000/v1"),
    "together": Endpoint("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "vllm": Endpoint("http://127.0.0.1:8000/v1"),
    "xai": Endpoint("https://api.x.ai/v1", "XAI_API_KEY"),
}


class OpenAICompatible:
    """The models at one endpoint that speaks the OpenAI-compatible chat wire; they share connections."""

    def __init__(self, endpoint: Endpoint, environ: Mapping[str, str]) -> None:
        self._endpoint = endpoint
        self._environ = environ
        self._http = HttpSession()

    def model(self, name: str, config: ModelConfig) -> Model:
        """A model at the table's base URL, or the provider's. Raises ConfigError without a usable base URL.

        The provider's usual key goes only to the provider's own base URL, or to the one its variable names: another
        `base_url` gets a key when the table has `api_key_env`, and no key otherwise.
        """
        endpoint = self._endpoint
        elsewhere = self._environ.get(endpoint.url_variable) if endpoint.url_variable else None
        base_url = config.base_url or elsewhere or endpoint.base_url
        if base_url is None:
            raise ConfigError(f"the provider {config.provider!r} needs a base_url")
        if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).netloc:
            raise ConfigError(f"the base_url {base_url!r} is not an http or https URL")
        key_variable = config.api_key_env or (None if config.base_url else endpoint.key_variable)
        return OpenAIChat(
            name,
            model=config.model or name,
            base_url=base_url,
            key_variable=key_variable,
            key_required=config.api_key_env is not None or elsewhere is None,
            context_window=config.context_window,
            timeout_seconds=config.timeout_seconds,
            http=self._http,
            environ=self._environ,
        )

    async def close(self) -> None:
        """Close the shared connections."""
        await self._http.close()


class DemoProvider:
    """Makes demo models."""

    def __init__(self, word_delay: float) -> None:
        self._word_delay = word_delay

    def model(self, name: str, config: ModelConfig) -> Model:
        """A demo model; of the table it uses the context window only."""
        return Demo(name, context_window=config.context_window, word_delay=self._word_delay)

    async def close(self) -> None:
        """Nothing is open."""


def default_providers(
    environ: Mapping[str, str] = os.environ, *, word_delay: float = WORD_DELAY
) -> dict[str, Provider]:
    """Every known provider, for a Registry. `environ` holds the keys; `word_delay` is the demo model's, in seconds."""
    providers: dict[str, Provider] = {DEMO: DemoProvider(word_delay)}
    for name, endpoint in ENDPOINTS.items():
        providers[name] = OpenAICompatible(endpoint, environ)
    return providers
