"""The providers Sessile knows by name: a default base URL, the usual key variable and a default model of each."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from sessile.config import ConfigError, ModelConfig
from sessile.models.demo import WORD_DELAY, Demo
from sessile.models.local import LocalModels
from sessile.models.openai_chat import CONTEXT_WINDOW, HttpSession, OpenAIChat
from sessile.models.openai_wire import ResponseFormat
from sessile.models.registry import DEMO, LOCAL, Place, Provider
from sessile.ports import Model


class Endpoint(Struct, frozen=True):
    """Where a provider answers. Without `key_variable` it needs no key; `url_variable` may hold another base URL.

    `default_model` is used, with `parameters`, when a key is all that is known; without it, the provider is not used
    then. It is a small model that calls tools; the provider's own alias for its current one where there is such a name.
    """

    base_url: str | None
    key_variable: str | None = None
    url_variable: str | None = None
    default_model: str | None = None
    structured_output: ResponseFormat = "json_schema"
    parameters: dict[str, Any] = {}


ENDPOINTS = {
    "anthropic": Endpoint("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", default_model="claude-haiku-5-5"),
    "cerebras": Endpoint("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", default_model="gpt-oss-120b"),
    "deepseek": Endpoint(
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        default_model="deepseek-flash",
        structured_output="json_object",
    ),
    "fireworks": Endpoint("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": Endpoint(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", default_model="gemini-flash-latest"
    ),
    "groq": Endpoint("https://api.groq.com/openai/v1", "GROQ_API_KEY", default_model="openai/gpt-oss-120b"),
    "huggingface": Endpoint("https://router.huggingface.co/v1", "HF_TOKEN"),
    "llamacpp": Endpoint("http://127.0.0.1:8080/v1"),
    "lmstudio": Endpoint("http://127.0.0.1:1234/v1"),
    "mistral": Endpoint("https://api.mistral.ai/v1", "MISTRAL_API_KEY", default_model="mistral-small-latest"),
    "moonshot": Endpoint("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "ollama": Endpoint("http://127.0.0.1:11434/v1"),
    # On this wire OpenAI's newer models call functions only when they are told not to reason.
    "openai": Endpoint(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        default_model="gpt-6-luna",
        parameters={"reasoning_effort": "none"},
    ),
    "openai_compatible": Endpoint(None),
    "openrouter": Endpoint("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", default_model="openrouter/auto"),
    "sglang": Endpoint("http://127.0.0.1:30000/v1"),
    "together": Endpoint("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "vllm": Endpoint("http://127.0.0.1:8000/v1"),
    "xai": Endpoint("https://api.x.ai/v1", "XAI_API_KEY", default_model="grok-4.3"),
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
        return OpenAIChat(
            name,
            model=config.model or name,
            base_url=self._base_url(config),
            key_variable=self._key_variable(config),
            key_required=config.api_key_env is not None or self._elsewhere() is None,
            context_window=config.context_window or CONTEXT_WINDOW,
            timeout_seconds=config.timeout_seconds,
            parameters=config.parameters,
            structured_output=config.structured_output or self._endpoint.structured_output,
            http=self._http,
            environ=self._environ,
        )

    def place(self, name: str, config: ModelConfig) -> Place:
        """The base URL, without user and password. Raises ConfigError without a usable one."""
        url = urlsplit(self._base_url(config))
        key_variable = self._key_variable(config)
        return Place(
            model=config.model or name,
            where=url._replace(netloc=url.netloc.rpartition("@")[2]).geturl(),
            key_variable=key_variable,
            key_is_set=key_variable is not None and bool(self._environ.get(key_variable, "").strip()),
        )

    async def close(self) -> None:
        """Close the shared connections."""
        await self._http.close()

    def _elsewhere(self) -> str | None:
        return self._environ.get(self._endpoint.url_variable) if self._endpoint.url_variable else None

    def _base_url(self, config: ModelConfig) -> str:
        base_url = config.base_url or self._elsewhere() or self._endpoint.base_url
        if base_url is None:
            raise ConfigError(f"the provider {config.provider!r} needs a base_url")
        if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).netloc:
            raise ConfigError(f"the base_url {base_url!r} is not an http or https URL")
        return base_url

    def _key_variable(self, config: ModelConfig) -> str | None:
        return config.api_key_env or (None if config.base_url else self._endpoint.key_variable)


class DemoProvider:
    """Makes demo models."""

    def __init__(self, word_delay: float) -> None:
        self._word_delay = word_delay

    def model(self, name: str, config: ModelConfig) -> Model:
        """A demo model; of the table it uses the context window only."""
        return Demo(name, context_window=config.context_window or CONTEXT_WINDOW, word_delay=self._word_delay)

    def place(self, name: str, config: ModelConfig) -> Place:
        """It is a part of the server."""
        return Place(model=DEMO, where="built in")

    async def close(self) -> None:
        """Nothing is open."""


def default_providers(
    environ: Mapping[str, str] = os.environ, *, word_delay: float = WORD_DELAY
) -> dict[str, Provider]:
    """Every known provider, for a Registry. `environ` holds the keys; `word_delay` is the demo model's, in seconds."""
    providers: dict[str, Provider] = {DEMO: DemoProvider(word_delay), LOCAL: LocalModels()}
    for name, endpoint in ENDPOINTS.items():
        providers[name] = OpenAICompatible(endpoint, environ)
    return providers
