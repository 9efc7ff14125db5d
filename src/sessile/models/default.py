"""What the model name `default` stands for, on a server whose configuration has no table of that name."""

import os
from collections.abc import Mapping

from sessile.config import ModelConfig
from sessile.models import local
from sessile.models.providers import ENDPOINTS
from sessile.models.registry import LOCAL, UNCHOSEN, Choice

PREFERRED = ("openai", "anthropic", "gemini", "mistral", "groq", "openrouter", "deepseek", "xai", "cerebras")
"""The providers whose key, when it is set, makes one of their models the default; the first wins."""


def choose(
    setting: str | None, environ: Mapping[str, str] = os.environ, *, local_installed: bool | None = None
) -> Choice:
    """The model that `setting` names, else one of the first provider with a key, else the local one, else the demo.

    `local_installed`: whether the local model can run; looked up when None.
    """
    if setting:
        return Choice(setting, "the setting default_model says so")
    for provider in PREFERRED:
        endpoint = ENDPOINTS[provider]
        if endpoint.key_variable and environ.get(endpoint.key_variable, "").strip():
            config = ModelConfig(provider=provider, model=endpoint.default_model, parameters=endpoint.parameters)
            return Choice(f"{provider}:{endpoint.default_model}", f"{endpoint.key_variable} is set", config)
    if local.installed() if local_installed is None else local_installed:
        return Choice(LOCAL, "no provider's key is set")
    return UNCHOSEN
