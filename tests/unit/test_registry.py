"""How a model is found by the name an agent uses."""

import pytest

from sessile.config import ConfigError, ModelConfig
from sessile.models.openai_chat import OpenAIChat
from sessile.models.providers import ENDPOINTS, default_providers
from sessile.models.registry import Registry
from sessile.ports import Model, ModelFault
from sessile.testing.model_contract import GREETING, answer, text_of
from sessile.testing.script import say
from sessile.testing.scripted_model import ScriptedModel
from sessile.testing.upstream import Upstream
from sessile.wire.errors import UnknownModel


class Recorder:
    """A provider that remembers what it was asked to make."""

    def __init__(self) -> None:
        self.made: list[tuple[str, ModelConfig]] = []
        self.closed = False

    def model(self, name: str, config: ModelConfig) -> Model:
        self.made.append((name, config))
        return ScriptedModel(name=name, context_window=config.context_window)

    async def close(self) -> None:
        self.closed = True


def table(**fields: object) -> ModelConfig:
    return ModelConfig(provider="rec", **fields)  # type: ignore[arg-type]


def test_an_alias() -> None:
    registry = Registry({"small": table(model="s-1", context_window=500)}, {"rec": Recorder()})
    assert registry.get("small").name == "small"
    assert registry.get("small").context_window == 500
    assert registry.get("small") is registry.get("small")


def test_provider_and_model() -> None:
    recorder = Recorder()
    registry = Registry({"rec:mine": table(context_window=500)}, {"rec": recorder})
    assert registry.get("rec:llama:8b").name == "rec:llama:8b"
    assert recorder.made[-1] == ("rec:llama:8b", table(model="llama:8b"))
    assert registry.get("rec:mine").context_window == 500


def test_the_wildcard_passes_the_name_through() -> None:
    recorder = Recorder()
    registry = Registry({"*": table(context_window=500)}, {"rec": recorder})
    assert registry.get("llama:8b").name == "llama:8b"
    assert recorder.made[-1] == ("llama:8b", table(context_window=500))


def test_an_unknown_name_lists_what_there_is() -> None:
    registry = Registry({"small": table(), "large": table()}, default_providers({}) | {"rec": Recorder()})
    for name in ("huge", "nobody:x", "rec:", "*", "", ":", "x" * 10_000):
        with pytest.raises(UnknownModel, match="demo, large, small") as caught:
            registry.get(name)
        assert len(caught.value.message) < 1000


def test_demo_is_always_there() -> None:
    registry = Registry({}, default_providers({}))
    assert registry.names() == ["demo"]
    assert registry.get("demo").name == "demo"
    assert registry.get("demo:anything").name == "demo:anything"


def test_a_configured_demo_wins() -> None:
    registry = Registry({"demo": table(context_window=500)}, default_providers({}) | {"rec": Recorder()})
    assert registry.get("demo").context_window == 500


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ModelConfig(provider="nobody"), r"models.bad: there is no provider 'nobody'; there are .*demo.*openai"),
        (ModelConfig(provider="openai_compatible"), r"models.bad: .*needs a base_url"),
        (ModelConfig(provider="vllm", base_url="localhost:8000"), "models.bad: the base_url 'localhost:8000'"),
    ],
)
def test_a_table_that_cannot_work(config: ModelConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Registry({"bad": config}, default_providers({}))


def test_a_provider_without_a_base_url_cannot_be_named_directly() -> None:
    with pytest.raises(UnknownModel, match="base_url"):
        Registry({}, default_providers({})).get("openai_compatible:x")


def test_every_known_provider_makes_a_model() -> None:
    registry = Registry({}, default_providers({}))
    for provider, endpoint in ENDPOINTS.items():
        if endpoint.base_url:
            assert isinstance(registry.get(f"{provider}:some-model"), OpenAIChat)


async def test_a_missing_key_fails_the_call_and_names_the_variable() -> None:
    registry = Registry({"gpt": ModelConfig(provider="openai", model="gpt")}, default_providers({}))
    for name in ("gpt", "openai:gpt", "groq:llama"):
        with pytest.raises(ModelFault, match=r"OPENAI_API_KEY|GROQ_API_KEY") as caught:
            await answer(registry.get(name), GREETING)
        assert (caught.value.code, caught.value.retryable) == ("model_unauthorized", False)
    await registry.close()


async def test_close_closes_every_provider() -> None:
    recorder = Recorder()
    await Registry({}, {"rec": recorder}).close()
    assert recorder.closed


@pytest.mark.parametrize(
    ("environ", "fields", "authorization"),
    [
        ({"OPENAI_API_KEY": "k1"}, {}, None),
        ({"OPENAI_API_KEY": "k1", "MINE": "k2"}, {"api_key_env": "MINE"}, "Bearer k2"),
        ({}, {}, None),
    ],
)
async def test_a_foreign_base_url_gets_only_the_key_that_its_table_names(
    environ: dict[str, str], fields: dict[str, str], authorization: str | None
) -> None:
    async with Upstream() as upstream:
        upstream.add(say("Hi."))
        config = ModelConfig(provider="openai", model="m-1", base_url=upstream.base_url, **fields)
        registry = Registry({"mine": config}, default_providers(environ))
        assert text_of(await answer(registry.get("mine"), GREETING)) == "Hi."
        await registry.close()
        received = upstream.requests[0]
    assert received.body["model"] == "m-1"
    assert received.headers.get("Authorization") == authorization


@pytest.mark.parametrize("key", [{"OPENAI_API_KEY": "k1"}, {}])
async def test_openai_base_url_from_its_variable(key: dict[str, str]) -> None:
    async with Upstream(lambda _: [say("Hi.")]) as upstream:
        environ = {"OPENAI_BASE_URL": upstream.base_url, **key}
        registry = Registry({}, default_providers(environ))
        await answer(registry.get("openai:m-1"), GREETING)
        await registry.close()
        assert upstream.requests[0].headers.get("Authorization") == ("Bearer k1" if key else None)
