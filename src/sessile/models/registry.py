"""The models that the configuration names, looked up by the name an agent uses. It knows no concrete adapter."""

import contextlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from msgspec import Struct

from sessile.config import ConfigError, ModelConfig
from sessile.ports import Model
from sessile.wire.errors import UnknownModel

WILDCARD = "*"
DEFAULT = "default"
DEMO = "demo"
LOCAL = "local"
MAX_SHOWN_CHARS = 100
_ALWAYS = (DEMO, LOCAL)
"""Providers with a model of their own name, without a table, where it can be made."""


class Place(Struct, frozen=True, kw_only=True):
    """Where a model is: the provider's own name for it, and its base URL or whatever a person would call the place.

    `key_variable` holds the API key; None when no key is sent.
    """

    model: str
    where: str
    key_variable: str | None = None
    key_is_set: bool = False


class Provider(Protocol):
    """Makes the models of one provider and owns the connections they share."""

    def model(self, name: str, config: ModelConfig) -> Model:
        """A model under `name`; cheap, no I/O. `config.model` unset means `name`. Raises ConfigError."""

    def place(self, name: str, config: ModelConfig) -> Place:
        """Where `model` of the same arguments would find it, for people; no I/O. Raises ConfigError."""

    async def close(self) -> None:
        """Close the connections of every model made."""


@runtime_checkable
class WarmUp(Protocol):
    """A Model whose first call would have to wait for something that can be started before."""

    async def warm_up(self) -> None:
        """Start it. Raises ModelFault."""


class Choice(Struct, frozen=True):
    """What `default` stands for, and why: a name that is looked up, or the name of a model that `config` makes."""

    name: str
    reason: str
    config: ModelConfig | None = None


UNCHOSEN = Choice(DEMO, "nothing better is there")


class Described(Struct, frozen=True, kw_only=True):
    """A model for people. `choice`: what `default` stands for, unless it has a table."""

    name: str
    provider: str
    place: Place
    choice: Choice | None = None


class Registry:
    """The Models port over `[models.NAME]` tables. Raises ConfigError for a table or a default that cannot work."""

    def __init__(
        self,
        configs: Mapping[str, ModelConfig],
        providers: Mapping[str, Provider],
        provider_models: bool = True,
        default: Choice = UNCHOSEN,
    ) -> None:
        self._provider_models = provider_models
        self._providers = dict(providers)
        self._configs = dict(configs)
        self._aliases = {name: self._make(f"models.{name}", name, config) for name, config in configs.items()}
        for name in _ALWAYS:
            if name in self._providers and name not in self._configs:
                with contextlib.suppress(ConfigError):
                    self._aliases[name] = self._providers[name].model(name, ModelConfig(provider=name))
        self._choice: Choice | None = None
        if DEFAULT not in self._configs and (default is not UNCHOSEN or DEMO in self._providers):
            self._choose(default)

    def get(self, name: str) -> Model:
        """The model called `name`: an alias, else `provider:model`, else by the `*` table. Raises UnknownModel."""
        if name != WILDCARD and (model := self._aliases.get(name)) is not None:
            return model
        config = self._config(name)
        try:
            return self._providers[config.provider].model(name, config)
        except ConfigError as error:
            raise UnknownModel(f"The model {_shown(name)} cannot be used: {error}") from None

    def names(self) -> list[str]:
        """The names that are always there, and the configured ones, sorted."""
        return sorted(self._aliases)

    def tables(self) -> list[str]:
        """The configured names, sorted."""
        return sorted(self._configs)

    def describe(self, name: str) -> Described:
        """What a name of `names()`, or any other that `get` takes, means. Raises UnknownModel."""
        choice = self._choice if name == DEFAULT else None
        target = choice.name if choice else name
        config = (choice.config if choice else self._configs.get(name)) or self._config(target, choice is not None)
        try:
            place = self._providers[config.provider].place(target, config)
        except ConfigError as error:
            raise UnknownModel(f"The model {_shown(name)} cannot be used: {error}") from None
        return Described(name=name, provider=config.provider, place=place, choice=choice)

    async def warm_up(self) -> None:
        """Start what the model `default` needs, if anything. Raises ModelFault."""
        model = self._aliases.get(DEFAULT)
        if isinstance(model, WarmUp):
            await model.warm_up()

    async def close(self) -> None:
        """Close the connections of every provider."""
        for provider in self._providers.values():
            await provider.close()

    def _config(self, name: str, by_owner: bool = False) -> ModelConfig:
        """The table of a name, or the one that it means without being configured. Raises UnknownModel.

        `by_owner`: the owner of the server uses the name, and may name any provider's models.
        """
        if name != WILDCARD and (config := self._configs.get(name)) is not None:
            return config
        if name in _ALWAYS and name in self._providers:
            return ModelConfig(provider=name)
        provider, colon, own_name = name.partition(":")
        # Not LOCAL: an agent could name any file of this machine.
        nameable = sorted(self._providers.keys() - {LOCAL}) if self._provider_models or by_owner else []
        if colon and own_name and provider in nameable:
            return ModelConfig(provider=provider, model=own_name)
        if name and name != WILDCARD and (config := self._configs.get(WILDCARD)) is not None:
            return config
        besides = f" Besides, PROVIDER:MODEL with one of the providers {', '.join(nameable)}." if nameable else ""
        raise UnknownModel(f"No model is called {_shown(name)}. Configured: {', '.join(self.names())}.{besides}")

    def _choose(self, choice: Choice) -> None:
        """Make `default` stand for the choice. Raises ConfigError."""
        if choice.name == DEFAULT:
            raise ConfigError("default_model: `default` cannot stand for itself")
        try:
            config = choice.config or self._config(choice.name, True)
        except UnknownModel as error:
            raise ConfigError(f"default_model: {error.message}") from None
        made = None if choice.config else self._aliases.get(choice.name)
        self._aliases[DEFAULT] = made or self._make("default_model", choice.name, config)
        self._choice = choice

    def _make(self, setting: str, name: str, config: ModelConfig) -> Model:
        provider = self._providers.get(config.provider)
        if provider is None:
            known = ", ".join(sorted(self._providers))
            raise ConfigError(f"{setting}: there is no provider {config.provider!r}; there are {known}")
        try:
            return provider.model(name, config)
        except ConfigError as error:
            raise ConfigError(f"{setting}: {error}") from None


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN_CHARS else name[: MAX_SHOWN_CHARS - 1] + "…")
