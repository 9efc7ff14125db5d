"""The models that the configuration names, looked up by the name an agent uses. It knows no concrete adapter."""

from collections.abc import Mapping
from typing import Protocol

from sessile.config import ConfigError, ModelConfig
from sessile.ports import Model
from sessile.wire.errors import UnknownModel

WILDCARD = "*"
DEMO = "demo"
MAX_SHOWN_CHARS = 100


class Provider(Protocol):
    """Makes the models of one provider and owns the connections they share."""

    def model(self, name: str, config: ModelConfig) -> Model:
        """A model under `name`; cheap, no I/O. `config.model` unset means `name`. Raises ConfigError."""

    async def close(self) -> None:
        """Close the connections of every model made."""


class Registry:
    """The Models port over `[models.NAME]` tables. Raises ConfigError for a table that cannot work."""

    def __init__(
        self, configs: Mapping[str, ModelConfig], providers: Mapping[str, Provider], provider_models: bool = True
    ) -> None:
        self._provider_models = provider_models
        self._providers = dict(providers)
        self._configs = dict(configs)
        if DEMO in self._providers:
            self._configs.setdefault(DEMO, ModelConfig(provider=DEMO))
        self._aliases = {name: self._make(name, name, config) for name, config in self._configs.items()}

    def get(self, name: str) -> Model:
        """The model called `name`: an alias, else `provider:model`, else by the `*` table. Raises UnknownModel."""
        if name != WILDCARD and (model := self._aliases.get(name)) is not None:
            return model
        provider, colon, own_name = name.partition(":")
        try:
            if self._provider_models and colon and own_name and provider in self._providers:
                return self._providers[provider].model(name, ModelConfig(provider=provider, model=own_name))
            if name and name != WILDCARD and (config := self._configs.get(WILDCARD)) is not None:
                return self._make(WILDCARD, name, config)
        except ConfigError as error:
            raise UnknownModel(f"The model {_shown(name)} cannot be used: {error}") from None
        raise UnknownModel(
            f"No model is called {_shown(name)}. Configured: {', '.join(self.names())}. "
            f"Besides, PROVIDER:MODEL with one of the providers {', '.join(sorted(self._providers))}."
        )

    def names(self) -> list[str]:
        """The configured names, sorted."""
        return sorted(self._aliases)

    async def close(self) -> None:
        """Close the connections of every provider."""
        for provider in self._providers.values():
            await provider.close()

    def _make(self, table: str, name: str, config: ModelConfig) -> Model:
        provider = self._providers.get(config.provider)
        if provider is None:
            known = ", ".join(sorted(self._providers))
            raise ConfigError(f"models.{table}: there is no provider {config.provider!r}; there are {known}")
        try:
            return provider.model(name, config)
        except ConfigError as error:
            raise ConfigError(f"models.{table}: {error}") from None


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN_CHARS else name[: MAX_SHOWN_CHARS - 1] + "…")
