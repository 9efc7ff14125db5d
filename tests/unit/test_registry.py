"""How a model is found by the name an agent uses."""

import pytest

from sessile.config import ConfigError, ModelConfig
from sessile.models import local
from sessile.models.openai_chat import OpenAIChat
from sessile.models.providers import ENDPOINTS, default_providers
from sessile.models.registry import Choice, Place, Registry
from sessile.ports import Model, ModelFault, ModelRequest
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
        return ScriptedModel(name=name, context_window=config.context_window or 1000)

    def place(self, name: str, config: ModelConfig) -> Place:
        return Place(model=config.model or name, where="here")

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
        with pytest.raises(UnknownModel, match=r"default, demo, large,( local,)? small") as caught:
            registry.get(name)
        assert len(caught.value.message) < 1000


def test_demo_and_default_are_always_there_and_local_where_it_is_installed() -> None:
    registry = Registry({}, default_providers({}))
    assert registry.names() == ["default", "demo", *(["local"] if local.installed() else [])]
    assert registry.tables() == []
    assert registry.get("default") is registry.get("demo")
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


def test_default_stands_for_an_alias_a_provider_s_model_or_a_table_of_its_own() -> None:
    recorder = Recorder()

    def chosen(choice: Choice) -> Registry:
        return Registry({"small": table(context_window=500)}, {"rec": recorder}, provider_models=False, default=choice)

    registry = chosen(Choice("small", "I say so"))
    assert registry.get("default") is registry.get("small")
    assert chosen(Choice("rec:big", "I say so")).get("default").name == "rec:big"
    made = table(model="cheap", parameters={"effort": "none"})
    assert chosen(Choice("rec:cheap", "a key is set", made)).get("default").name == "rec:cheap"
    assert recorder.made[-1] == ("rec:cheap", made)
    with pytest.raises(UnknownModel):
        chosen(Choice("rec:big", "I say so")).get("rec:big")


def test_a_table_called_default_wins() -> None:
    registry = Registry({"default": table(context_window=500)}, {"rec": Recorder()}, default=Choice("rec:big", "so"))
    assert registry.get("default").context_window == 500
    assert registry.describe("default").choice is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("huge", "default_model: No model is called 'huge'"),
        ("default", "cannot stand for itself"),
        ("nobody:x", "nobody"),
    ],
)
def test_a_default_that_cannot_work(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Registry({}, {"rec": Recorder()}, default=Choice(name, "I say so"))


def test_what_a_name_means_for_people() -> None:
    providers = default_providers({"OPENAI_API_KEY": "secret-1"})
    tables = {
        "mine": ModelConfig(provider="vllm", model="m-1", base_url="http://user:secret-2@gpu:8000/v1"),
        "keyed": ModelConfig(provider="openai", api_key_env="OTHER_KEY"),
        "*": ModelConfig(provider="vllm"),
    }
    registry = Registry(tables, providers, default=Choice("openai:big", "it was chosen"))
    shown = {name: registry.describe(name) for name in registry.names()}
    assert shown["mine"].place == Place(model="m-1", where="http://gpu:8000/v1")
    assert shown["keyed"].place.key_variable == "OTHER_KEY"
    assert shown["keyed"].place.key_is_set is False
    assert (shown["default"].provider, shown["default"].place.model) == ("openai", "big")
    assert shown["default"].place.key_is_set is True
    assert shown["default"].choice == Choice("openai:big", "it was chosen")
    assert (shown["demo"].provider, shown["*"].provider) == ("demo", "vllm")
    assert "secret" not in str(shown)
    with pytest.raises(UnknownModel):
        Registry({}, providers).describe("nothing")


def test_an_agent_cannot_make_the_server_load_a_file() -> None:
    registry = Registry({}, default_providers({}))
    with pytest.raises(UnknownModel, match="No model is called 'local:/etc/passwd'"):
        registry.get("local:/etc/passwd")


@pytest.mark.skipif(not local.installed(), reason=f"the offline model is not installed: {local.INSTALL}")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "absent.gguf"}, "absent.gguf"),
        ({"base_url": "http://gpu/v1"}, "base_url"),
        ({"api_key_env": "K"}, "api_key_env"),
    ],
)
def test_a_local_table_that_cannot_work(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"models.mine: .*{reason}"):
        Registry({"mine": ModelConfig(provider="local", **fields)}, default_providers({}))


@pytest.mark.parametrize("missing", [local.RUNTIME, local.WEIGHTS])
def test_without_its_wheels_local_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find_spec = local.importlib.util.find_spec
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    assert not local.installed()
    registry = Registry({}, default_providers({}))
    assert "local" not in registry.names()
    with pytest.raises(UnknownModel, match="pip install"):
        registry.get("local")
    with pytest.raises(ConfigError, match=r"default_model: .*pip install"):
        Registry({}, default_providers({}), default=Choice("local", "I say so"))


async def test_the_parameters_of_a_table_are_sent_unless_the_agent_has_its_own() -> None:
    async with Upstream(lambda _: [say("Hi.")]) as upstream:
        config = ModelConfig(provider="vllm", base_url=upstream.base_url, parameters={"temperature": 0.2, "seed": 7})
        registry = Registry({"mine": config}, default_providers({}))
        request = ModelRequest(messages=GREETING.messages, tools=[], parameters={"temperature": 1.0})
        await answer(registry.get("mine"), request)
        await registry.close()
        body = upstream.requests[0].body
    assert (body["temperature"], body["seed"]) == (1.0, 7)
